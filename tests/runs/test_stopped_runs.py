"""A run that was stopped or damaged and then resumed is equal, in every bit, to a run that was not."""

import json
import re
import shutil
import signal
from pathlib import Path

import pyro
import pytest
import torch
from small_runs import TINY, StopError, Stopper, assert_same_run, make_data

from pyro_mfcvae.config.text import override
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.runs.checkpoints import save_pair
from pyro_mfcvae.runs.fit import Fit, fit
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.safety.stopping import StoppedError
from pyro_mfcvae.safety.tensor_files import read_tensors
from pyro_mfcvae.train.training import Training


@pytest.fixture(autouse=True)
def as_users_run_it() -> None:
    torch.set_default_dtype(torch.float32)


def stop_then_resume(folder: Path, *stoppers: Stopper) -> RunFolder:
    for stopper in stoppers:
        with pytest.raises(StopError):
            fit(TINY, RunFolder(folder), data=make_data(), device="cpu", callbacks=(stopper,))
        pyro.set_rng_seed(99)  # other work changes the random state between the sessions
    return fit(TINY, RunFolder.open(folder), data=make_data(), device="cpu").run


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("step", [11, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 4, 8, 13, 18))])
def test_a_run_stopped_within_an_epoch_ends_with_the_same_bits(whole: Fit, tmp_path: Path, step: int) -> None:
    assert_same_run(stop_then_resume(tmp_path, Stopper(step=step)), whole.run)


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("epoch", [6, *(pytest.param(epoch, marks=pytest.mark.slow) for epoch in (1, 3, 4))])
def test_a_run_stopped_after_an_epoch_ends_with_the_same_bits(whole: Fit, tmp_path: Path, epoch: int) -> None:
    assert_same_run(stop_then_resume(tmp_path, Stopper(epoch=epoch)), whole.run)


@pytest.mark.usefixtures("without_figures")
def test_a_run_stopped_again_and_again_ends_with_the_same_bits(whole: Fit, tmp_path: Path) -> None:
    stoppers = Stopper(step=2), Stopper(epoch=1), Stopper(step=5), Stopper(step=1), Stopper(epoch=4), Stopper(step=4)
    assert_same_run(stop_then_resume(tmp_path, *stoppers), whole.run)


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("epoch", [pytest.param(1, marks=pytest.mark.slow), 4])
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
@pytest.mark.parametrize("part", [pytest.param("save_pair", marks=pytest.mark.slow), "evaluate"])
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
def test_seconds_are_summed_over_the_sessions(tmp_path: Path) -> None:
    run = stop_then_resume(tmp_path, Stopper(epoch=3))
    seconds = [record["seconds"] for record in run.read_metrics()]
    assert seconds == sorted(seconds)
    assert json.loads(run.summary_path.read_text())["seconds"] == pytest.approx(seconds[-1], abs=1.0)


class Signal(Stopper):
    """Sends this process a signal after a number of steps."""

    def on_steps(self, num_steps: int, elbo: float) -> None:
        self.steps += num_steps
        if self.steps == self.step:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("without_figures")
def test_a_signal_saves_the_step_and_the_run_ends_with_the_same_bits(whole: Fit, tmp_path: Path) -> None:
    for step, taken in ((4, (1, 1)), (9, (4, 1)), (2, (5, 0))):  # counted from the resume
        with pytest.raises(StoppedError, match="SIGTERM"):
            fit(TINY, RunFolder(tmp_path), data=make_data(), device="cpu", callbacks=(Signal(step=step),))
        _, metadata = read_tensors(RunFolder(tmp_path).checkpoint_path, "epoch")
        assert (int(metadata["epoch"]), int(metadata["steps"])) == taken
        pyro.set_rng_seed(99)
    assert_same_run(fit(TINY, RunFolder(tmp_path), data=make_data(), device="cpu").run, whole.run)
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("damage", ["flip", pytest.param("remove", marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_replaced_by_the_previous_one(
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
    with pytest.raises(InputError, match=r"expected .*summary.json for the settings in config.toml, got"):
        mixed.read_summary()
    other.config_path.write_text(other.config_path.read_text().replace("learning_rate = 0.01", "learning_rate = 0.02"))
    with pytest.raises(InputError, match=r"expected .*training.safetensors of the settings in config.toml"):
        fit(other.read_config(), other, data=make_data(), device="cpu")


def test_files_of_another_training_with_the_same_settings_are_noticed(
    whole: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = RunFolder(tmp_path / "mixed")
    shutil.copytree(whole.run.path, mixed.path)
    pair = mixed.load_pair()
    mixed.write_grouping(whole.run.read_grouping().rename(0, 0, "round"))
    assert mixed.read_grouping().facets[0].names[0] == "round" and not caplog.records
    with torch.no_grad():
        next(pair.model.parameters()).add_(1e-3)
    save_pair(pair, mixed.model_path, config=mixed.config_digest())
    with pytest.raises(
        InputError, match=r"expected .*summary\.json and the model beside it from one training, got files"
    ):
        mixed.read_summary()
    assert mixed.read_grouping().facets[0].names[0] == ""
    assert re.fullmatch(
        r"\S*groups\.json has the groups of another model and is ignored: .*", caplog.records[0].getMessage()
    )


@pytest.mark.usefixtures("without_figures")
def test_a_partial_line_of_metrics_does_not_stop_a_run(whole: Fit, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        fit(TINY, RunFolder(tmp_path), data=make_data(), device="cpu", callbacks=(Stopper(epoch=3),))
    path = RunFolder(tmp_path).metrics_path
    path.write_bytes(path.read_bytes() + b'{"epoch": 4, "el\xff\x00')
    assert_same_run(fit(TINY, RunFolder(tmp_path), data=make_data(), device="cpu").run, whole.run)
