import colorsys
import math
from collections.abc import Iterator

import pytest
import torch

from pyro_mfcvae.data import shapes
from pyro_mfcvae.data.shapes import HUES, SHAPES, Jitter, draw_shapes
from pyro_mfcvae.errors import InputError

STILL = Jitter(
    centre=0.0, radius=(7.0, 7.0), angle=0.0, hue=0.0, saturation=(1.0, 1.0), value=(0.6, 0.6), brightness=(1.0, 1.0)
)


@pytest.fixture
def default_dtype() -> Iterator[torch.dtype]:
    before = torch.get_default_dtype()
    yield before
    torch.set_default_dtype(before)


def test_images_and_labels_have_the_documented_form() -> None:
    images, labels = draw_shapes(5, size=20)
    assert images.shape == (5, 3, 20, 20)
    assert images.dtype == torch.uint8
    assert list(labels) == ["shape", "hue"]
    assert all(label.shape == (5,) and label.dtype == torch.int64 for label in labels.values())


def test_the_seed_decides_the_images() -> None:
    images, labels = draw_shapes(50, seed=3)
    again, same_labels = draw_shapes(50, seed=3)
    other, _ = draw_shapes(50, seed=4)
    assert torch.equal(images, again)
    assert all(torch.equal(labels[name], same_labels[name]) for name in labels)
    assert not torch.equal(images, other)


def test_images_depend_neither_on_the_chunks_nor_on_the_default_dtype(
    monkeypatch: pytest.MonkeyPatch, default_dtype: torch.dtype
) -> None:
    torch.set_default_dtype(torch.float32)
    images, _ = draw_shapes(50)
    monkeypatch.setattr(shapes, "_CHUNK", 7)
    torch.set_default_dtype(torch.float64)
    in_chunks, _ = draw_shapes(50)
    assert torch.equal(images, in_chunks)


def test_labels_are_uniform_and_independent() -> None:
    num, cells = 24_000, len(SHAPES) * len(HUES)
    _, labels = draw_shapes(num, seed=0, size=8)
    counts = torch.bincount(labels["shape"] * len(HUES) + labels["hue"], minlength=cells).double()
    chi_square = ((counts - num / cells) ** 2 / (num / cells)).sum()
    assert chi_square < 49.7  # 99.9 % quantile for 23 degrees of freedom; the seed is fixed


def test_all_figures_lie_inside_the_image_and_have_the_area_of_the_disk() -> None:
    jitter = Jitter(hue=0.0, saturation=(1.0, 1.0), value=(0.6, 0.6), brightness=(1.0, 1.0), radius=(8.0, 8.0))
    images, labels = draw_shapes(400, jitter=jitter)
    # One channel of each pure hue is 0 on the background and 255 on the figure, so it shows the coverage.
    cover = images.amin(dim=1).double() / 255
    for index in range(len(SHAPES)):
        area = cover[labels["shape"] == index].sum(dim=(1, 2))
        torch.testing.assert_close(area, torch.full_like(area, math.pi * 8.0**2), rtol=0.006, atol=0.0)


def test_backgrounds_have_the_hues_in_order_and_figures_are_white() -> None:
    images, labels = draw_shapes(60, jitter=STILL)
    for index in range(len(HUES)):
        expected = torch.tensor([round(255 * c) for c in colorsys.hsv_to_rgb(index / len(HUES), 1.0, 0.6)])
        chosen = images[labels["hue"] == index]
        assert (chosen[:, :, 0, 0] == expected).all()
        assert (chosen[:, :, 15, 15] == 255).all()


def test_each_name_is_its_figure() -> None:
    images, labels = draw_shapes(60, jitter=STILL)
    figure = {name: images[labels["shape"] == index][0].amin(dim=0) > 127 for index, name in enumerate(SHAPES)}
    widths = {name: [int(row.sum()) for row in mask if row.any()] for name, mask in figure.items()}
    assert set(widths["square"]) == {12}  # √π · 7 = 12.4
    assert widths["triangle"] == sorted(widths["triangle"])  # tip up, base down
    assert widths["triangle"][0] < widths["triangle"][-1]
    assert len(set(widths["cross"])) == 2
    assert widths["cross"] == widths["cross"][::-1]
    assert max(widths["disk"]) == 14  # the diameter
    assert widths["disk"] == widths["disk"][::-1]
    assert len(set(widths["disk"])) > 3


def test_hue_is_a_cluster_with_a_width() -> None:
    images, labels = draw_shapes(300)
    corner = images[:, :, 0, 0].double() / 255
    for index in range(len(HUES)):
        grounds = corner[labels["hue"] == index]
        degrees = torch.tensor([360 * colorsys.rgb_to_hsv(*colour)[0] for colour in grounds.tolist()])
        off = (degrees - 60 * index + 180) % 360 - 180
        assert off.abs().max() < 11  # 10 degrees and the rounding to 8 bits
        assert off.std() > 3


def test_a_larger_picture_shows_the_same_scene() -> None:
    small, _ = draw_shapes(20, size=16)
    large, _ = draw_shapes(20, size=64)
    pooled = torch.nn.functional.avg_pool2d(large.float(), 4)
    assert (pooled - small.float()).abs().mean() < 3  # the range is 255: they differ at the edges only


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num": 0}, "at least one picture to draw, got num=0"),
        ({"num": 1, "size": 7}, "at least 8 by 8 pixels, got size=7"),
        ({"num": 1, "seed": -1}, r"seed from 0 to 2\*\*32 - 1, got -1"),
        ({"num": 1, "seed": 2**32}, "seed from 0"),
    ],
)
def test_invalid_sizes_and_seeds_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_shapes(arguments.pop("num"), **arguments)
