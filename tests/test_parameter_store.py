"""Every parameter of a pair is trained, whatever Pyro's parameter store contains."""

from collections.abc import Callable, Iterable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import ELBO, SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.nn import PyroModule, PyroParam
from pyro.optim import Adam
from torch import Tensor, nn

from pyro_mfcvae import Facet, FacetELBO, InputError
from pyro_mfcvae.facets import cluster_site, latent_site
from pyro_mfcvae.guides import (
    AmortizedAssignment,
    AnalyticAssignment,
    AssignmentRule,
    MLPLadderEncoder,
    MonteCarloAssignment,
    MultiFacetGuide,
    SampleAssignment,
    VaDEAssignment,
)
from pyro_mfcvae.models import (
    BernoulliLikelihood,
    GaussianLikelihood,
    Likelihood,
    MixturePrior,
    MLPLadderDecoder,
    MultiFacetModel,
)

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
MakeX = Callable[[int], Tensor]
RULES = (AnalyticAssignment, MonteCarloAssignment, SampleAssignment, VaDEAssignment, AmortizedAssignment)


def copies(modules: Iterable[nn.Module]) -> list[dict[str, Tensor]]:
    return [{name: p.detach().clone() for name, p in module.named_parameters()} for module in modules]


def unmoved(modules: Iterable[nn.Module], before: list[dict[str, Tensor]]) -> list[str]:
    """The names of all unchanged parameters."""
    return [
        name
        for module, old in zip(modules, before, strict=True)
        for name, p in module.named_parameters()
        if torch.equal(p, old[name])
    ]


def test_svi_does_not_train_parameters_that_it_cannot_see() -> None:
    net = nn.Linear(1, 1)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(net(x[:, None]).squeeze(-1), 1.0), obs=x)

    before = copies([net])
    SVI(model, lambda x: None, Adam({"lr": 0.1}), Trace_ELBO()).step(torch.randn(5))
    assert unmoved([net], before) == ["weight", "bias"]


@pytest.mark.parametrize(
    ("rule", "loss"),
    [
        *((rule, TraceEnum_ELBO(max_plate_nesting=1)) for rule in RULES),
        *((rule, FacetELBO(closed_form=False)) for rule in RULES),
        *((rule, FacetELBO()) for rule in RULES if not rule.needs_draw),
    ],
    ids=lambda part: part.__name__ if isinstance(part, type) else type(part).__name__,
)
def test_svi_sees_every_parameter_once(
    make_pair: MakePair, make_x: MakeX, rule: type[AssignmentRule], loss: ELBO
) -> None:
    pair = make_pair(3, covariance="full", rule=rule, likelihood=GaussianLikelihood(learn_scale=True))
    before = copies(pair)
    identities = {id(p) for module in pair for p in module.parameters()}

    SVI(*pair, Adam({"lr": 0.01}), loss).step(make_x(16))

    assert unmoved(pair, before) == []
    store = pyro.get_param_store()
    registered = [id(store[name].unconstrained()) for name in store]
    assert len(registered) == len(identities)
    assert set(registered) == identities == {id(p) for module in pair for p in module.parameters()}


def test_two_models_side_by_side_both_train(make_pair: MakePair, make_x: MakeX) -> None:
    first, second = make_pair(), make_pair()
    modules = [*first, *second]
    before = copies(modules)
    x = make_x(16)
    for pair in (first, second):
        SVI(*pair, Adam({"lr": 0.01}), FacetELBO()).step(x)
        SVI(*pair, Adam({"lr": 0.01}), TraceEnum_ELBO(max_plate_nesting=1)).step(x)
    assert unmoved(modules, before) == []
    assert len(pyro.get_param_store()) == sum(len(parameters) for parameters in before)


def test_if_two_models_have_the_same_name_the_second_is_refused(make_pair: MakePair, make_x: MakeX) -> None:
    """In plain Pyro it would not train, or would share some parameters. After the store is cleared, it trains."""
    first, second = make_pair(name="same"), make_pair(name="same")
    x = make_x(16)
    SVI(*first, Adam({"lr": 0.01}), FacetELBO()).step(x)
    before = copies(second)
    for loss in (FacetELBO(), TraceEnum_ELBO(max_plate_nesting=1)):
        with pytest.raises(
            InputError, match=r"a name of its own for every model and guide, got 'same\.priors\.0\.loc'"
        ):
            SVI(*second, Adam({"lr": 0.01}), loss).step(x)
    assert len(unmoved(second, before)) == sum(len(parameters) for parameters in before)
    pyro.clear_param_store()
    SVI(*second, Adam({"lr": 0.01}), FacetELBO()).step(x)
    assert unmoved(second, before) == []


