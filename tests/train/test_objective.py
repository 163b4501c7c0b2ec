"""Known items that join a batch, and densities averaged over q(theta)."""

import math
from collections.abc import Callable

import pyro
import pytest
import torch
from compiled_pairs import CASES, ONE_FACET, SHAPE, small_pair
from torch import Tensor

from pyro_mfcvae import MFCVAE, Facet
from pyro_mfcvae.guides import AmortizedAssignment, AnalyticAssignment, MLPLadderEncoder, MultiFacetGuide
from pyro_mfcvae.infer.compilation import CompiledObjective, trace
from pyro_mfcvae.models import BayesianMixturePrior, GaussianLikelihood, MLPLadderDecoder, MultiFacetModel
from pyro_mfcvae.train.objective import Objective, compilation_pays

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
MakeX = Callable[[int], Tensor]


@pytest.mark.parametrize("rule", (AnalyticAssignment, AmortizedAssignment))
def test_known_items_neither_move_the_weights_nor_enter_the_record(
    make_pair: MakePair, make_x: MakeX, rule: type
) -> None:
    """Only the other items contribute to the gradient of the weights and to the terms, divided by the size of the
    whole batch.
    """
    model, guide = make_pair(rule=rule)
    pair, x = MFCVAE(model, guide), make_x(9)
    known = {0: torch.tensor([-1] * 6 + [0, 1, 2])}
    objective = Objective(pair, num_items=50)
    pyro.set_rng_seed(1)
    loss, terms = objective(x, known, 6)
    loss.backward()
    joined = [prior.logits.grad.clone() for prior in model.priors]
    pair.zero_grad()
    pyro.set_rng_seed(1)
    plain = objective.elbo.raw_terms(model, guide, x, known)
    first = plain.total[:6]
    (-first.sum() / 9).backward()
    for prior, grad in zip(model.priors, joined, strict=True):
        torch.testing.assert_close(grad, prior.logits.grad, rtol=0, atol=1e-12)
    assert terms[0].item() == pytest.approx(first.mean().item(), abs=1e-12)
    torch.testing.assert_close(terms[2:], plain.kl[:6].mean(0).detach())
    assert loss.item() == pytest.approx(-plain.total.mean().item(), abs=1e-12)


# A ladder with one facet, with all operations on a map.
ONE_MAP = ["networks.kind=conv", "networks.num_residual_blocks=1", *ONE_FACET[:2]]


@pytest.mark.parametrize("option", ["recompute", "channels_last"])
@pytest.mark.parametrize("separate", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_how_maps_are_kept_changes_no_number(option: str, separate: str) -> None:
    """Losses, gradients and the statistics of batch norm, as written and traced, one after the other."""
    x, found = torch.rand(6, *SHAPE), []
    for value in ("false", "true"):
        settings = [f"networks.{option}={value}", f"networks.separate={separate}", "training.compile=false"]
        pair = small_pair(*ONE_MAP, *settings)
        # Tensors without values have other strides than maps whose channels lie last; torch.compile handles both.
        objectives = (Objective(pair, num_items=100), *([traced(pair)] if option == "recompute" else []))
        for objective in objectives:
            pyro.set_rng_seed(1)
            loss, terms = objective(x)
            pair.zero_grad()
            loss.backward()
            grads = {name: p.grad.clone() for name, p in pair.named_parameters() if p.grad is not None}
            buffers = {name: buffer.clone() for name, buffer in pair.named_buffers()}
            found.append((loss.detach(), terms, grads, buffers))
    num = len(found) // 2
    for here, there in zip(found[:num], found[num:], strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=1e-10)


def traced(pair: MFCVAE) -> CompiledObjective:
    """A compiled objective whose traced operations run one by one, without the compiler."""
    compiled = CompiledObjective(Objective(pair, num_items=100))
    compiled._compile = lambda x: trace(compiled.objective, x)  # type: ignore[method-assign]
    return compiled


@pytest.mark.parametrize(("option", "pays"), [("recompute", False), ("channels_last", True)])
def test_networks_with_recompute_are_not_compiled_automatically(option: str, pays: bool) -> None:
    pair = small_pair(*CASES["conv"], f"networks.{option}=true", "training.compile=false")
    assert compilation_pays(pair, device=torch.device("cuda"), num_steps=10**6, captures=True) is pays


def test_the_evidence_is_averaged_over_theta(make_x: MakeX) -> None:
    """log (1/ST) sum_st w_st at the same draws of theta and z."""
    facet = Facet(num_clusters=3, latent_dim=2)
    decoder = MLPLadderDecoder([facet], (1, 2, 3), rung_dims=(9,), hidden_dim=8)
    model = MultiFacetModel([BayesianMixturePrior(facet)], decoder, GaussianLikelihood())
    pair = MFCVAE(model, MultiFacetGuide(model, encoder=MLPLadderEncoder([facet], (1, 2, 3), rung_dims=(9,))))
    x = make_x(4)
    pyro.set_rng_seed(1)
    found = pair.log_evidence(x, num_samples=5)
    pyro.set_rng_seed(1)
    thetas = pair.draw_priors()
    with torch.no_grad():
        (q,) = pair.guide.posteriors(x)
        z = q.sample((5,))
        log_p = torch.stack([(m.log_weights() + m.log_prob(z)).logsumexp(-1) for (m,) in thetas])
        log_w = model.log_likelihood([z], x) + log_p - q.log_prob(z)
    assert len(thetas) == 32
    torch.testing.assert_close(found, log_w.flatten(0, 1).logsumexp(0) - math.log(5 * 32))
