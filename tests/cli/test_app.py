import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from command_line import TINY, Run, make_images

from pyro_mfcvae.checks.criticism import Criticism
from pyro_mfcvae.cli.app import COMMANDS
from pyro_mfcvae.config.text import preset_names

pytestmark = pytest.mark.usefixtures("place")


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "pyro_mfcvae", "presets"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()[1::2]] == ["auto", *preset_names()]


@pytest.mark.parametrize(
    ("args", "mentions"),
    [
        (["--help"], ["fit", "evaluate", "presets", "datasets"]),
        (
            ["fit", "--help"],
            ["PRESET", "--data", "--out", "--set", "--resume", "--device", "--root", "--training.epochs"],
        ),
        (["evaluate", "--help"], ["RUN", "--data", "--root", "--json", "--parts"]),
    ],
)
def test_help_names_every_option(mfcvae: Run, args: list[str], mentions: list[str]) -> None:
    code, out, err = mfcvae(*args)
    assert (code, err) == (0, "")
    assert [word for word in mentions if word not in out] == []


def run_alone(*args: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a new process."""
    command = [sys.executable, "-m", "pyro_mfcvae", *args]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment})


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_no_empty_defaults(mfcvae: Run, command: str) -> None:
    code, out, err = mfcvae(command, "--help")
    assert (code, err) == (0, "")
    assert not re.search(r"default: (None|False)|default: \)", out)
    assert "[PRESET]" in out if command in ("fit", "sweep") else "PRESET" not in out


def test_help_is_as_wide_as_the_terminal(mfcvae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for args in (["--help"], ["fit", "--help"], ["check", "--help"]):
        lines = mfcvae(*args)[1].splitlines()
        assert max(map(len, [line for line in lines if not line.startswith("usage:")])) <= 60


def test_the_version_is_shown(mfcvae: Run) -> None:
    assert mfcvae("--version") == (0, f"mfcvae {version('pyro-mfcvae')}\n", "")


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["evalute"], "got evalute: did you mean evaluate?"),
        (["explode"], "got explode: "),
        ([], "got none: mfcvae --help explains them"),
    ],
)
def test_an_unknown_command_suggests_the_nearest(mfcvae: Run, args: list[str], hint: str) -> None:
    code, out, err = mfcvae(*args)
    assert (code, out) == (2, "")
    assert err.startswith("mfcvae: expected a command out of fit, sweep, evaluate, ")
    assert hint in err


KNOWS_FISH = find_spec("tyro._backends._completion._tyro_fish") is not None  # version 1.0.12 does not


def test_a_script_for_completion_names_commands_and_options(mfcvae: Run) -> None:
    for shell in ("bash", "zsh", "fish") if KNOWS_FISH else ("bash", "zsh"):
        code, script, err = mfcvae("completion", shell)
        assert (code, err) == (0, "")
        assert all(word in script for word in ("evaluate", "--sort-into", "--num-nodes"))


# Asks for completions as readline does, by the function that `complete` has registered.
ASK = """
source "$1"; shift
function=$(complete -p mfcvae | sed 's/.*-F \\([^ ]*\\).*/\\1/')
for line in "$@"; do
  read -ra COMP_WORDS <<< "$line"
  if [[ $line == *" " ]]; then COMP_WORDS+=(""); fi
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
  $function mfcvae
  echo "${COMPREPLY[*]}"
done
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_values_and_presets_and_leaves_files_to_itself(
    mfcvae: Run, tmp_path: Path
) -> None:
    script = tmp_path / "mfcvae"
    script.write_text(mfcvae("completion", "bash")[1])
    expected = {
        "mfcvae ev": "evaluate",
        "mfcvae assign runs/mine --fo": "--format",
        "mfcvae assign runs/mine --format ": "csv parquet jsonl",
        "mfcvae fit --da": "--data --data.source --data.size --data.fit",
        "mfcvae fit st": "stickfigures",
        "mfcvae completion ": "bash zsh fish",
        "mfcvae assign ": "",  # without an answer, readline completes file names
    }
    done = subprocess.run(["bash", "-c", ASK, "ask", script, *expected], capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout.splitlines(), done.stderr) == (list(expected.values()), "")
    kinds = subprocess.run(["bash", "-c", f"source {script}; complete -p mfcvae"], capture_output=True, text=True)
    assert "-o default" in kinds.stdout


# A pseudo-terminal of zsh (zpty), in which a line is typed and completed.
TYPE = """
zmodload zsh/zpty; zpty shell zsh -f -i
zpty -w shell "PS1=; TERM=dumb; fpath=($1 \\$fpath); autoload -U compinit; compinit -u -D; echo rea''dy"
zpty -r -m shell answer '*ready*'
zpty -w -n shell "$2"$'\\t'
zpty -r -m shell answer "*$3*" && print found
zpty -d shell
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [("mfcvae eva", "evaluate"), ("mfcvae fit st", "ickfigures"), ("mfcvae fit --resu", "--resume")],
)
def test_zsh_completes_commands_options_and_presets(mfcvae: Run, tmp_path: Path, typed: str, completed: str) -> None:
    (tmp_path / "_mfcvae").write_text(mfcvae("completion", "zsh")[1])
    command = ["zsh", "-f", "-c", TYPE, "type", tmp_path, typed, completed]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60).stdout == "found\n"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("fish") is None or not KNOWS_FISH, reason="there is no fish, or tyro is too old")
def test_fish_completes_commands_options_values_presets_and_files(mfcvae: Run, tmp_path: Path) -> None:
    script = tmp_path / "mfcvae.fish"
    script.write_text(mfcvae("completion", "fish")[1])
    (tmp_path / "stones").mkdir()
    expected = {
        "mfcvae ev": "evaluate",
        "mfcvae assign runs/mine --fo": "--format",
        "mfcvae assign runs/mine --format ": "csv jsonl parquet",
        "mfcvae fit --da": "--data --data.fit --data.size --data.source",
        "mfcvae fit st": "stickfigures stones/",
        "mfcvae completion z": "zsh",
        "mfcvae fit --data sto": "stones/",
    }
    ask = "source mfcvae.fish; for line in $argv; echo (complete -C $line | string split -f1 \\t); end"
    # fish reads and writes files in the home folder.
    place = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["fish", "--no-config", "-c", ask, *expected], capture_output=True, text=True, cwd=tmp_path, env=place
    )
    assert (done.stdout.splitlines(), done.stderr) == (list(expected.values()), "")


def test_an_old_tyro_is_named_for_a_shell_that_it_does_not_know(mfcvae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mfcvae.cli.lists.tyro.extras.SubcommandApp.cli", lambda *_, **__: None)
    code, out, err = mfcvae("completion", "fish")
    assert (code, out) == (2, "")
    assert err.startswith("mfcvae: expected a tyro that writes scripts for fish, got tyro ")
    assert err.endswith(": run pip install --upgrade tyro\n")


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("cp1252", marks=pytest.mark.slow)])
def test_output_that_is_not_utf8_is_printed(encoding: str) -> None:
    for args in (["fit", "--help"], ["datasets"]):
        done = run_alone(*args, PYTHONIOENCODING=encoding)
        assert done.returncode == 0
        assert b"Traceback" not in done.stderr
        assert args != ["datasets"] or encoding != "ascii" or b"3 x 32 x 32" in done.stdout


def test_a_path_that_is_not_utf8_is_refused(mfcvae: Run) -> None:
    code, _, err = mfcvae("fit", "--out", "lauf_\udce4")
    assert (code, err) == (2, "mfcvae: expected a path in UTF-8, got lauf_\\xe4: rename the file or folder\n")


@pytest.mark.usefixtures("without_figures")
def test_a_home_folder_is_found_after_an_equals_sign(
    mfcvae: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert mfcvae("fit", "--data", "data.npz", "--out=~/run", "--set", *TINY)[0] == 0
    assert (tmp_path / "home" / "run" / "model.safetensors").is_file()
    for args in (["fit", "--data", "~nobody-here/x"], ["fit", "mnist", "--root", "~nobody-here"]):
        code, _, err = mfcvae(*args)
        assert code == 2
        assert "expected the home folder of a user, got ~nobody-here" in " ".join(err.split())


@pytest.mark.usefixtures("without_figures")
def test_a_label_s_control_characters_are_written_out(mfcvae: Run) -> None:
    np.savez("odd.npz", images=make_images(), **{"\x1b[31mred [/b]": np.arange(80) % 2})
    code, out, _ = mfcvae("fit", "--data", "odd.npz", "--out", "run", "--set", *TINY)
    assert code == 0
    assert "\x1b" not in out
    assert "\\x1b[31mred [/b]" in out


@pytest.mark.usefixtures("fitted", "without_figures")
@pytest.mark.parametrize(
    ("args", "keys"),
    [
        (["evaluate", "run"], {"run", "data", "items", "elbo", "facets"}),
        (["assign", "run"], {"file", "items", "groups", "unlike"}),
        (["check", "run", "--items", "100", "--draws", "30"], {"run", "items", "checks"}),
        (["sample", "run", "--num", "2", "--clusters", "0=1"], {"figure", "title"}),
        (["report", "run"], {"file", "bytes"}),
        (["compare", "run", "other"], {"name", "rank", "evidence", "standard_error", "difference"}),
        pytest.param(
            ["sweep", "--data", "data.npz", "--seeds", "1", "--out", "seeds", "--set", *TINY],
            {"sweep", "best_seed", "stability", "runs"},
            marks=pytest.mark.slow,
        ),
        (["fit", "--resume", "--out", "run"], {"run", "data", "seed", "facets", "elbo", "seconds"}),
        (["presets"], {"preset", "data", "training"}),
        (["datasets"], {"name", "num_items"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_json_is_all_that_is_printed(
    mfcvae: Run, monkeypatch: pytest.MonkeyPatch, args: list[str], keys: set[str]
) -> None:
    monkeypatch.setattr(Criticism, "figures", lambda self: {})  # they take seconds
    shutil.copytree("run", "other")
    code, out, err = mfcvae(*args, "--json")
    assert (code, err) == (0, "")
    record = json.loads(out, parse_constant=pytest.fail)
    assert keys <= (record[0] if isinstance(record, list) else record).keys()


@pytest.mark.usefixtures("without_figures")
def test_a_run_s_own_parts_are_imported_only_on_request(mfcvae: Run, place: Path) -> None:
    (place / "of_me.py").write_text(
        "from pathlib import Path\nfrom pyro_mfcvae.models import MixturePrior\n"
        "Path('imported').touch()\nclass Mine(MixturePrior):\n    pass\n"
    )
    settings = [*TINY, "prior=of_me.Mine"]
    assert mfcvae("fit", "--data", "data.npz", "--out", "run", "--set", *settings)[0] == 0
    (place / "imported").unlink()
    del sys.modules["of_me"]  # as if this were another process
    code, _, err = mfcvae("evaluate", "run")
    assert code == 2
    assert "expected a part whose module is imported, got of_me.Mine: if you trust it, give --parts of_me" in err
    assert not (place / "imported").exists()
    assert mfcvae("evaluate", "run", "--parts", "of_me")[0] == 0
    del sys.modules["of_me"]
    config = place / "run" / "config.toml"
    config.write_text(config.read_text().replace("of_me.Mine", "subprocess.getoutput"))
    code, _, err = mfcvae("evaluate", "run")
    assert code == 2
    assert "expected run/model.safetensors of the settings in config.toml beside it" in err
