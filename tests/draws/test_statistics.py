import pytest
import torch

from pyro_mfcvae.draws.statistics import edge_energy, statistics_for, stroke_width


def test_every_shape_gets_the_statistics_that_make_sense() -> None:
    assert list(statistics_for((7,))) == ["mean", "contrast"]
    assert list(statistics_for((3, 4, 4))) == ["mean", "contrast", "edge_energy"]
    assert list(statistics_for((1, 4, 4))) == ["mean", "contrast", "edge_energy", "stroke_width"]
    assert list(statistics_for((1, 1, 4))) == ["mean", "contrast"]


def test_mean_and_contrast_are_over_all_of_an_item() -> None:
    x = torch.randn(5, 2, 3, 4, 6)
    chosen = statistics_for((3, 4, 6))
    torch.testing.assert_close(chosen["mean"](x), x.mean((-1, -2, -3)))
    torch.testing.assert_close(chosen["contrast"](x), x.var((-1, -2, -3), correction=0).sqrt())


def test_edge_energy_is_the_mean_squared_step() -> None:
    image = torch.zeros(2, 1, 3, 4)
    image[1, 0, :, 2:] = 0.5  # 3 of 9 steps across are 0.5, none of those down
    torch.testing.assert_close(edge_energy(image), torch.tensor([0.0, 3 * 0.25 / 9]))


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_stroke_has_its_width(width: int) -> None:
    image = torch.zeros(1, 1, 200, 12)
    image[..., 3 : 3 + width] = 0.8
    torch.testing.assert_close(stroke_width(image), torch.tensor([float(width)]))
    assert stroke_width(torch.zeros(1, 1, 5, 5)).item() == 0
