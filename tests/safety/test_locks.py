import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_mfcvae.atomic_io import temporary_prefix
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.safety.locks import claimed, claimed_next, clean, locked

HOLD = """
import sys, time
from pathlib import Path
from pyro_mfcvae.safety.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold_elsewhere(folder: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_one_process_locks_a_folder_and_a_killed_process_does_not(tmp_path: Path) -> None:
    other = hold_elsewhere(tmp_path / "run")
    with pytest.raises(InputError, match=rf"run, which process {other.pid} of .* uses: wait for it"):  # noqa: SIM117
        with locked(tmp_path / "run"):
            pass
    other.kill()
    other.communicate()
    assert (tmp_path / "run" / ".lock").exists()
    with locked(tmp_path / "run"), locked(tmp_path / "run"):  # the same process may lock it twice
        (tmp_path / "run" / "file").touch()
    assert os.listdir(tmp_path / "run") == ["file"]  # noqa: PTH208


def test_a_folder_that_was_made_and_has_no_files_is_removed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the data"), claimed(tmp_path / "deep" / "run"):
        raise InputError("the data do not fit")
    assert list(tmp_path.iterdir()) == []


def test_two_claims_never_get_one_folder(tmp_path: Path) -> None:
    with claimed_next(tmp_path / "runs" / "photos") as first, claimed_next(tmp_path / "runs" / "photos") as second:
        assert [first.name, second.name] == ["photos-1", "photos-2"]
        (second / "file").touch()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["photos-2"]


def test_a_folder_with_files_is_not_new(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected a new or empty folder, got"), claimed(tmp_path):
        pass


def test_temporary_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".mfcvae-{dead.pid}-abc.toml").touch()
    ours = tmp_path / f"{temporary_prefix()}abc.toml"
    ours.touch()
    with claimed(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".lock", ours.name])


def test_a_folder_is_cleaned_unless_a_process_holds_it(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    clean(tmp_path)
    assert not list(tmp_path.iterdir())
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        clean(tmp_path)
        assert (tmp_path / ".lock").is_file()


def test_a_lock_does_not_follow_links_or_wait_for_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious, run = tmp_path / "precious", tmp_path / "run"
    precious.write_text("text")
    run.mkdir()
    (run / ".lock").symlink_to(precious)
    with pytest.raises(InputError, match=r"expected a lock file, got .*\.lock, which is a link"), locked(run):
        pass
    with monkeypatch.context() as racing:
        racing.setattr(Path, "is_symlink", lambda path: False)  # the link is made after the check
        with pytest.raises(OSError, match=r"symbolic links"), locked(run):
            pass
    assert precious.read_text() == "text"
    (run / ".lock").unlink()
    os.mkfifo(run / ".lock")
    with pytest.raises(InputError, match=r"expected a lock file, got .*\.lock, which is a link"), locked(run):
        pass
