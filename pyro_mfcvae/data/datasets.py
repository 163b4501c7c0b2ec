"""Data sets by name or path: items in splits, with label sets that are used for scores only."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from pyro_mfcvae.atomic_io import expand_user
from pyro_mfcvae.data.catalogue import DATASETS, NUM_DRAWN, DatasetInfo
from pyro_mfcvae.data.folders import read_image_folder
from pyro_mfcvae.data.images import (
    Fit,
    Loaded,
    Size,
    Split,
    as_float,
    as_size,
    fingerprint,
    resize_all,
    validate_images,
)
from pyro_mfcvae.data.readers import read_hdf5, read_npy, read_npz
from pyro_mfcvae.data.rendered3d import draw_scenes
from pyro_mfcvae.data.shapes import draw_shapes
from pyro_mfcvae.data.tables import read_csv, read_parquet
from pyro_mfcvae.errors import InputError

__all__ = ["DATASETS", "Dataset", "DatasetInfo", "Split", "as_float", "load_dataset", "validate_images"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory.

    Attributes:
        notes: one line for each thing that was left out when the data were read.

    Raises:
        InputError: if training and test images differ in shape or in the names of their label sets.
    """

    name: str
    train: Split
    test: Split
    info: DatasetInfo
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        here, there = self.event_shape, tuple(self.test.images.shape[1:])
        if here != there:
            raise InputError(f"expected test images of shape {here} as in training, got {there}: make them agree")
        if self.train.labels.keys() != self.test.labels.keys():
            raise InputError(
                f"expected the label sets {sorted(self.train.labels)} in the test split as in training, got "
                f"{sorted(self.test.labels)}; make them agree"
            )

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one item, (C, H, W), or (P,) for vectors."""
        return tuple(self.train.images.shape[1:])

    @property
    def holds_out(self) -> bool:
        """Whether no test item is also a training item."""
        return self.test is not self.train and self.test.held_out

    @property
    def splits(self) -> dict[str, Split]:
        """Every item once: the training items, and the held-out items if there are any."""
        return {"train": self.train} | ({"test": self.test} if self.holds_out else {})

    def __repr__(self) -> str:
        shape = " × ".join(map(str, self.event_shape))
        labels = f"labels {', '.join(self.train.labels)}" if self.train.labels else "no labels"
        test = f"{len(self.test):,} test items" if self.holds_out else "all are scored"
        return f"Dataset({self.name}: {len(self.train):,} items {shape}, {test}, {labels})"

    def check_event_shape(self, expected: tuple[int, ...]) -> None:
        """Refuse the data for a run that was trained on images of another shape."""
        if self.event_shape != expected:
            raise InputError(
                f"expected items of shape {expected}, which the run was trained on, got {self.event_shape} in "
                f"{self.name}: choose data of that shape"
            )

    def fingerprint(self) -> str:
        """`fingerprint` of the training images."""
        return fingerprint(self.train.images)


def load_dataset(
    name_or_path: str | Path,
    *,
    root: Path | None = None,
    seed: int = 0,
    size: int | Size | None = None,
    fit: Fit = "crop",
) -> Dataset:
    """Read a data set from the table DATASETS, from a file of arrays, from a table, or from a folder of images.

    Large images in an ``.npy`` or HDF5 file are mapped into memory: batches are read when they are needed. Everything
    else is read into memory, up to a limit (environment variable MFCVAE_MAX_GIB, 2 by default).

    Args:
        name_or_path: a name in DATASETS, or a path (see `read_npz`, `read_npy`, `read_hdf5`, `read_csv`,
            `read_parquet`, `read_image_folder`); a string that is a name is never read as a path.
        root: folder that holds ``MNIST/raw``, ``FashionMNIST/raw``, ``SVHN``, ``3dshapes.h5`` and
            ``multiclustering``; environment variable MFCVAE_DATA if None.
        seed: seed of the data sets that are drawn at random (``shapes``, ``rendered3d``).
        size: height and width that all images are resized to, or one number for both. If it is None images keep their
            size, and those of a folder must all have the same size.
        fit: ``"crop"``, ``"pad"`` or ``"stretch"``, see `resize`.

    Raises:
        InputError: if the name or path is unknown or the files are missing, unreadable or do not fit.
    """
    known = isinstance(name_or_path, str) and name_or_path in DATASETS
    sides = None if size is None else as_size(size)
    info = DATASETS[str(name_or_path)] if known else _path_info(name_or_path, sides, fit)
    train, test, notes = Loaded(*info.read(root, seed))
    if sides is not None and train.images.ndim == 4 and tuple(train.images.shape[2:]) != sides:
        smaller = _resized(train, sides, fit, info.name)
        train, test = smaller, smaller if test is train else _resized(test, sides, fit, info.name)
    shape, labels = tuple(train.images.shape[1:]), tuple(train.labels)
    info = replace(info, event_shape=shape, label_names=labels, num_items=len(train))
    return Dataset(info.name, train, test, info, notes)


def _resized(split: Split, size: Size, fit: Fit, source: str) -> Split:
    return replace(split, images=resize_all(split.images, size, fit, source=source))


_READERS = {
    ".npz": read_npz,
    ".npy": read_npy,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def _path_info(name_or_path: str | Path, size: Size | None, fit: Fit) -> DatasetInfo:
    path = expand_user(name_or_path)
    try:
        exists = path.exists()
    except ValueError as error:  # the path contains a zero byte
        raise InputError(f"expected the path of data, got {str(name_or_path)!r}: {error}") from None
    if not exists:
        raise InputError(
            f"expected a data set ({', '.join(DATASETS)}) or the path of an .npz, .npy, .h5, .csv or .parquet file or "
            f"of a folder of images, got {str(name_or_path)!r}, which is not there: check the name"
        )
    reader = partial(read_image_folder, size=size, fit=fit) if path.is_dir() else _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"expected an {' or '.join(_READERS)} file or a folder of images, got {path}; save the arrays with "
            "np.savez, or one that is too large for the memory with np.save"
        )
    return DatasetInfo(
        name=path.resolve().stem,
        description=f"items from {path}",
        event_shape=None,
        likelihood=None,
        label_names=(),
        split="the test_images of the file, if it has any; otherwise all items are used for training and for scoring",
        num_items=None,
        read=lambda root, seed: reader(path),
    )


def _draw(draw: Callable[..., tuple[Tensor, dict[str, Tensor]]], root: Path | None, seed: int) -> tuple[Split, Split]:
    # torch's generator uses 32 bits of a seed. So adding 2**32 to a seed, for example, would draw the training set
    # again.
    test_seed = int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])
    return Split(*draw(NUM_DRAWN, seed=seed)), Split(*draw(4_000, seed=test_seed))


read_shapes = partial(_draw, draw_shapes)
read_rendered3d = partial(_draw, draw_scenes)
