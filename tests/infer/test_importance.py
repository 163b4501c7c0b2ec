import math
from collections.abc import Callable

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, TraceEnum_ELBO
from pyro.optim import Adam
from reference_elbo import component_log_probs, log_weights
from torch import Tensor

from pyro_mfcvae import MFCVAE, FacetELBO, ImportanceWeightedELBO, InputError
from pyro_mfcvae.guides import MultiFacetGuide, SampleAssignment
from pyro_mfcvae.models import MultiFacetModel

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
MakeX = Callable[[int], Tensor]


def loss(elbo: object, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor) -> float:
    pyro.set_rng_seed(1)
    return elbo.loss(model, guide, x)  # type: ignore[attr-defined]


@pytest.mark.parametrize("alpha", (0.0, 0.5, -1.0, 2.0))
def test_written_out(make_pair: MakePair, make_x: MakeX, alpha: float) -> None:
    model, guide = make_pair(2, covariance="full", num_data=50)
    model.beta.copy_(torch.tensor([0.3, 1.0]))
    x = make_x(4)
    actual = loss(ImportanceWeightedELBO(num_particles=5, alpha=alpha), model, guide, x)
    pyro.set_rng_seed(1)
    log_w, zs = torch.zeros(5, 4), []
    for j, (prior, q) in enumerate(zip(model.priors, guide.encoder(x), strict=True)):
        z = q.rsample((5,))
        mixture = (log_weights(prior) + component_log_probs(prior, z)).exp().sum(-1).log()
        log_w = log_w + model.beta[j] * (mixture - q.log_prob(z))
        zs.append(z)
    output = model.decoder(zs, model.alpha)
    log_w = log_w + (x * output.sigmoid().log() + (1 - x) * (-output).sigmoid().log()).flatten(2).sum(-1)
    bound = log_w.exp().pow(1 - alpha).mean(0).log() / (1 - alpha)
    assert actual == pytest.approx(-bound.sum().item() * 50 / 4, abs=1e-10)


@pytest.mark.parametrize("alpha", (0.0, 0.5))
def test_renyi_elbo_of_pyro_is_equal_at_the_same_draws(make_pair: MakePair, make_x: MakeX, alpha: float) -> None:
    """With q(c|z) = p(c|z), log p(z, c) - log q(c|z) is log p(z) for every c. There is one facet, so that both draw
    z first.
    """
    model, guide = make_pair(1, rule=SampleAssignment)
    x = make_x(4)
    pyros = RenyiELBO(alpha=alpha, num_particles=6, vectorize_particles=True, max_plate_nesting=1)
    sampled = poutine.infer_config(guide, lambda site: {"enumerate": None})
    ours = ImportanceWeightedELBO(num_particles=6, alpha=alpha)
    assert loss(ours, model, guide, x) == pytest.approx(loss(pyros, model, sampled, x), abs=1e-10)


def test_one_particle_is_the_elbo_of_the_sample_rule(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair(2, rule=SampleAssignment)
    x = make_x(4)
    assert loss(ImportanceWeightedELBO(num_particles=1), model, guide, x) == pytest.approx(
        loss(FacetELBO(closed_form=False), model, guide, x), abs=1e-10
    )


def test_more_particles_give_a_tighter_bound(make_pair: MakePair, make_x: MakeX) -> None:
    """On average over 400 copies of an item, 1,000 particles close more than half of the gap to the bound with
    200,000.
    """
    model, guide = make_pair(2)
    x = make_x(1).expand(400, -1, -1, -1)
    bounds = [-loss(ImportanceWeightedELBO(num_particles=s), model, guide, x) / 400 for s in (1, 10, 1000)]
    assert bounds == sorted(bounds)
    evidence = MFCVAE(model, guide).log_evidence(x[:1], num_samples=200_000).item()
    assert 0 < evidence - bounds[2] < (evidence - bounds[0]) / 2


def test_gradients_and_training(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair(2)
    x, elbo = make_x(6), ImportanceWeightedELBO(num_particles=4)
    elbo.loss_and_grads(model, guide, x)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (*model.parameters(), *guide.parameters()))
    svi = SVI(model, guide, Adam({"lr": 0.01}), elbo)
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])


def test_particles_of_pyros_elbo_agree_with_ours(make_pair: MakePair, make_x: MakeX) -> None:
    """With one facet and the same draws, the averages over particles are equal."""
    model, guide = make_pair(1)
    x = make_x(4)
    pyros = TraceEnum_ELBO(num_particles=6, vectorize_particles=True, max_plate_nesting=1)
    ours = FacetELBO(closed_form=False, num_particles=6)
    assert loss(ours, model, guide, x) == pytest.approx(loss(pyros, model, guide, x), abs=1e-10)


def test_errors(make_pair: MakePair, make_x: MakeX) -> None:
    for alpha in (1.0, math.inf):
        with pytest.raises(InputError, match="expected a finite alpha other than 1"):
            ImportanceWeightedELBO(alpha=alpha)
    model, guide = make_pair(2)
    with pytest.raises(InputError, match="expected no known clusters with an importance-weighted bound"):
        ImportanceWeightedELBO().loss(model, guide, make_x(3), known={0: torch.zeros(3, dtype=torch.long)})
