"""Images in memory and in the user's own files: what a valid array of images is, and how files become one."""

import hashlib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.errors import InputError

_NUM_AT_ONCE = 10_000
_DTYPES = ("bool", "uint8", "float16", "float32", "float64")
_CHANNELS = (1, 3, 4)  # grey, RGB, RGBA: what tells (N, C, H, W) from (N, H, W, C)
_TEST = "test_"
_GREY_MODES = frozenset({"1", "L"})
_DEEP_MODES = ("I", "F")  # Pillow's names of all modes deeper than 8 bits start with these


@dataclass(frozen=True, eq=False)
class Split:
    """The items of one split of a data set.

    Args:
        images: (N, C, H, W), uint8 or float in [0, 1].
        labels: int64 (N,) per label set; used for scoring only, never for training.
        held_out: of items to score on: whether none of them trains.

    Raises:
        InputError: if a label set does not have one label per image, or labels none.
    """

    images: Tensor
    labels: dict[str, Tensor] = field(default_factory=dict)
    held_out: bool = True

    def __post_init__(self) -> None:
        for name, labels in self.labels.items():
            if labels.shape != (len(self),):
                raise InputError(
                    f"expected one {name!r} label for each of {len(self)} images, got labels of shape "
                    f"{tuple(labels.shape)}; give as many labels as images"
                )
            if not (labels >= 0).any():
                raise InputError(
                    f"expected the label set {name!r} to label at least one image, but every label is negative, which "
                    "means unlabelled; leave the set out"
                )

    def __len__(self) -> int:
        return len(self.images)


def as_float(images: Tensor) -> Tensor:
    """Pixels as floats in [0, 1]: uint8 / 255 in torch's default dtype; floats pass unchanged."""
    return images if images.is_floating_point() else images.to(torch.get_default_dtype()) / 255


def fingerprint(images: Tensor) -> str:
    """First 16 hex digits of the SHA-256 of the images' type, shape and values, to tell data apart."""
    pixels = images.cpu().numpy()
    digest = hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode())
    for start in range(0, len(pixels), _NUM_AT_ONCE):  # some at a time: what is memory-mapped may not fit into memory
        digest.update(np.ascontiguousarray(pixels[start : start + _NUM_AT_ONCE]).data)
    return digest.hexdigest()[:16]


def validate_images(images: Tensor | NDArray[np.generic]) -> Tensor:
    """Check an array of images and bring it to (N, C, H, W).

    Args:
        images: (N, H, W), (N, C, H, W) or (N, H, W, C) with C of 1, 3 or 4; uint8 in 0..255, floats in [0, 1], or
            bool. Where both readings fit, C comes first.

    Returns:
        (N, C, H, W), contiguous; uint8 stays uint8, floats take torch's default dtype, True is the byte 255.

    Raises:
        InputError: if the type, the rank or the shape is another, there is no pixel, a value is infinite, a float
            lies outside [0, 1], or 1 is the largest byte. NaN passes, for a pixel that is missing: `check_complete`
            looks for these.
    """
    if isinstance(images, np.ndarray) and images.dtype.name in _DTYPES:
        # torch refuses a foreign byte order and negative strides, and warns of memory that it may not write.
        images = torch.from_numpy(np.require(images, images.dtype.newbyteorder("="), ["C", "W"]))
    if isinstance(images, Tensor) and images.dtype == torch.bool:
        images = images.to(torch.uint8) * 255
    if not isinstance(images, Tensor) or not (images.dtype == torch.uint8 or images.is_floating_point()):
        kind = getattr(images, "dtype", type(images).__name__)
        raise InputError(f"expected an array of uint8 or floats, got {kind}; convert it, e.g. with .astype('uint8')")
    images = channels_first(images)
    if images.is_floating_point():
        if infinite := _count(images, torch.isinf):
            raise InputError(f"expected finite pixels, got {infinite}; remove or replace them")
        ends = [part.nan_to_num(0.0).aminmax() for part in images.split(_NUM_AT_ONCE)]
        low, high = float(min(end.min for end in ends)), float(max(end.max for end in ends))
        if low < 0 or high > 1:
            raise InputError(
                f"expected float pixels in [0, 1], got values from {low:g} to {high:g}; rescale them, or give "
                "0..255 as uint8"
            )
        images = images.to(torch.get_default_dtype())
    elif images.max() == 1:
        raise InputError("expected bytes 0..255, got none above 1, which is black: multiply them by 255")
    return images.contiguous()


def check_complete(images: Tensor) -> None:
    """Refuse images with missing pixels, NaN, where the model does not expect them."""
    if images.is_floating_point() and (missing := _count(images, torch.isnan)):
        raise InputError(
            f"expected no missing pixels, got NaN for {missing}: remove or replace them, or fit with "
            "likelihood.missing=true, which leaves them out of the likelihood"
        )


def _count(images: Tensor, is_bad: Callable[[Tensor], Tensor]) -> str:
    """How many values are bad, and where the first is; empty where none is."""
    # Some images at a time: what is memory-mapped may not fit into memory.
    numbers = torch.cat([is_bad(part).flatten(1).sum(1) for part in images.split(_NUM_AT_ONCE)])
    if not numbers.any():
        return ""
    return f"{int(numbers.sum())} of the values, the first in image {int(numbers.nonzero()[0])}"


