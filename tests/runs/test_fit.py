import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small_runs import NUM_EPOCHS, TINY, assert_same_run, make_data, metrics

from pyro_mfcvae.config.text import override
from pyro_mfcvae.data.datasets import Dataset
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.runs.evaluation import evaluate
from pyro_mfcvae.runs.fit import Fit, fit, fit_epochs
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.train.step_log import EpochRecord
from pyro_mfcvae.train.training import Training


@pytest.fixture(autouse=True)
def as_users_run_it() -> None:
    torch.set_default_dtype(torch.float32)


# --- a run ----------------------------------------------------------------------------------------------------------


def test_a_run_leaves_all_documented_files(whole: Fit) -> None:
    files = {str(path.relative_to(whole.run.path)) for path in whole.run.path.rglob("*") if path.is_file()}
    assert files == {
        "config.toml",
        "model.safetensors",
        "checkpoint/training.safetensors",
        "checkpoint/previous.safetensors",
        "metrics.jsonl",
        "summary.json",
        "groups.json",
        "assignments.parquet",
        "figures/clusters.png",
        "figures/curves.png",
    }
    assert whole.run.read_config() == TINY
    assert [record["epoch"] for record in whole.run.read_metrics()] == list(range(1, NUM_EPOCHS + 1))
    seconds = [record["seconds"] for record in whole.run.read_metrics()]
    assert seconds == sorted(seconds) and seconds[0] > 0
    for path in (whole.run.model_path, whole.run.checkpoint_path):
        with safe_open(path, framework="pt") as file:
            assert "alpha" in " ".join(file.keys())


def test_the_metrics_show_the_schedule(whole: Fit) -> None:
    assert [record["alpha"][0] for record in whole.run.read_metrics()] == pytest.approx([0, 0, 0, 3 / 5, 1, 1])
    assert [record["beta"][0] for record in whole.run.read_metrics()] == pytest.approx([0, 0, 0, 3 / 7, 6 / 7, 1])


def test_the_summary_has_the_results(whole: Fit) -> None:
    summary = json.loads(whole.run.summary_path.read_text())
    assert summary.pop("config_digest") == whole.run.config_digest()
    assert summary.pop("metrics_digest") == whole.run.metrics_digest(NUM_EPOCHS)
    assert summary.pop("model_fingerprint") == whole.run.model_fingerprint()
    assert len(summary.pop("sha256")) == 64
    assert summary == whole.summary == whole.run.read_summary()
    assert summary["data"] == "none"
    assert summary["data_fingerprint"] == make_data().fingerprint()
    assert (summary["seed"], summary["epochs"], summary["device"]) == (0, NUM_EPOCHS, "cpu")
    assert summary["elbo"] == whole.evaluation.elbo
    assert summary["facets"] == whole.evaluation.facet_records()
    assert [facet["num_clusters"] for facet in summary["facets"]] == [3, 4]
    assert set(summary["facets"][0]) >= {"clusters_in_use", "accuracy", "nmi", "ari"}
    assert np.shape(summary["redundancy"]) == (2, 2)
    assert summary["seconds"] >= 0


def test_the_model_that_is_saved_is_the_one_that_was_scored(whole: Fit) -> None:
    torch.manual_seed(0)
    pair = whole.run.load_pair()
    torch.set_rng_state(load_file(whole.run.checkpoint_path)["random.cpu"])
    again = evaluate(pair, whole.data.test)
    assert np.array_equal(again.assignments, whole.evaluation.assignments)
    assert again.elbo == whole.evaluation.elbo


@pytest.mark.usefixtures("without_figures")
def test_the_seed_decides_the_run(whole: Fit, tmp_path: Path) -> None:
    pyro.set_rng_seed(99)
    assert_same_run(fit(TINY, RunFolder.new(tmp_path / "same"), data=make_data(), device="cpu").run, whole.run)
    other = fit(override(TINY, ["seed=1", "training.epochs=1"]), RunFolder.new(tmp_path / "other"), data=make_data())
    assert metrics(other.run)[0]["elbo"] != metrics(whole.run)[0]["elbo"]


# --- callbacks, data and mistakes ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_figures")
def test_callbacks_are_called_for_everything_in_order(tmp_path: Path) -> None:
    calls: list[str] = []

    class Notes:
        def on_start(self, training: Training) -> None:
            calls.append(f"start {training.epoch}")

        def on_steps(self, num_steps: int, elbo: float) -> None:
            calls.append("step")

        def on_epoch(self, record: EpochRecord) -> None:
            calls.append(f"epoch {record.epoch}")
            assert RunFolder(tmp_path).read_metrics()[-1]["epoch"] == record.epoch

    short = override(TINY, ["training.epochs=1"])
    fit(short, RunFolder.new(tmp_path), data=make_data(), device="cpu", callbacks=(Notes(),))
    assert calls == ["start 0", *["step"] * 3, "epoch 1", *["step"] * 3, "epoch 2"]


