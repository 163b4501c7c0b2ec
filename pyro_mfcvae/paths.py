"""Paths as people write them."""

from pathlib import Path

from pyro_mfcvae.errors import InputError


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
