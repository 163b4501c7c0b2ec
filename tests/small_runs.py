"""A small run on noise, ways to stop it, and the comparison of two runs."""

import json
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from safetensors.torch import load_file
from small_configs import SMALL

from pyro_mfcvae.config.text import override
from pyro_mfcvae.data.datasets import DATASETS, Dataset
from pyro_mfcvae.data.images import Split
from pyro_mfcvae.runs.assignments import write_assignments
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.train.step_log import EpochRecord
from pyro_mfcvae.train.training import Training

# Six epochs of three steps, facet 1 alone in the first nine. Facet 1 is fitted at the steps 2, 4 and 7, facet 0 at 11,
# 13 and 16; facet 0 fades in from step 9 to 13, its KL to 15; q(c|x) uses draws, so the random state always matters.
TINY = override(
    SMALL,
    [
        "prior.covariance=full",
        "likelihood.kind=gaussian",
        "likelihood.learn_scale=true",
        "assignment.kind=monte_carlo",
        "assignment.num_samples=2",
        "training.epochs=3",
        "training.learning_rate=0.01",
        "training.final_learning_rate=0.001",
        "schedule.fade_in_steps=5",
        "schedule.kl_fade_in_steps=[3, 7]",
        "mixture_fit.warmup_steps=2",
        "mixture_fit.refit_steps=[4, 7]",
        "mixture_fit.items=50",
        "training.data_dependent_init=true",
    ],
)


NUM_EPOCHS = 6

# Entries of a summary that contain times or depend on them.
CLOCKS = {"seconds": 0, "sha256": "", "metrics_digest": ""}


def make_data(num: int = 65, channels: int = 1) -> Dataset:
    """Noise, and two labels of it."""
    generator = torch.Generator().manual_seed(1)

    def split(num: int) -> Split:
        images = torch.randint(256, (num, channels, 6, 6), generator=generator, dtype=torch.uint8)
        return Split(images, {"first": torch.arange(num) % 2, "second": torch.arange(num) % 3})

    return Dataset("noise", split(num), split(30), DATASETS["shapes"])


class StopError(Exception):
    """Raised to stop a training in these tests."""


class Stopper:
    """Raises an error after a number of steps or epochs, counted from the start or the resume."""

    def __init__(self, *, step: int | None = None, epoch: int | None = None) -> None:
        self.step, self.epoch = step, epoch
        self.steps = 0

    def on_start(self, training: Training) -> None:
        pass

    def on_steps(self, num_steps: int, elbo: float) -> None:
        self.steps += 1
        if self.steps == self.step:
            raise StopError

    def on_epoch(self, record: EpochRecord) -> None:
        if record.epoch == self.epoch:
            raise StopError


def metrics(run: RunFolder) -> list[dict[str, Any]]:
    """The records without their seconds."""
    return [{key: value for key, value in record.items() if key != "seconds"} for record in run.read_metrics()]


def assert_same_run(here: RunFolder, there: RunFolder) -> None:
    for path in ("model.safetensors", "checkpoint/training.safetensors"):
        a, b = load_file(here.path / path), load_file(there.path / path)
        assert a.keys() == b.keys()
        for name, tensor in a.items():
            assert tensor.dtype == b[name].dtype
            assert tensor.numpy().tobytes() == b[name].numpy().tobytes(), name
    assert metrics(here) == metrics(there)
    a, b = (json.loads(run.summary_path.read_text()) for run in (here, there))
    assert {**a, **CLOCKS} == {**b, **CLOCKS}
    assert here.config_path.read_text() == there.config_path.read_text()


def replace_assignments(run: RunFolder, table: pd.DataFrame) -> None:
    """Write other rows into a run's ``assignments.parquet``."""
    model = run.model_fingerprint()
    write_assignments(iter([pa.Table.from_pandas(table)]), run.assignments_path, format="parquet", model=model)
