import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from files_as_published import write_svhn

from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.errors import InputError

needs_data = pytest.mark.skipif(
    not os.environ.get("MFCVAE_DATA"), reason="MFCVAE_DATA does not name the folder that holds the published data sets"
)


def write_idx(folder: Path, *, images: int = 2, labels: int = 2) -> Path:
    """A data folder with MNIST files of two black 28 by 28 images a split, packed as they are published."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = b"\x00\x00\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (images, 28, 28)) + bytes(images * 28 * 28)
    digits = b"\x00\x00\x08\x01" + labels.to_bytes(4, "big") + bytes(range(labels))
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(pixels))
        (raw / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(digits))
    return folder


def test_the_error_for_missing_data_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MFCVAE_DATA", raising=False)
    with pytest.raises(InputError, match="set MFCVAE_DATA to the folder that holds MNIST/raw, or pass root"):
        load_dataset("mnist")
    monkeypatch.setenv("MFCVAE_DATA", str(tmp_path))
    with pytest.raises(InputError, match=f"expected multiclustering/nrLetters.data in {tmp_path}, found none"):
        load_dataset("nrletters")
    with pytest.raises(InputError, match="expected FashionMNIST/raw in /nowhere, found none"):
        load_dataset("fashion_mnist", root=Path("/nowhere"))
    (write_idx(tmp_path) / "MNIST/raw/t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        InputError, match=r"expected t10k-labels-idx1-ubyte, or t10k-labels-idx1-ubyte.gz, in .* found none"
    ):
        load_dataset("mnist")


@pytest.mark.parametrize(
    "unpacked", [("train-images-idx3",), ("train-images-idx3", "train-labels-idx1"), ("t10k-labels-idx1",)]
)
def test_each_file_may_be_packed_or_not(tmp_path: Path, unpacked: tuple[str, ...]) -> None:
    root = write_idx(tmp_path)
    raw = root / "MNIST" / "raw"
    for name in unpacked:
        packed = raw / f"{name}-ubyte.gz"
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    before = sorted(path.name for path in raw.iterdir())
    data = load_dataset("mnist", root=root)
    assert data.train.images.shape == data.test.images.shape == (2, 1, 28, 28)
    assert data.train.labels["digit"].tolist() == data.test.labels["digit"].tolist() == [0, 1]
    assert sorted(path.name for path in raw.iterdir()) == before


def test_a_processed_file_does_not_replace_the_published_ones(tmp_path: Path) -> None:
    """Older versions of torchvision wrote this file, a pickle, in a folder next to ``raw``."""
    root = write_idx(tmp_path)
    (root / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(9, 28, 28, dtype=torch.uint8), torch.zeros(9)), root / "MNIST" / "processed" / name)
    assert len(load_dataset("mnist", root=root).train) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x00\x08\x03 not images", r"its first bytes|its header gives|unpack"),
        (b"\x00\x00\x08\x01" + bytes(12), "its first bytes are 0x801 instead of 0x803"),
        (b"\x00\x00\x08\x03" + bytes([0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(99), "but it has fewer"),
        (b"\x00\x00\x08\x03" + bytes([0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes(99), "4 bytes, but it has more"),
        (b"\x00\x00\x08\x03" + bytes([127, 255, 255, 255] * 3), "expected at most 2 GiB of data"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    root = write_idx(tmp_path / "data")
    packed = root / "MNIST/raw/train-images-idx3-ubyte.gz"
    packed.write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match=message):
        load_dataset("mnist", root=root)
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte.gz"):
        load_dataset("mnist", root=root)


def test_as_many_labels_as_images_are_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one 'digit' label for each of 2 images"):
        load_dataset("mnist", root=write_idx(tmp_path, labels=3))


def test_broken_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "multiclustering").mkdir()
    path = tmp_path / "multiclustering" / "stickfigures.data"
    rows = {"1,2,three\n": "could not convert", "1,2,3\n": "rows have 3 numbers instead of 402", "5\n": "1 numbers"}
    rows |= {"": "instead of 402", ",".join("1" * 802): "rows have 802 numbers instead of 402"}
    for text, reason in rows.items():
        path.write_text(text)
        with pytest.raises(
            InputError, match=rf"stickfigures.data: cannot read it \(.*{reason}.*\); fetch the file again"
        ):
            load_dataset("stickfigures", root=tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match=r"expected a regular file, got .*stickfigures.data"):
        load_dataset("stickfigures", root=tmp_path)


def test_rows_have_labels_and_then_pixels_in_row_major_order(tmp_path: Path) -> None:
    (tmp_path / "multiclustering").mkdir()
    rows = np.concatenate([[5, 2, 3], np.arange(189)])[None]
    np.savetxt(tmp_path / "multiclustering" / "nrLetters.data", rows, fmt="%d", delimiter=",")
    data = load_dataset("nrletters", root=tmp_path)
    assert {name: label.tolist() for name, label in data.train.labels.items()} == {
        "letter": [5],
        "colour": [2],
        "corner": [3],
    }
    assert data.train.images[0, 1, 2, 3] == (2 * 7 + 3) * 3 + 1


def test_svhn_is_read_in_its_published_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(tmp_path, monkeypatch, num=(3, 2))
    data = load_dataset("svhn", root=tmp_path)
    assert (data.train.images.shape, data.test.images.shape) == ((3, 3, 32, 32), (2, 3, 32, 32))
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert data.train.images[0, :, 4, 5].tolist() == [0, 0, 200]
    assert data.train.labels["digit"].tolist() == [0, 1, 2]  # in the file, the label of the digit 0 is 10


def test_missing_or_damaged_svhn_is_refused_with_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"expected SVHN/train_32x32.mat in .* \(fetch train_32x32.mat and test"):
        load_dataset("svhn", root=tmp_path)
    write_svhn(tmp_path, monkeypatch, num=(3, 2))
    (tmp_path / "SVHN/test_32x32.mat").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"expected valid files in .*SVHN, got an error \(.*\): fetch train_32x32.mat"):
        load_dataset("svhn", root=tmp_path)


@needs_data
def test_labels_of_stickfigures_name_the_half_that_they_change() -> None:
    train = load_dataset("stickfigures").train
    halves = {"upper": train.images[:, 0, :10].double(), "lower": train.images[:, 0, 10:].double()}
    for name, half in halves.items():
        other = "lower" if name == "upper" else "upper"
        assert _explained(half, train.labels[name]) > 0.8
        assert _explained(half, train.labels[other]) < 0.2


@needs_data
def test_corner_labels_of_nrletters_name_the_lit_corner() -> None:
    train = load_dataset("nrletters").train
    light = train.images.amax(dim=1)
    corners = torch.stack([light[:, 0, 0], light[:, 0, -1], light[:, -1, 0], light[:, -1, -1]], dim=1)
    assert torch.equal(corners.argmax(dim=1), train.labels["corner"])


def _explained(pixels: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of the pixels' variance that lies between the means of the labels."""
    total = (pixels - pixels.mean(dim=0)).square().sum()
    within = sum((group - group.mean(dim=0)).square().sum() for group in (pixels[labels == k] for k in labels.unique()))
    return float(1 - within / total)
