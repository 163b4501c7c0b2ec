import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_configs import ONE_FACET, SMALL

from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.runs.fit import fit
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.runs.sweep import compare, facet_agreement, sweep
from pyro_mfcvae.train.stacked import StackedTraining
from pyro_mfcvae.train.step_log import EpochRecord
from pyro_mfcvae.train.training import Training


@pytest.fixture(autouse=True)
def as_users_run_it(without_figures: None) -> None:
    """No figures are drawn in this process; other processes draw them."""
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    images = np.random.default_rng(0).integers(256, size=(40, 6, 6), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, side=np.arange(40) % 2)
    return replace(SMALL, data=DataConfig(source=str(tmp_path / "data.npz")))


@pytest.mark.slow
def test_every_run_equals_a_single_run_with_its_seed_and_a_second_call_continues(
    tmp_path: Path, config: Config
) -> None:
    single = fit(override(config, ["seed=5"]), RunFolder(tmp_path / "single"))
    done: list[int] = []
    result = sweep(
        config, tmp_path / "many", seeds=[2, 5], device="cpu", workers=2, on_done=lambda seed, _: done.append(seed)
    )
    assert sorted(done) == [2, 5]
    here, there = (load_file(tmp_path / name / "model.safetensors") for name in ("single", "many/seed-5"))
    assert all(torch.equal(tensor, there[name]) for name, tensor in here.items())
    assert result.evaluations[1].elbo == pytest.approx(single.evaluation.elbo, abs=0.5)  # draws of z differ
    before = (tmp_path / "many/seed-2/model.safetensors").stat().st_mtime_ns
    (tmp_path / "many/seed-2/.lock").touch()  # its process was killed after the last file
    again = sweep(config, tmp_path / "many", seeds=[2], device="cpu", workers=1)
    assert not (tmp_path / "many/seed-2/.lock").exists()
    assert (tmp_path / "many/seed-2/model.safetensors").stat().st_mtime_ns == before
    assert np.isnan(again.stability()).all()
    other = override(config, ["training.batch_size=10"])
    message = r"seed 2 failed: .*seed-2 of another: choose another folder.*1 of 2 runs are finished and kept in .*many"
    with pytest.raises(InputError, match=message):
        sweep(other, tmp_path / "many", seeds=[2, 7], device="cpu", workers=1)
    assert RunFolder.open(tmp_path / "many/seed-7").read_summary()["seed"] == 7


@pytest.mark.slow
def test_runs_that_train_together_may_end_at_different_epochs(tmp_path: Path, config: Config) -> None:
    torch.set_default_dtype(torch.float64)
    settings = ["training.epochs=[0, 40]", "training.tolerance=0.05", "training.final_learning_rate=1e-4"]
    config = override(config, [*settings, "mixture_fit.refit_steps=[]"])
    for seed in (2, 5, 7):
        fit(override(config, [f"seed={seed}"]), RunFolder(tmp_path / f"alone-{seed}"), device="cpu")
    sweep(config, tmp_path, seeds=[2, 5, 7], device="cpu", together=True)
    alone = [RunFolder(tmp_path / f"alone-{seed}").read_summary() for seed in (2, 5, 7)]
    together = [RunFolder(tmp_path / f"seed-{seed}").read_summary() for seed in (2, 5, 7)]
    assert len({summary["epochs"] for summary in alone}) > 1
    for one, other in zip(alone, together, strict=True):
        assert other["epochs"] == one["epochs"]
        assert other["elbo"] == pytest.approx(one["elbo"], abs=1e-6)


