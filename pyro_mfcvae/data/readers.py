"""Readers of the user's own files: .npz archives and folders in memory, .npy and HDF5 files mapped from the disk."""

import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.data.images import Split, channels_first, validate_images
from pyro_mfcvae.data.labels import read_labels
from pyro_mfcvae.errors import InputError

# Of a set without test items so many are scored, spread evenly over it: those are in memory.
_NUM_SCORED = 10_000

_NUM_AT_ONCE = 10_000

_TEST = "test_"

_GREY_MODES = frozenset({"1", "L"})

_DEEP_MODES = ("I", "F")  # Pillow's names of all modes deeper than 8 bits start with these


def read_npy(path: Path) -> tuple[Split, Split]:
    """Map an ``.npy`` file of images: all train, and up to 10,000 of them, evenly spread, are scored.

    Args:
        path: the file; uint8 in 0..255 or float32 in [0, 1], of a shape that `validate_images` takes.

    Raises:
        InputError: the file cannot be read, or its array does not fit.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        told = "it holds no plain array" if "pickle" in str(error) else error
        raise InputError(f"cannot read {path}: {told}; save the array with np.save") from error
    return _splits(array, {}, path)


def read_hdf5(path: Path) -> tuple[Split, Split]:
    """Map the data set ``images`` or ``x`` of an HDF5 file; the others are labels, see `read_labels`.

    Args:
        path: the file; its images are as for `read_npy` and lie in one piece, neither chunked nor compressed.

    Raises:
        InputError: the file cannot be read, its images do not lie in one piece, or images or labels do not fit.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            arrays = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
            name = next((name for name in ("images", "x") if name in arrays), None)
            if name is None:
                raise InputError(
                    f"expected a data set 'images' or 'x' in {path}, which has {', '.join(arrays) or 'none'}"
                )
            images = arrays.pop(name)
            offset = images.id.get_offset()
            if offset is None:
                raise InputError(
                    f"expected images in one piece in {path}, got chunks, which cannot be mapped into memory: repack "
                    "them with h5repack -l CONTI -f NONE, or save them with np.save"
                )
            mapped = np.memmap(path, dtype=images.dtype, mode="r", offset=offset, shape=images.shape)
            labels: dict[str, Tensor] = {}
            for key, array in arrays.items():
                if array.ndim in (1, 2) and array.dtype.kind in "iubf":
                    labels |= read_labels(key, array[:], len(mapped))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; write the file again") from error
    return _splits(mapped, labels, path)


def _splits(array: NDArray[np.generic], labels: dict[str, Tensor], path: Path) -> tuple[Split, Split]:
    if array.dtype != np.uint8 and array.dtype != np.float32:
        raise InputError(f"expected an array of uint8 or float32 in {path}, got {array.dtype}; convert it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of memory that may not be written, which nobody does
        mapped = torch.from_numpy(array)
    try:
        images = channels_first(mapped)
        if images.is_floating_point():
            for part in images.split(_NUM_AT_ONCE):
                validate_images(part.contiguous())
        scored = torch.linspace(0, len(images) - 1, min(len(images), _NUM_SCORED), dtype=torch.float64).long()
        train = Split(images, labels)
        return train, Split(images[scored], {name: values[scored] for name, values in labels.items()}, held_out=False)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_npz(path: Path) -> tuple[Split, Split]:
    """Read an ``.npz`` file: array ``images`` or ``x``, label sets, and optional ``test_`` twins of all of them.

    Every other array of whole numbers, truths or texts, one or more per image, is a label set under its own name, see
    `read_labels`; texts are numbered in alphabetical order.

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
        sub-folders in sorted order; ``names`` are the files, relative to the folder.

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
    relative = tuple(file.relative_to(path).as_posix() for file in files)
    split = Split(images, {} if names == [""] else {"folder": numbers}, names=relative)
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
    """Texts as numbers, the same in the arrays of both splits."""
    numbered = dict(arrays)
    for key, array in arrays.items():
        if array.ndim in (1, 2) and array.dtype.kind in "US":
            name = key.removeprefix(_TEST)
            both = [arrays[k] for k in (name, _TEST + name) if k in arrays and arrays[k].dtype.kind == array.dtype.kind]
            numbered[key] = np.searchsorted(np.unique(np.concatenate([part.ravel() for part in both])), array)
    return numbered


def _split_of(arrays: dict[str, NDArray[np.generic]], path: Path, *, keys: list[str], prefix: str = "") -> Split:
    name = next((name for name in ("images", "x") if name in arrays), None)
    if name is None:
        raise InputError(
            f"expected an array '{prefix}images' or '{prefix}x' in {path}, which has {', '.join(keys) or 'no arrays'}; "
            "name the images so"
        )
    labels: dict[str, Tensor] = {}
    for key, array in arrays.items():
        if key != name:
            labels |= read_labels(key, array, len(arrays[name]))
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
