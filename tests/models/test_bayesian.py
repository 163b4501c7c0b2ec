import math

import pyro
import pytest
import torch
from identity_encoder import Identity, make_model
from pyro import poutine
from pyro.infer import SVI, Predictive, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal, init_to_value
from pyro.infer.inspect import get_model_relations
from pyro.optim import Adam
from torch import Tensor

from pyro_mfcvae import MFCVAE, Facet, FacetELBO, InputError
from pyro_mfcvae.draws.theta import draw_theta
from pyro_mfcvae.guides import ConjugateGuide, MultiFacetGuide
from pyro_mfcvae.guides.globals import typical_values
from pyro_mfcvae.infer.mixture_fit import initialize_mixtures
from pyro_mfcvae.models import BayesianMixturePrior, MultiFacetModel
from pyro_mfcvae.models.distributions import stick_weights
from pyro_mfcvae.models.fits import Covariance

FACET = Facet(num_clusters=3, latent_dim=2)
slow = pytest.mark.slow
every_covariance = pytest.mark.parametrize("covariance", ("diagonal", "spherical", "full", "tied"))


def make_guide(model: MultiFacetModel, **settings: object) -> MultiFacetGuide:
    return MultiFacetGuide(model, encoder=Identity(model.facets[0]), **settings)  # type: ignore[arg-type]


def separated(*, stick_breaking: bool = False) -> BayesianMixturePrior:
    """Clusters at -10, 0, 10 of which only the weights are random."""
    prior = BayesianMixturePrior(
        Facet(num_clusters=3, latent_dim=1), random=("probs",), concentration=2.0, stick_breaking=stick_breaking
    )
    prior.set_mixture(torch.tensor([[-10.0], [0.0], [10.0]]), torch.full((3, 1, 1), 0.25), probs=torch.ones(3) / 3)
    return prior


def items(*counts: int) -> Tensor:
    places = torch.repeat_interleave(torch.tensor([-10.0, 0.0, 10.0]), torch.tensor(counts))
    return (places + 0.5 * torch.randn(len(places)))[torch.randperm(len(places)), None]


@every_covariance
def test_hyperprior_by_its_formula(covariance: Covariance) -> None:
    prior = BayesianMixturePrior(FACET, covariance=covariance, concentration=0.5, loc_scale=2.0, scale_scale=0.7)
    model = make_model(prior)
    trace = poutine.trace(model.sample_globals).get_trace()
    value = {name: site["value"] for name, site in trace.nodes.items() if site["type"] == "sample"}
    K, width, num_spreads = 3, {"spherical": 1}.get(covariance, 2), {"tied": 1}.get(covariance, 3)
    assert value["loc_0"].shape == (K, 2)
    assert value["scale_0"].shape == (num_spreads, width)
    expected = (value["probs_0"].log() * (0.5 - 1)).sum() + math.lgamma(0.5 * K) - K * math.lgamma(0.5)
    expected = expected - (value["loc_0"] ** 2 / 8 + math.log(2 * math.sqrt(2 * math.pi))).sum()
    expected = expected + (math.log(2 / (0.7 * math.sqrt(2 * math.pi))) - value["scale_0"] ** 2 / (2 * 0.49)).sum()
    if covariance in ("full", "tied"):
        # LKJ(1) of a 2 × 2 correlation r is uniform on (-1, 1); in terms of the Cholesky factor's entry it is r itself.
        assert value["corr_0"].shape == (num_spreads, 2, 2)
        expected = expected - num_spreads * math.log(2)
    torch.testing.assert_close(trace.log_prob_sum(), expected)

    given = model.priors_given(value)[0]
    torch.testing.assert_close(given.log_weights(), value["probs_0"].log())
    sigma = torch.diag_embed(value["scale_0"].expand(K, 2) ** 2)
    if covariance in ("full", "tied"):
        half = torch.diag_embed(value["scale_0"]) @ value["corr_0"]
        sigma = (half @ half.mT).expand(K, 2, 2)
    z = torch.randn(5, 2)
    reference = torch.distributions.MultivariateNormal(value["loc_0"], sigma)
    torch.testing.assert_close(given.log_prob(z), reference.log_prob(z.unsqueeze(-2)))
    assert not torch.equal(prior().log_prob(z), given.log_prob(z))  # the prior itself is not changed


