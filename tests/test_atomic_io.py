import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from pyro_mfcvae.atomic_io import check_utf8, expand_user, read_text, write_atomically, write_json, write_text
from pyro_mfcvae.errors import InputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_is_written_in_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "größer ≥ 1\n")
    assert (tmp_path / "a.txt").read_bytes() == "größer ≥ 1\n".encode()
    assert names(tmp_path) == ["a.txt"]


def test_json_is_strict(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [float("nan"), np.float64("inf"), np.int64(3)], "b": (True, "é")})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [None, None, 3], "b": [True, "é"]}


def test_folders_above_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "deeper" / "a.txt", "x")
    assert (tmp_path / "deep" / "deeper" / "a.txt").read_text() == "x"


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "a long old text")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_other_users_can_read_the_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "x")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


def test_the_writer_works_beside_the_target_with_its_suffix(tmp_path: Path) -> None:
    seen: list[Path] = []

    def write(temporary: Path) -> None:
        seen.append(temporary)
        temporary.write_text("x")
        assert not (tmp_path / "a.png").exists()

    write_atomically(tmp_path / "a.png", write)
    (temporary,) = seen
    assert (temporary.parent, temporary.suffix) == (tmp_path, ".png")
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_failed_first_write_leaves_nothing(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "a.txt", write)
    assert names(tmp_path) == []


def test_folders_pipes_and_devices_are_not_replaced(tmp_path: Path) -> None:
    """A file in place of /dev/null or /dev/stdout would harm the whole machine; root may replace them."""
    pipe, folder, link, output = (tmp_path / name for name in ("pipe", "folder", "link", "output"))
    os.mkfifo(pipe)
    folder.mkdir()
    link.symlink_to(pipe)
    output.symlink_to("/proc/self/fd/1")  # as /dev/stdout is
    before = names(tmp_path)
    for path in (pipe, folder, link, output, Path()):
        with pytest.raises(InputError, match=r"expected the name of a file to write, got .*: choose another"):
            write_text(path, "x")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert output.is_symlink()
    assert names(tmp_path) == before


def test_a_link_to_a_file_is_replaced_and_the_file_stays(tmp_path: Path) -> None:
    """Whoever made the folder of a run does not choose which files outside of it are written."""
    (tmp_path / "outside.txt").write_text("old")
    (tmp_path / "a.txt").symlink_to("outside.txt")
    write_text(tmp_path / "a.txt", "new")
    assert ((tmp_path / "outside.txt").read_text(), (tmp_path / "a.txt").read_text()) == ("old", "new")
    assert not (tmp_path / "a.txt").is_symlink()


def test_errors_name_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        temporary.unlink()
        temporary.read_text()

    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "a.txt", write)
    assert caught.value.filename == str(tmp_path / "a.txt")


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


def test_a_text_is_a_regular_file_of_a_size_that_fits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(InputError, match=rf"expected a file, got \S*{name}, which is a folder, a pipe or a device"):
            read_text(tmp_path / name)
    with (tmp_path / "large").open("wb") as file:
        file.truncate((64 << 20) + (1 << 20))
    with pytest.raises(InputError, match=r"expected at most 64 MiB in \S*large, got 65 MiB: bring back"):
        read_text(tmp_path / "large")
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "missing")
