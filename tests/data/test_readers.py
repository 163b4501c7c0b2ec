from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.data.images import fingerprint
from pyro_mfcvae.data.readers import read_hdf5, read_npy, read_npz
from pyro_mfcvae.errors import InputError


def draw_bytes(*shape: int) -> Any:
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(30, 6, 5), (30, 1, 6, 5), (30, 3, 6, 5), (30, 6, 5, 3)])
def test_mapped_items_equal_items_that_are_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = draw_bytes(*shape)
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "a.npz", images=images)
    mapped, read = read_npy(tmp_path / "a.npy")[0].images, read_npz(tmp_path / "a.npz")[0].images
    assert torch.equal(mapped, read)
    assert fingerprint(mapped) == fingerprint(read)


def resident_bytes() -> int:
    """The process's own memory, without the pages of mapped files."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's account of memory")
def test_mapping_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    num_items = 100_000
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(num_items, 1, 32, 32)).flush()  # 100 MB of holes
    before = resident_bytes()
    train, test, _ = read_npy(path)
    fingerprint(train.images)
    assert resident_bytes() - before < 40e6  # 10,000 items to score, and batches of 10,000 for the fingerprint
    assert (len(train), len(test)) == (num_items, 10_000)


def test_the_items_that_are_scored_are_spread_over_the_set(tmp_path: Path) -> None:
    images = np.zeros((25_000, 2, 2), np.uint8)
    images[:, 0, 0] = np.arange(25_000) // 100
    np.save(tmp_path / "a.npy", images)
    test = read_npy(tmp_path / "a.npy")[1].images
    assert len(test) == 10_000
    assert set(test[:, 0, 0, 0].tolist()) == set(range(250))
    assert test[[0, -1], 0, 0, 0].tolist() == [0, 249]
    assert not load_dataset(tmp_path / "a.npy").holds_out


def test_an_hdf5_file_with_labels(tmp_path: Path) -> None:
    images = draw_bytes(20, 6, 5, 3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"], file["digit"], file["note"] = images, np.arange(20) % 3, np.ones((4, 2, 1))
    train, test, _ = read_hdf5(tmp_path / "a.h5")
    assert np.array_equal(train.images.numpy(), images.transpose(0, 3, 1, 2))
    assert {name: values.tolist() for name, values in train.labels.items()} == {"digit": (np.arange(20) % 3).tolist()}
    assert torch.equal(test.labels["digit"], train.labels["digit"])
    assert load_dataset(tmp_path / "a.h5").event_shape == (3, 6, 5)


def test_floats_are_checked_and_not_converted(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((20, 6, 5), dtype=np.float32)
    np.save(tmp_path / "a.npy", images)
    mapped: Tensor = read_npy(tmp_path / "a.npy")[0].images
    assert mapped.dtype == torch.float32 and np.array_equal(mapped[:, 0].numpy(), images)
    images[7, 0, 0] = 1.5
    np.save(tmp_path / "b.npy", images)
    with pytest.raises(InputError, match=r"b\.npy: expected float pixels in \[0, 1\]"):
        read_npy(tmp_path / "b.npy")


def test_mistakes(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(InputError, match=r"got .*text\.npy: cannot read it \(.*\); save the array with np\.save"):
        read_npy(tmp_path / "text.npy")
    (tmp_path / "open.npy").write_bytes(b"\x93NUMPY\x01\x00\x04\x00{'(\n")
    with pytest.raises(InputError, match=r"open\.npy: cannot read it \(.*\); save the array with np\.save"):
        read_npy(tmp_path / "open.npy")
    np.save(tmp_path / "whole.npy", np.zeros((4, 6, 5), np.int64))
    with pytest.raises(InputError, match=r"whole\.npy.*: expected an array of uint8 or floats, got int64; divide"):
        read_npy(tmp_path / "whole.npy")
    np.save(tmp_path / "flat.npy", draw_bytes(30))
    with pytest.raises(InputError, match=r"flat\.npy.*: expected images of shape"):
        read_npy(tmp_path / "flat.npy")
    with h5py.File(tmp_path / "packed.h5", "w") as file:
        file.create_dataset("images", data=draw_bytes(40, 6, 5), compression="gzip")
    assert np.array_equal(read_hdf5(tmp_path / "packed.h5").train.images[:, 0].numpy(), draw_bytes(40, 6, 5))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["pictures"] = draw_bytes(4, 6, 5)
    with pytest.raises(InputError, match=r"expected an array 'images' or 'x' in .*other\.h5, which has pictures"):
        read_hdf5(tmp_path / "other.h5")
    (tmp_path / "text.h5").write_text("no file")
    with pytest.raises(InputError, match=r"text\.h5: cannot read it \("):
        read_hdf5(tmp_path / "text.h5")


# --- npz files ---


def grey(num: int = 3, size: int = 4) -> NDArray[np.uint8]:
    return np.arange(num * size * size, dtype=np.uint8).reshape(num, size, size)


def test_npz_without_test_arrays_scores_on_the_training_items(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, images=grey(), kind=np.array([2, 0, 1], np.int16), weight=np.full(3, 0.5), table=np.ones((3, 20)))
    data = load_dataset(path)
    assert data.name == data.info.name == "mine"
    assert data.test is data.train
    assert data.event_shape == data.info.event_shape == (1, 4, 4)
    assert data.info.label_names == ("kind",)
    assert data.notes == (
        f"passed over 'weight' of {path}: floats that are no whole numbers",
        f"passed over 'table' of {path}: a table of 20 columns, more than 16",
    )
    assert data.info.likelihood is None
    assert torch.equal(data.train.labels["kind"], torch.tensor([2, 0, 1]))
    assert torch.equal(data.train.images[:, 0], torch.from_numpy(grey()))


def test_texts_and_truths_are_labels(tmp_path: Path) -> None:
    """Texts have the same numbers in both splits, even if one split does not have all texts."""
    path = tmp_path / "a.npz"
    kinds = {"kind": np.array(["cat", "ant", "dog"]), "test_kind": np.array(["dog", "cat"])}
    truths = {"is_big": np.array([True, False, True]), "test_is_big": np.array([False, False])}
    np.savez(path, images=grey(3), test_images=grey(2), **kinds, **truths)
    data = load_dataset(path)
    labels = [{name: values.tolist() for name, values in split.labels.items()} for split in (data.train, data.test)]
    assert labels == [{"kind": [1, 0, 2], "is_big": [1, 0, 1]}, {"kind": [2, 1], "is_big": [0, 0]}]


def test_npz_with_test_arrays_has_a_test_split(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, x=grey(3), y=np.arange(3), test_x=grey(2), test_y=np.array([7, 8]))
    data = load_dataset(str(path))
    assert (len(data.train), len(data.test)) == (3, 2)
    assert torch.equal(data.test.labels["y"], torch.tensor([7, 8]))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": grey(), "y": np.arange(3)}, r"'images' or 'x' in .*mine.npz, which has pixels, y"),
        ({"x": grey(), "test_y": np.arange(3)}, "'test_images' or 'test_x'"),
        (
            {"x": grey(), "y": np.arange(4)},
            r"expected one 'y' label for each of 3 items of .*mine.npz, got 4: give one",
        ),
        ({"x": grey(), "test_x": grey(size=5)}, r"test images of shape \(1, 4, 4\) as in training, got \(1, 5, 5\)"),
        ({"x": np.full((1, 2, 2), np.inf)}, "mine.npz, array 'x': expected finite pixels, got 4 of"),
        ({"x": grey(), "note": np.array([{"a": 1}], dtype=object)}, "array 'note' in .* holds Python objects"),
    ],
)
def test_npz_that_does_not_fit_is_refused(tmp_path: Path, arrays: dict[str, NDArray[np.generic]], message: str) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=message):
        load_dataset(path)


def test_npz_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    path.write_text("no zip file")
    with pytest.raises(InputError, match=r"expected an .npz file as np.savez writes it, but .*mine.npz is not one"):
        load_dataset(path)
    np.savez(path, x=grey())
    broken = bytearray(path.read_bytes())
    broken[150] ^= 0xFF  # one pixel, so that the checksum fails
    path.write_bytes(broken)
    with pytest.raises(
        InputError, match=r"mine.npz: cannot read it \(.*CRC.*\); it failed at array 'x'; save the file again"
    ):
        load_dataset(path)