@every_covariance
def test_the_guide_starts_at_the_point_that_set_mixture_has_set(covariance: Covariance) -> None:
    prior = BayesianMixturePrior(FACET, covariance=covariance)
    guide = make_guide(make_model(prior))
    loc, spread = torch.randn(3, 2), torch.randn(3, 2, 2)
    prior.set_mixture(loc, spread @ spread.mT + 0.1 * torch.eye(2), probs=torch.tensor([0.2, 0.3, 0.5]))
    guide.restart_globals([])
    z = torch.randn(4, 2)
    assert not torch.allclose(guide.typical_priors()[0].log_prob(z), prior().log_prob(z))
    guide.restart_globals([0])
    torch.testing.assert_close(guide.typical_priors()[0].log_prob(z), prior().log_prob(z))
    # The mean of q(probs) is (1 + 100 probs) / (3 + 100), nearer to uniform than probs.
    expected = (1 + 100 * torch.tensor([0.2, 0.3, 0.5])) / 103
    torch.testing.assert_close(guide.typical_priors()[0].log_weights().exp(), expected)


@slow
@pytest.mark.parametrize(("stick_breaking", "batch_size"), [(True, 20), (True, 60), (False, 60), (False, 20)])
def test_conjugate_weights(stick_breaking: bool, batch_size: int) -> None:
    """With clusters that are practically observed, q(probs) ends at the exact posterior: Dirichlet(2 + n), or sticks
    Beta(1 + n_k, 2 + n_{k+1} + …). Means, averaged over the last 350 steps, within 0.02, a third of the posterior's
    standard deviation; that one within 20 %, which is the noise of the last step. None of 20 runs failed (5 seeds)."""
    x = items(30, 20, 10)
    model = make_model(separated(stick_breaking=stick_breaking), num_data=60)
    guide = make_guide(model)
    optimizer = torch.optim.Adam(guide.globals_guide.parameters(), lr=0.03)
    averages = []
    for step in range(700):
        optimizer.zero_grad()
        FacetELBO().differentiable_loss(model, guide, x[torch.randperm(60)[:batch_size]]).backward()
        optimizer.step()
        if step >= 350:
            posterior = guide.globals_guide.weights_posterior(model.global_sites[0])
            averages.append((posterior.mean_weights if stick_breaking else posterior.mean).detach())
    mean = torch.stack(averages).mean(0)
    n = torch.tensor([30.0, 20.0, 10.0])
    if stick_breaking:
        a, b = 1 + n[:2], 2 + torch.tensor([30.0, 10.0])
        v = a / (a + b)
        exact = torch.stack([v[0], v[1] * (1 - v[0]), (1 - v[0]) * (1 - v[1])])
        spread = torch.distributions.Beta(a, b).stddev[0]
    else:
        exact = (2 + n) / 66
        spread = torch.distributions.Dirichlet(2 + n).stddev[0]
    torch.testing.assert_close(mean, exact, rtol=0.0, atol=0.02)
    draws = posterior.sample((4000,))[:, 0]
    draws = draws.sigmoid() if stick_breaking else draws
    assert draws.std().item() == pytest.approx(spread.item(), rel=0.2)


@pytest.mark.parametrize(
    "make",
    [AutoNormal, None, *(pytest.param(make, marks=pytest.mark.slow) for make in (AutoDelta, AutoMultivariateNormal))],
)
def test_any_guide_over_the_global_sites(make: type | None) -> None:
    model = make_model(BayesianMixturePrior(FACET, covariance="full"))
    guide = make_guide(model, globals_guide=make(model.sample_globals) if make is not None else None)
    x = torch.randn(12, 2)
    pyro.set_rng_seed(2)
    expected = TraceEnum_ELBO(max_plate_nesting=1).loss_and_grads(model, guide, x)
    pyro.set_rng_seed(2)
    assert FacetELBO(closed_form=False).loss(model, guide, x) == pytest.approx(expected, abs=1e-9)
    assert all(p.grad is not None for p in guide.parameters())
    svi = SVI(model, guide, Adam({"lr": 0.01}), FacetELBO())
    losses = [svi.step(x) for _ in range(45)]
    assert sum(losses[-15:]) < sum(losses[:15])
    probs = MFCVAE(model, guide).assign(x)[0]
    torch.testing.assert_close(probs.sum(-1), torch.ones(12))


