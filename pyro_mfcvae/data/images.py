"""Items in memory: checks of arrays of images and vectors, and resizing of images."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.data.limits import check_bytes, in_parts
from pyro_mfcvae.errors import InputError

Fit = Literal["crop", "pad", "stretch"]
Size = tuple[int, int]
"""Height and width, in pixels."""

_MAX_SIDE = 1 << 14
_DTYPES = ("bool", "uint8", "float16", "float32", "float64")
# Numbers of channels (grey, RGB, RGBA); they show whether images are (N, C, H, W) or (N, H, W, C).
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True, eq=False)
class Split:
    """The items of one split of a data set.

    Args:
        images: (N, C, H, W), uint8 or float in [0, 1]; or vectors (N, P), floats.
        labels: int64 (N,) per label set, negative if unknown; used for scoring only, never for training.
        held_out: for test items, whether none of them is also a training item.
        names: names of the items, such as their files; None if they have none.

    Raises:
        InputError: if a label set does not have one label per image, or all its labels are unknown; or if there is not
            one name per item.
    """

    images: Tensor
    labels: dict[str, Tensor] = field(default_factory=dict)
    held_out: bool = True
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.names is not None and len(self.names) != len(self):
            raise InputError(f"expected one name for each of {len(self)} items, got {len(self.names)}: give one each")
        for name, labels in self.labels.items():
            if labels.shape != (len(self),):
                raise InputError(
                    f"expected one {name!r} label for each of {len(self)} images, got labels of shape "
                    f"{tuple(labels.shape)}: give one label per image"
                )
            if not (labels >= 0).any():
                raise InputError(
                    f"expected the label set {name!r} to label at least one image, but every label is negative, which "
                    "means unlabelled; leave the set out"
                )

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        shape = " × ".join(map(str, self.images.shape[1:]))
        labels = f"labels {', '.join(self.labels)}" if self.labels else "no labels"
        return f"Split({len(self):,} items {shape}, {labels})"


class Loaded(NamedTuple):
    """The result of a reader.

    Attributes:
        train: the training items.
        test: the items that are scored; the training items if the source has no other items.
        notes: one line for each thing that was left out.
    """

    train: Split
    test: Split
    notes: tuple[str, ...] = ()


def as_float(images: Tensor) -> Tensor:
    """Pixels as floats in [0, 1]: uint8 / 255 in torch's default dtype; floats are returned unchanged."""
    return images if images.is_floating_point() else images.to(torch.get_default_dtype()) / 255


def fingerprint(images: Tensor) -> str:
    """First 16 hex digits of the SHA-256 of the images' type, shape and values, to recognise data."""
    pixels = images.cpu().numpy()
    digest = hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode())
    for part in in_parts(torch.from_numpy(pixels)):
        digest.update(np.ascontiguousarray(part.numpy()).data)
    return digest.hexdigest()[:16]


