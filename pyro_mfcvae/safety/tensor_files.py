"""Files of tensors (safetensors) with a checksum of the whole file; no pickle is written or read.

The metadata contain the SHA-256 of all names, types, shapes and values and of all other metadata, so every flipped bit
is detected. The checksum detects damage, not forgery: everybody who can write the file can also write its checksum.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyro_mfcvae.atomic_io import write_atomically
from pyro_mfcvae.errors import InputError

# Largest number of bytes of a header, which is read first: enough for 40,000 tensors. Our files have a few hundred.
_MAX_HEADER_BYTES = 4 << 20
_CHECKSUM = "sha256"


class SpoiledFileError(InputError):
    """Raised if a file of tensors cannot be read or has changed since it was written."""


def write_tensors(tensors: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write a file of tensors with its checksum; an existing file is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    signed = {**metadata, _CHECKSUM: _checksum(contiguous, metadata)}

    def write(temporary: Path) -> None:
        try:
            save_file(contiguous, temporary, metadata=signed)
            _sort_metadata(temporary)
        except SafetensorError as error:
            code = re.search(r"(?:code:|os error) (\d+)", str(error))
            number = int(code[1]) if code else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from error

    write_atomically(path, write)


def read_tensors(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a file.

    Args:
        path: the file.
        key: a key that the metadata of this kind of file contain.

    Raises:
        SpoiledFileError: the file cannot be read, is of another kind, or has another checksum.
        InputError: there is no such file.
    """
    if not path.is_file():
        raise InputError(f"expected the saved tensors {path}, got no such file: bring it back")
    try:
        _check_header(path)
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpoiledFileError(
            f"expected a file of tensors, got {path}, which cannot be read ({reason}): {_CURE}"
        ) from None
    if key not in metadata or _CHECKSUM not in metadata:
        missing = _CHECKSUM if key in metadata else key
        raise SpoiledFileError(
            f"expected a file of tensors that mfcvae fit wrote, got {path} without {missing!r} in its metadata: {_CURE}"
        )
    if metadata.pop(_CHECKSUM) != _checksum(tensors, metadata):
        raise SpoiledFileError(
            f"expected {path} as it was written, got a file with another checksum, so it was damaged or changed: "
            f"{_CURE}"
        )
    return tensors, metadata


_CURE = "bring a copy back, or write a model.safetensors again with mfcvae fit --resume"


def check_fit(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors whose names, shapes or types differ from those that they replace.

    Raises:
        InputError: the first difference is named.
    """
    for name, tensor in expected.items():
        if name not in found:
            raise InputError(f"expected the tensor {name!r} in {path}, got none: {_OTHER}")
        if (there := _kind(found[name])) != (here := _kind(tensor)):
            raise InputError(f"expected {name!r} of {here} in {path}, got {there}: {_OTHER}")
    if unknown := sorted(found.keys() - expected.keys()):
        raise InputError(f"expected no tensor {unknown[0]!r} in {path}, got one: {_OTHER}")


_OTHER = "bring back the config.toml that it was trained with"


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > _MAX_HEADER_BYTES:
        raise ValueError(f"its header has {size} bytes, more than {_MAX_HEADER_BYTES}")


def _sort_metadata(path: Path) -> None:
    """Sort the metadata in the header by name, because safetensors writes them in random order.

    After this, equal tensors and metadata give equal files. Only the header changes, and its length stays the same.
    """
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {_kind(tensor)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
