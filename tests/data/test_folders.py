from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.errors import InputError


def test_folder_is_read_in_sorted_order_and_sub_folders_are_a_label(tmp_path: Path) -> None:
    for name, value in {"b/2.png": 40, "a/1.PNG": 10, "b/1.png": 30, "a/deep/0.png": 20}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((3, 5), value, dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "b" / ".hidden.png").write_text("passed over")
    (tmp_path / "notes.txt").write_text("passed over")
    data = load_dataset(tmp_path)
    assert data.event_shape == (1, 3, 5)
    assert data.train.images[:, 0, 0, 0].tolist() == [10, 20, 30, 40]
    assert data.train.labels["folder"].tolist() == [0, 0, 1, 1]
    assert data.test is data.train
    assert data.train.names == ("a/1.PNG", "a/deep/0.png", "b/1.png", "b/2.png")


def test_one_coloured_file_makes_the_folder_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 5), 7, dtype=np.uint8)).save(tmp_path / "1.png")
    Image.fromarray(np.full((3, 5, 3), (1, 2, 3), dtype=np.uint8)).save(tmp_path / "2.png")
    data = load_dataset(tmp_path)
    assert data.event_shape == (3, 3, 5)
    assert data.train.images[:, :, 2, 4].tolist() == [[7, 7, 7], [1, 2, 3]]
    assert data.train.labels == {}


def test_folder_of_different_sizes_names_the_first_offender(tmp_path: Path) -> None:
    for name, width in {"1.png": 5, "2.png": 5, "3.png": 6, "4.png": 7}.items():
        Image.fromarray(np.zeros((3, width), dtype=np.uint8)).save(tmp_path / name)
    with pytest.raises(InputError, match=r"5 by 3 as in .*1.png, but .*3.png is 6 by 3"):
        load_dataset(tmp_path)


def test_folder_that_cannot_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected image files .* got none: check the folder"):
        load_dataset(tmp_path)
    picture = tmp_path / "1.png"
    picture.write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"cannot read image .*1.png"):
        load_dataset(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(picture)
    picture.write_bytes(picture.read_bytes()[:1000])  # the header is whole, the pixels are not
    with pytest.raises(InputError, match=r"cannot read image .*1.png"):
        load_dataset(tmp_path)
    Image.fromarray(np.zeros((3, 5), dtype=np.uint16)).save(picture)
    with pytest.raises(InputError, match=r"8 bits per channel, got .*1.png with 16 \(mode I;16\): convert"):
        load_dataset(tmp_path)


def test_folder_with_images_inside_and_outside_sub_folders_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/1.png", "loose.png"):
        Image.fromarray(np.zeros((3, 5), dtype=np.uint8)).save(tmp_path / name)
    with pytest.raises(InputError, match=r"got both \(loose.png is in no sub-folder\)"):
        load_dataset(tmp_path)


def test_a_table_beside_the_images_labels_them(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "c.png"):
        Image.fromarray(np.zeros((3, 5), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "labels.csv").write_text("colour,file,size\nred,c.png,3\nblue,a.png,\nblue,elsewhere.png,9\n")
    data = load_dataset(tmp_path)
    assert data.train.names == ("a.png", "b.png", "c.png")
    assert {name: values.tolist() for name, values in data.train.labels.items()} == {
        "colour": [0, -1, 1],
        "size": [-1, -1, 1],
    }
    assert data.notes == (f"{tmp_path / 'labels.csv'} has no row for 1 of 3 images",)
    (tmp_path / "labels.csv").write_text("colour\nred\n")
    data = load_dataset(tmp_path)
    assert data.train.labels == {}
    assert "no column names the images (call it file)" in data.notes[0]
