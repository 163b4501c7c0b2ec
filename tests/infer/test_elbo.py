"""Bounds refuse parts that they would ignore, and other objectives get the gradient of q(c|x)."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from identity_encoder import Identity, make_model
from pyro import poutine
from pyro.infer import RenyiELBO, ReweightedWakeSleep, Trace_ELBO, TraceEnum_ELBO
from pyro.nn import PyroSample
from torch import Tensor

from pyro_mfcvae import Facet, FacetELBO, ImportanceWeightedELBO, InputError
from pyro_mfcvae.guides import MultiFacetGuide, SampleAssignment, VaDEAssignment
from pyro_mfcvae.models import BernoulliLikelihood, GaussianLikelihood, MixturePrior, MultiFacetModel

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
MakeX = Callable[[int], Tensor]
LOSSES = (FacetELBO(), FacetELBO(closed_form=False), ImportanceWeightedELBO())
INSTEAD = r"use pyro\.infer\.TraceEnum_ELBO\(max_plate_nesting=1\)"


class WithFactor(MultiFacetModel):
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        pyro.factor("extra", torch.tensor(-1000.0))
        return super().forward(*args, **kwargs)


class Wide(MultiFacetGuide):
    def forward(self, *args: Any, **kwargs: Any) -> None:
        with poutine.scale(scale=2.0):
            super().forward(*args, **kwargs)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_subclass_that_adds_to_forward_is_refused(make_pair: MakePair, make_x: MakeX, loss: Any) -> None:
    for part, kind in ((0, WithFactor), (1, Wide)):
        pair, x = make_pair(), make_x(4)
        pair[part].__class__ = kind
        with pytest.raises(InputError, match=rf"own forward, got that of {kind.__name__}.*: {INSTEAD}"):
            loss.loss(*pair, x)
    model, guide = make_pair()
    model.forward = lambda *args, **kwargs: None  # type: ignore[method-assign]
    with pytest.raises(InputError, match="own forward"):
        loss.loss(model, guide, x)
    model, guide = make_pair()
    guide.register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match="expects no forward hooks on the MultiFacetGuide"):
        loss.loss(model, guide, x)


def test_trace_enum_uses_the_parts_that_facet_elbo_refuses(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair()
    x, trace_enum = make_x(4), TraceEnum_ELBO(max_plate_nesting=1)
    pyro.set_rng_seed(1)
    plain = trace_enum.loss(model, guide, x)
    model.__class__ = WithFactor
    pyro.set_rng_seed(1)
    assert trace_enum.loss(model, guide, x) == pytest.approx(plain + 1000, abs=1e-8)


def test_a_subclass_that_changes_a_part_of_the_computation_is_refused(make_pair: MakePair, make_x: MakeX) -> None:
    """q(z | x) with doubled standard deviations, and a likelihood of a third of the decoder's output."""

    class Doubled(MultiFacetGuide):
        def posteriors(self, x: Tensor) -> list[dist.TorchDistribution]:
            return [dist.Normal(q.mean, 2 * q.stddev).to_event(1) for q in super().posteriors(x)]

    class Third(MultiFacetModel):
        def decode(self, zs: Any) -> Tensor:
            return super().decode(zs) / 3

    (model, guide), x = make_pair(), make_x(4)
    guide.__class__, model.__class__ = Doubled, Third
    values = []
    for loss in (TraceEnum_ELBO(max_plate_nesting=1), FacetELBO(closed_form=False)):
        pyro.set_rng_seed(1)
        values.append(loss.loss(model, guide, x))
    assert values[0] == pytest.approx(values[1], abs=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
def test_outer_handlers_are_refused(make_pair: MakePair, make_x: MakeX, loss: Any) -> None:
    (model, guide), x = make_pair(), make_x(4)
    handlers = (
        poutine.scale(scale=0.1),
        poutine.mask(mask=False),
        poutine.condition(data={"c_0": torch.zeros(4)}),
        poutine.trace(),
        pyro.plate("outer", 3),
    )
    for handler in handlers:
        with handler, pytest.raises(InputError, match=rf"expects no outer handler .*: {INSTEAD}"):
            loss.loss(model, guide, x)
    with poutine.block(), poutine.trace(param_only=True) as seen:
        assert math.isfinite(loss.loss(model, guide, x))
    assert len(seen.trace.nodes) > 20


@pytest.mark.parametrize("loss", LOSSES)
def test_sample_sites_inside_parts_are_refused(make_pair: MakePair, make_x: MakeX, loss: Any) -> None:
    class Factored(BernoulliLikelihood):
        def forward(self, output: Tensor) -> dist.TorchDistribution:
            pyro.factor("smooth", -output.square().sum())
            return super().forward(output)

    (model, guide), x = make_pair(likelihood=Factored()), make_x(4)
    with pytest.raises(InputError, match="got 'smooth'"):
        loss.loss(model, guide, x)
    model, guide = make_pair()
    model.likelihood = Shifted()
    with pytest.raises(InputError, match="without sample sites"):
        loss.loss(model, guide, x)


class Shifted(BernoulliLikelihood):
    """A random shift of the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = PyroSample(dist.Normal(0.0, 1.0))

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return super().forward(output + self.shift)


def test_the_closed_form_is_chosen_if_it_exists(make_pair: MakePair, make_x: MakeX) -> None:
    x = make_x(4)
    for rule, closed_form in ((VaDEAssignment, True), (SampleAssignment, False)):
        model, guide = make_pair(rule=rule)
        values = []
        for loss in (FacetELBO(), FacetELBO(closed_form=closed_form)):
            pyro.set_rng_seed(1)
            values.append(loss.loss(model, guide, x))
        assert values[0] == values[1]


def two_blobs() -> tuple[MultiFacetModel, MultiFacetGuide]:
    """One facet in one dimension: x = z + noise, q(z | x) = Normal(x + shift, 1/2), q(c | x) the analytic optimum."""
    prior = MixturePrior(Facet(num_clusters=2, latent_dim=1))
    prior.set_mixture(torch.tensor([[-1.0], [1.5]]), torch.tensor([[[0.3]], [[0.8]]]), probs=torch.tensor([0.4, 0.6]))
    model = make_model(prior)
    model.likelihood = GaussianLikelihood(scale=0.7)
    encoder = Identity(prior.facet)
    encoder.shift = torch.nn.Parameter(torch.tensor(0.0))
    encoder.forward = lambda x: [dist.Normal(x + encoder.shift, torch.full_like(x, 0.5)).to_event(1)]  # type: ignore[method-assign]
    return model, MultiFacetGuide(model, encoder=encoder)


def written_out(model: MultiFacetModel, guide: MultiFacetGuide) -> Callable[[Tensor], None]:
    """The guide of `two_blobs` in plain Pyro: logits log pi_c + log N(loc; mu_c, s_c) - scale² / (2 s_c²)."""
    prior, shift = model.priors[0], guide.encoder.shift

    def plain(x: Tensor) -> None:
        pyro.param("shift", shift)
        loc, scale = x + shift, torch.full_like(x, 0.5)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z_0", dist.Normal(loc, scale).to_event(1))
            s = prior.scale.squeeze(-1)
            logits = prior.logits - (loc - prior.loc.squeeze(-1)).square() / (2 * s**2) - s.log() - 0.125 / s**2
            pyro.sample("c_0", dist.Categorical(logits=logits))

    return plain


@pytest.mark.parametrize(
    "loss",
    (
        RenyiELBO(alpha=0.5, num_particles=2, vectorize_particles=True, max_plate_nesting=1),
        ReweightedWakeSleep(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1),
    ),
    ids=lambda loss: type(loss).__name__,
)
def test_other_objectives_have_the_gradient_of_q_c(loss: Any) -> None:
    """The gradient equals that of the same guide in plain Pyro at the same draws, and differs if q(c|x) is detached."""
    model, guide = two_blobs()
    x = torch.randn(50, 1)
    sampled = poutine.infer_config(guide, lambda site: {"enumerate": None})
    grads = []
    for q in (sampled, written_out(model, guide)):
        guide.encoder.shift.grad = None
        pyro.set_rng_seed(1)
        loss.loss_and_grads(model, q, x)
        grads.append(guide.encoder.shift.grad.item())
    assert grads[0] == pytest.approx(grads[1], rel=1e-10)
    detach = guide.assignment.forward
    guide.assignment.forward = lambda *args: detach(*args).detach()  # type: ignore[method-assign]
    guide.encoder.shift.grad = None
    pyro.set_rng_seed(1)
    loss.loss_and_grads(model, sampled, x)
    assert abs(guide.encoder.shift.grad.item() - grads[0]) > 0.1


def test_a_bound_shows_its_arguments() -> None:
    assert repr(FacetELBO(num_particles=2)) == "FacetELBO(closed_form=None, num_particles=2, compile=False)"
    assert repr(ImportanceWeightedELBO()).startswith("ImportanceWeightedELBO(num_particles=")
