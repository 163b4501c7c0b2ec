"""Data sets by name or path: images in splits, with the label sets that serve for scoring only."""

import gzip
import hashlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.image_files import Split, as_float, read_image_folder, read_npz, validate_images
from pyro_mfcvae.shapes import draw_shapes

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
        read: from the data folder and a seed to the training and the test split.
    """

    name: str
    description: str
    event_shape: tuple[int, ...] | None
    likelihood: str | None
    label_names: tuple[str, ...]
    split: str
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

    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of the training images' type, shape and values, to tell data apart."""
        pixels = np.ascontiguousarray(self.train.images.cpu().numpy())
        digest = hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode())
        digest.update(pixels.data)
        return digest.hexdigest()[:16]


def load_dataset(name_or_path: str | Path, *, root: Path | None = None, seed: int = 0) -> Dataset:
    """Read a data set from the table DATASETS, from an ``.npz`` file, or from a folder of images.

    Args:
        name_or_path: a name in DATASETS, or a path (see `read_npz` and `read_image_folder`); a string that is a name
            is never taken as a path.
        root: folder that holds ``MNIST/raw``, ``FashionMNIST/raw`` and ``multiclustering``; environment variable
            MFCVAE_DATA if None.
        seed: seed of the data sets that are drawn (``shapes``).

    Raises:
        InputError: if the name or path is unknown or the files are missing, unreadable or do not fit.
    """
    known = isinstance(name_or_path, str) and name_or_path in DATASETS
    info = DATASETS[str(name_or_path)] if known else _path_info(name_or_path)
    train, test = info.read(root, seed)
    info = replace(info, event_shape=tuple(train.images.shape[1:]), label_names=tuple(train.labels))
    return Dataset(info.name, train, test, info)


def _path_info(name_or_path: str | Path) -> DatasetInfo:
    path = Path(name_or_path).expanduser()
    if not path.exists():
        raise InputError(
            f"no data set, file or folder is called '{name_or_path}'; known data sets are {', '.join(DATASETS)}, and "
            "the path of an .npz file or of a folder of images works too"
        )
    if path.is_file() and path.suffix != ".npz":
        raise InputError(f"expected an .npz file or a folder of images, got {path}; save the arrays with np.savez")
    reader = read_image_folder if path.is_dir() else read_npz
    return DatasetInfo(
        name=path.resolve().stem,
        description=f"images from {path}",
        event_shape=None,
        likelihood=None,
        label_names=(),
        split="test_images of the file where it has them; otherwise all items serve for training and scoring",
        read=lambda root, seed: reader(path),
    )


def _data_root(root: Path | None, needed: str) -> Path:
    """The data folder, certain to hold ``needed``."""
    chosen = root or os.environ.get("MFCVAE_DATA")
    if not chosen:
        raise InputError(
            f"expected to be told where the data are; set MFCVAE_DATA to the folder that holds {needed}, or pass root"
        )
    folder = Path(chosen).expanduser()
    if not (folder / needed).exists():
        raise InputError(
            f"expected {needed} in {folder}, found none; set MFCVAE_DATA to the folder that holds it, or pass root"
        )
    return folder


def _draw_shapes(root: Path | None, seed: int) -> tuple[Split, Split]:
    train = Split(*draw_shapes(20_000, seed=seed))
    # torch's generator keeps 32 bits of a seed: a seed derived by adding 2**32, say, would draw the training set again.
    test_seed = int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])
    return train, Split(*draw_shapes(4_000, seed=test_seed))


def _read_idx(name: str, label: str, root: Path | None, seed: int) -> tuple[Split, Split]:
    """MNIST and what has its format; ``name`` is torchvision's class and its folder."""
    from torchvision import datasets

    folder = _unpacked(_data_root(root, f"{name}/raw"), name)
    try:
        parts = [getattr(datasets, name)(str(folder), train=train) for train in (True, False)]
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"cannot read the files in {folder / name / 'raw'}: {error}; fetch them again") from error
    train, test = (Split(validate_images(part.data), {label: part.targets}) for part in parts)
    return train, test


_IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _unpacked(root: Path, name: str) -> Path:
    """The folder from which torchvision, which reads no .gz, can read: ``root`` itself, or a folder in our cache.

    The cache folder is named after the packed files' content, so that it is never stale, and appears at once.
    """
    raw = root / name / "raw"
    if all((raw / file).is_file() for file in _IDX_FILES):
        return root
    packed = [raw / f"{file}.gz" for file in _IDX_FILES]
    missing = [file.name for file in packed if not file.is_file()]
    if missing:
        raise InputError(f"expected {', '.join(missing)} (or unpacked) in {raw}, found none; fetch the missing files")
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in packed)).hexdigest()
    cache = Path(os.environ.get("MFCVAE_CACHE") or "~/.cache/pyro-mfcvae").expanduser() / f"{name}-{digest[:16]}"
    if cache.is_dir():
        return cache
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as work:
            target = Path(work) / "ready" / name / "raw"
            target.mkdir(parents=True)
            for file in packed:
                with gzip.open(file) as source, (target / file.stem).open("wb") as sink:
                    shutil.copyfileobj(source, sink)
            (Path(work) / "ready").rename(cache)
    except (OSError, EOFError, zlib.error) as error:
        if not cache.is_dir():  # where it is there by now, another process was quicker
            raise InputError(
                f"cannot unpack {raw} to {cache.parent}: {error}; fetch the files again, or set MFCVAE_CACHE to a "
                "folder that can be written"
            ) from error
    return cache


def _read_rows(
    file: str, shape: tuple[int, int, int], labels: tuple[str, ...], root: Path | None, seed: int
) -> tuple[Split, Split]:
    """Rows of comma-separated numbers 0..255: the labels, then one image of ``shape`` (H, W, C) in row-major order."""
    path = _data_root(root, f"multiclustering/{file}") / "multiclustering" / file
    try:
        rows = np.loadtxt(path, delimiter=",", dtype=np.uint8, ndmin=2)
        pixels = rows[:, len(labels) :].reshape(-1, *shape).transpose(0, 3, 1, 2)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; fetch the file again") from error
    columns = {name: torch.from_numpy(rows[:, index].astype(np.int64)) for index, name in enumerate(labels)}
    split = Split(validate_images(pixels), columns)
    return split, split


_SHARED = "all items serve for training and scoring, as is usual for this set"
_PUBLISHED = "60,000 train, 10,000 test as published"

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="shapes",
            description="light figures of four shapes on grounds of six hues, drawn on the spot",
            event_shape=(3, 32, 32),
            likelihood="gaussian",
            label_names=("shape", "hue"),
            split="20,000 train, 4,000 test, drawn with two seeds",
            read=_draw_shapes,
        ),
        DatasetInfo(
            name="mnist",
            description="handwritten digits (LeCun et al., 1998)",
            event_shape=(1, 28, 28),
            likelihood="bernoulli",
            label_names=("digit",),
            split=_PUBLISHED,
            read=partial(_read_idx, "MNIST", "digit"),
        ),
        DatasetInfo(
            name="fashion_mnist",
            description="photographs of clothes (Xiao, Rasul and Vollgraf, 2017)",
            event_shape=(1, 28, 28),
            likelihood="bernoulli",
            label_names=("class",),
            split=_PUBLISHED,
            read=partial(_read_idx, "FashionMNIST", "class"),
        ),
        DatasetInfo(
            name="stickfigures",
            description="grey stick figures, three upper bodies by three lower bodies (Günnemann et al., 2014)",
            event_shape=(1, 20, 20),
            likelihood="gaussian",
            label_names=("upper", "lower"),
            split=_SHARED,
            read=partial(_read_rows, "stickfigures.data", (20, 20, 1), ("upper", "lower")),
        ),
        DatasetInfo(
            name="nrletters",
            description="letters A B C X Y Z in three colours, one corner marked (Leiber et al., 2022)",
            event_shape=(3, 9, 7),
            likelihood="gaussian",
            label_names=("letter", "colour", "corner"),
            split=_SHARED,
            read=partial(_read_rows, "nrLetters.data", (9, 7, 3), ("letter", "colour", "corner")),
        ),
    )
}
