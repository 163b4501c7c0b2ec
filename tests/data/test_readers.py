from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.data.images import fingerprint
from pyro_mfcvae.data.readers import read_hdf5, read_npy, read_npz
from pyro_mfcvae.errors import InputError


def draw_bytes(*shape: int) -> Any:
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(30, 6, 5), (30, 1, 6, 5), (30, 3, 6, 5), (30, 6, 5, 3)])
def test_what_is_mapped_is_what_would_be_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = draw_bytes(*shape)
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "a.npz", images=images)
    mapped, read = read_npy(tmp_path / "a.npy")[0].images, read_npz(tmp_path / "a.npz")[0].images
    assert torch.equal(mapped, read)
    assert fingerprint(mapped) == fingerprint(read)


def resident_bytes() -> int:
    """Of this process's own memory, pages of mapped files left out."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's account of memory")
def test_mapping_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    num_items = 100_000
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(num_items, 1, 32, 32)).flush()  # 100 MB of holes
    before = resident_bytes()
    train, test = read_npy(path)
    fingerprint(train.images)
    assert resident_bytes() - before < 40e6  # 10,000 items to score on, and as many at a time to tell the data apart
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
        file["images"], file["digit"], file["note"] = images, np.arange(20) % 3, np.ones(4)
    train, test = read_hdf5(tmp_path / "a.h5")
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
    with pytest.raises(InputError, match=r"cannot read .*text\.npy: .*; save the array with np\.save"):
        read_npy(tmp_path / "text.npy")
    np.save(tmp_path / "whole.npy", np.zeros((4, 6, 5), np.int64))
    with pytest.raises(InputError, match=r"expected an array of uint8 or float32 in .*, got int64; convert it"):
        read_npy(tmp_path / "whole.npy")
    np.save(tmp_path / "flat.npy", draw_bytes(4, 30))
    with pytest.raises(InputError, match=r"flat\.npy: expected images of shape"):
        read_npy(tmp_path / "flat.npy")
    with h5py.File(tmp_path / "packed.h5", "w") as file:
        file.create_dataset("images", data=draw_bytes(40, 6, 5), compression="gzip")
    with pytest.raises(InputError, match=r"expected images in one piece in .*, got chunks.*h5repack -l CONTI"):
        read_hdf5(tmp_path / "packed.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["pictures"] = draw_bytes(4, 6, 5)
    with pytest.raises(InputError, match=r"expected a data set 'images' or 'x' in .*, which has pictures"):
        read_hdf5(tmp_path / "other.h5")
    (tmp_path / "text.h5").write_text("no file")
    with pytest.raises(InputError, match=r"cannot read .*text\.h5"):
        read_hdf5(tmp_path / "text.h5")