@pytest.mark.slow
def test_runs_that_train_together_equal_runs_of_fit(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs are stopped after an epoch; one is continued alone, and then the others are continued first."""
    torch.set_default_dtype(torch.float64)
    config = override(config, ["training.epochs=[2, 2]", "mixture_fit.refit_steps=[2]"])
    for seed in (2, 5, 7):
        fit(override(config, [f"seed={seed}"]), RunFolder(tmp_path / f"alone-{seed}"), device="cpu")
    done: list[int] = []

    def run() -> None:
        sweep(
            config,
            tmp_path,
            seeds=[2, 5, 7],
            device="cpu",
            together=True,
            on_done=lambda seed, summary: done.append(summary["seed"]) or done.append(seed),
        )

    whole_epoch, epochs = StackedTraining.run_epoch, iter(range(9))

    def stop(self: StackedTraining, on_step: Callable[[], None]) -> list[EpochRecord]:
        if next(epochs) == 2:
            raise KeyboardInterrupt
        return whole_epoch(self, on_step)

    with monkeypatch.context() as patch:
        patch.setattr(StackedTraining, "run_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert [len(RunFolder(tmp_path / f"seed-{seed}").read_metrics()) for seed in (2, 5, 7)] == [2, 2, 2]
    fit(override(config, ["seed=5"]), RunFolder(tmp_path / "seed-5"), device="cpu")
    (tmp_path / "seed-5" / "summary.json").unlink()  # as if it had been stopped before its scores
    run()
    assert done == [2, 2, 5, 5, 7, 7]
    for seed in (2, 5, 7):
        one, other = (RunFolder(tmp_path / f"{name}-{seed}") for name in ("alone", "seed"))
        here, there = load_file(one.model_path), load_file(other.model_path)
        assert all(torch.allclose(tensor, there[name], rtol=0, atol=1e-9) for name, tensor in here.items())
        expected, got = one.read_summary(), other.read_summary()
        assert got["elbo"] == pytest.approx(expected["elbo"], abs=1e-9)
        assert {key for key in got if got[key] != expected[key]} <= {"elbo", "seconds", "redundancy"}
        assert [record["epoch"] for record in other.read_metrics()] == [1, 2, 3, 4]
        assert other.read_config() == one.read_config()
    before = (tmp_path / "seed-2/model.safetensors").stat().st_mtime_ns
    (tmp_path / "seed-2/.lock").touch()  # its process was killed after the last file
    run()  # all are finished
    assert not (tmp_path / "seed-2/.lock").exists()
    assert (tmp_path / "seed-2/model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_if_one_run_fails_the_other_runs_finish(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_default_dtype(torch.float64)
    config = override(config, ["training.epochs=[2, 1]"])
    for seed in (2, 7):
        fit(override(config, [f"seed={seed}"]), RunFolder(tmp_path / f"alone-{seed}"), device="cpu")
    note_terms = Training.note_terms

    def diverge(self: Training, rows: torch.Tensor) -> None:
        note_terms(self, rows * float("nan") if self.seed == 5 and self.step == 3 else rows)

    monkeypatch.setattr(Training, "note_terms", diverge)
    done: list[int] = []

    def run(seeds: list[int]) -> None:
        folder = tmp_path / "many"
        sweep(config, folder, seeds=seeds, device="cpu", together=True, on_done=lambda seed, _: done.append(seed))

    diverged = r"the ELBO became nan \(the reconstruction became nan\) at step 3, training has diverged"
    message = rf"^seed 5 failed: {diverged}.*\. 2 of 3 runs are finished and kept in .*many$"
    for _ in range(2):  # the second time it continues after its first epoch, and only this run fails
        with pytest.raises(InputError, match=message):
            run([2, 5, 7])
    assert done == [2, 7, 2, 7]
    assert len(RunFolder(tmp_path / "many/seed-5").read_metrics()) == 1
    with pytest.raises(InputError, match=rf"^seed 5 failed: {diverged}"):
        run([5])
    for seed in (2, 7):
        here, there = (
            load_file(tmp_path / name / "model.safetensors") for name in (f"alone-{seed}", f"many/seed-{seed}")
        )
        assert all(torch.allclose(tensor, there[name], rtol=0, atol=1e-9) for name, tensor in here.items())


def test_runs_that_cannot_train_together_are_refused_before_anything_is_written(tmp_path: Path, config: Config) -> None:
    for settings, message in {
        (
            "supervision.label=side",
            "supervision.facet=1",
        ): "expected models without known clusters to train together",
        ("prior.kind=bayesian", *ONE_FACET): "expected models that can be trained together",
    }.items():
        with pytest.raises(InputError, match=message):
            sweep(override(config, settings), tmp_path / "many", seeds=[0, 1], device="cpu", together=True)
    with pytest.raises(InputError, match="expected either workers or together"):
        sweep(config, tmp_path / "many", seeds=[0, 1], workers=2, together=True)
    assert not (tmp_path / "many").exists()


def test_a_sweep_adds_up_its_runs(tmp_path: Path, config: Config) -> None:
    singles = [fit(override(config, [f"seed={s}"]), RunFolder(tmp_path / f"seed-{s}")) for s in range(3)]
    result = compare(tmp_path, seeds=range(3), data=singles[0].data)
    assert result.agreement.shape == (3, 3, 2)
    np.testing.assert_allclose(result.agreement[[0, 1, 2], [0, 1, 2]], 1.0)
    pairs = result.agreement[[0, 0, 1], [1, 2, 2]]
    np.testing.assert_allclose(result.stability(), pairs.mean(0))
    accuracy = result.scores("accuracy")["side"]
    assert accuracy.shape == (3, 2)
    for row, single in zip(accuracy, singles, strict=True):
        np.testing.assert_array_equal(row, single.evaluation.group_scores.accuracy["side"])
    shared = [
        facet_agreement(singles[a].evaluation.groups, singles[b].evaluation.groups)
        for a, b in combinations(range(3), 2)
    ]
    np.testing.assert_allclose(result.group_stability(), np.mean(shared, 0))
    redundancies = [single.evaluation.group_scores.redundancy for single in singles]
    np.testing.assert_allclose(result.redundancy(), np.mean(redundancies, 0))
    assert result.best_seed == int(np.argmax([evaluation.elbo for evaluation in result.evaluations]))
    summary = json.loads(json.dumps(result.summary()))
    assert [run["seed"] for run in summary["runs"]] == [0, 1, 2]
    assert summary["runs"][1]["facets"] == singles[1].summary["facets"]
    for key in ("redundancy", "group_redundancy"):
        assert summary["runs"][1][key] == singles[1].summary[key]
    assert summary["group_stability"] == result.group_stability().tolist()


def test_facets_are_matched_before_they_are_compared() -> None:
    first, second = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 0, 1])
    here = np.stack([first, second], 1)
    np.testing.assert_allclose(facet_agreement(here, here), [1.0, 1.0])
    # The other run has the facets in reverse order and other numbers for the clusters.
    np.testing.assert_allclose(facet_agreement(here, np.stack([1 - second, (first + 1) % 3], 1)), [1.0, 1.0])
    noise = np.array([0, 1, 1, 0, 0, 1])
    assert facet_agreement(here, np.stack([noise, first], 1))[1] < 0.5
