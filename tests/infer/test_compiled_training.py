"""SVI and trainings take the same steps with a compiled objective."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from compiled_pairs import CASES, ONE_FACET, SHAPE, assert_same, configure, small_pair
from pyro.infer import SVI
from pyro.infer.autoguide import AutoNormal, init_to_value
from pyro.optim import Adam
from torch import Tensor

from pyro_mfcvae import FacetELBO
from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.guides import MultiFacetGuide, VaDEAssignment
from pyro_mfcvae.infer.schedule import steps_per_epoch
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.models import GaussianLikelihood, MultiFacetModel, StudentTMixturePrior
from pyro_mfcvae.runs.checkpoints import load_training, save_training
from pyro_mfcvae.train.objective import compilation_pays
from pyro_mfcvae.train.training import Training


def run_svi(pair: MFCVAE, loss: FacetELBO, batches: list[Tensor], **arguments: Any) -> list[float]:
    svi = SVI(pair.model, pair.guide, Adam({"lr": 0.01}), loss=loss)
    pyro.set_rng_seed(1)
    return [svi.step(x, **arguments) for x in batches]


def named_pair(*settings: str) -> MFCVAE:
    """Pairs with the same names, in an empty store, so that the contents of the store can be compared."""
    pair = small_pair(*settings)
    pyro.clear_param_store()
    model = MultiFacetModel(list(pair.model.priors), pair.model.decoder, pair.model.likelihood, name="model")
    globals_guide = None
    if model.global_sites:
        globals_guide = AutoNormal(model.sample_globals, init_loc_fn=init_to_value(values=model.starting_point()))
    guide = MultiFacetGuide(model, encoder=pair.guide.encoder, globals_guide=globals_guide, name="guide")
    return MFCVAE(model, guide).train()


SVI_CASES = {"mlp": [], "conv": CASES["conv"], "constrained parameters": ["prior.kind=bayesian"]}


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize(
    "case", ["mlp", *(pytest.param(case, marks=pytest.mark.slow) for case in ("conv", "constrained parameters"))]
)
def test_svi_takes_the_same_steps(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and Pyro's store are the same, with the same names. After compilation, the objective itself is not
    called.
    """
    batches = list(torch.rand(6, 8, *SHAPE))
    found = []
    for loss in (FacetELBO(), FacetELBO(compile=True)):
        pair = named_pair(*SVI_CASES[case])
        losses = run_svi(pair, loss, batches[:2])
        if loss.compile:
            monkeypatch.setattr(FacetELBO, "terms", lambda *_: pytest.fail("was called again"))
        losses += run_svi(pair, loss, batches[2:])
        assert all(p.grad is not None for p in pair.guide.encoder.parameters())
        found.append((losses, {name: value.detach() for name, value in pyro.get_param_store().items()}))
    assert list(found[1][1]) == list(found[0][1])
    assert_same(found[1], found[0])


@pytest.mark.usefixtures("as_traced")
def test_a_compiled_loss_follows_changes_of_its_pair_and_settings() -> None:
    x = torch.rand(8, *SHAPE)
    first, second = small_pair(*ONE_FACET), small_pair("prior.covariance=full", *ONE_FACET)
    loss = FacetELBO(compile=True)
    for pair, num_data, closed_form in (
        (first, None, True),
        (second, None, True),
        (first, None, True),
        (first, 80, True),
        (first, 80, False),
    ):
        pair.model.num_data, loss.closed_form = num_data, closed_form
        for _ in range(2):
            pair.zero_grad()
            pyro.set_rng_seed(1)
            here = loss.loss_and_grads(pair.model, pair.guide, x), [p.grad.clone() for p in pair.parameters()]
            pair.zero_grad()
            pyro.set_rng_seed(1)
            as_written = FacetELBO(closed_form=closed_form)
            there = as_written.loss_and_grads(pair.model, pair.guide, x), [p.grad for p in pair.parameters()]
            assert_same(here, there)


def _freeze(pair: MFCVAE) -> None:
    pair.model.priors.requires_grad_(False)


def _hook(pair: MFCVAE) -> None:
    pair.model.decoder.register_forward_hook(lambda module, args, output: 2 * output)


Changes = dict[str, Callable[[MFCVAE], Any]]

CHANGES: Changes = {
    "values in place": lambda pair: [p.data.mul_(0.5) for p in pair.parameters()],
    "buffers": lambda pair: pair.model.beta.fill_(0.3),
    "num_data": lambda pair: setattr(pair.model, "num_data", 500),
    "setting of the likelihood": lambda pair: setattr(pair.model.likelihood, "sigmoid_mean", True),
    "likelihood": lambda pair: setattr(pair.model, "likelihood", GaussianLikelihood(scale=0.3)),
    "a layer": lambda pair: setattr(pair.model.decoder, "output", torch.nn.Linear(8, 64, bias=False)),
    "setting of the assignment": lambda pair: setattr(pair.guide.assignment, "num_samples", 9),
    "assignment": lambda pair: setattr(pair.guide, "assignment", VaDEAssignment()),
    "prior": lambda pair: pair.model.priors.__setitem__(0, StudentTMixturePrior(pair.model.facets[0])),
    "missing": lambda pair: setattr(pair.model, "missing", True),
    "frozen": _freeze,
    "a hook": _hook,
    "mode": lambda pair: pair.eval(),
}


def _merge_more(pair: MFCVAE) -> None:
    pair.model.decoder.merge_weight = 5.0


