"""Readers of published data sets in their original formats; the user must download the files."""

import gzip
import math
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mfcvae.atomic_io import expand_user
from pyro_mfcvae.data.images import Split, validate_images
from pyro_mfcvae.data.limits import check_bytes, check_regular, reading
from pyro_mfcvae.errors import InputError


def data_root(root: Path | None, needed: str, *, hint: str = "") -> Path:
    """The data folder, in which ``needed`` must exist; ``hint`` says where to get it."""
    chosen = root or os.environ.get("MFCVAE_DATA")
    hint = f" ({hint})" if hint else ""
    if not chosen:
        raise InputError(
            "expected a folder of data, got neither MFCVAE_DATA nor root: set MFCVAE_DATA to the folder that holds "
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
    """Read MNIST or a data set in the same format from the folder ``name``. Each of the four files may be
    compressed (``.gz``).
    """
    folder = data_root(root, f"{name}/raw") / name / "raw"
    splits = []
    for part in ("train", "t10k"):
        images = _read_idx(folder, f"{part}-images-idx3-ubyte", num_axes=3)
        labels = _read_idx(folder, f"{part}-labels-idx1-ubyte", num_axes=1)
        splits.append(Split(validate_images(images), {label: torch.from_numpy(labels.astype(np.int64))}))
    return splits[0], splits[1]


def _read_idx(folder: Path, name: str, *, num_axes: int) -> NDArray[np.uint8]:
    """Read an IDX file: two zero bytes, 8 for uint8, the number of axes, the length of each axis, the values."""
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise InputError(f"expected {name}, or {name}.gz, in {folder}, found none; fetch the missing file")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            kind, *shape = struct.unpack(f">{1 + num_axes}I", file.read(4 * (1 + num_axes)))
            if kind != 0x0800 + num_axes:
                raise ValueError(f"its first bytes are {kind:#x} instead of {0x0800 + num_axes:#x}")
            num_bytes = math.prod(shape)
            check_bytes(num_bytes, path, packed_bytes=path.stat().st_size if path.suffix == ".gz" else None)
            content = file.read(num_bytes + 1)  # reads one byte more than is allowed
        if len(content) != num_bytes:
            raise ValueError(
                f"its header gives {num_bytes} bytes, but it has {'more' if len(content) > num_bytes else 'fewer'}"
            )
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected a valid file {path}, got an error ({error}): fetch the file again") from error
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_rows(
    file: str, shape: tuple[int, int, int], labels: tuple[str, ...], root: Path | None, seed: int
) -> tuple[Split, Split]:
    """Read rows of comma-separated numbers 0..255: first the labels, then one image of ``shape`` (H, W, C) in
    row-major order.
    """
    path = data_root(root, f"multiclustering/{file}") / "multiclustering" / file
    check_regular(path)
    check_bytes(path.stat().st_size, path)
    with reading(path, "fetch the file again"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # there are no rows; the check below reports this
        rows = np.loadtxt(path, delimiter=",", dtype=np.uint8, ndmin=2)
        if (wanted := len(labels) + math.prod(shape)) != rows.shape[1] or not len(rows):
            raise ValueError(f"its rows have {rows.shape[1]} numbers instead of {wanted}")
        pixels = rows[:, len(labels) :].reshape(-1, *shape).transpose(0, 3, 1, 2)
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
        raise InputError(f"expected valid files in {folder}, got an error ({error}): {_SVHN_HINT}") from error
    train, test = (Split(validate_images(part.data), {"digit": torch.from_numpy(part.labels)}) for part in parts)
    return train, test


_SVHN_HINT = "fetch train_32x32.mat and test_32x32.mat (format 2) from ufldl.stanford.edu/housenumbers into SVHN/"
