"""Readers stop at their limits, and read only the given file."""

import os
import shutil
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from zlib import crc32

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.data.folders import image_sizes
from pyro_mfcvae.data.limits import check_scans, in_parts
from pyro_mfcvae.errors import InputError


def link(file: h5py.File) -> None:
    file["images"] = h5py.ExternalLink("other.h5", "images")


def store(file: h5py.File) -> None:
    file.create_dataset("images", (8, 4, 4), "u1", external=[("raw", 0, 128)])


def view(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((8, 4, 4), "u1")
    layout[:] = h5py.VirtualSource("other.h5", "images", (8, 4, 4))
    file.create_virtual_dataset("images", layout)


def indirect_link(file: h5py.File) -> None:
    file.create_group("hidden")["there"] = h5py.ExternalLink("other.h5", "images")
    file["images"] = h5py.SoftLink("/hidden/there")


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (link, "is an external link to another file"),
        (indirect_link, "is in another file, behind a link or in external storage"),
        (store, "is in another file, behind a link or in external storage"),
        (view, "is in another file, behind a link or in external storage"),
    ],
)
def test_hdf5_data_in_other_files_are_refused(tmp_path: Path, make: Callable[[h5py.File], None], where: str) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = np.ones((8, 4, 4), np.uint8)
    (tmp_path / "raw").write_bytes(bytes(128))
    with h5py.File(tmp_path / "data.h5", "w") as file:
        make(file)
    with pytest.raises(InputError, match=f"expected all data in .*data.h5, but 'images' {where}"):
        load_dataset(tmp_path / "data.h5")


def test_a_chunk_that_is_larger_than_its_data_counts_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey = np.random.default_rng(0).integers(256, size=(4, 8, 8), dtype=np.uint8)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file.create_dataset("images", data=grey, maxshape=(None, 8, 8), chunks=(32_768, 8, 8), compression="gzip")
    assert np.array_equal(load_dataset(tmp_path / "data.h5").train.images[:, 0].numpy(), grey)
    monkeypatch.setenv("MFCVAE_MAX_GIB", str(1 / 1_024))
    with pytest.raises(InputError, match=r"expected at most 0.000976562 GiB of data in .*, got 0.00195 GiB, "):
        load_dataset(tmp_path / "data.h5")


def test_the_entries_of_an_hdf5_file_are_counted_before_they_are_looked_at(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        for number in range(1_001):
            file[f"x{number}"] = h5py.SoftLink("/none")
    with pytest.raises(InputError, match=r"expected at most 1000 data sets in .*, got 1001 entries: save fewer"):
        load_dataset(tmp_path / "data.h5")


def test_more_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "data.npy", np.random.default_rng(0).integers(256, size=(20, 64, 64), dtype=np.uint8))
    np.savez_compressed(tmp_path / "data.npz", images=np.load(tmp_path / "data.npy"))
    assert len(load_dataset(tmp_path / "data.npz").train) == 20
    monkeypatch.setenv("MFCVAE_MAX_GIB", "0.00001")
    with pytest.raises(InputError, match="MFCVAE_MAX_GIB"):
        load_dataset(tmp_path / "data.npz")


def save_folder(folder: Path, image: Image.Image, **options: object) -> Path:
    folder.mkdir(parents=True)
    for number in range(4):
        image.save(folder / f"{number}.png", **options)
    return folder


