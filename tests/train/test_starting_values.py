"""Learning rates, starting values and fits of the mixtures during a training."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from trainings import STILL, prepare

from pyro_mfcvae.train.training import Training


def learning_rates(*settings: str) -> list[float]:
    """The optimiser's learning rate at each step of two epochs of three steps."""
    training = prepare(*settings)
    rates: list[float] = []
    for _ in range(2):
        record = training.run_epoch(lambda *_: rates.append(training.optimizer.param_groups[0]["lr"]))
        assert record.learning_rate == rates[-1]
    return rates


def test_the_learning_rate_is_constant_without_a_final_one() -> None:
    assert learning_rates("training.learning_rate=0.02") == [0.02] * 6


def test_the_learning_rate_falls_along_a_half_cosine() -> None:
    rates = learning_rates("training.learning_rate=0.1", "training.final_learning_rate=0.01")
    assert rates[0] == 0.1
    assert rates[3] == pytest.approx(0.055, rel=1e-12)
    assert rates[5] == pytest.approx(0.01 + 0.09 * (1 - math.sqrt(3) / 2) / 2, rel=1e-12)
    assert rates == sorted(rates, reverse=True)


def test_fits_happen_when_the_schedule_says(monkeypatch: pytest.MonkeyPatch) -> None:
    training = prepare("training.epochs=2", "mixture_fit.warmup_steps=1", "mixture_fit.refit_steps=[4]")
    fitted: list[tuple[int, tuple[int, ...], int]] = []
    steps: list[float] = []

    def see(*args: Tensor, facets: tuple[int, ...], **_: object) -> None:
        fitted.append((len(steps), facets, len(args[2])))

    monkeypatch.setattr("pyro_mfcvae.train.training.initialize_mixtures", see)
    for _ in range(4):
        training.run_epoch(lambda _, elbo: steps.append(elbo))
    assert fitted == [(1, (1,), 60), (4, (1,), 60), (7, (0,), 60), (10, (0,), 60)]


def test_a_fit_follows_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    training = prepare("mixture_fit.items=25", "mixture_fit.variance=0.04")
    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        "pyro_mfcvae.train.training.initialize_mixtures",
        lambda *args, variance, **_: seen.append((len(args[2]), variance)),
    )
    training.run_epoch()
    assert seen == [(25, 0.04)]


def test_a_fit_gives_the_prior_its_starting_variance() -> None:
    training = prepare("mixture_fit.variance=0.04", f"training.learning_rate={STILL}")
    training.run_epoch()
    fresh, fitted = training.pair.model.priors
    assert torch.equal(fresh.scale, torch.ones(3, 2))
    assert torch.allclose(fitted.scale, torch.full((4, 2), 0.2), rtol=0, atol=1e-12)


def test_adams_moments_of_a_refitted_prior_are_dropped() -> None:
    training = prepare("mixture_fit.warmup_steps=1")
    training.run_epoch()
    training.run_epoch()
    state = training.optimizer.state

    def num_steps(module: nn.Module) -> set[float]:
        return {state[parameter]["step"].item() for parameter in module.parameters()}

    # Facet 1 is fitted before step 1 and facet 0 before step 4 of the steps 0 … 5.
    assert num_steps(training.pair.guide) == num_steps(training.pair.model.decoder) == {6.0}
    assert num_steps(training.pair.model.priors[1]) == {5.0}
    assert num_steps(training.pair.model.priors[0]) == {2.0}


def test_data_dependent_initialization_is_used_once_at_the_start() -> None:
    settings = [f"training.learning_rate={STILL}", "training.batch_size=60", "training.epochs=1"]

    def first_layer(training: Training) -> Tensor:
        layer: Callable[[Tensor], Tensor] = next(iter(training.pair.guide.encoder.hidden_layers()))
        return layer(training.images.flatten(1)).detach()

    plain = prepare(*settings)
    plain.run_epoch()
    assert not torch.allclose(first_layer(plain).std(0), torch.ones(8), atol=0.1)
    training = prepare(*settings, "training.data_dependent_init=true")
    training.run_epoch()
    assert torch.allclose(first_layer(training).mean(0), torch.zeros(8), atol=1e-10)
    assert torch.allclose(first_layer(training).std(0), torch.ones(8), atol=1e-10)
    before = first_layer(training)
    training.run_epoch()
    assert torch.equal(first_layer(training), before)
