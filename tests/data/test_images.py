from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pyro_mfcvae.data.images import Split, as_float, check_complete, validate_images
from pyro_mfcvae.errors import InputError


def grey(num: int = 3, size: int = 4) -> NDArray[np.uint8]:
    return np.arange(num * size * size, dtype=np.uint8).reshape(num, size, size)


def test_as_float_scales_bytes_and_passes_floats() -> None:
    assert torch.equal(as_float(torch.tensor([0, 51, 255], dtype=torch.uint8)), torch.tensor([0.0, 0.2, 1.0]))
    half = torch.tensor([0.5], dtype=torch.float16)
    assert as_float(half) is half


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 5, 6), (2, 1, 5, 6)),
        ((2, 3, 5, 6), (2, 3, 5, 6)),
        ((2, 5, 6, 3), (2, 3, 5, 6)),
        ((2, 3, 6, 3), (2, 3, 6, 3)),
    ],
)
def test_images_are_converted_to_channels_first(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert validate_images(torch.zeros(shape)).shape == expected


def test_channels_last_are_moved_not_reshaped() -> None:
    images = np.random.default_rng(0).random((2, 5, 6, 3))
    assert torch.equal(validate_images(images)[1, 2], torch.tensor(images[1, :, :, 2]).to(torch.get_default_dtype()))


def test_bytes_stay_bytes_and_floats_take_the_default_dtype() -> None:
    assert validate_images(grey()).dtype == torch.uint8
    assert validate_images(np.ones((1, 2, 2), dtype=np.float16)).dtype == torch.get_default_dtype()


def test_arrays_that_torch_refuses_are_converted() -> None:
    turned = np.array([[[0.0, 0.25], [0.5, 1.0]]], dtype=">f4")[:, ::-1]
    turned.flags.writeable = False
    assert torch.equal(validate_images(turned), torch.tensor([[[[0.5, 1.0], [0.0, 0.25]]]]))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 3)), r"shape \(N, H, W\).* got \(2, 3\)"),
        (np.zeros((2, 5, 6, 7)), r"1, 3 or 4 channels in axis 1 or 3, got images of shape \(2, 5, 6, 7\)"),
        (np.zeros((0, 5, 6)), r"at least one image .*\(0, 5, 6\)"),
        (
            np.zeros((2, 5, 6), dtype=np.int64),
            r"uint8 or floats, got int64; divide by the largest possible value, such as images / 65535",
        ),
        (torch.eye(5, 6, dtype=torch.uint8)[None], r"expected bytes 0\.\.255, got none above 1, which is black: multi"),
        (np.full((2, 5, 6), 255.0), r"in \[0, 1\], got values from 255 to 255; rescale"),
        (np.linspace(-0.5, 1, 8).reshape(2, 2, 2), "values from -0.5 to 1"),
    ],
)
def test_arrays_that_are_not_images_are_refused(images: NDArray[np.generic], message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate_images(images)


@pytest.mark.parametrize("of", [np.asarray, torch.as_tensor])
def test_boolean_true_is_white(of: Callable[[Any], Any]) -> None:
    images = validate_images(of(np.eye(4, dtype=bool)[None]))
    assert images.dtype == torch.uint8
    assert torch.equal(images[0, 0], 255 * torch.eye(4, dtype=torch.uint8))


def test_values_that_are_not_finite_are_counted_and_located() -> None:
    images = torch.zeros(4, 3, 3)
    images[2, 0, :2] = torch.inf
    images[3, 1, 1] = -torch.inf
    with pytest.raises(InputError, match="expected finite pixels, got 3 of the values, the first in image 2; remove"):
        validate_images(images)


def test_missing_pixels_are_accepted_and_refused_by_check_complete() -> None:
    images = torch.zeros(4, 3, 3)
    images[1, 0, :2] = torch.nan
    valid = validate_images(images)
    assert valid.isnan().sum() == 2
    with pytest.raises(InputError, match="expected no missing pixels, got NaN for 2 of the values, the first in"):
        check_complete(valid)
    check_complete(valid[2:])
    check_complete(torch.zeros(2, 1, 3, 3, dtype=torch.uint8))


def test_a_split_wants_one_label_per_image() -> None:
    assert len(Split(torch.zeros(3, 1, 2, 2), {"kind": torch.arange(3)})) == 3
    with pytest.raises(InputError, match=r"one 'kind' label for each of 3 images, got labels of shape \(4,\)"):
        Split(torch.zeros(3, 1, 2, 2), {"kind": torch.arange(4)})


def test_a_split_wants_one_name_per_image() -> None:
    with pytest.raises(InputError, match="expected one name for each of 3 items, got 2"):
        Split(torch.zeros(3, 1, 2, 2), names=("a", "b"))


def test_a_label_set_has_at_least_one_label() -> None:
    assert Split(torch.zeros(2, 1, 2, 2), {"kind": torch.tensor([-1, 0])}).labels
    with pytest.raises(InputError, match="'kind' to label at least one image, but every label is negative"):
        Split(torch.zeros(2, 1, 2, 2), {"kind": torch.tensor([-1, -1])})