def test_pictures_are_turned_as_exif_says(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns the picture by 90 degrees, clockwise
    folder = save_folder(tmp_path / "photos", Image.fromarray(pixels), exif=exif)
    images = load_dataset(folder).train.images
    assert np.array_equal(images[0, 0].numpy(), np.rot90(pixels, -1))


def test_transparency_becomes_white(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255  # black above, nothing below
    images = load_dataset(save_folder(tmp_path / "photos", Image.fromarray(pixels))).train.images
    assert images[0].amax(0).tolist() == [[0] * 4] * 2 + [[255] * 4] * 2


def test_a_jpeg_with_too_many_scans_is_refused(tmp_path: Path) -> None:
    # The last scan of 8,000 × 8,000 empty pixels has 200 bytes, and decoding it takes 0.04 s.
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("L", (8_000, 8_000)).save(folder / "a.jpg", progressive=True)
    whole = (folder / "a.jpg").read_bytes()
    assert image_sizes(folder) == [(8_000, 8_000)]
    last = whole[whole.rindex(b"\xff\xc4") : -2]
    (folder / "a.jpg").write_bytes(whole[:-2] + 200 * last + whole[-2:])
    with pytest.raises(InputError, match=r"expected at most 134 scans of 64000000 pixels, got 206 in .*a\.jpg: save"):
        load_dataset(folder)


def test_scans_are_counted_across_the_parts_that_are_read() -> None:
    content = bytes((1 << 20) - 1) + b"\xff\xda" * 3
    check_scans(BytesIO(content), (1 << 33) // 3, "a.jpg")
    with pytest.raises(InputError, match=r"expected at most 2 scans of 2863311531 pixels, got 3 in a\.jpg"):
        check_scans(BytesIO(content), (1 << 33) // 3 + 1, "a.jpg")


def test_a_tiff_of_several_pictures_is_refused_without_counting_them(tmp_path: Path) -> None:
    pages = [Image.new("L", (4, 4), value) for value in (10, 200)]
    (tmp_path / "photos").mkdir()
    pages[0].save(tmp_path / "photos" / "a.tiff")
    assert load_dataset(tmp_path / "photos").train.images.unique().tolist() == [10]
    pages[0].save(tmp_path / "photos" / "a.tiff", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=r"expected one picture in each file, got several in .*a\.tiff: save each"):
        load_dataset(tmp_path / "photos")


def test_a_folder_with_a_billion_paths_by_links_is_refused(tmp_path: Path) -> None:
    for number in range(30):
        folder = tmp_path / f"level-{number}"
        folder.mkdir()
        for name in "ab":
            (folder / name).symlink_to(tmp_path / f"level-{number + 1}")
    save_folder(tmp_path / "level-30", Image.new("L", (4, 4), 9))
    assert len(load_dataset(tmp_path / "level-28").train) == 16  # one file in each of four formats
    with pytest.raises(InputError, match=r"expected at most 100 ways to a folder, got more to .*: remove some links"):
        load_dataset(tmp_path / "level-0")


def test_a_loop_of_links_is_left_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = save_folder(tmp_path / "photos", Image.new("L", (4, 4), 9)).resolve()
    for name in ("self", "same"):
        (photos / name).symlink_to(photos)
    read: list[Path] = []

    def scandir(path: Path) -> object:
        read.append(path)
        return real(path)

    real = os.scandir
    monkeypatch.setattr("pyro_mfcvae.data.folders.os.scandir", scandir)
    data = load_dataset(photos)
    assert len(data.train) == 4 and read == [photos]
    assert data.notes == (f"passed over 2 files of {photos} (2 behind links in a circle)",)


def test_pictures_more_than_50_folders_deep_are_left_out(tmp_path: Path) -> None:
    photos = save_folder(tmp_path / "photos" / "a", Image.new("L", (4, 4), 9)).parent
    deep = photos.joinpath(*"a" * 51)
    deep.mkdir(parents=True)
    shutil.copy(photos / "a" / "0.png", deep)
    shutil.copy(photos / "a" / "1.png", deep.parent)
    data = load_dataset(photos)
    assert len(data.train) == 5
    assert data.notes == (f"passed over 1 file of {photos} (1 more than 50 folders deep)",)


def test_a_picture_that_is_large_when_decoded_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture)
    whole = picture.read_bytes()
    chunk = b"IHDR" + struct.pack(">II", 16_384, 5_462) + whole[24:29]  # a little more than 256 MiB
    picture.write_bytes(whole[:12] + chunk + struct.pack(">I", crc32(chunk)) + whole[33:])
    with pytest.raises(InputError, match=r"at most 256 MiB, decoded, got .*a\.png of 16384 × 5462 pixels: make it"):
        image_sizes(tmp_path)
    monkeypatch.setattr("pyro_mfcvae.data.folders.MAX_IMAGE_BYTES", 3 * 8 * 8)
    picture.write_bytes(whole)
    assert image_sizes(tmp_path) == [(8, 8)]


def test_mapped_items_are_read_in_parts_of_64_mib() -> None:
    item = torch.zeros(1, 3, 1_024, 1_024, dtype=torch.float32)  # 12 MiB
    parts = in_parts(item.expand(12, -1, -1, -1))
    assert [len(part) for part in parts] == [5, 5, 2]
    assert [len(part) for part in in_parts(item.expand(6, -1, -1, -1).repeat(1, 8, 1, 1))] == [1] * 6
    assert len(in_parts(torch.zeros(0, 3, 4, 4))) == 1


def test_as_many_mapped_items_are_scored_as_fit_into_a_quarter_of_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.arange(24, dtype=np.uint8).repeat(256).reshape(24, 16, 16)
    np.save(tmp_path / "data.npy", images)
    assert len(load_dataset(tmp_path / "data.npy").test) == 24
    monkeypatch.setenv("MFCVAE_MAX_GIB", str(4 * 4 * 256 / 2**30))
    data = load_dataset(tmp_path / "data.npy")
    assert len(data.train) == 24
    assert data.test.images[:, 0, 0, 0].tolist() == [0, 7, 15, 23]
    monkeypatch.setenv("MFCVAE_MAX_GIB", str(255 / 2**30))
    with pytest.raises(InputError, match=r"expected at most .* GiB of data in .*data\.npy"):
        load_dataset(tmp_path / "data.npy")


def test_a_postscript_named_png_is_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "a.eps")
    (folder / "a.eps").rename(folder / "a.png")
    with pytest.raises(InputError, match=r"a\.png"):
        load_dataset(folder)