def test_predictive_gives_posterior_samples_of_the_global_sites() -> None:
    model = make_model(BayesianMixturePrior(FACET, covariance="full"))
    guide = make_guide(model)
    shapes = {"probs_0": (3,), "loc_0": (3, 2), "scale_0": (3, 2), "corr_0": (3, 2, 2)}
    posterior = Predictive(guide, num_samples=7)(torch.randn(5, 2))
    prior = Predictive(model, num_samples=7)(num=5)
    for name, shape in shapes.items():
        assert posterior[name].shape[0] == prior[name].shape[0] == 7
        assert posterior[name].squeeze(1).shape[1:] == prior[name].squeeze(1).shape[1:] == shape
    assert Predictive(model, guide=guide, num_samples=7)(torch.randn(5, 2))["z_0"].shape == (7, 5, 2)


@pytest.mark.parametrize(
    "covariance", ["full", *(pytest.param(c, marks=slow) for c in ("diagonal", "spherical", "tied"))]
)
def test_parallel_particles(covariance: Covariance) -> None:
    """Under a plate of particles every parameter has a leading dimension, (P, 1, K, D); the result is the mean over
    single draws.
    """
    model = make_model(BayesianMixturePrior(FACET, covariance=covariance))
    guide = make_guide(model)
    x = torch.randn(6, 2)
    parallel = TraceEnum_ELBO(max_plate_nesting=1, num_particles=1000, vectorize_particles=True).loss(model, guide, x)
    single = TraceEnum_ELBO(max_plate_nesting=1)
    losses = torch.tensor([single.loss(model, guide, x) for _ in range(40)])
    assert abs(parallel - losses.mean()) < 5 * losses.std() / math.sqrt(40)


def test_fitting_moves_the_guide_of_the_chosen_facet() -> None:
    model = make_model(separated(stick_breaking=True))
    guide = make_guide(model)
    initialize_mixtures(model, guide, items(60, 30, 10))
    torch.testing.assert_close(
        guide.typical_priors()[0].log_weights().exp(), torch.tensor([0.6, 0.3, 0.1]), rtol=0, atol=0.03
    )
    assert (model.priors[0].loc[:, 0] - torch.tensor([-10.0, 0.0, 10.0])).abs().max() < 0.5


def test_a_hierarchical_hyperprior_has_the_density_of_its_formula() -> None:
    """center_d ~ Normal(0, 2), loc_cd ~ Normal(center_d, 2): log p of one draw, and the covariance of two clusters."""
    prior = BayesianMixturePrior(FACET, random=("loc", "center"), loc_scale=2.0)
    model = make_model(prior)
    assert model.global_sites == ["center_0", "loc_0"]
    trace = poutine.trace(model.sample_globals).get_trace()
    center, loc = (trace.nodes[name]["value"] for name in ("center_0", "loc_0"))
    assert (center.shape, loc.shape) == ((2,), (3, 2))
    normal = torch.distributions.Normal
    expected = normal(0.0, 2.0).log_prob(center).sum() + normal(center, 2.0).log_prob(loc).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)
    torch.testing.assert_close(model.priors_given({"center_0": center, "loc_0": loc})[0].components().mean, loc)

    with pyro.plate("draws", 4000, dim=-2):
        trace = poutine.trace(model.sample_globals).get_trace()
    draws = trace.nodes["loc_0"]["value"].reshape(4000, 3, 2)
    covariance = torch.cov(draws[..., 0].T)
    expected = 4.0 * (torch.ones(3, 3) + torch.eye(3))  # both levels, and the center alone between two clusters
    torch.testing.assert_close(covariance, expected, rtol=0.0, atol=0.6)  # 4 standard errors of 8 sqrt(2 / 4000)


@slow
@pytest.mark.parametrize("make", [AutoNormal, AutoMultivariateNormal, None])
def test_a_hierarchical_hyperprior_is_learned(make: type | None) -> None:
    """The clusters lie around 5, so q(center) moves to about 5 · 3 / (3 + 1): all variances are equal."""
    prior = BayesianMixturePrior(Facet(num_clusters=3, latent_dim=1), random=("loc", "center"), loc_scale=1.0)
    prior.set_mixture(torch.tensor([[4.0], [5.0], [6.0]]), torch.full((3, 1, 1), 0.01))
    model = make_model(prior)
    guide = make_guide(model, globals_guide=make(model.sample_globals) if make is not None else None)
    guide.restart_globals([0])
    torch.testing.assert_close(guide.typical_priors()[0].components().mean, torch.tensor([[4.0], [5.0], [6.0]]))
    x = torch.tensor([4.0, 5.0, 6.0]).repeat(20)[:, None] + 0.1 * torch.randn(60, 1)
    optimizer = torch.optim.Adam(guide.globals_guide.parameters(), lr=0.05)
    values = []
    for step in range(300):
        optimizer.zero_grad()
        FacetELBO().differentiable_loss(model, guide, x).backward()
        optimizer.step()
        if step >= 150:
            values.append(typical_values(guide.globals_guide, model)["center_0"])
    assert torch.stack(values).mean().item() == pytest.approx(5 * 3 / 4, abs=0.2)


