"""A parameter store restores a whole pair or raises an error; frozen parameters stay frozen."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pair_states import MakePair, MakeX, bayesian_pair, fit, make_pair_of_all_kinds, moved, state
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO
from pyro.optim import Adam

from pyro_mfcvae import MFCVAE, FacetELBO, ImportanceWeightedELBO, InputError
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.guides import ConvLadderEncoder, MultiFacetGuide
from pyro_mfcvae.models import (
    ConvLadderDecoder,
    GaussianLikelihood,
    MixturePrior,
    MultiFacetModel,
)


@pytest.fixture
def make(make_pair: MakePair) -> Callable[..., MFCVAE]:
    return partial(make_pair_of_all_kinds, make_pair)


@pytest.mark.parametrize("name", (None, "mine"))
@pytest.mark.parametrize("build", ("gaussian", "bayesian"))
def test_a_parameter_store_restores_all_of_a_pair(
    make: Callable[..., MFCVAE], make_x: MakeX, tmp_path: Path, name: str | None, build: str
) -> None:
    x = make_x(16)
    pair = make(name=name) if build == "gaussian" else bayesian_pair(name)
    fit(pair, x)
    pyro.get_param_store().save(tmp_path / "store")
    saved = state(pair)
    pyro.clear_param_store()
    fresh = make(name=name) if build == "gaussian" else bayesian_pair(name)
    assert moved(fresh, saved)
    pyro.get_param_store().load(tmp_path / "store")
    fresh.assign(x)
    parameters = {name for name, _ in fresh.named_parameters()}
    assert not parameters & set(moved(fresh, saved))
    fit(fresh, x)
    assert set(moved(fresh, saved)) >= {name for name, p in fresh.named_parameters() if p.grad is not None}


def test_a_store_that_is_loaded_into_the_same_pair_is_restored(
    make: Callable[..., MFCVAE], make_x: MakeX, tmp_path: Path
) -> None:
    x, pair = make_x(16), make()
    fit(pair, x)
    pyro.get_param_store().save(tmp_path / "store")
    saved = state(pair)
    fit(pair, x)
    pyro.get_param_store().load(tmp_path / "store")
    pair.guide(x)
    assert moved(pair, saved) == []
    pyro.get_param_store()[f"{pair.model._pyro_name}.priors.0.scale"] = torch.full_like(
        pair.priors[0].components().mean, 3
    )
    pair.guide(x)
    assert moved(pair, saved) == ["model.priors.0.scale_unconstrained"]


def conv_pair() -> MFCVAE:
    facets = (Facet(num_clusters=3, latent_dim=2),)
    model = MultiFacetModel(
        [MixturePrior(facets[0])],
        ConvLadderDecoder(facets, (1, 8, 8), channels=(3,)),
        GaussianLikelihood(),
        name="conv",
    )
    return MFCVAE(model, MultiFacetGuide(model, encoder=ConvLadderEncoder(facets, (1, 8, 8), channels=(3,))))


def test_a_store_that_cannot_restore_all_is_refused(make: Callable[..., MFCVAE], make_x: MakeX, tmp_path: Path) -> None:
    store, file = pyro.get_param_store(), tmp_path / "store"
    x, pair = make_x(16), make(name="mine")
    fit(pair, x)
    del store["mine.priors.0.loc"]
    store.save(file)
    pyro.clear_param_store()
    store.load(file)
    with pytest.raises(InputError, match=r"expected a parameter store with all 25 parameters .* without 'mine\.priors"):
        make(name="mine").assign(x)
    pyro.clear_param_store()
    fit(conv_pair(), torch.rand(6, 1, 8, 8))
    store.save(file)
    pyro.clear_param_store()
    store.load(file)
    with pytest.raises(InputError, match="networks without buffers, since Pyro's parameter store does not save any"):
        conv_pair().assign(torch.rand(6, 1, 8, 8))
    pyro.clear_param_store()
    fit(make(), x)
    store.save(file)
    pyro.clear_param_store()
    store.load(file)
    with pytest.raises(InputError, match=r"default names differ from run to run: give the model the same name=…"):
        make(covariance="full").assign(x)


@pytest.mark.parametrize(
    "loss", (FacetELBO(), TraceEnum_ELBO(max_plate_nesting=1), ImportanceWeightedELBO(num_particles=3))
)
@pytest.mark.parametrize("after", (0, 2))
def test_frozen_parameters_stay_frozen(make: Callable[..., MFCVAE], make_x: MakeX, loss: Any, after: int) -> None:
    """A parameter is frozen from the start, or after some steps, when momentum would still change it."""
    x, pair = make_x(16), make()
    svi = SVI(pair.model, pair.guide, Adam({"lr": 0.02}), loss)
    for _ in range(after):
        svi.step(x)
    pair.model.priors.requires_grad_(False)
    pair.elbo_terms(x)
    before = state(pair)
    for _ in range(3):
        svi.step(x)
    frozen = {name for name in before if "priors" in name}
    assert not frozen & set(moved(pair, before))
    assert not any(p.requires_grad for p in pair.model.priors.parameters())
    assert {name for name, p in pair.named_parameters() if p.grad is not None} <= set(moved(pair, before))


@pytest.mark.slow
def test_frozen_parameters_stay_frozen_when_compiled(
    make: Callable[..., MFCVAE], make_x: MakeX, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.compile", lambda traced, **_: traced)
    x, pair = make_x(16), make()
    loss = FacetELBO(compile=True)
    fit(pair, x, loss=loss)
    pair.model.priors[0].requires_grad_(False)
    before = state(pair)
    fit(pair, x, loss=loss)
    assert [name for name in before if "priors.0" in name and name in moved(pair, before)] == []
    assert "model.priors.1.loc" in moved(pair, before)
    pair.model.priors[0].requires_grad_(True)
    fit(pair, x, loss=loss)
    assert "model.priors.0.loc" in moved(pair, before)


def test_parameters_that_were_frozen_from_the_start_are_trained_after_unfreezing(
    make: Callable[..., MFCVAE], make_x: MakeX, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that was compiled while a parameter was frozen does not compute its gradient."""
    monkeypatch.setattr("torch.compile", lambda traced, **_: traced)
    x, pair, loss = make_x(16), make(), FacetELBO(compile=True)
    pair.model.priors.requires_grad_(False)
    before = state(pair)
    fit(pair, x, loss=loss)
    assert not any("priors" in name for name in moved(pair, before))
    pair.model.priors.requires_grad_(True)
    fit(pair, x, loss=loss)
    assert set(moved(pair, before)) == {name for name, _ in pair.named_parameters()}


