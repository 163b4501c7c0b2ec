"""``mfcvae explore``: its output, and its requirements."""

import socket
from pathlib import Path

import pytest
from command_line import Run

pytest.importorskip("starlette", reason="the extra explore is not installed")

from pyro_mfcvae import explore as package


class Stopped:
    def run(self, sockets: list[socket.socket]) -> None:
        for listener in sockets:
            listener.close()


def test_it_prints_its_address(fitted: Path, mfcvae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mfcvae.explore.server.build_server", lambda app: Stopped())
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    code, out, err = mfcvae("explore", "run", "--port", "0")
    assert (code, err) == (0, "")
    assert "80 items of run at http://127.0.0.1:" in out
    assert "token" not in out
    assert len(opened) == 1
    code, out, _ = mfcvae("explore", "run", "--port", "0", "--host", "0.0.0.0", "--no-browser")
    assert code == 0
    assert "/?token=" in out
    assert len(opened) == 1


def test_without_the_extra_one_line_says_what_to_install(mfcvae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "find_spec", lambda name: None if name in ("jinja2", "starlette") else object())
    code, _, err = mfcvae("explore", "run")
    assert code == 2
    assert err.strip() == (
        "mfcvae: expected starlette, jinja2 to be installed, got none: run pip install 'pyro-mfcvae[explore]'"
    )


def test_a_folder_without_a_run_is_refused(mfcvae: Run) -> None:
    code, _, err = mfcvae("explore", ".")
    assert code == 2
    assert "expected a run folder" in err