@pytest.mark.parametrize("num_clusters", (1, 2, 60))
def test_sticks_of_any_number_train_in_single_precision(num_clusters: int) -> None:
    torch.set_default_dtype(torch.float32)
    facet = Facet(num_clusters=num_clusters, latent_dim=2)
    prior = BayesianMixturePrior(facet, random=("probs",), stick_breaking=True, concentration=0.1)
    model = make_model(prior)
    guide = make_guide(model)
    x = torch.randn(12, 2)
    for elbo in (FacetELBO(), TraceEnum_ELBO(max_plate_nesting=1)):
        assert math.isfinite(elbo.loss_and_grads(model, guide, x))
        for parameter in guide.parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all()
    assert guide.typical_priors()[0].log_weights().shape == (num_clusters,)


def test_weights_of_sticks_are_a_site_that_can_be_read_and_set() -> None:
    """``probs_0`` has the weights, c depends on them, and a value that a handler sets there is used for c."""
    model = make_model(BayesianMixturePrior(FACET, random=("probs",), stick_breaking=True))
    trace = poutine.trace(model).get_trace(num=4)
    weights = stick_weights(trace.nodes["sticks_0"]["value"]).exp()
    torch.testing.assert_close(trace.nodes["probs_0"]["value"], weights)
    relations = get_model_relations(model, model_kwargs={"num": 4}, include_deterministic=True)["sample_sample"]
    assert relations["c_0"] == ["probs_0"] and relations["probs_0"] == ["sticks_0"]
    for handler in (poutine.condition, poutine.do):
        values = handler(model, data={"probs_0": torch.tensor([0.0, 1.0, 0.0])})
        assert (poutine.trace(values).get_trace(num=50).nodes["c_0"]["value"] == 1).all()
    pair = MFCVAE(model, make_guide(model))
    dims, drawn = draw_theta(pair, num_samples=5)["probs_0"]
    assert dims == ("chain", "draw", "cluster_0") and drawn.shape == (1, 5, 3)
    assert abs(drawn.sum(-1) - 1).max() < 1e-12


def test_errors() -> None:
    with pytest.raises(
        InputError, match=r"expected random to name some of probs, loc, scale, center, got \['weights'\]"
    ):
        BayesianMixturePrior(FACET, random=("weights",))
    with pytest.raises(InputError, match=r"expected concentration > 0, got 0\.0: pass"):
        BayesianMixturePrior(FACET, concentration=0.0)
    with pytest.raises(InputError, match='expected "probs" in random with stick_breaking'):
        BayesianMixturePrior(FACET, random=("loc",), stick_breaking=True)
    with pytest.raises(InputError, match='for random correlations, got 1: use covariance="diagonal"'):
        BayesianMixturePrior(Facet(num_clusters=3, latent_dim=1), covariance="full")
    model = make_model(BayesianMixturePrior(FACET))
    hidden = poutine.block(model.sample_globals, hide=["probs_0"])
    with pytest.raises(
        InputError, match=r"over the sites \['probs_0', 'loc_0', 'scale_0'\], got one over \['loc_0', 'scale_0'\]"
    ):
        make_guide(model, globals_guide=AutoNormal(hidden))
    with pytest.raises(InputError, match='expected "loc" in random beside "center"'):
        BayesianMixturePrior(FACET, random=("center",))
    started = AutoNormal(model.sample_globals, init_loc_fn=init_to_value(values=model.starting_point()))
    torch.testing.assert_close(
        make_guide(model, globals_guide=started).typical_priors()[0].log_prob(torch.zeros(1, 2)),
        model.priors[0]().log_prob(torch.zeros(1, 2)),
    )
    assert isinstance(make_guide(model).globals_guide, ConjugateGuide)
