"""Small files in the formats of data sets that are not available everywhere."""

import hashlib
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat
from torchvision.datasets import SVHN

VALUES = {
    "floor_hue": np.arange(10) / 10,
    "wall_hue": np.arange(10) / 10,
    "object_hue": np.arange(10) / 10,
    "scale": np.linspace(0.75, 1.25, 8),
    "shape": np.arange(4.0),
    "orientation": np.linspace(-30, 30, 15),
}


def write_shapes3d(
    folder: Path,
    *,
    floors: tuple[int, ...] = tuple(range(10)),
    walls: tuple[int, ...] = tuple(range(10)),
    objects: tuple[int, ...] = tuple(range(10)),
) -> None:
    """The images of the published file with certain hues, in the same order. The pixels identify each image: they are
    the number of the floor hue, 10 times that of the shape, and 10 times that of the scale, in a checkerboard around
    this value.
    """
    hues = {"floor_hue": floors, "wall_hue": walls, "object_hue": objects}
    chosen = VALUES | {name: VALUES[name][[*numbers]] for name, numbers in hues.items()}
    labels = np.array(list(product(*chosen.values())))
    numbers = np.stack([labels[:, 0] * 10, labels[:, 4] * 10, (labels[:, 3] - 0.75) * 140], -1).round().astype(np.uint8)
    board = np.array([[3, 5], [7, 1]], np.uint8)  # mean 4
    with h5py.File(folder / "3dshapes.h5", "w") as file:
        images = file.create_dataset("images", (len(labels), 64, 64, 3), "uint8", chunks=(100, 64, 64, 3))
        for start in range(0, len(labels), 1000):
            part = numbers[start : start + 1000, None, None] + np.tile(board, (32, 32))[None, ..., None]
            images[start : start + 1000] = part
        file["labels"] = labels


def write_svhn(folder: Path, monkeypatch: pytest.MonkeyPatch, *, num: tuple[int, int]) -> None:
    """Training and test images: image i has the grey value i, except for a blue pixel at (4, 5), and the digit i modulo
    10. torchvision compares the files with these checksums.
    """
    (folder / "SVHN").mkdir()
    for split, size in zip(("train", "test"), num, strict=True):
        path = folder / "SVHN" / f"{split}_32x32.mat"
        numbers = np.arange(size)
        pixels = (numbers % 200).astype(np.uint8) + np.zeros((32, 32, 3, 1), np.uint8)
        pixels[4, 5, 2] = 200
        savemat(path, {"X": pixels, "y": np.where(numbers % 10 == 0, 10, numbers % 10)[:, None].astype(np.uint8)})
        checksum = hashlib.md5(path.read_bytes()).hexdigest()
        monkeypatch.setitem(SVHN.split_list, split, ["", path.name, checksum])


def write_stickfigures(folder: Path) -> Path:
    """900 rows of two labels 0 … 2 and 20 × 20 grey values: the nine combinations in turn, each in a uniform grey."""
    (folder / "multiclustering").mkdir(parents=True)
    numbers = np.arange(900)
    rows = np.column_stack([numbers // 3 % 3, numbers % 3, np.repeat(numbers[:, None] % 256, 400, axis=1)])
    np.savetxt(folder / "multiclustering" / "stickfigures.data", rows, fmt="%d", delimiter=",")
    return folder
