"""Readers stop at their limits, and read only the file that was named."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.errors import InputError


def link(file: h5py.File) -> None:
    file["images"] = h5py.ExternalLink("other.h5", "images")


def store(file: h5py.File) -> None:
    file.create_dataset("images", (8, 4, 4), "u1", external=[("raw", 0, 128)])


def view(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((8, 4, 4), "u1")
    layout[:] = h5py.VirtualSource("other.h5", "images", (8, 4, 4))
    file.create_virtual_dataset("images", layout)


@pytest.mark.parametrize("make", [link, store, view])
def test_hdf5_data_in_other_files_are_refused(tmp_path: Path, make: Callable[[h5py.File], None]) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = np.ones((8, 4, 4), np.uint8)
    (tmp_path / "raw").write_bytes(bytes(128))
    with h5py.File(tmp_path / "data.h5", "w") as file:
        make(file)
    with pytest.raises(InputError, match="expected"):
        load_dataset(tmp_path / "data.h5")


def test_more_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "data.npy", np.random.default_rng(0).integers(256, size=(20, 64, 64), dtype=np.uint8))
    np.savez_compressed(tmp_path / "data.npz", images=np.load(tmp_path / "data.npy"))
    assert len(load_dataset(tmp_path / "data.npz").train) == 20
    monkeypatch.setenv("MFCVAE_MAX_GIB", "0.00001")
    with pytest.raises(InputError, match="MFCVAE_MAX_GIB"):
        load_dataset(tmp_path / "data.npz")


def save_folder(folder: Path, image: Image.Image, **options: object) -> Path:
    folder.mkdir()
    for number in range(4):
        image.save(folder / f"{number}.png", **options)
    return folder


def test_pictures_are_turned_as_exif_says(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    folder = save_folder(tmp_path / "photos", Image.fromarray(pixels), exif=exif)
    images = load_dataset(folder).train.images
    assert np.array_equal(images[0, 0].numpy(), np.rot90(pixels, -1))


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255  # black above, nothing below
    images = load_dataset(save_folder(tmp_path / "photos", Image.fromarray(pixels))).train.images
    assert images[0].amax(0).tolist() == [[0] * 4] * 2 + [[255] * 4] * 2


def test_a_postscript_named_png_is_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "a.eps")
    (folder / "a.eps").rename(folder / "a.png")
    with pytest.raises(InputError, match=r"a\.png"):
        load_dataset(folder)
