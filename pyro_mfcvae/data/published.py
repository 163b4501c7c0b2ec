"""Readers of published files in their original formats, which the user has fetched."""

import gzip
import hashlib
import os
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch

from pyro_mfcvae.atomic_io import expand_user
from pyro_mfcvae.data.images import Split, validate_images
from pyro_mfcvae.errors import InputError


def data_root(root: Path | None, needed: str, *, hint: str = "") -> Path:
    """The data folder, certain to hold ``needed``; ``hint`` tells the user where to get it."""
    chosen = root or os.environ.get("MFCVAE_DATA")
    hint = f" ({hint})" if hint else ""
    if not chosen:
        raise InputError(
            "expected to be told where the data are; set MFCVAE_DATA to the folder that holds "
            f"{needed}{hint}, or pass root"
        )
    folder = expand_user(chosen)
    if not (folder / needed).exists():
        raise InputError(
            f"expected {needed} in {folder}, found none{hint}; set MFCVAE_DATA to the folder that holds it, or pass "
            "root"
        )
    return folder


def read_idx(name: str, label: str, root: Path | None, seed: int) -> tuple[Split, Split]:
    """MNIST and what has its format; ``name`` is torchvision's class and its folder."""
    from torchvision import datasets

    folder = _unpacked(data_root(root, f"{name}/raw"), name)
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


def read_rows(
    file: str, shape: tuple[int, int, int], labels: tuple[str, ...], root: Path | None, seed: int
) -> tuple[Split, Split]:
    """Rows of comma-separated numbers 0..255: the labels, then one image of ``shape`` (H, W, C) in row-major order."""
    path = data_root(root, f"multiclustering/{file}") / "multiclustering" / file
    try:
        rows = np.loadtxt(path, delimiter=",", dtype=np.uint8, ndmin=2)
        pixels = rows[:, len(labels) :].reshape(-1, *shape).transpose(0, 3, 1, 2)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; fetch the file again") from error
    columns = {name: torch.from_numpy(rows[:, index].astype(np.int64)) for index, name in enumerate(labels)}
    split = Split(validate_images(pixels), columns)
    return split, split


def read_svhn(root: Path | None, seed: int) -> tuple[Split, Split]:
    """The cropped house numbers, as torchvision reads them."""
    from torchvision.datasets import SVHN

    folder = data_root(root, "SVHN/train_32x32.mat", hint=_SVHN_HINT) / "SVHN"
    try:
        parts = [SVHN(str(folder), split=split) for split in ("train", "test")]
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"cannot read the files in {folder}: {error}; {_SVHN_HINT}") from error
    train, test = (Split(validate_images(part.data), {"digit": torch.from_numpy(part.labels)}) for part in parts)
    return train, test


_SVHN_HINT = "fetch train_32x32.mat and test_32x32.mat (format 2) from ufldl.stanford.edu/housenumbers into SVHN/"
