"""Every snippet of README and docs/ is run as printed, on small data. Snippets that are not run are listed with
reasons.
"""

import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from command_line import TINY, Run
from pages import PAGES, ROOT, commands, name, python_blocks
from PIL import Image

from pyro_mfcvae import FacetELBO
from pyro_mfcvae.cli import app as cli
from pyro_mfcvae.cli.options import registry
from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.runs.folder import RunFolder

# Other programs, which are not started here.
OTHERS = {
    "pip install embedding-atlas": "a viewer of others",
    "embedding-atlas": "a viewer of others, which serves until it is stopped",
}

# Commands of this package that are parsed but not run: pattern → reason.
NOT_RUN = {
    r"--device cuda": "needs GPUs",
    r"fit (mnist|svhn)": "needs the files of a data set, and trains for minutes or hours",
    r"prior=\w+\.": "its prior is the reader's; tests/config trains with parts of a user",
    r"^fit( --out \S+)?$": "the demo trains for minutes; a slow test of tests/test_benchmarks.py runs it",
    r"--num-groups": "its numbers of groups are the reader's; tests/cli/test_evaluate.py cuts trees",
    r"^completion": "tests/cli/test_app.py runs the scripts",
    r"^explore": "serves until it is stopped; tests/explore opens its pages",
    r"^sweep": "trains several runs; tests/runs/test_sweep.py trains small ones",
    r"supervision\.label": "its data are the reader's; tests/test_known_clusters.py trains with labels",
    r"likelihood\.missing": "its data are the reader's; tests/test_combinations.py trains with missing values",
    r"--statistic": "its statistic is the reader's; tests/cli/test_checks.py has one",
}

# Settings that are added to a printed fit, because all steps of auto take minutes.
SHORTER = ("--set", "schedule.scale=0.02")

# Commands that train or check for more than a few seconds.
SLOW = (r"^fit --data", r"^check ")

# Pages whose Python takes more than a few seconds.
SLOW_PAGES = {"README.md", "docs/start.md", "docs/checks.md", "docs/python.md", "docs/howto/features.md"} | {
    "docs/howto/nuts.md",
    "docs/howto/own-images.md",
}


def save_photos(folder: Path, num: int) -> None:
    """Photos of two sizes in two sub-folders: light ones and dark ones."""
    rng = np.random.default_rng(num)
    for n in range(num):
        side = ("dark", "light")[n % 2]
        pixels = rng.integers(110, size=((12, 12, 3), (12, 14, 3))[n % 3 == 0]) + 140 * (n % 2)
        path = folder / side / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: photos and arrays."""
    folder = tmp_path_factory.mktemp("reader")
    save_photos(folder / "photos", 40)
    save_photos(folder / "new_photos", 6)
    images = np.random.default_rng(0).integers(256, size=(60, 8, 8), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    np.savez(folder / "images.npz", images=images, digit=np.arange(60) % 3)
    return folder


@pytest.fixture
def reader(folder: Path, monkeypatch: pytest.MonkeyPatch, mfcvae: Run) -> Iterator[Path]:
    """Work in the reader's folder, which has finished runs with all names on the pages."""
    monkeypatch.chdir(folder)
    small = folder / "small"
    if not small.is_dir():
        code, _, err = mfcvae("fit", "shapes", "--data", "photos", "--out", "small", "--set", *TINY, "data.size=8")
        assert (code, err) == (0, "")
    for run in {*re.findall(r"runs/([\w-]+)", "".join(page.read_text() for page in PAGES))}:
        if not Path("runs", run, "summary.json").is_file():
            shutil.copytree(small, folder / "runs" / run)
    yield folder


def ours() -> list[str]:
    """Every command line of this package on the pages, once, without the program's name."""
    found: dict[str, None] = {}
    for page in PAGES:
        for words in commands(page):
            if words[0] in ("torchrun", "srun"):
                words = words[words.index("pyro_mfcvae" if "pyro_mfcvae" in words else "mfcvae") :]
            if words[0] in ("mfcvae", "pyro_mfcvae"):
                found["\0".join(words[1:])] = None
    return list(found)


