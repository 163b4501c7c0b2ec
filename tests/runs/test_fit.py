import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.data.datasets import DATASETS, Dataset
from pyro_mfcvae.data.images import Split
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.runs.evaluation import evaluate
from pyro_mfcvae.runs.fit import Fit, fit
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.safety.stopping import StoppedError
from pyro_mfcvae.safety.tensor_files import read_tensors
from pyro_mfcvae.train.step_log import EpochRecord
from pyro_mfcvae.train.training import Training

# Six epochs of three steps, facet 1 alone in the first nine. Facet 1 is fitted at the steps 2, 4 and 7, facet 0 at 11,
# 13 and 16; facet 0 fades in from step 9 to 13, its KL to 15; q(c|x) takes draws, so the random state always matters.
TINY = override(
    Config(data=DataConfig(source="none")),
    [
        "facets.num_clusters=[3, 4]",
        "facets.latent_dim=[2, 2]",
        "networks.encoder_dims=[8, 9]",
        "networks.decoder_dims=[8, 9]",
        "networks.hidden_dim=8",
        "prior.covariance=full",
        "likelihood.kind=gaussian",
        "likelihood.learn_scale=true",
        "assignment.kind=monte_carlo",
        "assignment.num_samples=2",
        "training.epochs=3",
        "training.batch_size=20",
        "training.learning_rate=0.01",
        "training.final_learning_rate=0.001",
        "schedule.fade_in_steps=5",
        "schedule.kl_fade_in_steps=[3, 7]",
        "schedule.fade=cosine",
        "mixture_fit.warmup_steps=2",
        "mixture_fit.refit_steps=[4, 7]",
        "mixture_fit.items=50",
        "training.data_dependent_init=true",
    ],
)
NUM_EPOCHS = 6


def make_data(num: int = 65, channels: int = 1) -> Dataset:
    """Noise, and two labels of it."""
    generator = torch.Generator().manual_seed(1)

    def split(num: int) -> Split:
        images = torch.randint(256, (num, channels, 6, 6), generator=generator, dtype=torch.uint8)
        return Split(images, {"first": torch.arange(num) % 2, "second": torch.arange(num) % 3})

    return Dataset("noise", split(num), split(30), DATASETS["shapes"])


@pytest.fixture(autouse=True)
def as_users_run_it() -> None:
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mfcvae.runs.fit._draw", lambda *_: None)  # they take a second


class StopError(Exception):
    """What stops a training in these tests."""


