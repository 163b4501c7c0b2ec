from pathlib import Path

import pytest

from pyro_mfcvae import InputError
from pyro_mfcvae.paths import check_utf8, expand_user


def test_home_folders_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_user("~/x") == expand_user(Path("~/x")) == Path("/home/me/x")
    assert expand_user("a/~b") == Path("a/~b")
    with pytest.raises(InputError, match=r"expected the home folder of a user, got ~nobody-here/x: write"):
        expand_user("~nobody-here/x")


def test_paths_that_are_not_utf8_are_refused() -> None:
    check_utf8("Größe/…")
    with pytest.raises(InputError, match=r"expected a path in UTF-8, got bilder_.*: rename the file or folder"):
        check_utf8("bilder_\udce4")
