"""The examples run, and do what they promise."""

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import ELBO, TraceEnum_ELBO

from pyro_mfcvae import FacetELBO

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def as_a_user_runs_them() -> Iterator[None]:
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    with pyro.validation_enabled(False):
        yield
    torch.set_default_dtype(dtype)


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
