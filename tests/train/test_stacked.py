"""Models that are trained together are equal to models that are trained alone."""

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyro
import pytest
import torch
from small_configs import ONE_FACET, SMALL
from torch import Tensor, nn

from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.text import override
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.schedule import steps_per_epoch
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.runs.checkpoints import load_training, save_training
from pyro_mfcvae.train import captured, step_log
from pyro_mfcvae.train.devices import RandomState
from pyro_mfcvae.train.stacked import StackedTraining
from pyro_mfcvae.train.step_log import EpochRecord
from pyro_mfcvae.train.training import Training

SEEDS = (3, 8)
SHAPE = (1, 6, 6)
# Everything that a stage does: fits late and again, fades, a learning rate that falls.
BASE = override(
    SMALL,
    [
        *("facets.latent_dim=[2, 3]", "prior.covariance=full"),
        *("training.epochs=[2, 2]", "training.learning_rate=0.01"),
        *("training.final_learning_rate=0.001", "schedule.fade_in_steps=4", "schedule.kl_fade_in_steps=[3, 5]"),
        *("schedule.kl_delay_steps=[1, 2]", "mixture_fit.warmup_steps=2", "mixture_fit.refit_steps=[4]"),
    ],
)
ONE = [*ONE_FACET, "training.epochs=4", "schedule.kl_fade_in_steps=[3]", "schedule.kl_delay_steps=[1]"]
CONV = ["networks.kind=conv", "networks.channels=[3, 4]", "networks.num_residual_blocks=1", "networks.gated=true"]


def start(*settings: str, seed: int, num: int = 70) -> tuple[Training, RandomState]:
    """A training of a seed, and the random state that it starts with."""
    config = override(BASE, settings)
    images = torch.rand(num, *SHAPE, generator=torch.Generator().manual_seed(1))
    pyro.set_rng_seed(seed)
    schedule = build_schedule(config, steps_per_epoch(num, config.training.batch_size))
    training = Training(
        build_pair(config, SHAPE),
        images,
        schedule=schedule,
        settings=config.training,
        mixture_fit=config.mixture_fit,
        seed=seed,
    )
    return training, RandomState(torch.device("cpu"))


def stack(*settings: str, seeds: tuple[int, ...] = SEEDS) -> StackedTraining:
    return StackedTraining(*zip(*(start(*settings, seed=seed) for seed in seeds), strict=True))


def train_alone(*settings: str, seed: int, epochs: int = 4) -> tuple[Training, list[EpochRecord], RandomState]:
    training, state = start(*settings, seed=seed)
    with state.in_turn():
        records = [training.run_epoch() for _ in range(epochs)]
    return training, records, state


def wandering_biases(pair: MFCVAE) -> set[str]:
    """Biases that batch norm subtracts again: their gradient is rounding error, so they and its running means drift."""
    names = set()
    for path, module in pair.named_modules():
        if isinstance(module, nn.Sequential):
            for i, layer in enumerate(module):
                if isinstance(layer, nn.BatchNorm2d):
                    before = max(k for k in range(i) if hasattr(module[k], "bias"))
                    names |= {f"{path}.{before}.bias", f"{path}.{i}.running_mean"}
    return names


def assert_equal(here: Training, there: Training) -> None:
    """Parameters, buffers (batch norm's among them) and the state of Adam."""
    biases, ours, theirs = wandering_biases(here.pair), here.pair.state_dict(), there.pair.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-7 if name in biases else 1e-9)
    moments, others = here.optimizer.state_dict()["state"], there.optimizer.state_dict()["state"]
    assert moments.keys() == others.keys()
    for index, state in moments.items():
        assert state.keys() == others[index].keys()
        for key, tensor in state.items():
            torch.testing.assert_close(tensor, others[index][key], rtol=1e-9, atol=1e-9)