def validate_images(images: Tensor | NDArray[np.generic]) -> Tensor:
    """Check an array of images and convert it to (N, C, H, W).

    Args:
        images: (N, H, W), (N, C, H, W) or (N, H, W, C) with C of 1, 3 or 4; uint8 in 0..255, floats in [0, 1], or
            bool. If both readings fit, the axes are (N, C, H, W).

    Returns:
        (N, C, H, W), contiguous; uint8 stays uint8, floats take torch's default dtype, True is the byte 255.

    Raises:
        InputError: if the type, the rank or the shape does not fit, there is no pixel, a value is infinite, a float
            lies outside [0, 1], or the largest byte is 1. NaN is accepted as a missing pixel; `check_complete` refuses
            it.
    """
    if isinstance(images, np.ndarray) and images.dtype.name in _DTYPES:
        # torch refuses other byte orders and negative strides, and warns about read-only memory.
        images = torch.from_numpy(np.require(images, images.dtype.newbyteorder("="), ["C", "W"]))
    if isinstance(images, Tensor) and images.dtype == torch.bool:
        images = images.to(torch.uint8) * 255
    if not isinstance(images, Tensor) or not (images.dtype == torch.uint8 or images.is_floating_point()):
        kind = getattr(images, "dtype", type(images).__name__)
        raise InputError(
            f"expected an array of uint8 or floats, got {kind}; divide by the largest possible value, such as "
            "images / 65535 for 16 bits, so that floats in [0, 1] come out"
        )
    images = channels_first(images)
    if images.is_floating_point():
        if infinite := _count(images, torch.isinf):
            raise InputError(f"expected finite pixels, got {infinite}; remove or replace them")
        ends = [part.nan_to_num(0.0).aminmax() for part in in_parts(images)]
        low, high = float(min(end.min for end in ends)), float(max(end.max for end in ends))
        if low < 0 or high > 1:
            raise InputError(
                f"expected float pixels in [0, 1], got values from {low:g} to {high:g}; rescale them, or give "
                "0..255 as uint8"
            )
        images = images.to(torch.get_default_dtype())
    else:
        check_not_black(images)
    return images.contiguous()


def to_channels(images: Tensor, num: int) -> Tensor:
    """Convert images (N, C, H, W) to ``num`` channels: grey is repeated, colours become grey with the weights of ITU-R
    601, alpha is dropped.

    Raises:
        InputError: there is no conversion between these numbers of channels.
    """
    if images.shape[1] == num:
        return images
    if images.shape[1] == 4 and num in (1, 3):
        return to_channels(images[:, :3], num)
    if images.shape[1] == 1 and num == 3:
        return images.expand(-1, 3, -1, -1)
    if images.shape[1] == 3 and num == 1:
        grey = (images * images.new_tensor([0.299, 0.587, 0.114], dtype=torch.float32)[:, None, None]).sum(1, True)
        return grey if images.is_floating_point() else grey.round().to(torch.uint8)
    raise InputError(f"expected images of {num} channels, got {images.shape[1]}: convert them")


def validate_vectors(vectors: Tensor | NDArray[np.generic]) -> Tensor:
    """Check an array of vectors (N, P) of numbers of any type.

    Returns:
        (N, P) in torch's default dtype, contiguous. NaN is accepted as a missing value.

    Raises:
        InputError: the values are not numbers, the rank is not 2, there are no values, or one is infinite.
    """
    numbers = torch.as_tensor(vectors).numpy() if isinstance(vectors, Tensor) else np.asarray(vectors)
    if numbers.dtype.kind not in "biuf" or numbers.ndim != 2 or not numbers.size:
        raise InputError(
            "expected vectors of shape (N, P) with at least one number, got "
            f"{numbers.dtype} {numbers.shape}; reshape them"
        )
    with np.errstate(over="ignore"):
        floats = torch.from_numpy(numbers.astype(np.float64)).to(torch.get_default_dtype())
    if infinite := _count(floats, torch.isinf):
        raise InputError(f"expected finite numbers, got {infinite}; remove or replace them")
    return floats.contiguous()


def validate_items(items: Tensor | NDArray[np.generic]) -> Tensor:
    """Call `validate_vectors` for an array of rank 2, and `validate_images` for all others."""
    return validate_vectors(items) if items.ndim == 2 else validate_images(items)


def check_not_black(images: Tensor) -> None:
    """Refuse bytes that are all 0 or 1, because such masks would be black images for a network."""
    for part in in_parts(images):
        if part.max() > 1:
            return
    if any(bool((part == 1).any()) for part in in_parts(images)):
        raise InputError("expected bytes 0..255, got none above 1, which is black: multiply them by 255")


def check_complete(images: Tensor) -> None:
    """Refuse images with missing pixels, NaN, where the model does not expect them."""
    if images.is_floating_point() and (missing := _count(images, torch.isnan)):
        raise InputError(
            f"expected no missing pixels, got NaN for {missing}: remove or replace them, or fit with "
            "likelihood.missing=true, which leaves them out of the likelihood"
        )


