"""The likelihood's scale follows from the variances along the principal directions."""

import math

import numpy as np
import pytest
import torch

from pyro_mfcvae import InputError
from pyro_mfcvae.config.spectrum import choose_scale, contrast, measure_spectrum


def test_variance_in_many_directions_is_worth_four_hundred_nats() -> None:
    spectrum = np.full(200, 0.5)
    scale = choose_scale(spectrum)
    assert scale == pytest.approx(math.sqrt(100 / 800), rel=5e-3)
    assert (spectrum / (2 * scale**2)).sum() == pytest.approx(400, rel=0.02)


def test_a_few_directions_are_at_most_four_scales_wide() -> None:
    assert choose_scale(np.array([4.0, 4.0, 4.0, 4.0, 1e-4])) == pytest.approx(2 / 4)
    assert choose_scale(np.array([16.0, 1.0])) == pytest.approx(2 / 4)  # the geometric mean of 4 and 1
    # Directions narrower than the scale do not count. All three together would give 0.56, which is above the deviation
    # of the third.
    assert choose_scale(np.array([16.0, 16.0, 0.5])) == pytest.approx(128 ** (1 / 6) / 4, rel=5e-3)
    assert choose_scale(np.array([16.0, 16.0, 0.1])) == pytest.approx(1.0)


def test_the_scale_has_the_units_of_the_items() -> None:
    spectrum = np.array([9.0, 4.0, 1.0, 0.1])
    assert choose_scale(25 * spectrum) == pytest.approx(5 * choose_scale(spectrum), rel=1e-2)


@pytest.mark.parametrize("shape", [(50, 3), (20, 40)])
def test_the_spectrum_is_that_of_the_covariance(shape: tuple[int, int]) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, expected = measure_spectrum(x), np.linalg.eigvalsh(np.cov(x.T.numpy(), bias=True))[::-1]
    rank = min(shape[0] - 1, shape[1])
    np.testing.assert_allclose(found[:rank], expected[:rank], rtol=1e-9)
    correlations = np.linalg.eigvalsh(np.corrcoef(x.T.numpy()))[::-1]
    np.testing.assert_allclose(measure_spectrum(1e3 * x, standardize=True)[:rank], correlations[:rank], rtol=1e-9)


def test_bytes_are_shares_and_missing_elements_their_mean() -> None:
    x = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8)
    np.testing.assert_allclose(measure_spectrum(x), [0.5, 0.0], atol=1e-12)
    missing = torch.tensor([[0.0, 1.0], [1.0, 0.0], [float("nan"), 0.5]])
    np.testing.assert_allclose(measure_spectrum(missing), [1 / 3, 0.0], atol=1e-12)


def test_equal_items_are_refused() -> None:
    with pytest.raises(InputError, match="expected items that differ, got items that are all alike: check the data"):
        measure_spectrum(torch.ones(50, 4))


def test_contrast_is_the_share_of_the_variance_of_black_and_white_images() -> None:
    half = torch.tensor([0, 255], dtype=torch.uint8).repeat(30)[:, None, None, None]
    assert contrast(half.expand(60, 1, 2, 2)) == pytest.approx(1.0)
    # Grey values 0.25 and 0.75 have the variance 1/16; black and white with the same mean has 1/4.
    greys = torch.tensor([0.25, 0.75]).repeat(30)[:, None, None, None].expand(60, 1, 2, 2)
    assert contrast(greys) == pytest.approx(0.25)
    # An element with the mean 1/4, black and white, beside a constant grey one: 3/16 of 3/16 + 1/4.
    corners = torch.tensor([0.0, 0.0, 0.0, 1.0]).repeat(15)[:, None, None, None]
    assert contrast(torch.cat([corners, torch.full_like(corners, 0.5)], 3)) == pytest.approx(3 / 7)


@pytest.mark.parametrize(
    "items",
    [
        torch.tensor([0.0, 1.0]).repeat(30, 4),  # vectors
        torch.tensor([-1.0, 1.0]).repeat(60, 1)[:, None, None],
        torch.tensor([0.0, 2.0]).repeat(60, 1)[:, None, None],
        torch.tensor([0.0, float("nan")]).repeat(60, 1)[:, None, None],
        torch.zeros(60, 1, 2, 2),
    ],
)
def test_items_without_a_contrast(items: torch.Tensor) -> None:
    assert contrast(items) == 0.0