class Stopper:
    """Raises after a number of steps, or of epochs, of one sitting."""

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
    """The records without the one value that is a clock's."""
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
    assert {**a, "seconds": 0, "sha256": ""} == {**b, "seconds": 0, "sha256": ""}
    assert here.config_path.read_text() == there.config_path.read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """A run that nothing stopped, with its figures."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    try:
        return fit(TINY, RunFolder.new(tmp_path_factory.mktemp("whole")), data=make_data(), device="cpu")
    finally:
        torch.set_default_dtype(torch.float64)


# --- a run ----------------------------------------------------------------------------------------------------------


def test_a_run_leaves_all_that_was_promised(whole: Fit) -> None:
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


def test_the_schedule_is_seen_in_the_metrics(whole: Fit) -> None:
    assert [record["alpha"][0] for record in whole.run.read_metrics()] == pytest.approx(
        [0, 0, 0, (1 - np.cos(np.pi * 3 / 5)) / 2, 1, 1]
    )
    assert [record["beta"][0] for record in whole.run.read_metrics()] == pytest.approx(
        [0, 0, 0, (1 - np.cos(np.pi * 3 / 7)) / 2, (1 - np.cos(np.pi * 6 / 7)) / 2, 1]
    )


def test_the_summary_tells_what_came_out(whole: Fit) -> None:
    summary = json.loads(whole.run.summary_path.read_text())
    assert summary.pop("config_digest") == whole.run.config_digest()
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
def test_the_same_seed_gives_the_same_run_and_another_one_another(whole: Fit, tmp_path: Path) -> None:
    pyro.set_rng_seed(99)
    assert_same_run(fit(TINY, RunFolder.new(tmp_path / "same"), data=make_data(), device="cpu").run, whole.run)
    other = fit(override(TINY, ["seed=1", "training.epochs=1"]), RunFolder.new(tmp_path / "other"), data=make_data())
    assert metrics(other.run)[0]["elbo"] != metrics(whole.run)[0]["elbo"]


# --- a run that was stopped -----------------------------------------------------------------------------------------


def stop_then_resume(folder: Path, *stoppers: Stopper) -> RunFolder:
    for stopper in stoppers:
        with pytest.raises(StopError):
            fit(TINY, RunFolder(folder), data=make_data(), device="cpu", callbacks=(stopper,))
        pyro.set_rng_seed(99)  # what other work does to the random state between the sittings
    return fit(TINY, RunFolder.open(folder), data=make_data(), device="cpu").run


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("step", [1, 4, 8, 11, 13, 18])
def test_a_run_stopped_within_an_epoch_ends_with_the_same_bits(whole: Fit, tmp_path: Path, step: int) -> None:
    assert_same_run(stop_then_resume(tmp_path, Stopper(step=step)), whole.run)


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("epoch", [1, 3, 4, 6])
def test_a_run_stopped_after_an_epoch_ends_with_the_same_bits(whole: Fit, tmp_path: Path, epoch: int) -> None:
    assert_same_run(stop_then_resume(tmp_path, Stopper(epoch=epoch)), whole.run)


@pytest.mark.usefixtures("without_figures")
def test_a_run_stopped_again_and_again_ends_with_the_same_bits(whole: Fit, tmp_path: Path) -> None:
    stoppers = Stopper(step=2), Stopper(epoch=1), Stopper(step=5), Stopper(step=1), Stopper(epoch=4), Stopper(step=4)
    assert_same_run(stop_then_resume(tmp_path, *stoppers), whole.run)


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("epoch", [1, 4])
def test_a_run_stopped_between_metrics_and_checkpoint_ends_with_the_same_bits(
    whole: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    from pyro_mfcvae.runs.checkpoints import save_training

    def save(training: Training, path: Path, **metadata: str) -> None:
        if training.epoch == epoch:
            raise StopError
        save_training(training, path, **metadata)

    with monkeypatch.context() as patch:
        patch.setattr("pyro_mfcvae.runs.checkpoints.save_training", save)
        with pytest.raises(StopError):
            fit(TINY, RunFolder(tmp_path), data=make_data(), device="cpu")
    assert len(RunFolder(tmp_path).read_metrics()) == epoch
    assert_same_run(fit(TINY, RunFolder.open(tmp_path), data=make_data(), device="cpu").run, whole.run)


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("part", ["save_pair", "evaluate"])
def test_a_run_stopped_after_its_training_is_finished_without_training(
    whole: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(f"pyro_mfcvae.runs.fit.{part}", stop)
        with pytest.raises(StopError):
            fit(TINY, RunFolder(tmp_path), data=make_data(), device="cpu")
    never = Stopper(step=1)
    assert_same_run(
        fit(TINY, RunFolder.open(tmp_path), data=make_data(), device="cpu", callbacks=(never,)).run, whole.run
    )
    assert never.steps == 0


@pytest.mark.usefixtures("without_figures")
def test_seconds_add_up_over_the_sittings(tmp_path: Path) -> None:
    run = stop_then_resume(tmp_path, Stopper(epoch=3))
    seconds = [record["seconds"] for record in run.read_metrics()]
    assert seconds == sorted(seconds)
    assert json.loads(run.summary_path.read_text())["seconds"] == pytest.approx(seconds[-1], abs=1.0)


# --- callbacks, data and mistakes ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_figures")
def test_monitors_are_told_of_everything_in_order(tmp_path: Path) -> None:
    told: list[str] = []

    class Notes:
        def on_start(self, training: Training) -> None:
            told.append(f"start {training.epoch}")

        def on_steps(self, num_steps: int, elbo: float) -> None:
            told.append("step")

        def on_epoch(self, record: EpochRecord) -> None:
            told.append(f"epoch {record.epoch}")
            assert RunFolder(tmp_path).read_metrics()[-1]["epoch"] == record.epoch

    short = override(TINY, ["training.epochs=1"])
    fit(short, RunFolder.new(tmp_path), data=make_data(), device="cpu", callbacks=(Notes(),))
    assert told == ["start 0", *["step"] * 3, "epoch 1", *["step"] * 3, "epoch 2"]


def test_images_with_transparency_are_fitted_and_drawn(tmp_path: Path) -> None:
    short = override(TINY, ["training.epochs=1"])
    result = fit(short, RunFolder.new(tmp_path), data=make_data(channels=4), device="cpu")
    assert result.run.clusters_figure.is_file()


@pytest.mark.parametrize(
    ("settings", "device", "message"),
    [
        ([], "abacus", "cannot compute on the device 'abacus': .*invalid accelerator name"),
        (
            ["mixture_fit.warmup_steps=9", "mixture_fit.refit_steps=[]"],
            "cpu",
            "warmup_steps=9 would outlast a stage of 9 steps",
        ),
        (
            ["facets.num_clusters=[3, 66]", "mixture_fit.items=100"],
            "cpu",
            "the 66 clusters of facet 1 cannot be fitted",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_written(
    tmp_path: Path, settings: list[str], device: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit(override(TINY, settings), RunFolder.new(tmp_path / "run"), data=make_data(), device=device)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot compute on the device 'cuda': "):
        fit(TINY, RunFolder.new(tmp_path / "run"), data=make_data(), device="cuda")


def test_data_are_loaded_by_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, *, seed: int, size: object, fit: str) -> Dataset:
        raise InputError(f"asked for {name} with seed {seed}")

    loader: Callable[..., Dataset] = load
    monkeypatch.setattr("pyro_mfcvae.runs.fit.load_dataset", loader)
    with pytest.raises(InputError, match="asked for none with seed 3"):
        fit(override(TINY, ["seed=3"]), RunFolder.new(tmp_path))


# --- signals, damage and files of other runs --------------------------------------------------------------------------


class Signal(Stopper):
    """Sends this process a signal after a number of steps of one sitting."""

    def on_steps(self, num_steps: int, elbo: float) -> None:
        self.steps += num_steps
        if self.steps == self.step:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("without_figures")
def test_a_signal_saves_the_step_and_the_run_ends_with_the_same_bits(whole: Fit, tmp_path: Path) -> None:
    for step, taken in ((4, (1, 1)), (9, (4, 1)), (2, (5, 0))):  # each counted from where the run went on
        with pytest.raises(StoppedError, match="SIGTERM"):
            fit(TINY, RunFolder(tmp_path), data=make_data(), device="cpu", callbacks=(Signal(step=step),))
        _, metadata = read_tensors(RunFolder(tmp_path).checkpoint_path, "epoch")
        assert (int(metadata["epoch"]), int(metadata["steps"])) == taken
        pyro.set_rng_seed(99)
    assert_same_run(fit(TINY, RunFolder(tmp_path), data=make_data(), device="cpu").run, whole.run)
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    whole: Fit, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StopError):
        fit(TINY, RunFolder(tmp_path), data=make_data(), device="cpu", callbacks=(Stopper(epoch=3),))
    path = RunFolder(tmp_path).checkpoint_path
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    if damage == "remove":
        path.unlink()
    assert_same_run(fit(TINY, RunFolder(tmp_path), data=make_data(), device="cpu").run, whole.run)
    [line] = [record.getMessage() for record in caplog.records]
    assert "previous.safetensors" in line and "\n" not in line


@pytest.mark.usefixtures("without_figures")
def test_files_of_other_settings_are_refused(whole: Fit, tmp_path: Path) -> None:
    other = fit(override(TINY, ["seed=1", "training.epochs=1"]), RunFolder(tmp_path / "other"), data=make_data()).run
    mixed = RunFolder(tmp_path / "mixed")
    shutil.copytree(whole.run.path, mixed.path)
    shutil.copy(other.model_path, mixed.model_path)
    with pytest.raises(InputError, match=r"expected .*model.safetensors of the settings in config.toml beside it"):
        mixed.load_pair()
    shutil.copy(other.summary_path, mixed.summary_path)
    with pytest.raises(InputError, match=r"expected .*summary.json of the settings in config.toml beside it"):
        mixed.read_summary()
    other.config_path.write_text(other.config_path.read_text().replace("learning_rate = 0.01", "learning_rate = 0.02"))
    with pytest.raises(InputError, match=r"expected .*training.safetensors of the settings in config.toml"):
        fit(other.read_config(), other, data=make_data(), device="cpu")


@pytest.mark.usefixtures("without_figures")
def test_half_a_line_of_metrics_does_not_stop_a_run(whole: Fit, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        fit(TINY, RunFolder(tmp_path), data=make_data(), device="cpu", callbacks=(Stopper(epoch=3),))
    path = RunFolder(tmp_path).metrics_path
    path.write_bytes(path.read_bytes() + b'{"epoch": 4, "el\xff\x00')
    assert_same_run(fit(TINY, RunFolder(tmp_path), data=make_data(), device="cpu").run, whole.run)


@pytest.mark.usefixtures("without_figures")
def test_a_training_that_diverged_is_tried_once_more_where_asked(
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
def test_a_result_of_weights_that_ran_away_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = Training.finish_epoch

    def run_away(self: Training) -> EpochRecord:
        record = epoch(self)
        if self.is_finished:
            for parameter in self.pair.model.decoder.parameters():
                parameter.data.mul_(1e3)
        return record

    monkeypatch.setattr(Training, "finish_epoch", run_away)
    with pytest.raises(
        InputError, match=r"expected an ELBO above -\d+ nats per item, .* got -\d+: the weights ran away"
    ):
        fit(TINY, RunFolder(tmp_path), data=make_data(), device="cpu")
    assert not RunFolder(tmp_path).summary_path.exists()
