"""Limits on reading: only regular files are read, and at most the number of bytes that the user allows."""

import lzma
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pyro_mfcvae.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

SETTING = "MFCVAE_MAX_GIB"
"""Environment variable with the largest size of data, in GiB, that is read into memory."""

_DEFAULT_GIB = 2.0

# Without the setting, large data that are compressed by more than this factor are refused as an accident or an attack.
# Drawings are compressed about 20-fold. Blank pages are compressed more, but their files are small.
_MAX_RATIO = 100
_LARGE = 256 << 20

_BYTES_AT_ONCE = 64 << 20

MAX_IMAGE_BYTES = 256 << 20
"""Limit for one decoded picture: 89 megapixels in RGB. In grey, Pillow's own limit of 179 megapixels is lower."""

# Every scan of a progressive JPEG goes over the whole picture, and a scan can take only ten bytes. Usual files have up
# to 12 scans.
_MAX_SCANNED_PIXELS = 1 << 33
_SCAN = b"\xff\xda"  # This marker cannot occur within the data of a picture, because there 0 follows 0xFF.

# The exceptions that readers raise for invalid files, except classes of packages that are imported late.
READ_ERRORS = (
    struct.error,
    tokenize.TokenError,  # raised for the header of an .npy file
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    SyntaxError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    RecursionError,
    RuntimeError,
)


def limit_bytes() -> int:
    """The largest number of bytes of data that are read into memory."""
    text = os.environ.get(SETTING)
    try:
        gib = _DEFAULT_GIB if text is None else float(text)
    except ValueError:
        gib = -1.0
    if not 0 < gib < 1 << 30:
        raise InputError(
            f"expected a number of GiB in the environment variable {SETTING}, got {text!r}: set it to 8, say"
        )
    return int(gib * 2**30)


def check_bytes(num_bytes: int, path: Path, *, advice: str = "", packed_bytes: int | None = None) -> None:
    """Refuse to read more than the limit, before anything is read.

    Args:
        num_bytes: size of the data in memory.
        path: the file or folder.
        advice: another remedy for the user.
        packed_bytes: size of the data in the file, if they are compressed.
    """
    unpacks_too_far = (
        packed_bytes is not None
        and SETTING not in os.environ
        and num_bytes > max(_LARGE, _MAX_RATIO * max(packed_bytes, 1))
    )
    if num_bytes > limit_bytes() or unpacks_too_far:
        how = f", {num_bytes // max(packed_bytes, 1)} times its size in the file" if packed_bytes else ""
        raise InputError(
            f"expected at most {limit_bytes() / 2**30:g} GiB of data in {path}, got {num_bytes / 2**30:.3g} GiB{how}: "
            f"{advice}set the environment variable {SETTING} to a number of GiB that the memory has room for"
        )


def num_fitting(item_bytes: int, path: Path) -> int:
    """The number of items of a file that fit into a quarter of the limit, at least 1.

    Raises:
        InputError: a single item exceeds the limit.
    """
    check_bytes(item_bytes, path, advice="make the items smaller, or ")
    return max(limit_bytes() // 4 // item_bytes, 1)


def in_parts(items: "Tensor") -> Sequence["Tensor"]:
    """Split items, in order, into views of at most 64 MiB or of one item, because mapped items may not fit into
    memory.
    """
    return items.split(max(_BYTES_AT_ONCE // max(items[:1].nbytes, 1), 1))


def check_regular(path: Path) -> None:
    """Refuse everything except a regular file, such as a pipe or a device, which may never end.

    Raises:
        InputError: the path is not a regular file, or cannot be examined.
    """
    if not path.is_file():
        raise InputError(
            f"expected a regular file, got {path}, which is a pipe, a device or missing: save the data in one"
        )


def check_scans(file: IO[bytes], num_pixels: int, name: str) -> None:
    """Refuse a JPEG file with so many scans that decoding it would take minutes.

    Args:
        file: the whole file, which is read from its beginning.
        num_pixels: number of pixels of the picture.
        name: name of the file, for the error.

    Raises:
        InputError: the number of scans times the number of pixels exceeds 2³³. The largest picture that is read reaches
            this with 47 scans, which take six seconds; a usual photograph with 700.
    """
    file.seek(0)
    num_scans, last = 0, b""
    while part := file.read(1 << 20):
        num_scans += (last + part).count(_SCAN)
        last = part[-1:]
    if num_scans * num_pixels > _MAX_SCANNED_PIXELS:
        raise InputError(
            f"expected at most {_MAX_SCANNED_PIXELS // num_pixels} scans of {num_pixels} pixels, got {num_scans} in "
            f"{name}: save the picture again"
        )


@contextmanager
def reading(path: Path, cure: str) -> Iterator[None]:
    """Context that converts the exceptions of a reader for an invalid file to an `InputError` of one line.

    Args:
        path: the file.
        cure: what to do.

    Raises:
        InputError: in place of the reader's error.
    """
    try:
        yield
    except InputError:
        raise
    except READ_ERRORS as error:
        raise unreadable(path, error, cure) from error


def unreadable(path: Path, error: BaseException, cure: str) -> InputError:
    """The error, in one line, for a file that a reader cannot read."""
    words = "".join(letter if letter.isprintable() else " " for letter in str(error)).split()
    reason = " ".join(words)[:200] or type(error).__name__
    return InputError(f"expected a file that can be read, got {path}: cannot read it ({reason}); {cure}")
