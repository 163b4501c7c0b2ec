"""Data sets by name or path: images in splits, with the label sets that serve for scoring only."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from pyro_mfcvae.data.images import Split, as_float, fingerprint, validate_images
from pyro_mfcvae.data.published import read_idx, read_rows, read_svhn
from pyro_mfcvae.data.readers import read_hdf5, read_image_folder, read_npy, read_npz
from pyro_mfcvae.data.rendered3d import FACTORS, draw_scenes
from pyro_mfcvae.data.shapes import draw_shapes
from pyro_mfcvae.data.shapes3d import FLOOR, WALL, read_shapes3d, render_shapes3d
from pyro_mfcvae.errors import InputError

__all__ = ["DATASETS", "Dataset", "DatasetInfo", "Split", "as_float", "load_dataset", "validate_images"]

Reader = Callable[[Path | None, int], tuple[Split, Split]]
"""From the data folder (None: not given) and a seed to the training and the test split."""


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is read.

    Args:
        name: what the user calls it.
        description: one line.
        event_shape: shape of one image, (C, H, W); None where the data decide.
        likelihood: the usual p(x|z), "bernoulli" or "gaussian"; None where open.
        label_names: names of the label sets; empty where the data decide.
        split: one sentence on which items train and which score.
        num_items: how many items train; None where the data decide.
        read: from the data folder and a seed to the training and the test split.
    """

    name: str
    description: str
    event_shape: tuple[int, ...] | None
    likelihood: str | None
    label_names: tuple[str, ...]
    split: str
    num_items: int | None
    read: Reader


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
    path = Path(name_or_path).expanduser()
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


_NUM_DRAWN = 20_000


def _draw(draw: Callable[..., tuple[Tensor, dict[str, Tensor]]], root: Path | None, seed: int) -> tuple[Split, Split]:
    # torch's generator keeps 32 bits of a seed: a seed derived by adding 2**32, say, would draw the training set again.
    test_seed = int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])
    return Split(*draw(_NUM_DRAWN, seed=seed)), Split(*draw(4_000, seed=test_seed))


_SHARED = "all items serve for training and scoring, as is usual for this set"
_PUBLISHED = "60,000 train, 10,000 test as published"
_DRAWN = "20,000 train, 4,000 test, drawn with two seeds"
_FOUR_FIFTHS = "3,840 train, 960 test of all 4,800 combinations"

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="shapes",
            description="light figures of four shapes on grounds of six hues, drawn on the spot",
            event_shape=(3, 32, 32),
            likelihood="gaussian",
            label_names=("shape", "hue"),
            split=_DRAWN,
            num_items=_NUM_DRAWN,
            read=partial(_draw, draw_shapes),
        ),
        DatasetInfo(
            name="mnist",
            description="handwritten digits (LeCun et al., 1998)",
            event_shape=(1, 28, 28),
            likelihood="bernoulli",
            label_names=("digit",),
            split=_PUBLISHED,
            num_items=60_000,
            read=partial(read_idx, "MNIST", "digit"),
        ),
        DatasetInfo(
            name="fashion_mnist",
            description="photographs of clothes (Xiao, Rasul and Vollgraf, 2017)",
            event_shape=(1, 28, 28),
            likelihood="bernoulli",
            label_names=("class",),
            split=_PUBLISHED,
            num_items=60_000,
            read=partial(read_idx, "FashionMNIST", "class"),
        ),
        DatasetInfo(
            name="stickfigures",
            description="grey stick figures, three upper bodies by three lower bodies (Günnemann et al., 2014)",
            event_shape=(1, 20, 20),
            likelihood="gaussian",
            label_names=("upper", "lower"),
            split=_SHARED,
            num_items=900,
            read=partial(read_rows, "stickfigures.data", (20, 20, 1), ("upper", "lower")),
        ),
        DatasetInfo(
            name="nrletters",
            description="letters A B C X Y Z in three colours, one corner marked (Leiber et al., 2022)",
            event_shape=(3, 9, 7),
            likelihood="gaussian",
            label_names=("letter", "colour", "corner"),
            split=_SHARED,
            num_items=10_000,
            read=partial(read_rows, "nrLetters.data", (9, 7, 3), ("letter", "colour", "corner")),
        ),
        DatasetInfo(
            name="svhn",
            description="house numbers, one digit each in the middle (Netzer et al., 2011)",
            event_shape=(3, 32, 32),
            likelihood="gaussian",
            label_names=("digit",),
            split="73,257 train, 26,032 test as published",
            num_items=73_257,
            read=read_svhn,
        ),
        *(
            DatasetInfo(
                name=f"{name}-{part}",
                description=f"{what}: {part} hue and shape are to be found; scale and orientation vary too",
                event_shape=(3, 32, 32),
                likelihood="gaussian",
                label_names=("shape", f"{part}_hue"),
                split=_FOUR_FIFTHS,
                num_items=3_840,
                read=partial(read, selection),
            )
            for name, what, read in (
                ("shapes3d", "3D Shapes (Burgess and Kim, 2018) as selected by Falck et al.", read_shapes3d),
                ("rendered3d", "rooms rendered by us in place of 3D Shapes", render_shapes3d),
            )
            for part, selection in (("floor", FLOOR), ("wall", WALL))
        ),
        DatasetInfo(
            name="rendered3d",
            description="rooms rendered by us, all six factors of 3D Shapes vary",
            event_shape=(3, 32, 32),
            likelihood="gaussian",
            label_names=tuple(FACTORS),
            split=_DRAWN,
            num_items=_NUM_DRAWN,
            read=partial(_draw, draw_scenes),
        ),
    )
}