def test_images_with_transparency_are_fitted_and_drawn(tmp_path: Path) -> None:
    short = override(TINY, ["training.epochs=1"])
    result = fit(short, RunFolder.new(tmp_path), data=make_data(channels=4), device="cpu")
    assert result.run.clusters_figure.is_file()


@pytest.mark.parametrize(
    ("settings", "device", "message"),
    [
        ([], "abacus", "expected a device to compute on, got 'abacus': .*invalid accelerator name"),
        (
            ["mixture_fit.warmup_steps=9", "mixture_fit.refit_steps=[]"],
            "cpu",
            "expected warmup_steps below the 9 steps of its stage, got 9",
        ),
        (
            ["facets.num_clusters=[3, 66]", "mixture_fit.items=100"],
            "cpu",
            "expected at least 66 items for the clusters of facet 1",
        ),
    ],
)
def test_what_does_not_fit_is_reported_before_anything_is_written(
    tmp_path: Path, settings: list[str], device: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit(override(TINY, settings), RunFolder.new(tmp_path / "run"), data=make_data(), device=device)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a device to compute on, got 'cuda': "):
        fit(TINY, RunFolder.new(tmp_path / "run"), data=make_data(), device="cuda")


def test_data_are_loaded_by_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, *, seed: int, size: object, fit: str) -> Dataset:
        raise InputError(f"asked for {name} with seed {seed}")

    loader: Callable[..., Dataset] = load
    monkeypatch.setattr("pyro_mfcvae.runs.fit.load_dataset", loader)
    with pytest.raises(InputError, match="asked for none with seed 3"):
        fit(override(TINY, ["seed=3"]), RunFolder.new(tmp_path))


@pytest.mark.usefixtures("without_figures")
def test_a_training_that_diverged_is_retried_once_if_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    note_step, failures = Training.note_step, iter([7, 99])
    state = {"step": next(failures)}

    def diverge(self: Training, terms: torch.Tensor) -> None:
        if self.step + 1 == state["step"]:
            state["step"] = next(failures)
            terms = terms * torch.nan
        note_step(self, terms)

    monkeypatch.setattr(Training, "note_step", diverge)
    config = override(TINY, ["training.on_divergence=retry"])
    run = fit(config, RunFolder(tmp_path), data=make_data(), device="cpu").run
    assert "at step 7, training has diverged" in caplog.text and "Once more from epoch 2" in caplog.text
    rates = [record["learning_rate"] for record in run.read_metrics()]
    assert len(rates) == NUM_EPOCHS and rates[2] < 0.51 * rates[1]


@pytest.mark.usefixtures("without_figures")
def test_a_result_of_diverged_weights_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = Training.finish_epoch

    def run_away(self: Training) -> EpochRecord:
        record = epoch(self)
        if self.is_finished:
            for parameter in self.pair.model.decoder.parameters():
                parameter.data.mul_(1e3)
        return record

    monkeypatch.setattr(Training, "finish_epoch", run_away)
    with pytest.raises(
        InputError, match=r"expected an ELBO above -\d+ nats per item \(ten times .*\), got -\d+: the weights ran away"
    ):
        fit(TINY, RunFolder(tmp_path), data=make_data(), device="cpu")
    assert not RunFolder(tmp_path).summary_path.exists()


def test_fits_after_the_early_end_of_a_training_are_not_counted() -> None:
    config = override(
        TINY,
        [
            *("training.epochs=[0, 20]", "training.tolerance=1.0", "mixture_fit.joint_refit_steps=[5, 9, 14, 30]"),
            *("schedule.fade_in_steps=1", "schedule.kl_fade_in_steps=[1, 1]", "mixture_fit.refit_steps=[]"),
        ],
    )
    # Three steps an epoch. After the fits in epochs 1, 2, 4 and 5, the epochs 6 and 7 are compared; two more follow.
    records = [{"epoch": epoch, "step": 3 * epoch, "elbo": 0.0} for epoch in range(1, 10)]
    assert fit_epochs(config, records) == [2 / 3, 5 / 3, 3.0, 14 / 3]
    whole = override(config, ["training.tolerance=0.0"])
    records += [{"epoch": epoch, "step": 3 * epoch, "elbo": 0.0} for epoch in range(10, 21)]
    assert fit_epochs(whole, records) == [2 / 3, 5 / 3, 3.0, 14 / 3, 10.0]