def test_two_guides_of_one_model_both_train(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair()
    other = MultiFacetGuide(model, encoder=MLPLadderEncoder(model.facets, model.event_shape, rung_dims=(5, 6)))
    before = copies([guide, other])
    for each in (guide, other):
        svi = SVI(model, each, Adam({"lr": 0.01}), FacetELBO())
        for _ in range(2):  # if heads start at zero, layers below them do not change in the first step
            svi.step(make_x(16))
    assert unmoved([guide, other], before) == []


def test_a_module_called_before_it_is_nested_is_refused_by_pyro() -> None:
    class Inner(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.scale = PyroParam(torch.tensor(1.0))

        def forward(self) -> Tensor:
            return self.scale

    middle, outer = PyroModule(), PyroModule()
    middle.inner = Inner()
    middle.inner()
    with pytest.raises(AssertionError, match="executed outside of supermodule"):
        outer.middle = middle


@pytest.mark.parametrize(
    "likelihood",
    (BernoulliLikelihood, GaussianLikelihood, lambda: GaussianLikelihood(learn_scale=True)),
    ids=("Bernoulli", "Gaussian", "learned scale"),
)
def test_parts_that_were_used_alone_work_in_a_model(make_x: MakeX, likelihood: Callable[[], Likelihood]) -> None:
    facets = (Facet(num_clusters=3, latent_dim=2),)
    prior, part = MixturePrior(facets[0], covariance="full"), likelihood()
    decoder = MLPLadderDecoder(facets, (1, 2, 3), rung_dims=(5,), hidden_dim=4)
    encoder = MLPLadderEncoder(facets, (1, 2, 3), rung_dims=(5,))
    x = make_x(16)
    z = prior().component(torch.tensor([0, 1, 2])).sample()
    prior().log_prob(z)
    prior().log_weights()
    prior().expected_log_prob_under(dist.Normal(z, torch.ones_like(z)).to_event(1))
    part(decoder([z], torch.ones(1))).sample()
    part.mean(decoder([z], torch.ones(1)))
    encoder(x)

    model = MultiFacetModel([prior], decoder, part)
    guide = MultiFacetGuide(model, encoder=encoder)
    before = copies([model, guide])
    for loss in (TraceEnum_ELBO(max_plate_nesting=1), FacetELBO()):
        SVI(model, guide, Adam({"lr": 0.01}), loss).step(x)
    assert unmoved([model, guide], before) == []


def test_two_likelihoods_that_are_used_alone_keep_their_own_scales() -> None:
    """Without names, both would use the entry "scale" of the store, which belongs to the first likelihood."""
    scales = [GaussianLikelihood(scale=scale, learn_scale=True)(torch.zeros(1)).scale.item() for scale in (1.0, 0.25)]
    assert scales == pytest.approx([1.0, 0.25])


def test_module_local_params_break_svi_and_ours_trains_with_torch(make_pair: MakePair, make_x: MakeX) -> None:
    with pyro.settings.context(module_local_params=True):
        pair = make_pair()
        x = make_x(16)
        with pytest.raises(AttributeError, match="unconstrained"):
            SVI(*pair, Adam({"lr": 0.01}), TraceEnum_ELBO(max_plate_nesting=1)).step(x)
        for loss in (FacetELBO(), TraceEnum_ELBO(max_plate_nesting=1)):
            before = copies(pair)
            elbo = loss(*pair)
            optimizer = torch.optim.Adam(elbo.parameters(), lr=0.01)
            optimizer.zero_grad()
            elbo(x).backward()
            optimizer.step()
            assert unmoved(pair, before) == []
    assert len(pyro.get_param_store()) == 0


def test_the_guide_never_registers_the_models_parameters(make_pair: MakePair) -> None:
    model, guide = make_pair(rule=AmortizedAssignment)
    assert {id(p) for p in model.parameters()}.isdisjoint(id(p) for p in guide.parameters())
    assert model not in list(guide.modules())
    assert {name.split(".")[0] for name in guide.state_dict()} == {"encoder", "assignment"}


@pytest.mark.parametrize("rule", RULES)
def test_q_c_has_a_gradient_in_the_guide(make_pair: MakePair, make_x: MakeX, rule: type[AssignmentRule]) -> None:
    """This gradient is zero for the ELBO at the optimum, but not for other objectives."""
    _, guide = make_pair(rule=rule)
    trace = poutine.trace(guide).get_trace(make_x(4))
    for j in range(2):
        assert trace.nodes[latent_site(j)]["value"].requires_grad
        assert trace.nodes[cluster_site(j)]["fn"].logits.requires_grad
