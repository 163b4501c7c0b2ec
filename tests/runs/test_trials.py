"""The estimate of a training's time, the hint about a busy machine, and the choice of a seed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from small_runs import TINY, StopError, Stopper, make_data

from pyro_mfcvae.config.build import build_schedule
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.config.text import load_preset, override
from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.data.images import Split
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.runs import fit as fit_module
from pyro_mfcvae.runs import trials
from pyro_mfcvae.runs.evaluation import evaluate
from pyro_mfcvae.runs.fit import fit
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.runs.trials import choose_seed, describe_load, estimate_seconds, prepare
from pyro_mfcvae.train.devices import open_fabric
from pyro_mfcvae.train.divergence import DivergedError
from pyro_mfcvae.train.training import Training


@pytest.mark.usefixtures("place")
def test_the_estimate_grows_with_the_steps() -> None:
    data = load_dataset("data.npz")
    small = [
        "networks.kind=mlp",
        "networks.hidden_dim=8",
        "networks.encoder_dims=[8, 8]",
        "networks.decoder_dims=[8, 8]",
    ]
    config = override(load_preset("shapes"), [*small, "training.epochs=[900, 100]", "mixture_fit.warmup_steps=2"])
    state = torch.get_rng_state()
    seconds = estimate_seconds(config, data, open_fabric("cpu"))
    assert torch.equal(state, torch.get_rng_state())
    assert np.isfinite(seconds)
    assert 1 < seconds < 600  # a thousand steps of some milliseconds


def test_the_estimate_times_the_steps_that_the_training_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the first reports, the linear start, the fits and the compilation."""
    taken: list[Training] = []

    def run_epoch(training: Training, on_steps: Callable[[int, float], None]) -> None:
        taken.append(training)
        for seconds in (8.0, 4.0, 2.0):
            clock[0] += seconds
            on_steps(2, 0.0)

    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(Training, "run_epoch", run_epoch)
    config = override(TINY, ["training.n_init=2", "training.compile=true", "schedule.linear_start_steps=3"])
    seconds = estimate_seconds(config, make_data(), open_fabric("cpu"))
    # Two steps took 2 seconds in the fastest report after the first two.
    num_steps = build_schedule(config, 65 // config.training.batch_size).num_steps
    assert seconds == pytest.approx(1.0 * num_steps * (1 + 0.3 * 2))
    training, _ = taken
    assert not training.compiles and not training.schedule.linear_start_steps
    assert [training.schedule.alpha(j, 0) for j in range(training.pair.num_facets)] == [1.0] * training.pair.num_facets
    assert training.due_fits() == ()


@pytest.mark.parametrize(("load", "threads", "said"), [(7.5, 2, True), (1.9, 2, False), (7.5, 1, False)])
def test_a_busy_machine_gives_a_hint_if_threads_would_wait(
    monkeypatch: pytest.MonkeyPatch, load: float, threads: int, said: bool
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    hint = describe_load()
    assert (hint is not None) == said
    if hint is not None:
        assert "busy (load 7.5 on 2 cores), and 2 threads" in hint and "OMP_NUM_THREADS=1" in hint


# --- the choice of a seed -------------------------------------------------------------------------------------------

SEEDS = [3, 4, 5]


@pytest.fixture
def single() -> None:
    torch.set_default_dtype(torch.float32)


def held_out_elbo(seed: int) -> float:
    """The ELBO of the held-out items after 0.3 of the steps on the others, which are 59 of 65."""
    images = make_data().train.images
    order = torch.randperm(65, generator=torch.Generator().manual_seed(SEEDS[0]))
    short = override(TINY, ["schedule.scale=0.3"])
    training = prepare(short, images[order[6:].sort().values], seed=seed, fabric=open_fabric("cpu"))
    while not training.is_finished:
        training.run_epoch()
    return evaluate(training.pair.eval(), Split(images[order[:6]])).elbo


@pytest.mark.usefixtures("single")
def test_the_seed_with_the_highest_held_out_elbo_is_chosen(caplog: pytest.LogCaptureFixture) -> None:
    elbos = {seed: held_out_elbo(seed) for seed in SEEDS}
    with caplog.at_level("INFO"):
        chosen = choose_seed(TINY, make_data().train.images, SEEDS, fabric=open_fabric("cpu"))
    assert chosen == max(elbos, key=elbos.__getitem__)
    assert caplog.messages[1] == f"trial 2 of 3: seed 4, ELBO {elbos[4]:.2f} on held-out items"


@pytest.mark.usefixtures("single")
def test_a_trial_that_diverges_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge() -> None:
        raise DivergedError("it did")

    def prepare_badly(config: Config, images: torch.Tensor, *, seed: int, fabric: Fabric) -> object:
        if seed != 4:
            return SimpleNamespace(is_finished=False, run_epoch=diverge)
        return SimpleNamespace(is_finished=True, pair=prepare(config, images, seed=4, fabric=fabric).pair)

    monkeypatch.setattr(trials, "prepare", prepare_badly)
    assert choose_seed(TINY, make_data().train.images, SEEDS, fabric=open_fabric("cpu")) == 4


def test_trials_are_equally_long_although_their_trainings_may_end_early(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def see(config: Config, images: torch.Tensor, *, seed: int, fabric: Fabric) -> object:
        seen.append(config.training.tolerance)
        return SimpleNamespace(is_finished=True, pair=prepare(config, images, seed=seed, fabric=fabric).pair)

    monkeypatch.setattr(trials, "prepare", see)
    config = override(TINY, ["training.tolerance=9.0"])
    choose_seed(config, make_data().train.images, SEEDS, fabric=open_fabric("cpu"))
    assert seen == [0.0] * len(SEEDS)


def test_a_single_seed_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(trials, "prepare")
    assert choose_seed(TINY, make_data().train.images, [7], fabric=open_fabric("cpu")) == 7


def test_seeds_cannot_be_tried_on_several_devices_or_with_few_items() -> None:
    fabric = open_fabric("cpu")
    with pytest.raises(InputError, match=r"expected training\.n_init = 1 with 2 devices, got 3: choose the seed"):
        choose_seed(TINY, make_data().train.images, SEEDS, fabric=SimpleNamespace(world_size=2))
    with pytest.raises(InputError, match=r"expected 10 items or more to hold some out for training\.n_init, got 9: "):
        choose_seed(TINY, make_data(9).train.images, SEEDS, fabric=fabric)


@pytest.mark.slow
@pytest.mark.usefixtures("single")
def test_a_run_of_several_starts_uses_the_chosen_seed_and_keeps_it_when_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data = override(TINY, ["training.n_init=3", "seed=3"]), make_data()
    chosen = choose_seed(config, data.train.images, SEEDS, fabric=open_fabric("cpu"))
    alone = fit(replace(TINY, seed=chosen), RunFolder(tmp_path / "alone"), data=data, device="cpu")
    run = RunFolder(tmp_path / "several")
    with pytest.raises(StopError):
        fit(config, run, data=data, device="cpu", callbacks=(Stopper(epoch=2),))
    monkeypatch.delattr(fit_module, "choose_seed")
    several = fit(config, run, data=data, device="cpu")
    assert several.summary["training_seed"] == chosen
    expected, got = load_file(alone.run.model_path), load_file(several.run.model_path)
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())