def test_parameters_that_a_handler_replaces_are_refused(make: Callable[..., MFCVAE], make_x: MakeX) -> None:
    pair, x = make(), make_x(4)
    for handled in (
        poutine.lift(pair.model, prior=lambda name, value: pyro.distributions.Normal(value, 1.0)),
        poutine.substitute(pair.model, data={f"{pair.model._pyro_name}.priors.0.loc": torch.zeros(3, 2)}),
    ):
        message = r"no handler that replaces parameters, got (Lift|Substitute)Messenger"
        # Pyro's substitute would warn at its end that its values were not used.
        with pyro.validation_enabled(False), pytest.raises(InputError, match=message):
            handled(x)


def test_a_guide_of_another_model_is_refused(make: Callable[..., MFCVAE], make_x: MakeX) -> None:
    from pyro.infer import RenyiELBO, Trace_ELBO

    x, pair, other = make_x(4), make(), make()
    losses = (FacetELBO(), ImportanceWeightedELBO(), TraceEnum_ELBO(max_plate_nesting=1), Trace_ELBO(), RenyiELBO())
    for model, guide in (
        (other.model, pair.guide),
        (copy.deepcopy(pair.model), pair.guide),
        (pair.model, copy.deepcopy(pair.guide)),
    ):
        for loss in losses:
            with pytest.raises(InputError, match="expected a guide that was made for this model"):
                loss.loss(model, guide, x)
        with pytest.raises(InputError, match="expected a guide that was made for this model"):
            MFCVAE(model, guide)