def channels_first(images: Tensor) -> Tensor:
    """A view (N, C, H, W) of images in any order that `validate_images` takes.

    Raises:
        InputError: if the rank or the shape is another, or there is no pixel.
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


def read_npz(path: Path) -> tuple[Split, Split]:
    """Read an ``.npz`` file: array ``images`` or ``x``, label sets, and optional ``test_`` twins of all of them.

    Every other one-dimensional array of integers, truths or texts is a label set under its own name, texts numbered in
    alphabetical order; what is neither is passed over.

    Args:
        path: the file; its images are of any form that `validate_images` takes.

    Returns:
        Training split and test split; the two are the same where the file has no ``test_images`` (or ``test_x``).

    Raises:
        InputError: if the file cannot be read, holds Python objects, has no images, or its images or labels do not fit.
    """
    arrays = _number_texts(_load_arrays(path))
    members: dict[str, dict[str, NDArray[np.generic]]] = {"": {}, _TEST: {}}
    for key, array in arrays.items():
        members[_TEST if key.startswith(_TEST) else ""][key.removeprefix(_TEST)] = array
    train = _split_of(members[""], path, keys=list(arrays))
    test = _split_of(members[_TEST], path, keys=list(arrays), prefix=_TEST) if members[_TEST] else train
    return train, test


def read_image_folder(path: Path) -> tuple[Split, Split]:
    """Read all image files below a folder, in sorted order; sub-folders, if any, become the label ``folder``.

    Grey files give one channel; as soon as one file has colour, all are read as RGB (transparency is dropped). Names
    that start with a dot are passed over.

    Args:
        path: the folder, with the images either all directly in it or all in its sub-folders.

    Returns:
        The same split twice, to train and to score on: uint8 images (N, C, H, W); label ``folder`` numbers the
        sub-folders in sorted order.

    Raises:
        InputError: if there are no images, a file cannot be read or has more than 8 bits per channel, sizes differ, or
            images lie both in the folder and in its sub-folders.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in IMG_EXTENSIONS
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        raise InputError(f"expected image files ({', '.join(IMG_EXTENSIONS)}) in {path}, found none; check the folder")
    images = _read_files(files)
    folders = [file.relative_to(path).parts[0] if file.parent != path else "" for file in files]
    names = sorted(set(folders))
    if "" in names and len(names) > 1:
        loose = files[folders.index("")]
        raise InputError(
            f"expected images either all in {path} or all in its sub-folders, got both ({loose.name} is in no "
            "sub-folder); move them into sub-folders of their own"
        )
    numbers = torch.tensor([names.index(folder) for folder in folders])
    split = Split(images, {} if names == [""] else {"folder": numbers})
    return split, split


def _load_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    if not zipfile.is_zipfile(path):
        raise InputError(f"expected an .npz file as np.savez writes it, but {path} is not one; save it again")
    arrays: dict[str, NDArray[np.generic]] = {}
    key = ""
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                arrays[key] = np.asarray(archive[key])
    except ValueError as error:
        if "Object arrays" in str(error):
            raise InputError(
                f"expected plain arrays, but array {key!r} in {path} holds Python objects, which could run code when "
                "read; save it as numbers"
            ) from error
        raise InputError(f"cannot read array {key!r} in {path}: {error}; save the file again") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"cannot read array {key!r} in {path}: {error}; save the file again") from error
    return arrays


def _number_texts(arrays: dict[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """Texts as numbers, the same in the arrays of both splits; truths as 0 and 1."""
    numbered = dict(arrays)
    for key, array in arrays.items():
        if array.ndim == 1 and array.dtype.kind in "US":
            name = key.removeprefix(_TEST)
            both = [arrays[k] for k in (name, _TEST + name) if k in arrays and arrays[k].dtype.kind == array.dtype.kind]
            numbered[key] = np.searchsorted(np.unique(np.concatenate(both)), array)
        elif array.ndim == 1 and array.dtype.kind == "b":
            numbered[key] = array.astype(np.int64)
    return numbered


def _split_of(arrays: dict[str, NDArray[np.generic]], path: Path, *, keys: list[str], prefix: str = "") -> Split:
    name = next((name for name in ("images", "x") if name in arrays), None)
    if name is None:
        raise InputError(
            f"expected an array '{prefix}images' or '{prefix}x' in {path}, which has {', '.join(keys) or 'no arrays'}; "
            "name the images so"
        )
    labels = {
        key: torch.from_numpy(array.astype(np.int64))
        for key, array in arrays.items()
        if key != name and array.ndim == 1 and np.issubdtype(array.dtype, np.integer)
    }
    try:
        return Split(validate_images(arrays[name]), labels)
    except InputError as error:
        raise InputError(f"{path}, array '{prefix}{name}': {error}") from error


def _read_files(files: list[Path]) -> Tensor:
    from PIL import Image

    pixels: list[NDArray[np.uint8]] = []
    size, mode = None, "L"
    for file in files:  # headers first: they are quick to read, and the mode of all depends on each
        try:
            with Image.open(file) as header:
                found, kind = header.size, header.mode
        except (OSError, SyntaxError, ValueError) as error:
            raise _unreadable(file, error) from error
        size = size or found
        if found != size:
            raise InputError(
                f"expected images of one size, {size[0]} by {size[1]} as in {files[0]}, but {file} is "
                f"{found[0]} by {found[1]}; resize or remove it"
            )
        if kind.startswith(_DEEP_MODES):
            raise InputError(f"expected 8 bits per channel, but {file} has mode {kind}; convert it to 8 bits")
        mode = mode if kind in _GREY_MODES else "RGB"
    for file in files:
        try:
            with Image.open(file) as image:
                pixels.append(np.asarray(image.convert(mode), dtype=np.uint8))
        except (OSError, SyntaxError, ValueError) as error:
            raise _unreadable(file, error) from error
    return validate_images(np.stack(pixels).reshape(len(files), *pixels[0].shape[:2], -1).transpose(0, 3, 1, 2))


def _unreadable(file: Path, error: Exception) -> InputError:
    return InputError(f"cannot read image {file}: {error}; repair or remove it")
