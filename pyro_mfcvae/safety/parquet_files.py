"""Parquet files whose metadata contain a checksum (SHA-256) of the whole file.

The checksum is computed with zeros in place of the checksum, so every flipped bit is detected. Every reader of Parquet
can read these files. As in `tensor_files`, the checksum detects damage, not forgery.
"""

import hashlib
from pathlib import Path

from pyro_mfcvae.atomic_io import read_bytes
from pyro_mfcvae.errors import InputError

CHECKSUM = "mfcvae.sha256"
"""Key of the checksum in the metadata of the file."""

BLANK = "0" * 64
"""Placeholder for the checksum until `sign_parquet` replaces it."""

# Thrift writes the number and type of the field and the length of the value between a key and its value.
_GAP = bytes([0x18, len(BLANK)])


def sign_parquet(path: Path) -> None:
    """Replace the placeholder in the metadata of a finished file by the checksum."""
    content = bytearray(path.read_bytes())
    place = _find(content)
    if place is None:
        raise ValueError(f"{path} has no {CHECKSUM} among its metadata")
    with path.open("r+b") as file:
        file.seek(place)
        file.write(hashlib.sha256(content).hexdigest().encode())


def check_parquet(path: Path, *, cure: str) -> None:
    """Refuse a file that has changed since `sign_parquet` signed it.

    Args:
        path: the file.
        cure: what to do, for the error.

    Raises:
        InputError: the file has no checksum, or was damaged or changed.
    """
    content = bytearray(read_bytes(path))
    place = _find(content)
    if place is None:
        raise InputError(f"expected a table that mfcvae wrote, got {path} without a checksum: {cure}")
    found = bytes(content[place : place + len(BLANK)])
    content[place : place + len(BLANK)] = BLANK.encode()
    if found != hashlib.sha256(content).hexdigest().encode():
        raise InputError(
            f"expected {path} as it was written, got a file with another checksum, so it was damaged or changed: {cure}"
        )


def _find(content: bytearray) -> int | None:
    """The position of the checksum."""
    mark = CHECKSUM.encode() + _GAP
    place = content.rfind(mark)
    return None if place < 0 else place + len(mark)