def assert_records_equal(here: list[EpochRecord], there: list[EpochRecord]) -> None:
    for ours, theirs in zip(here, there, strict=True):
        for key, value in asdict(ours).items():
            assert value == pytest.approx(getattr(theirs, key), abs=1e-9), key


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(ONE, id="one facet"),
        pytest.param([], id="full", marks=slow),
        pytest.param(CONV, id="conv", marks=slow),
        pytest.param(
            [*CONV, "training.data_dependent_init=true", "networks.head_init_scale=1.0"],
            id="conv, standardised on a batch",
            marks=slow,
        ),
        pytest.param(["training.free_nats=0.3", "prior.covariance=diagonal"], id="free nats", marks=slow),
        pytest.param(["training.independence=2.0"], id="independent facets", marks=slow),
        pytest.param(
            ["assignment.kind=sample", "prior.learn_weights=false", "mixture_fit.variance=0.01"],
            id="rule of a draw",
            marks=slow,
        ),
        pytest.param(["assignment.kind=monte_carlo", "prior.kind=student_t"], id="own draws", marks=slow),
        pytest.param(
            ["assignment.kind=amortized", "likelihood.kind=gaussian", "likelihood.learn_scale=true"],
            id="amortised",
            marks=slow,
        ),
        pytest.param(["prior.kind=vamp", "networks.posterior=full"], id="clusters that are images", marks=slow),
        pytest.param(["networks.posterior=autoregressive", "assignment.kind=sample"], id="flow", marks=slow),
        pytest.param(["schedule.linear_start_steps=3"], id="linear start", marks=slow),
        pytest.param(["likelihood.missing=true"], id="missing pixels", marks=slow),
    ],
)
def test_every_model_equals_a_single_training(settings: list[str]) -> None:
    together = stack(*settings)
    records = list(zip(*(together.run_epoch() for _ in range(4)), strict=True))
    for seed, training, own, state in zip(SEEDS, together.trainings, records, together._states, strict=True):
        alone, expected, drawn = train_alone(*settings, seed=seed)
        assert_equal(training, alone)
        assert_records_equal(list(own), expected)
        assert torch.equal(state._state["cpu"], drawn._state["cpu"])


@pytest.mark.slow
def test_a_compiled_program_is_used_by_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda traced, **options: seen.append(options["fullgraph"]) or traced)
    together = stack("training.compile=true")
    assert seen == [True]
    together.run_epoch()
    for seed, training in zip(SEEDS, together.trainings, strict=True):
        assert_equal(training, train_alone(seed=seed, epochs=1)[0])


@pytest.mark.slow
def test_a_program_compiled_by_torch_is_used_by_all_models(caplog: pytest.LogCaptureFixture) -> None:
    together = stack("training.compile=true")
    together.run_epoch()
    assert "not compiled" not in caplog.text
    for seed, training in zip(SEEDS, together.trainings, strict=True):
        assert_equal(training, train_alone(seed=seed, epochs=1)[0])


@pytest.mark.slow
def test_low_precision_is_that_of_the_networks() -> None:
    torch.set_default_dtype(torch.float32)
    elbos = [[r.elbo for r in stack(f"training.precision={p}").run_epoch()] for p in ("float32", "bf16")]
    assert elbos[0] != elbos[1]
    assert elbos[0] == pytest.approx(elbos[1], rel=0.05)


@pytest.mark.slow
def test_a_stack_can_be_saved_taken_apart_and_put_together(tmp_path: Path) -> None:
    """The trainings are saved after an epoch; each continues alone, and then they continue together."""
    together = stack()
    together.run_epoch()
    for seed, training, state in zip(SEEDS, together.trainings, together._states, strict=True):
        with state.in_turn():
            save_training(training, tmp_path / str(seed))
    again = []
    for seed in SEEDS:
        training, state = start(seed=seed)
        torch.nn.init.zeros_(training.pair.model.priors[1].loc)  # type: ignore[arg-type]
        with state.in_turn():
            load_training(training, tmp_path / str(seed))
        again.append((training, state))
    trainings, states = zip(*again, strict=True)
    for training, state in again:
        with state.in_turn():
            training.run_epoch()
    StackedTraining(trainings, states).run_epoch()
    for seed, training in zip(SEEDS, trainings, strict=True):
        assert_equal(training, train_alone(seed=seed, epochs=3)[0])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        pytest.param(
            ["prior.kind=bayesian"], r"aten\.\S+ draws random numbers that depend on parameters or on data", marks=slow
        ),
        pytest.param(["networks.posterior=spline", "assignment.kind=sample"], "vmap: .*", marks=slow),
    ],
)
def test_operations_that_cannot_be_batched_are_refused_in_one_line(settings: list[str], reason: str) -> None:
    with pytest.raises(
        InputError,
        match=rf"^expected models that can be trained together, got an error \({reason}\): leave --together [^\n]+$",
    ):
        stack(*settings)


