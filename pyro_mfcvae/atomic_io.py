"""Paths, reading of text files, and atomic writing: a file appears complete or not at all."""

import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyro_mfcvae.errors import InputError

_TEMPORARY = ".mfcvae-"
_MOST_TEXT_BYTES = 64 << 20
_MOST_BYTES = 4 << 30


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary path in the same folder, then rename that file to ``path`` in one step.

    Missing parent folders are made. The content is on the disk before the file gets its name, so after a power failure
    either the old or the new file exists. If ``write`` fails, the old file stays.

    Raises:
        InputError: ``path`` is a folder, a pipe or a device. A rename would put a file in place of a device.
        OSError: the file cannot be written; ``filename`` is ``path``.
    """
    _check_target(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=temporary_prefix(), suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.chmod(0o644)  # mkstemp allows only the owner to read the file
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file; the line is on the disk when the function returns."""
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Context in which an OSError gets the file name ``path`` if it has none, for example on a full disk, or if it has
    the name of a temporary file."""
    try:
        yield
    except OSError as error:
        name = error.filename
        unnamed = name is None or (isinstance(name, str) and is_temporary(Path(name)))
        if unnamed and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def _check_target(path: Path) -> None:
    """Refuse names that stand for something other than a file, such as /dev/stdout, a link to an open file."""
    open_file = path.is_symlink() and path.readlink().is_relative_to("/proc")
    if open_file or (path.exists() and not path.is_file()):
        raise InputError(
            f"expected the name of a file to write, got {path}, which is a folder, a pipe or a device: choose another"
        )


def temporary_prefix() -> str:
    """Prefix of this process's temporary files, with the process id, which `sweep_temporaries` reads."""
    return f"{_TEMPORARY}{os.getpid()}-"


def is_temporary(path: Path) -> bool:
    """Whether a file is a temporary file of `write_atomically`."""
    return re.fullmatch(rf"{re.escape(_TEMPORARY)}\d+-.*", path.name) is not None


def sweep_temporaries(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder; files of running processes stay."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        if is_temporary(path) and not is_alive(int(path.name.removeprefix(_TEMPORARY).partition("-")[0])):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # the process belongs to another user, or the system does not answer
        pass
    return True


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot do this
            raise
    finally:
        os.close(handle)


def read_text(path: Path) -> str:
    """The text of a regular file in UTF-8.

    Raises:
        InputError: the path is not a regular file, the file is larger than any text that this package writes, or its
            content is not UTF-8.
    """
    _check_file(path, _MOST_TEXT_BYTES)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"expected text in UTF-8 in {path}, got other bytes ({error.reason}): save it again") from None


def read_bytes(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        InputError: the path is not a regular file, or the file is larger than any that this package writes.
    """
    _check_file(path, _MOST_BYTES)
    return path.read_bytes()


def _check_file(path: Path, max_bytes: int) -> None:
    if path.exists() and not path.is_file():
        raise InputError(f"expected a file, got {path}, which is a folder, a pipe or a device: remove it")
    if (size := path.stat().st_size) > max_bytes:
        raise InputError(
            f"expected at most {max_bytes >> 20} MiB in {path}, got {size >> 20} MiB: bring back the file that mfcvae "
            "wrote"
        )


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; an existing file is replaced."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a value with `as_json` to a file; an existing file is replaced."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """The value as strict JSON: NaN and infinities, which JSON cannot represent, become null."""
    return json.dumps(_plain(value), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if type(value).__module__ == "numpy":  # So that NumPy is imported only for values that contain NumPy numbers.
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def expand_user(path: str | Path) -> Path:
    """A path with ``~`` and ``~user`` replaced by home folders.

    Raises:
        InputError: there is no such user, or the home folder is unknown.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"expected the home folder of a user, got {path}: write the path in full") from None


def check_utf8(path: str | Path) -> None:
    """Refuse a path that is not valid UTF-8, because our text files cannot store it.

    Raises:
        InputError: the path is not valid UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"expected a path in UTF-8, got {path}: rename the file or folder") from None
