"""The results that README and benchmarks/README.md state hold: whole trainings of minutes each."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from files_as_published import write_shapes3d, write_svhn

from pyro_mfcvae.config.auto import configure_auto
from pyro_mfcvae.config.text import load_preset, override
from pyro_mfcvae.data.datasets import DATASETS
from pyro_mfcvae.metrics import nmi
from pyro_mfcvae.runs.fit import fit
from pyro_mfcvae.runs.folder import RunFolder

needs_data = pytest.mark.skipif("MFCVAE_DATA" not in os.environ, reason="MFCVAE_DATA names no folder of data sets")


@pytest.fixture(autouse=True)
def single_precision() -> None:
    torch.set_default_dtype(torch.float32)


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


@pytest.mark.slow
@needs_data
def test_letter_colour_and_corner_each_have_a_facet(tmp_path: Path) -> None:
    accuracy, facets = accuracies("nrletters", 0, tmp_path)
    assert facets["letter"] == 2 and len(set(facets.values())) == 3
    assert min(accuracy.values()) >= 0.95


@pytest.mark.slow
@needs_data
def test_auto_gives_letter_colour_and_corner_a_facet_each(tmp_path: Path) -> None:
    """Each label matches the groups of one facet, and no other facet shares information with it."""
    config, data, _ = configure_auto("nrletters", ["facets.number=3"], None)
    groups = fit(config, RunFolder(tmp_path / "run"), data=data, device="cpu").evaluation.groups
    for label, values in data.test.labels.items():
        *others, best = sorted(nmi(facet, values.numpy()) for facet in groups.T)
        assert best >= 0.95 and max(others) <= 0.1, label


@pytest.mark.slow
def test_the_demo_finds_hue_and_shape_in_facets_of_their_own(tmp_path: Path) -> None:
    accuracy, facets = accuracies("shapes", 0, tmp_path)
    assert facets == {"shape": 0, "hue": 1}
    assert accuracy["hue"] >= 0.99
    assert accuracy["shape"] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset",
    ["shapes3d-floor-paper", "shapes3d-wall-paper", "svhn-paper", pytest.param("mnist-paper", marks=needs_data)],
)
def test_a_paper_preset_trains_on_its_real_format(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch per stage, on files with fewer images than the published files; MNIST's files are the published
    ones.
    """
    if preset == "mnist-paper":
        monkeypatch.setenv("MFCVAE_CACHE", str(tmp_path / "cache"))
    else:
        monkeypatch.setenv("MFCVAE_DATA", str(tmp_path))
        if preset == "svhn-paper":
            write_svhn(tmp_path, monkeypatch, num=(450, 20))
        else:
            write_shapes3d(tmp_path, floors=(0, 1), walls=(4, 5), objects=(6,))
    config = override(load_preset(preset), ["training.epochs=1"])
    result = fit(config, RunFolder(tmp_path / "run"))
    assert result.summary["epochs"] == 2
    assert result.run.read_metrics()[1]["elbo"] > result.run.read_metrics()[0]["elbo"]


@pytest.mark.slow
def test_every_part_of_the_gpu_run_is_rehearsed_without_arviz_where_it_is_not_needed(tmp_path: Path) -> None:
    """On the CPU and in miniature, with the modules that a GPU machine may lack blocked."""
    for name in ("arviz", "h5py", "tensorboard"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is not there')\n")
    script = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    results = {}
    for only, path in ((["steps", "together", "paper", "images", "accuracy"], str(tmp_path)), (["tests", "items"], "")):
        out = tmp_path / "gpu.json"
        command = [sys.executable, str(script), "--rehearse", "--minutes", "10", "--out", str(out), "--only", *only]
        subprocess.run(command, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, check=True)
        results |= json.loads(out.read_text())["parts"]
    assert all(part["rows"] and part["incomplete"] is None for part in results.values())
    assert {row["way"] for row in results["steps"]["rows"]} >= {"networks", "ours", "published", "SVI FacetELBO"}
