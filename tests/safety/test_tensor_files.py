from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.safety.tensor_files import SpoiledFileError, check_fit, read_tensors, write_tensors

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.tensor(7, dtype=torch.int64),
    "c": torch.zeros(0, 4),
    "d": torch.ones(3, dtype=torch.bfloat16),
    "e": torch.tensor([True, False]),
}


def write(path: Path) -> Path:
    write_tensors(TENSORS, path, metadata={"kind": "test"})
    return path


def test_tensors_and_metadata_are_read_as_written(tmp_path: Path) -> None:
    tensors, metadata = read_tensors(write(tmp_path / "a.safetensors"), "kind")
    assert metadata == {"kind": "test"}
    assert {name: (t.dtype, t.tolist()) for name, t in tensors.items()} == {
        name: (t.dtype, t.tolist()) for name, t in TENSORS.items()
    }
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    content = write(tmp_path / "a.safetensors").read_bytes()
    path = tmp_path / "b.safetensors"
    generator = np.random.default_rng(0)
    for place in generator.choice(8 * len(content), 400, replace=False):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        path.unlink(missing_ok=True)  # ext4 waits for the disk if a file is overwritten
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            read_tensors(path, "kind")


def test_every_cut_is_found(tmp_path: Path) -> None:
    content = write(tmp_path / "a.safetensors").read_bytes()
    path = tmp_path / "b.safetensors"
    for length in range(0, len(content), 7):
        path.unlink(missing_ok=True)
        path.write_bytes(content[:length])
        with pytest.raises(InputError):
            read_tensors(path, "kind")


def test_a_file_without_a_checksum_is_refused(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors", metadata={"kind": "test"})
    with pytest.raises(SpoiledFileError, match=r"got .*a.safetensors without 'sha256' in its metadata"):
        read_tensors(tmp_path / "a.safetensors", "kind")


def test_a_header_of_many_tensors_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes((5 << 20).to_bytes(8, "little") + b" " * 100)
    with pytest.raises(SpoiledFileError, match="its header has 5242880 bytes, more than 4194304"):
        read_tensors(tmp_path / "a.safetensors", "kind")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, "expected the tensor 'a' in x, got none"),
        ({"a": torch.zeros(3, 2, dtype=torch.float32)}, r"expected 'a' of float32 \(2, 3\) in x, got float32 \(3, 2\)"),
        ({"a": torch.zeros(2, 3, dtype=torch.float64)}, r"expected 'a' of float32 \(2, 3\) in x, got float64 \(2, 3\)"),
        ({"a": TENSORS["a"], "z": torch.zeros(1)}, "expected no tensor 'z' in x, got one"),
    ],
)
def test_names_shapes_and_types_must_fit(found: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_fit(found, {"a": TENSORS["a"]}, Path("x"))
