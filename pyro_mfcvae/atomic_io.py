"""Paths, reading text, and writing files so that they appear whole or not at all."""

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyro_mfcvae.errors import InputError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary path beside ``path``, then put that file in its place in one step.

    Folders above ``path`` are made where they do not exist. If ``write`` fails, what stood at ``path`` still stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)  # mkstemp makes files that only their owner may read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"expected text in UTF-8 in {path}, got other bytes ({error.reason}): save it again") from None


def write_text(path: Path, text: str) -> None:
    """Replace a text file, in UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file by `as_json`."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """Text that every JSON reader reads: numbers that JSON has not, NaN and the infinities, become null."""
    return json.dumps(_plain(value), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if type(value).__module__ == "numpy":  # which is not imported for a file without numbers of its own
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def expand_user(path: str | Path) -> Path:
    """A path with ``~`` and ``~user`` replaced by home folders.

    Raises:
        InputError: there is no such user, or it is not known where the home folder is.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"expected the home folder of a user, got {path}: write the path in full") from None


def check_utf8(path: str | Path) -> None:
    """Refuse a path with other bytes than UTF-8, which our text files cannot hold.

    Raises:
        InputError: it has such bytes.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"expected a path in UTF-8, got {path}: rename the file or folder") from None
