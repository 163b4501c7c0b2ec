"""A Bayesian decoder: its weights are drawn once for all items, and the user gives their posterior."""

from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro.nn.module import to_pyro_module_
from pyro.optim import Adam
from torch import Tensor, nn

from pyro_mfcvae import MFCVAE, FacetELBO, InputError
from pyro_mfcvae.guides import MultiFacetGuide
from pyro_mfcvae.models import MLPLadderDecoder, MultiFacetModel

Pair = tuple[MultiFacetModel, MultiFacetGuide]
MakePair = Callable[..., Pair]
MakeX = Callable[[int], Tensor]


def make_random(module: nn.Module) -> None:
    """Standard normal priors for all weights of a module, instead of its starting values."""
    to_pyro_module_(module)  # type: ignore[no-untyped-call]
    for part in module.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            setattr(part, name, PyroSample(dist.Normal(0.0, 1.0).expand(value.shape).to_event(value.dim())))


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    model, guide = make_pair()
    make_random(model.decoder.output)
    to_pyro_module_(model.decoder)  # type: ignore[no-untyped-call]
    model.decoder = model.decoder
    return model, guide


def test_weights_are_drawn_once_for_all_items(pair: Pair, make_x: MakeX) -> None:
    model, _ = pair
    x, zs = make_x(5), [torch.randn(5, 2), torch.randn(5, 3)]
    trace = poutine.trace(poutine.condition(model, data={"z_0": zs[0], "z_1": zs[1]})).get_trace(x)
    weight, bias = (trace.nodes[f"{model._pyro_name}.decoder.output.{name}"] for name in ("weight", "bias"))
    assert weight["cond_indep_stack"] == bias["cond_indep_stack"] == ()
    assert weight["value"].shape == (6, 8) and bias["value"].shape == (6,)
    hidden = []
    model.decoder.output.register_forward_hook(lambda module, args, output: hidden.append(args[0]))
    poutine.trace(poutine.condition(model, data={"z_0": zs[0], "z_1": zs[1]})).get_trace(x)
    logits = (hidden[0] @ weight["value"].T + bias["value"]).reshape(5, 1, 2, 3)
    expected = dist.Bernoulli(logits=logits, validate_args=False).log_prob(x).sum()
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob_sum"], expected)


def test_a_guide_over_the_weights_is_trained(pair: Pair, make_x: MakeX) -> None:
    model, guide = pair
    x = make_x(16)
    weights = [f"{model._pyro_name}.decoder.output.{name}" for name in ("weight", "bias")]
    over_weights = AutoNormal(poutine.block(model, expose=weights))

    def both(x: Tensor) -> None:
        over_weights(x)
        guide(x)

    svi = SVI(model, both, Adam({"lr": 0.05}), TraceEnum_ELBO(max_plate_nesting=1))
    losses = [svi.step(x) for _ in range(32)]
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    drawn = poutine.trace(both).get_trace(x)
    replicated = poutine.trace(poutine.replay(poutine.uncondition(model), trace=drawn)).get_trace(x)
    assert torch.equal(replicated.nodes[weights[0]]["value"], drawn.nodes[weights[0]]["value"])
    assert replicated.nodes["x"]["value"].shape == x.shape and not torch.equal(replicated.nodes["x"]["value"], x)


def test_uses_that_would_draw_weights_from_the_prior_are_refused(
    pair: Pair, make_x: MakeX, make_pair: MakePair
) -> None:
    model, guide = pair
    x, asked = make_x(4), MFCVAE(model, guide)
    for ask in (asked.assign, asked.reconstruct, asked.log_evidence, asked.elbo_terms):
        with pytest.raises(
            InputError, match=r"no random weights \(PyroSample\), got 'decoder\.output\.weight': a pair"
        ):
            ask(x)
    with pytest.raises(InputError, match="expected networks, priors and rules without sample sites"):
        FacetELBO().loss(model, guide, x)
    other, other_guide = make_pair()
    make_random(other_guide.encoder)
    with pytest.raises(InputError, match=r"got 'encoder\..*: the model has no site for weights"):
        other_guide(x)
    other.priors[0].loc = PyroSample(dist.Normal(0.0, 1.0).expand([3, 2]).to_event(2))
    with pytest.raises(InputError, match=r"got the PyroSample 'priors\.0\.loc', which the guide would draw again"):
        other(x)
    plain, _ = make_pair()
    make_random(plain.decoder.output)
    with pytest.raises(InputError, match=r"decoder or likelihood that is a PyroModule, got 'decoder\.output\.weight'"):
        plain(x)


def test_a_custom_decoder_may_be_a_pyro_module(make_pair: MakePair, make_x: MakeX) -> None:
    class Decoder(MLPLadderDecoder, PyroModule):
        pass

    model, guide = make_pair()
    model.decoder = Decoder(model.facets, (1, 2, 3), rung_dims=(9, 10), hidden_dim=8)
    before = {name: value.clone() for name, value in model.named_parameters()}
    SVI(model, guide, Adam({"lr": 0.02}), FacetELBO()).step(make_x(8))
    assert not any(torch.equal(value, before[name]) for name, value in model.named_parameters())
