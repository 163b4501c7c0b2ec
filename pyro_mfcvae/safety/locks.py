"""One process per folder: a lock that is released when its process ends, for any reason."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

from pyro_mfcvae.atomic_io import is_temporary, naming, sweep_temporaries
from pyro_mfcvae.errors import InputError

LOCK = ".lock"
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows lacks it
_held: set[Path] = set()

until_end = ExitStack()
"""The locks of `hold` and `claim`; the entry point of the command line releases them."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Context that locks a folder, which is made if it is missing; the same process may lock it several times.

    The kernel releases the lock when the process ends, so the lock file of a killed process has no effect. Temporary
    files of killed processes are removed. If the folder was made for the lock and has no other files, it is removed at
    the end.

    Raises:
        InputError: another process has locked the folder.
    """
    place = folder.resolve()
    if place in _held:
        yield
        return
    made = _make(place)
    try:
        handle = _take(place)
        _held.add(place)
        try:
            for inside in (place, place / "checkpoint", place / "figures"):
                sweep_temporaries(inside)
            yield
        finally:
            _held.discard(place)
            (place / LOCK).unlink(missing_ok=True)
            os.close(handle)
    finally:
        _remove_empty(made)


def clean(folder: Path) -> None:
    """Remove the lock file and the temporary files of a killed process, unless another process has locked the
    folder.
    """
    with suppress(InputError), locked(folder):
        pass


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """Context that locks a folder for a new run; the folder must be empty.

    Raises:
        InputError: the folder is in use or not empty.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected a new or empty folder, got {folder}, which is a file: choose another --out")
    with locked(folder):
        check_empty(folder)
        yield folder


@contextmanager
def claimed_next(stem: Path) -> Iterator[Path]:
    """Context that makes and locks the first new folder among ``stem-1``, ``stem-2`` and so on; two processes never
    get the same folder.
    """
    made = _make(stem.parent)
    try:
        for number in count(1):
            folder = stem.with_name(f"{stem.name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            break
        try:
            with locked(folder):
                yield folder
        finally:
            _remove_empty([folder])
    finally:
        _remove_empty(made)


def check_empty(folder: Path) -> None:
    """Refuse a folder with files other than a lock file and temporary files of killed processes."""
    if folder.is_dir() and all(path.name == LOCK or is_temporary(path) for path in folder.iterdir()):
        return
    if folder.exists():
        raise InputError(
            f"expected a new or empty folder, got {folder} with files: choose another --out, or resume with --resume"
        )


def _make(folder: Path) -> list[Path]:
    """Make a folder and its parents; returns the folders that were made, deepest first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # the folder has files now
            return


def _take(folder: Path) -> int:
    """Open and lock the lock file; returns its handle."""
    path = folder / LOCK
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"expected a lock file, got {path}, which is a link, a folder, a pipe or a device: remove it")
    while True:
        # If the path were a link, another file would be overwritten.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o644)
        try:
            if not _lock(handle):
                holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
                raise InputError(
                    f"expected a folder that no other run uses, got {folder}, which {holder} uses: wait for it, or "
                    "choose another --out"
                )
            if (
                path.exists() and path.stat().st_ino == os.fstat(handle).st_ino
            ):  # true if the file was not removed in the meantime
                with naming(path):
                    os.ftruncate(handle, 0)
                    os.write(handle, f"process {os.getpid()} of {socket.gethostname()}\n".encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file for this process alone; False if another process has locked it."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def hold(folder: Path, world_size: int = 1) -> Path:
    """Lock a folder, which may have files, until the command ends.

    Args:
        folder: the folder to lock.
        world_size: number of processes that train together; the first of them locks the folder.
    """
    if is_first(world_size):
        until_end.enter_context(locked(folder))
    return folder


def claim(out: Path | None, name: str, world_size: int = 1, *, kind: str = "") -> Path:
    """Make and lock a new folder until the command ends; by default a folder below runs/ with the name of the data."""
    stem = Path("runs") / (Path(name).resolve().stem + kind)
    if not is_first(world_size):  # this process writes nothing
        return out or stem
    return until_end.enter_context(claimed_next(stem) if out is None else claimed(out))


def is_first(world_size: int) -> bool:
    """Whether this is the first of the processes that train together, which is the only one that writes. This works
    before they are connected.
    """
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return world_size == 1 or int(next((rank for rank in ranks if rank is not None), "0")) == 0
