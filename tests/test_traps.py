"""Known traps of Pyro: tests show that they exist, where that is cheap, and that this package avoids them."""

from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.optim import Adam
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pyro_mfcvae import FacetELBO
from pyro_mfcvae.facets import cluster_site, latent_site
from pyro_mfcvae.guides import (
    AmortizedAssignment,
    MultiFacetGuide,
)
from pyro_mfcvae.models import (
    BernoulliLikelihood,
    GaussianLikelihood,
    MultiFacetModel,
)

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
MakeX = Callable[[int], Tensor]


def test_enumeration_in_the_model_refuses_unequal_weights_and_ours_accepts_them(
    make_pair: MakePair, make_x: MakeX
) -> None:
    model, guide = make_pair()
    model.beta.copy_(torch.tensor([0.3, 1.0]))
    x = make_x(4)

    def latent_guide(x: Tensor) -> None:
        with model.plate(len(x)):
            for j, posterior in enumerate(guide.posteriors(x)):
                pyro.sample(latent_site(j), posterior)

    loss = TraceEnum_ELBO(max_plate_nesting=1)
    with pytest.raises(ValueError, match=r"share a common poutine\.scale"):
        loss.loss(config_enumerate(model, "parallel"), latent_guide, x)
    assert loss.loss(model, guide, x) > 0


def test_a_scale_of_zero_is_refused_and_beta_zero_takes_the_facet_out(make_pair: MakePair, make_x: MakeX) -> None:
    def scaled() -> None:
        with poutine.scale(scale=0.0):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="Expected scale > 0"):
        scaled()

    model, guide = make_pair()
    model.beta.copy_(torch.tensor([0.0, 1.0]))
    x = make_x(4)
    for loss in (TraceEnum_ELBO(max_plate_nesting=1), FacetELBO()):
        elbo = loss(model, guide)
        elbo.zero_grad()
        elbo(x).backward()
        faded, active = model.priors
        assert all(p.grad is None or p.grad.abs().max() < 1e-12 for p in faded.parameters())
        assert all(p.grad.any() for p in active.parameters())


# Before Pyro refuses, it warns of the enumeration and of the order of the sites.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_trace_mean_field_refuses_the_categorical_guide(make_pair: MakePair, make_x: MakeX) -> None:
    with pytest.raises(NotImplementedError, match="must be fully reparameterized"):
        TraceMeanField_ELBO().loss(*make_pair(), make_x(4))


def test_grey_pixels_are_outside_the_bernoullis_support_and_allowed_in_ours(make_pair: MakePair, make_x: MakeX) -> None:
    x = make_x(4)
    with pytest.raises(ValueError, match="within the support"):
        dist.Bernoulli(logits=torch.zeros(())).log_prob(x)
    model, _ = make_pair(likelihood=BernoulliLikelihood())
    trace = poutine.trace(model).get_trace(x)
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].isfinite().all()
    with pytest.raises(ValueError, match="within the support"):  # only this site is not checked
        model.priors[0]().component(torch.tensor(0)).log_prob(torch.full((2,), torch.nan))


def test_particle_dimensions_reach_the_decoder(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair(3)
    x = make_x(4)
    vectorized = TraceEnum_ELBO(max_plate_nesting=1, num_particles=5, vectorize_particles=True)
    assert vectorized.loss(model, guide, x) > 0
    for parallel in (False, True):
        prior = Predictive(model, num_samples=7, parallel=parallel)(num=4)
        assert {site: value.shape for site, value in prior.items()} == {
            **{cluster_site(j): (7, 4) for j in range(3)},
            **{latent_site(j): (7, 4, 2 + j) for j in range(3)},
            "x": (7, 4, 1, 2, 3),
        }
    zs = [torch.randn(7, 4, 2 + j) for j in range(3)]
    one_by_one = torch.stack([model.decode([z[s] for z in zs]) for s in range(7)])
    torch.testing.assert_close(model.decode(zs), one_by_one, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("covariance", ("diagonal", "spherical", "full"))
def test_a_safetensors_round_trip_restores_everything(
    make_pair: MakePair, make_x: MakeX, tmp_path: Path, covariance: str
) -> None:
    def build() -> nn.ModuleList:
        likelihood = GaussianLikelihood(scale=0.5, learn_scale=True)
        return nn.ModuleList(
            make_pair(covariance=covariance, learn_weights=False, rule=AmortizedAssignment, likelihood=likelihood)
        )

    saved, loaded = build(), build()
    saved[0].alpha.copy_(torch.tensor([0.25, 1.0]))
    saved[0].beta.copy_(torch.tensor([0.5, 0.75]))
    x = make_x(16)
    SVI(*saved, Adam({"lr": 0.01}), FacetELBO()).step(x)  # also after the parameters have been in Pyro's store

    save_file(saved.state_dict(), tmp_path / "pair.safetensors")
    loaded.load_state_dict(load_file(tmp_path / "pair.safetensors"))

    assert {"0.alpha", "0.beta", "0.priors.0.logits"} <= set(saved.state_dict())
    for name, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    losses = []
    for pair in (saved, loaded):
        pyro.set_rng_seed(1)
        losses.append(FacetELBO().loss(*pair, x))
    assert losses[0] == losses[1]
