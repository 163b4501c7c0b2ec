import os
import subprocess
import sys

import pytest
from command_line import Run

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
        (["fit", "--help"], ["PRESET", "--data", "--out", "--set", "--resume", "--device", "--root", "MFCVAE_DATA"]),
        (["evaluate", "--help"], ["RUN", "--data", "--root"]),
    ],
)
def test_help_names_every_option(mfcvae: Run, args: list[str], mentions: list[str]) -> None:
    code, out, err = mfcvae(*args)
    assert (code, err) == (0, "")
    assert [word for word in mentions if word not in out] == []
