"""A copy of a pair is an independent pair."""

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial

import pyro
import pytest
import torch
from pair_states import QUESTIONS, MakePair, MakeX, bayesian_pair, fit, make_pair_of_all_kinds, moved, state
from torch.optim.swa_utils import AveragedModel

from pyro_mfcvae import MFCVAE, FacetELBO, InputError
from pyro_mfcvae.models import (
    GaussianLikelihood,
)


@pytest.fixture
def make(make_pair: MakePair) -> Callable[..., MFCVAE]:
    return partial(make_pair_of_all_kinds, make_pair)


def through_pickle(pair: MFCVAE) -> MFCVAE:
    return pickle.loads(pickle.dumps(pair))


def through_torch(pair: MFCVAE) -> MFCVAE:
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def averaged(pair: MFCVAE) -> MFCVAE:
    return AveragedModel(pair).module


COPIES = (copy.deepcopy, through_pickle, through_torch, averaged)


@pytest.mark.parametrize("make_copy", COPIES)
@pytest.mark.parametrize("name", (None, "mine"))
def test_a_copy_is_an_independent_pair(
    make: Callable[..., MFCVAE], make_x: MakeX, make_copy: Callable[[MFCVAE], MFCVAE], name: str | None
) -> None:
    """Neither changes when the other is trained or queried; SVI trains every parameter of the copy."""
    x, pair = make_x(16), make(name=name)
    fit(pair, x)
    twin = make_copy(pair)
    assert twin.guide.model is twin.model
    assert twin.model._pyro_name != pair.model._pyro_name
    before = state(twin)
    assert moved(pair, before) == []
    fit(pair, x)
    for ask in QUESTIONS.values():
        ask(twin, x)
    assert moved(twin, before) == []
    of_pair = state(pair)
    fit(twin, x)
    assert set(moved(twin, before)) == {name for name, _ in twin.named_parameters()}
    assert moved(pair, of_pair) == []


def test_a_copy_with_a_guide_over_theta_is_an_independent_pair(make_x: MakeX) -> None:
    x, pair = make_x(16), bayesian_pair()
    fit(pair, x)
    twin = copy.deepcopy(pair)
    before = state(twin)
    fit(pair, x)
    for ask in QUESTIONS.values():
        ask(twin, x)
    assert moved(twin, before) == []
    fit(twin, x)
    assert any(name.startswith("guide.globals_guide") for name in moved(twin, before))


def test_a_plain_torch_loop_over_a_copy_trains_every_parameter(make: Callable[..., MFCVAE], make_x: MakeX) -> None:
    x, pair = make_x(16), make()
    fit(pair, x)
    twin = copy.deepcopy(pair)
    before, elbo = state(twin), FacetELBO()(twin.model, twin.guide)
    optimizer = torch.optim.Adam(elbo.parameters(), lr=0.01)
    optimizer.zero_grad()
    elbo(x).backward()
    optimizer.step()
    assert set(moved(twin, before)) == {name for name, _ in twin.named_parameters()}


def test_a_module_of_a_loss_can_be_copied(make: Callable[..., MFCVAE], make_x: MakeX) -> None:
    x, pair = make_x(16), make()
    elbo = FacetELBO(compile=True)(pair.model, pair.guide)
    fit(pair, x)
    twin = copy.deepcopy(elbo)
    assert twin.elbo._compiled is None
    pyro.set_rng_seed(1)
    expected = FacetELBO().loss(pair.model, pair.guide, x)
    pyro.set_rng_seed(1)
    assert FacetELBO().loss(twin.model, twin.guide, x) == expected


def test_a_part_that_is_copied_does_not_read_the_originals_parameters(make: Callable[..., MFCVAE]) -> None:
    likelihood = GaussianLikelihood(scale=0.5, learn_scale=True)
    likelihood(torch.zeros(1))
    twin = copy.deepcopy(likelihood)
    with torch.no_grad():
        twin.scale = torch.tensor(2.0)
    assert twin(torch.zeros(1)).scale.item() == pytest.approx(2.0)
    with pytest.raises(InputError, match=r"expected a deep copy of GaussianLikelihood, got copy\.copy"):
        copy.copy(likelihood)


@pytest.mark.parametrize("question", QUESTIONS)
def test_assigned_weights_are_used(make: Callable[..., MFCVAE], make_x: MakeX, question: str) -> None:
    x, pair = make_x(16), make(covariance="full")
    fit(pair, x)
    best = state(pair)
    fit(pair, x)
    pair.load_state_dict({name: value.clone() for name, value in best.items()}, assign=True)
    QUESTIONS[question](pair, x)
    assert moved(pair, best) == []
    fit(pair, x)  # SVI continues from there
    assert set(moved(pair, best)) == {name for name, _ in pair.named_parameters()}