def reason_not_to_run(line: str) -> str | None:
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, line)), None)


def as_params(lines: list[str]) -> list[Any]:
    slow = pytest.mark.slow
    shown = {line: line.replace("\0", " ") for line in lines}
    return [
        pytest.param(line, id=text, marks=[slow] if any(re.search(pattern, text) for pattern in SLOW) else [])
        for line, text in shown.items()
        if reason_not_to_run(text) is None
    ]


@pytest.mark.parametrize("line", ours(), ids=lambda line: line.replace("\0", " "))
def test_every_command_is_read(line: str) -> None:
    command, *args = line.replace("RUN", "runs/mine").replace("\0N\0", "\0002\0").split("\0")
    called = []

    @wraps(cli.find_command(command))
    def note(*args: Any, **kwargs: Any) -> None:
        called.append(args or kwargs or True)

    tyro.cli(note, prog=command, args=args, registry=registry)
    assert called


@pytest.mark.parametrize("line", as_params(ours()))
def test_a_command_runs_as_printed(line: str, reader: Path, mfcvae: Run) -> None:
    args = line.split("\0")
    if "--sort-into" in args:
        with suppress(FileNotFoundError):
            (reader / "sorted").rename(reader / f"sorted-{len(list(reader.iterdir()))}")
    if args[:2] == ["fit", "--data"] and "--out" in args:  # the folder of another run in these tests
        (reader / args[-1]).rename(reader / f"earlier-{len(list(reader.iterdir()))}")
    code, out, err = mfcvae(*args, *(SHORTER if args[:2] == ["fit", "--data"] else ()))
    assert (code, err) == (0, "")
    assert out


def test_every_reason_not_to_run_a_command_is_needed() -> None:
    lines = [line.replace("\0", " ") for line in ours()]
    for pattern in (*NOT_RUN, *SLOW):
        assert any(re.search(pattern, line) for line in lines), f"no command matches {pattern}: take it out"


def test_other_programs_are_known() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in PAGES:
        for words in commands(page):
            line = " ".join(words)
            if words[0] == "make":
                assert set(words[1:]) <= set(targets), line
            elif words[0] == "python":
                assert (ROOT / words[1]).is_file(), line
            elif line.startswith("pip install pyro-mfcvae"):
                assert set(re.findall(r"\[(\w+)\]", line)) <= set(extras), line
            elif words[0] not in ("mfcvae", "torchrun", "srun"):
                assert line in OTHERS or words[0] in OTHERS, f"{name(page)}: {line}"


def given(document: Path) -> dict[str, Any]:
    """The names that the text of a page assumes for its blocks."""
    if document.name == "README.md":
        return {"x": torch.rand(8, 1, 28, 28)}
    if document.name == "saving.md":
        return {"x": torch.rand(5, 3, 8, 8)}
    if document.name == "loops.md":
        from torch.utils.data import DataLoader, TensorDataset

        config = RunFolder.open(Path("runs/mine")).read_config()
        pair = build_pair(config, (3, 8, 8))
        names = {"torch": torch, "FacetELBO": FacetELBO, "DataLoader": DataLoader, "TensorDataset": TensorDataset}
        return names | {"model": pair.model, "guide": pair.guide, "images": torch.rand(200, 3, 8, 8)}
    return {}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # ArviZ uses what Matplotlib 3.11 deprecates
@pytest.mark.parametrize(
    "document",
    [
        pytest.param(page, id=name(page), marks=[pytest.mark.slow] if name(page) in SLOW_PAGES else [])
        for page in PAGES
        if python_blocks(page)
    ],
)
def test_python_runs_as_printed(document: Path, reader: Path, mfcvae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    close: list[Callable[[], None]] = []
    if document.name == "checks.md":
        for run in ("runs/shapes-1", "runs/shapes-2"):
            assert mfcvae("check", run)[0] == 0
    names = given(document)
    try:
        for block in python_blocks(document):
            exec(compile(block, str(document), "exec"), names)
            if hasattr(names.get("page"), "close"):
                close.append(names["page"].close)
    finally:
        for end in close:
            end()