@pytest.mark.slow
@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        (["assignment.kind=monte_carlo", *ONE_FACET], CHANGES),
        ([], {"merge_weight": _merge_more}),
    ],
    ids=["one facet", "two facets"],
)
def test_a_compiled_loss_follows_every_change_of_the_pair(settings: list[str], changes: Changes) -> None:
    """The changes are made one after the other; after each, the loss is that of FacetELBO without compilation."""
    pair, loss = small_pair(*settings), FacetELBO(compile=True)
    x = torch.rand(8, *SHAPE)
    pyro.set_rng_seed(1)
    before = loss.loss_and_grads(pair.model, pair.guide, x)
    for change, make in changes.items():
        make(pair)
        if change == "missing":
            x[0, 0, :3] = torch.nan
        found = []
        for elbo in (loss, FacetELBO()):
            pair.zero_grad()
            pyro.set_rng_seed(1)
            value = elbo.loss_and_grads(pair.model, pair.guide, x)
            found.append((value, [p.grad.clone() for p in pair.parameters() if p.grad is not None]))
        assert_same(found[0], found[1])
        assert math.isfinite(found[0][0]), change
        assert change in ("frozen", "mode") or found[0][0] != pytest.approx(before, 1e-6), change
        before = found[0][0]


@pytest.mark.usefixtures("as_traced")
def test_the_parameters_of_a_cleared_store_are_noted_again() -> None:
    x, loss = torch.rand(8, *SHAPE), FacetELBO(compile=True)
    pair = small_pair(*ONE_FACET)
    run_svi(pair, loss, [x, x])
    names = set(pyro.get_param_store().keys())
    pyro.clear_param_store()
    before = [p.clone() for p in pair.parameters()]
    run_svi(pair, loss, [x, x])
    assert set(pyro.get_param_store().keys()) == names
    assert not any(torch.equal(p, old) for p, old in zip(pair.parameters(), before, strict=True))


@pytest.mark.usefixtures("as_traced")
def test_known_clusters_and_losses_without_gradients_are_computed_as_written() -> None:
    pair, x, known = small_pair(), torch.rand(8, *SHAPE), {1: torch.arange(8) % 4}
    loss = FacetELBO(compile=True)
    run_svi(pair, loss, [x, x])
    for arguments in ({}, {"known": known}):
        pyro.set_rng_seed(1)
        expected = FacetELBO().loss(pair.model, pair.guide, x, **arguments)
        pyro.set_rng_seed(1)
        assert loss.loss(pair.model, pair.guide, x, **arguments) == expected
        pyro.set_rng_seed(1)
        assert loss.loss_and_grads(pair.model, pair.guide, x, **arguments) == pytest.approx(expected, abs=1e-10)
    assert expected != FacetELBO().loss(pair.model, pair.guide, x)


def trained(*settings: str) -> tuple[dict[str, Tensor], list[float]]:
    pyro.set_rng_seed(0)
    config = configure(*settings)
    images = torch.rand(48, *SHAPE)
    training = Training(
        build_pair(config, SHAPE),
        images,
        schedule=build_schedule(config, steps_per_epoch(len(images), config.training.batch_size)),
        settings=config.training,
        mixture_fit=config.mixture_fit,
    )
    elbos = [training.run_epoch().elbo for _ in range(2)]
    return {name: value.clone() for name, value in training.pair.state_dict().items()}, elbos


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize("settings", [ONE_FACET, pytest.param(["networks.kind=conv"], marks=pytest.mark.slow)])
def test_a_compiled_training_equals_the_training(settings: list[str]) -> None:
    settings = [*settings, "training.free_nats=0.1"]
    here, there = trained(*settings), trained(*settings, "training.compile=false")
    torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize("settings", [ONE_FACET, pytest.param(["networks.kind=conv"], marks=pytest.mark.slow)])
def test_a_compiled_training_that_is_resumed_ends_with_the_same_bits(tmp_path: Path, settings: list[str]) -> None:
    def start() -> Training:
        pyro.set_rng_seed(0)
        images, config = torch.rand(48, *SHAPE), configure(*settings, "training.epochs=2")
        schedule = build_schedule(config, steps_per_epoch(len(images), config.training.batch_size))
        return Training(
            build_pair(config, SHAPE),
            images,
            schedule=schedule,
            settings=config.training,
            mixture_fit=config.mixture_fit,
        )

    whole = start()
    records = [whole.run_epoch() for _ in range(2)]
    state = torch.get_rng_state()
    first = start()
    assert first.run_epoch() == records[0]
    save_training(first, tmp_path / "training.safetensors")
    second = start()
    load_training(second, tmp_path / "training.safetensors")
    assert second.run_epoch() == records[1]
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in whole.pair.state_dict().items():
        assert torch.equal(second.pair.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("kind", "device", "num_steps", "captures", "expected"),
    [
        ("mlp", "cpu", 19_999, False, False),
        ("mlp", "cpu", 20_000, False, True),
        ("conv", "cpu", 10**6, False, False),
        ("conv", "cuda:1", 1_000, False, False),
        ("conv", "cuda:1", 50_000, False, True),
        ("conv", "cuda:1", 50_000, True, False),
        ("mlp", "cuda:1", 100_000, True, True),
        ("mlp", "mps", 10**6, False, False),
    ],
)
def test_networks_device_and_length_decide(
    kind: str, device: str, num_steps: int, *, captures: bool, expected: bool
) -> None:
    pair = small_pair(f"networks.kind={kind}")
    found = compilation_pays(pair, device=torch.device(device), num_steps=num_steps, captures=captures)
    assert found is expected
