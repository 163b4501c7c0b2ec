"""Data sets by name or path: images in splits, with the label sets that serve for scoring only."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from pyro_mfcvae.atomic_io import expand_user
from pyro_mfcvae.data.catalogue import DATASETS, NUM_DRAWN, DatasetInfo
from pyro_mfcvae.data.images import Split, as_float, fingerprint, validate_images
from pyro_mfcvae.data.readers import read_hdf5, read_image_folder, read_npy, read_npz
from pyro_mfcvae.data.rendered3d import draw_scenes
from pyro_mfcvae.data.shapes import draw_shapes
from pyro_mfcvae.errors import InputError

__all__ = ["DATASETS", "Dataset", "DatasetInfo", "Split", "as_float", "load_dataset", "validate_images"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory.

    Raises:
        InputError: if training and test images differ in shape or in the names of their label sets.
    """

    name: str
    train: Split
    test: Split
    info: DatasetInfo

    def __post_init__(self) -> None:
        here, there = self.event_shape, tuple(self.test.images.shape[1:])
        if here != there:
            raise InputError(f"expected test images of shape {here} as in training, got {there}; make them agree")
        if self.train.labels.keys() != self.test.labels.keys():
            raise InputError(
                f"expected the label sets {sorted(self.train.labels)} in the test split as in training, got "
                f"{sorted(self.test.labels)}; make them agree"
            )

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one image, (C, H, W)."""
        return tuple(self.train.images.shape[1:])

    @property
    def holds_out(self) -> bool:
        """Whether the test items are others than those that train."""
        return self.test is not self.train and self.test.held_out

    def __repr__(self) -> str:
        shape = " × ".join(map(str, self.event_shape))
        labels = f"labels {', '.join(self.train.labels)}" if self.train.labels else "no labels"
        test = f"{len(self.test):,} test items" if self.holds_out else "all are scored"
        return f"Dataset({self.name}: {len(self.train):,} items {shape}, {test}, {labels})"

    def check_event_shape(self, expected: tuple[int, ...]) -> None:
        """Refuse the data for a run that was trained on images of another shape."""
        if self.event_shape != expected:
            raise InputError(
                f"{self.name} has items of shape {self.event_shape}, but the run was trained on {expected}: choose "
                "data of that shape"
            )

    def fingerprint(self) -> str:
        """`fingerprint` of the training images."""
        return fingerprint(self.train.images)


def load_dataset(name_or_path: str | Path, *, root: Path | None = None, seed: int = 0) -> Dataset:
    """Read a data set from the table DATASETS, from an ``.npz`` file, or from a folder of images.

    An ``.npy`` or HDF5 file is mapped into memory instead: batches are read when they are needed.

    Args:
        name_or_path: a name in DATASETS, or a path (see `read_npz`, `read_npy`, `read_hdf5`, `read_image_folder`); a
            string that is a name is never taken as a path.
        root: folder that holds ``MNIST/raw``, ``FashionMNIST/raw``, ``SVHN``, ``3dshapes.h5`` and ``multiclustering``;
            environment variable MFCVAE_DATA if None.
        seed: seed of the data sets that are drawn at random (``shapes``, ``rendered3d``).

    Raises:
        InputError: if the name or path is unknown or the files are missing, unreadable or do not fit.
    """
    known = isinstance(name_or_path, str) and name_or_path in DATASETS
    info = DATASETS[str(name_or_path)] if known else _path_info(name_or_path)
    train, test = info.read(root, seed)
    shape, labels = tuple(train.images.shape[1:]), tuple(train.labels)
    info = replace(info, event_shape=shape, label_names=labels, num_items=len(train))
    return Dataset(info.name, train, test, info)


_READERS = {".npz": read_npz, ".npy": read_npy, ".h5": read_hdf5, ".hdf5": read_hdf5}


def _path_info(name_or_path: str | Path) -> DatasetInfo:
    path = expand_user(name_or_path)
    if not path.exists():
        raise InputError(
            f"no data set, file or folder is called '{name_or_path}'; known data sets are {', '.join(DATASETS)}, and "
            "the path of an .npz, .npy or .h5 file or of a folder of images works too"
        )
    reader = read_image_folder if path.is_dir() else _READERS.get(path.suffix)
    if reader is None:
        raise InputError(
            f"expected an {' or '.join(_READERS)} file or a folder of images, got {path}; save the arrays with "
            "np.savez, or one that is too large for the memory with np.save"
        )
    return DatasetInfo(
        name=path.resolve().stem,
        description=f"images from {path}",
        event_shape=None,
        likelihood=None,
        label_names=(),
        split="test_images of the file where it has them; otherwise all items serve for training and scoring",
        num_items=None,
        read=lambda root, seed: reader(path),
    )


def _draw(draw: Callable[..., tuple[Tensor, dict[str, Tensor]]], root: Path | None, seed: int) -> tuple[Split, Split]:
    # torch's generator keeps 32 bits of a seed: a seed derived by adding 2**32, say, would draw the training set again.
    test_seed = int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])
    return Split(*draw(NUM_DRAWN, seed=seed)), Split(*draw(4_000, seed=test_seed))


read_shapes = partial(_draw, draw_shapes)
read_rendered3d = partial(_draw, draw_scenes)
