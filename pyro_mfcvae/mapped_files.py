"""Arrays that stay on the disk: images that are read when they are needed, however many there are."""

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.image_files import Split, channels_first, validate_images

# Of a set without test items so many are scored, spread evenly over it: those are in memory.
_NUM_SCORED = 10_000

_NUM_AT_ONCE = 10_000


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
    """Map the data set ``images`` or ``x`` of an HDF5 file; every other one-dimensional one of integers is a label set.

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
            labels = {
                key: torch.from_numpy(array[:].astype(np.int64))
                for key, array in arrays.items()
                if array.ndim == 1 and np.issubdtype(array.dtype, np.integer)
            }
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
