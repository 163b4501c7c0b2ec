"""The two selections of 3D Shapes in Falck et al. 2021, read from the published file or rendered by this package."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mfcvae.data.images import Split
from pyro_mfcvae.data.limits import check_bytes, check_regular, reading
from pyro_mfcvae.data.published import data_root
from pyro_mfcvae.data.readers import own_datasets
from pyro_mfcvae.data.rendered3d import FACTORS, render_scenes
from pyro_mfcvae.errors import InputError

if TYPE_CHECKING:
    import h5py

Selection = Mapping[str, int]
"""The fixed factors and the numbers of their values; a selection has all combinations of the other factors."""

_FILE = "3dshapes.h5"
_HINT = "fetch 3dshapes.h5 (5 GB); github.com/google-deepmind/3d-shapes says where it is"
_SIDE = 32

# The lowest and the highest number in the file for the values of a factor.
_RANGES = {
    "floor_hue": (0.0, 0.9),
    "wall_hue": (0.0, 0.9),
    "object_hue": (0.0, 0.9),
    "scale": (0.75, 1.25),
    "shape": (0.0, 3.0),
    "orientation": (-30.0, 30.0),
}

_ROWS = 2000  # the file is read in parts of this many rows: 25 MB


def read_shapes3d(selection: Selection, root: Path | None, seed: int) -> tuple[Split, Split]:
    """The selected images of ``3dshapes.h5`` (480,000 images of 64 × 64 pixels), reduced to 32 × 32 by the mean of 2 ×
    2 pixels.

    Only the parts of the file that contain selected rows are read.

    Args:
        selection: the fixed factors.
        root: the folder of the file; environment variable MFCVAE_DATA if None.
        seed: not used, because the split is always the same.

    Raises:
        InputError: the file is missing, cannot be read, or is not 3D Shapes.
    """
    import h5py

    path = data_root(root, _FILE, hint=_HINT) / _FILE
    check_regular(path)
    with reading(path, _HINT), h5py.File(path, "r") as file:
        images, labels = _images_and_labels(own_datasets(file, path), path)
        factors = _factor_numbers(labels[:])
        fixed = [list(FACTORS).index(name) for name in selection]
        rows = np.flatnonzero((factors[:, fixed] == list(selection.values())).all(1))
        if len(rows) < 2:
            raise InputError(f"expected images with {dict(selection)} in {path}, found none; {_HINT}")
        check_bytes(len(rows) * 3 * _SIDE**2, path)
        parts = []
        for start in range(0, len(images), _ROWS):
            chosen = rows[(rows >= start) & (rows < start + _ROWS)]
            if len(chosen):
                block = images[chosen[0] : chosen[-1] + 1][chosen - chosen[0]]
                small = block.reshape(-1, _SIDE, 2, _SIDE, 2, 3).mean((2, 4)).round().astype(np.uint8)
                parts.append(small.transpose(0, 3, 1, 2))
    return _split(np.concatenate(parts), factors[rows], selection)


def render_shapes3d(selection: Selection, root: Path | None, seed: int) -> tuple[Split, Split]:
    """The same combinations of factors and the same split, rendered by this package."""
    values = [[selection[name]] if name in selection else range(num) for name, num in FACTORS.items()]
    factors = np.array(list(product(*values)))
    columns = {name: torch.from_numpy(column) for name, column in zip(FACTORS, factors.T, strict=True)}
    return _split(render_scenes(columns, size=_SIDE).numpy(), factors, selection)


def _images_and_labels(found: Mapping[str, "h5py.Dataset"], path: Path) -> "tuple[h5py.Dataset, h5py.Dataset]":
    """The images and labels of 3D Shapes. Other data, and labels that would not fit into memory, are refused."""
    there = [found[name] for name in ("images", "labels") if name in found]
    forms = [(item.shape or (), str(item.dtype)) for item in there]
    num_items = forms[0][0][0] if forms and forms[0][0] else 0
    wanted = [((num_items, 64, 64, 3), "uint8"), ((num_items, len(FACTORS)), "float64")]
    if forms != wanted:
        raise InputError(
            f"expected images (N, 64, 64, 3) of uint8 and labels (N, {len(FACTORS)}) of float64 in {path}, got "
            f"{forms or 'neither'}; {_HINT}"
        )
    images, labels = there
    check_bytes(labels.size * labels.dtype.itemsize, path, packed_bytes=labels.id.get_storage_size())
    return images, labels


def _factor_numbers(labels: NDArray[np.float64]) -> NDArray[np.int64]:
    """Convert the file's values to the numbers 0, 1, … of each factor's values."""
    low, high = np.array([_RANGES[name] for name in FACTORS]).T
    steps = np.array(list(FACTORS.values())) - 1
    return np.rint((labels - low) / (high - low) * steps).astype(np.int64)


def _split(images: NDArray[np.uint8], factors: NDArray[np.int64], selection: Selection) -> tuple[Split, Split]:
    """The authors' split: four fifths for training, chosen by NumPy's legacy generator with seed 0; the rest in
    order."""
    order = np.random.RandomState(0).permutation(len(images))
    train, test = order[: int(0.8 * len(images))], np.sort(order[int(0.8 * len(images)) :])
    scored = ["shape", *(name for name in FACTORS if name.endswith("_hue") and name not in selection)]

    def part(rows: NDArray[np.int64]) -> Split:
        labels = {name: torch.from_numpy(factors[rows, list(FACTORS).index(name)]) for name in scored}
        return Split(torch.from_numpy(images[rows]), labels)

    return part(train), part(test)
