"""Commands on a full disk."""

import re
from pathlib import Path

import pytest
from command_line import TINY, Run, names
from full_disks import full_disk

from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.safety.tensor_files import read_tensors

pytestmark = pytest.mark.usefixtures("place")


@pytest.mark.parametrize(
    ("num_bytes", "file"),
    [
        (0, r"\.lock"),
        (100, r"config\.toml"),
        (6_000, r"checkpoint/next\.safetensors"),
    ],
)
def test_a_fit_on_a_full_disk_ends_with_one_line_and_resumes_when_there_is_room(
    mfcvae: Run, trained: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int, file: str
) -> None:
    monkeypatch.setattr("pyro_mfcvae.runs.fit._draw", lambda *_: None)
    command = ("fit", "--data", "data.npz", "--out", "run", "--set", *TINY)
    with full_disk(num_bytes):
        code, _, err = mfcvae(*command)
    assert code == 2
    assert re.fullmatch(rf"mfcvae: cannot use \S*run/{file}: file too large\n", err)
    again = ("fit", "--resume", "--out", "run") if Path("run/config.toml").is_file() else command
    code, _, err = mfcvae(*again)
    assert (code, err) == (0, "")
    assert names(Path("run")) == names(trained / "run")
    here, there = (read_tensors(RunFolder(place).model_path, "config")[0] for place in (Path("run"), trained / "run"))
    assert {name: tensor.tolist() for name, tensor in here.items()} == {
        name: tensor.tolist() for name, tensor in there.items()
    }


@pytest.mark.parametrize(
    "command",
    [
        ("assign", "run"),
        ("assign", "run", "--format", "parquet"),
        ("assign", "run", "--format", "jsonl"),
        ("report", "run"),
        ("sample", "run"),
        ("check", "run", "--items", "100", "--draws", "30"),
    ],
)
def test_other_commands_on_a_full_disk_end_with_one_line(mfcvae: Run, fitted: Path, command: tuple[str, ...]) -> None:
    before = names(fitted)
    with full_disk():
        code, _, err = mfcvae(*command)
    assert code == 2
    assert re.fullmatch(r"mfcvae: cannot use \S*run/\S+: file too large\n", err)
    assert names(fitted) - before <= {"checks", "figures"}
    assert not list(fitted.rglob(".*"))
