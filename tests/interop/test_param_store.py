"""A copy is a pair of its own; a parameter store restores all of a pair, or refuses; what is frozen stays frozen."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, TraceEnum_ELBO
from pyro.optim import Adam
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pyro_mfcvae import MFCVAE, FacetELBO, ImportanceWeightedELBO, InputError
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.guides import ConvLadderEncoder, MLPLadderEncoder, MultiFacetGuide
from pyro_mfcvae.models import (
    BayesianMixturePrior,
    ConvLadderDecoder,
    GaussianLikelihood,
    MixturePrior,
    MLPLadderDecoder,
    MultiFacetModel,
)

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
MakeX = Callable[[int], Tensor]
Values = dict[str, Tensor]


@pytest.fixture
def make(make_pair: MakePair) -> Callable[..., MFCVAE]:
    """Pairs with all kinds of parameters; unlike the data, prior scales and the likelihood's are constrained."""

    def build(**settings: Any) -> MFCVAE:
        return MFCVAE(*make_pair(likelihood=GaussianLikelihood(scale=0.5, learn_scale=True), **settings))

    return build


def bayesian_pair(name: str | None = None) -> MFCVAE:
    facet = Facet(num_clusters=3, latent_dim=2)
    decoder = MLPLadderDecoder([facet], (1, 2, 3), rung_dims=(9,), hidden_dim=8)
    model = MultiFacetModel([BayesianMixturePrior(facet)], decoder, GaussianLikelihood(), name=name)
    return MFCVAE(model, MultiFacetGuide(model, encoder=MLPLadderEncoder([facet], (1, 2, 3), rung_dims=(9,))))


def state(module: nn.Module) -> Values:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(module: nn.Module, before: Values) -> list[str]:
    return [name for name, value in module.state_dict().items() if not torch.equal(value, before[name])]


def fit(pair: MFCVAE, x: Tensor, num: int = 3, loss: Any = None) -> list[float]:
    svi = SVI(pair.model, pair.guide, Adam({"lr": 0.02}), loss or FacetELBO())
    return [svi.step(x) for _ in range(num)]


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
QUESTIONS: dict[str, Callable[[MFCVAE, Tensor], Any]] = {
    "elbo_terms": lambda pair, x: pair.elbo_terms(x),
    "FacetELBO": lambda pair, x: FacetELBO().loss(pair.model, pair.guide, x),
    "ImportanceWeightedELBO": lambda pair, x: ImportanceWeightedELBO().loss(pair.model, pair.guide, x),
    "TraceEnum_ELBO": lambda pair, x: TraceEnum_ELBO(max_plate_nesting=1).loss(pair.model, pair.guide, x),
    "Predictive": lambda pair, x: Predictive(pair.model, num_samples=2)(num=3),
    "the guide": lambda pair, x: pair.guide(x),
}


@pytest.mark.parametrize("make_copy", COPIES)
@pytest.mark.parametrize("name", (None, "mine"))
def test_a_copy_is_a_pair_of_its_own(
    make: Callable[..., MFCVAE], make_x: MakeX, make_copy: Callable[[MFCVAE], MFCVAE], name: str | None
) -> None:
    """Trained further or asked, neither touches the other; SVI trains every parameter of the copy."""
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


def test_a_copy_with_a_guide_over_theta_is_a_pair_of_its_own(make_x: MakeX) -> None:
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
    fit(pair, x)  # SVI goes on from there
    assert set(moved(pair, best)) == {name for name, _ in pair.named_parameters()}


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
def test_what_is_frozen_stays_frozen(make: Callable[..., MFCVAE], make_x: MakeX, loss: Any, after: int) -> None:
    """From the start, and after steps whose momentum would go on to move it."""
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


def test_what_is_frozen_stays_frozen_when_compiled(
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


def test_parameters_that_a_handler_replaces_are_refused(make: Callable[..., MFCVAE], make_x: MakeX) -> None:
    pair, x = make(), make_x(4)
    for handled in (
        poutine.lift(pair.model, prior=lambda name, value: pyro.distributions.Normal(value, 1.0)),
        poutine.substitute(pair.model, data={f"{pair.model._pyro_name}.priors.0.loc": torch.zeros(3, 2)}),
    ):
        message = r"no handler that replaces parameters, got (Lift|Substitute)Messenger"
        # Pyro's substitute would warn, as it leaves, that its values were not used.
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