def _count(images: Tensor, is_bad: Callable[[Tensor], Tensor]) -> str:
    """A text with the number of bad values and the place of the first; empty if there are none."""
    numbers = torch.cat([is_bad(part).flatten(1).sum(1) for part in in_parts(images)])
    if not numbers.any():
        return ""
    return f"{int(numbers.sum())} of the values, the first in image {int(numbers.nonzero()[0])}"


def channels_first(images: Tensor) -> Tensor:
    """A view (N, C, H, W) of images in any order that `validate_images` takes.

    Raises:
        InputError: the rank or the shape does not fit, or there is no pixel.
    """
    shape = tuple(images.shape)
    if images.ndim not in (3, 4):
        raise InputError(f"expected images of shape (N, H, W), (N, C, H, W) or (N, H, W, C), got {shape}; reshape them")
    if images.numel() == 0:
        raise InputError(f"expected at least one image with at least one pixel, got shape {shape}")
    if images.ndim == 3:
        return images[:, None]
    if shape[1] in _CHANNELS:
        return images
    if shape[3] in _CHANNELS:
        return images.permute(0, 3, 1, 2)
    raise InputError(f"expected 1, 3 or 4 channels in axis 1 or 3, got images of shape {shape}; reshape them")


def as_size(size: int | Size) -> Size:
    """Height and width from a size; a single number is used for both.

    Raises:
        InputError: a side is not between 1 and 16,384.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(0 < side <= _MAX_SIDE for side in sides):
        raise InputError(
            "expected a size in pixels, one number or height and width from 1 to "
            f"{_MAX_SIDE}, got {size}: set data.size"
        )
    return sides[0], sides[1]


def resize(image: Tensor, size: Size, fit: Fit = "crop") -> Tensor:
    """Resize one or several images (…, C, H, W) by antialiased bilinear interpolation.

    Args:
        image: uint8 or floats.
        size: height and width of the result.
        fit: for images of another shape: ``"crop"`` cuts off sides that are too long, ``"pad"`` adds black to sides
            that are too short, ``"stretch"`` distorts the image.

    Raises:
        InputError: ``fit`` is not one of these.
    """
    from torchvision.transforms.v2 import functional

    height, width = size
    rows, columns = image.shape[-2:]
    if fit not in get_args(Fit):
        raise InputError(f"expected data.fit to be {', '.join(get_args(Fit))}, got {fit!r}")
    if fit == "crop":
        # The image is cropped before it is resized, so that a very long strip takes little memory.
        kept = [min(rows, max(round(columns * height / width), 1)), min(columns, max(round(rows * width / height), 1))]
        image = functional.center_crop(image, kept)
    if fit == "pad":
        scale = min(height / rows, width / columns)
        inside = [min(max(round(rows * scale), 1), height), min(max(round(columns * scale), 1), width)]
        image = functional.resize(image, inside, antialias=True)
        top, left = (height - inside[0]) // 2, (width - inside[1]) // 2
        padding = [left, top, width - inside[1] - left, height - inside[0] - top]
        padded: Tensor = functional.pad(image, padding)
        return padded
    resized: Tensor = functional.resize(image, [height, width], antialias=True)
    return resized


def resize_all(images: Tensor, size: Size, fit: Fit, *, source: object) -> Tensor:
    """Resize images (N, C, H, W), which may be memory-mapped; the result is in memory.

    Raises:
        InputError: they would take more memory than the limit.
    """
    check_bytes(len(images) * images.shape[1] * size[0] * size[1] * images.element_size(), Path(str(source)))
    parts = [resize(part.contiguous(), size, fit) for part in in_parts(images)]
    return torch.cat(parts).clamp_(0, 1) if images.is_floating_point() else torch.cat(parts)