@pytest.mark.slow
def test_a_model_that_diverges_does_not_change_the_others() -> None:
    """A model that diverges does not affect the others, in its last epoch or later."""
    together = stack(seeds=(*SEEDS, 5))
    together.run_epoch()
    with torch.no_grad():
        together.trainings[0].pair.guide.encoder.heads[1].linear.bias.fill_(float("inf"))  # type: ignore[union-attr]
    failed, *records = together.run_epoch()
    assert isinstance(failed, InputError)
    step = steps_per_epoch(70, 20) + 1
    assert re.match(
        rf"the ELBO became nan \(the .* became .*\) at step {step}, training has diverged: lower ", str(failed)
    )
    others = together.trainings[1:]
    StackedTraining(others, together._states[1:]).run_epoch()
    for seed, training, record in zip((SEEDS[1], 5), others, records, strict=True):
        alone, expected, _ = train_alone(seed=seed, epochs=3)
        assert_equal(training, alone)
        assert_records_equal([record], expected[1:2])


@pytest.mark.slow
def test_an_epoch_ends_with_the_last_model_that_has_not_diverged() -> None:
    together = stack()
    with torch.no_grad():
        for training in together.trainings:
            training.pair.guide.encoder.heads[1].linear.bias.fill_(float("inf"))  # type: ignore[union-attr]
    taken: list[None] = []
    failures = together.run_epoch(lambda: taken.append(None))
    assert len(taken) == 1
    assert all(isinstance(failure, InputError) for failure in failures)
    assert together.run_epoch() == failures


@pytest.mark.slow
def test_rare_reads_change_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are read at the end of an epoch only, as on a GPU. The epoch is stopped after two of three steps."""
    monkeypatch.setitem(step_log.READ_EVERY, "cpu", 50)
    together = stack()
    with pytest.raises(StopIteration):
        together.run_epoch(iter([None]).__next__)
    assert all(training.steps_taken == 2 and training.epoch_sums.all() for training in together.trainings)
    for seed, training, record in zip(SEEDS, together.trainings, together.run_epoch(), strict=True):
        alone, expected, _ = train_alone(seed=seed, epochs=1)
        assert isinstance(record, EpochRecord)
        assert_records_equal([record], expected)
        assert_equal(training, alone)
        assert training.optimizer.param_groups[0]["lr"] == alone.optimizer.param_groups[0]["lr"]


@pytest.mark.slow
def test_a_captured_stack_equals_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorder replaces CUDA's graphs. It replays the function on the inputs of the capture."""

    class Recorder:
        num_replays = 0

        def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
            return step()

        def capture(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
            def replay() -> None:
                self.num_replays += 1
                held.copy_(step())

            held = torch.zeros(len(SEEDS), 4)
            return replay, held

    recorder = Recorder()
    settings = ["training.learning_rate=0.0078125", "training.final_learning_rate=0.0078125"]
    expected = stack(*settings)
    monkeypatch.setitem(captured.RECORDERS, "cpu", lambda device: recorder)
    together = stack(*settings)
    for _ in range(3):
        for here, there in zip(together.run_epoch(), expected.run_epoch(), strict=True):
            assert isinstance(here, EpochRecord) and isinstance(there, EpochRecord)
            assert_records_equal([here], [there])
    assert recorder.num_replays > 0
    for here, there in zip(together.trainings, expected.trainings, strict=True):
        assert_equal(here, there)
