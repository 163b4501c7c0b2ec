"""The scripts of benchmarks/: each can be imported and explains its options, and small calls of two of them run."""

import importlib
import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
WITH_OPTIONS = [path for path in SCRIPTS if "tyro.cli(" in path.read_text() or "ArgumentParser(" in path.read_text()]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def as_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A script's directory comes first, numbers are in single precision, and scripts may change torch's settings."""
    monkeypatch.syspath_prepend(str(FOLDER))
    torch.set_default_dtype(torch.float32)
    num_threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_num_threads(num_threads)
    torch.backends.cudnn.allow_tf32 = tf32


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_can_be_imported(path: Path) -> None:
    assert runpy.run_path(str(path), run_name=path.stem)["__doc__"]


@pytest.mark.parametrize("path", WITH_OPTIONS, ids=lambda path: path.stem)
def test_a_script_explains_its_options(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as leave:
        runpy.run_path(str(path), run_name="__main__")
    assert leave.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("parts", {"repeats": 1}, "relative"),
        ("stages", {"presets": ("shapes",), "rounds": 1}, "shapes"),
    ],
)
def test_a_small_call_writes_its_record(
    name: str, arguments: dict[str, Any], result: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of a single round are not measurements, so the record goes to a temporary folder."""
    script = importlib.import_module(name)
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    script.main(**arguments)
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert {"version", "commit", "date", "machine", result} <= record.keys()
    assert all(value > 0 for value in record[result].values())
