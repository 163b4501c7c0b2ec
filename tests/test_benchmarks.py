"""What README promises of real input holds: whole trainings, minutes each."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pyro_mfcvae.datasets import DATASETS
from pyro_mfcvae.fitting import fit
from pyro_mfcvae.presets import load_preset
from pyro_mfcvae.runs import RunFolder

needs_data = pytest.mark.skipif("MFCVAE_DATA" not in os.environ, reason="MFCVAE_DATA names no folder of data sets")


@pytest.fixture(autouse=True)
def as_a_user_runs_them() -> Iterator[None]:
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


def accuracies(preset: str, seed: int, folder: Path) -> tuple[dict[str, float], dict[str, int]]:
    """Accuracy of every label in its best facet, and that facet."""
    result = fit(replace(load_preset(preset), seed=seed), RunFolder(folder))
    scores = result.evaluation.scores
    best = scores.best_facets()
    assert set(best) == set(DATASETS[preset].label_names)
    return {label: float(scores.accuracy[label][facet]) for label, facet in best.items()}, best


@pytest.mark.slow
@needs_data
def test_stick_figures_split_into_upper_and_lower_body(tmp_path: Path) -> None:
    for seed in range(2):
        accuracy, facets = accuracies("stickfigures", seed, tmp_path / str(seed))
        assert facets == {"upper": 1, "lower": 0}
        assert min(accuracy.values()) >= 0.95
