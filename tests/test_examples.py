"""The examples run, and give the results that they describe."""

import math
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from command_line import TINY, Run, make_images, save_data
from pyro.infer import ELBO, TraceEnum_ELBO

from pyro_mfcvae import FacetELBO
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def as_a_user_runs_them() -> Iterator[None]:
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    with pyro.validation_enabled(False):
        yield
    torch.set_default_dtype(dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [FacetELBO(), pytest.param(TraceEnum_ELBO(max_plate_nesting=1), marks=pytest.mark.slow)],
    ids=lambda e: type(e).__name__,
)
def test_plain_svi_finds_hue_in_the_deep_facet_within_its_first_steps(loss: ELBO) -> None:
    train: Callable[..., Any] = runpy.run_path(str(EXAMPLES / "plain_svi.py"))["train"]
    scores = train(loss, stage_steps=(201, 201)).scores
    assert scores.accuracy["hue"][1] > 0.95
    assert scores.nmi["shape"][1] < 0.05


@pytest.mark.usefixtures("without_figures")
def test_the_part_built_in_the_docs_trains(mfcvae: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "parts.md").read_text()
    program, *_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (command,) = re.findall(r"^    mfcvae fit --set (.*my_priors.*)$", page, re.MULTILINE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (place / "my_priors.py").write_text(program)
    save_data(place / "data.npz", make_images())
    code, _, err = mfcvae("fit", "--data", "data.npz", "--out", "run", "--set", *TINY, *command.split())
    assert (code, err) == (0, "")
    assert "my_priors.LaplacePrior" in (place / "run" / "config.toml").read_text()
    assert mfcvae("evaluate", "run")[0] == 0


def test_every_setting_in_the_docs_exists() -> None:
    page = (ROOT / "docs" / "parts.md").read_text()
    settings = re.findall(r"`((?:prior|likelihood|assignment|networks)(?:\.\w+)?=\w+)`", page)
    assert len(settings) > 15
    for setting in settings:
        override(Config(data=DataConfig(source="shapes")), [setting])


@pytest.mark.filterwarnings("ignore")
def test_every_part_built_in_the_docs_meets_its_contract() -> None:
    """All programs of the page in one namespace, in order; the last one trains the parts together and checks them."""
    torch.set_default_dtype(torch.float32)
    page = (ROOT / "docs" / "parts.md").read_text()
    names: dict[str, Any] = {"__name__": "parts"}
    for program in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(program, names)
    assert math.isfinite(names["loss"])
    mean = names["guide"].globals_guide.loc_0_mean
    assert mean.grad is not None and mean.grad.abs().max() > 0
    assert all(p.grad is not None for p in names["encoder"].parameters())
