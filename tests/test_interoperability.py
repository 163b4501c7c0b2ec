"""Tools for Pyro models and guides work on ours."""

import math
from collections.abc import Callable

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, config_enumerate, infer_discrete
from pyro.infer.inspect import get_model_relations
from pyro.optim import ClippedAdam
from torch import Tensor

from pyro_mfcvae import Facet, FacetELBO, InputError
from pyro_mfcvae.facets import cluster_site, latent_site
from pyro_mfcvae.guides import ConvLadderEncoder, MultiFacetGuide
from pyro_mfcvae.models import ConvLadderDecoder, GaussianLikelihood, MixturePrior, MultiFacetModel

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
MakeX = Callable[[int], Tensor]

TOLERANCE = {"rtol": 0.0, "atol": 1e-10}


def shapes(samples: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {site: tuple(value.shape) for site, value in samples.items()}


def test_predictive_draws_from_the_prior(make_pair: MakePair) -> None:
    model, _ = make_pair()
    assert shapes(Predictive(model, num_samples=8)(num=16)) == {
        **{"c_0": (8, 16), "z_0": (8, 16, 2), "c_1": (8, 16), "z_1": (8, 16, 3)},
        "x": (8, 16, 1, 2, 3),
    }


@pytest.mark.parametrize("covariance", ("diagonal", "spherical", "full"))
def test_prior_draws_have_the_priors_weights_and_means(make_pair: MakePair, covariance: str) -> None:
    """4 standard errors for 7 weights and 18 means: fails for 1 seed in 600."""
    model, _ = make_pair(covariance=covariance)
    draws = Predictive(model, num_samples=20, parallel=True)(num=1000)
    for j, prior in enumerate(model.priors):
        c, z = draws[cluster_site(j)].flatten(), draws[latent_site(j)].flatten(0, 1)
        probs = prior().log_weights().exp()
        frequencies = c.bincount(minlength=len(probs)) / len(c)
        assert ((frequencies - probs).abs() < 4 * (probs * (1 - probs) / len(c)).sqrt()).all()
        for k, loc in enumerate(prior.loc):
            members = z[c == k]
            assert ((members.mean(0) - loc).abs() < 4 * members.std(0) / len(members) ** 0.5).all()


def test_predictive_draws_from_the_posterior(make_pair: MakePair, make_x: MakeX) -> None:
    """4 standard errors for 25 means and 35 frequencies: fails for 1 seed in 260."""
    model, guide = make_pair()
    x = make_x(5)
    draws = Predictive(model, guide=guide, num_samples=4000, parallel=True)(x)
    assert shapes(draws) == {
        **{"c_0": (4000, 5), "z_0": (4000, 5, 2), "c_1": (4000, 5), "z_1": (4000, 5, 3)},
        "x": (4000, 5, 1, 2, 3),
    }
    for j, posterior in enumerate(guide.posteriors(x)):
        error = (draws[latent_site(j)].mean(0) - posterior.mean).abs()
        assert (error < 4 * posterior.stddev / 4000**0.5).all()
        probs = guide.assignment_logits(j, model.priors[j](), posterior, posterior.mean).exp()
        frequencies = torch.nn.functional.one_hot(draws[cluster_site(j)], probs.shape[-1]).double().mean(0)
        assert ((frequencies - probs).abs() < 4 * (probs * (1 - probs) / 4000).sqrt() + 1e-3).all()
    assert shapes(Predictive(model, guide=guide, num_samples=3)(x))["x"] == (3, 5, 1, 2, 3)


def test_posterior_predictive_draws_new_data(make_pair: MakePair, make_x: MakeX) -> None:
    """The mean of 2,000 new x is E[x | x observed], within 4 standard errors for each of 30 pixels: 1 seed in 500."""
    model, guide = make_pair(likelihood=GaussianLikelihood(scale=0.5))
    with torch.no_grad():
        posterior = Predictive(guide, num_samples=2000, parallel=True)(make_x(5))
        new = Predictive(model, posterior_samples=posterior, parallel=True)(num=5)["x"]
        expected = model.decode([posterior[latent_site(j)] for j in range(2)])
    assert new.shape == (2000, 5, 1, 2, 3)
    noise = new - expected
    assert (noise.mean(0).abs() < 4 * 0.5 / 2000**0.5).all()
    assert noise.std().item() == pytest.approx(0.5, rel=0.01)


def test_infer_discrete_at_temperature_zero_is_the_most_probable_cluster(make_pair: MakePair, make_x: MakeX) -> None:
    model, _ = make_pair()
    x = make_x(50)
    zs = {latent_site(j): 2 * torch.randn(50, 2 + j) for j in range(2)}
    conditioned = config_enumerate(poutine.condition(model, data=zs))
    inferred = infer_discrete(conditioned, first_available_dim=-2, temperature=0)
    trace = poutine.trace(inferred).get_trace(x)
    for j, prior in enumerate(model.priors):
        most_probable = (prior().log_weights() + prior().log_prob(zs[latent_site(j)])).argmax(-1)
        assert len(most_probable.unique()) > 1
        assert torch.equal(trace.nodes[cluster_site(j)]["value"], most_probable)


def test_pyro_reads_the_graph_off_the_model(make_pair: MakePair, make_x: MakeX) -> None:
    model, _ = make_pair()
    relations = get_model_relations(model, model_args=(make_x(4),))
    assert relations["sample_sample"] == {
        **{"c_0": [], "z_0": ["c_0"], "c_1": [], "z_1": ["c_1"]},
        "x": ["z_0", "z_1"],
    }
    assert relations["plate_sample"] == {"data": ["c_0", "z_0", "c_1", "z_1", "x"]}
    assert relations["observed"] == ["x"]


def test_the_model_is_rendered(make_pair: MakePair, make_x: MakeX) -> None:
    model, _ = make_pair()
    assert "z_1" in pyro.render_model(model, model_args=(make_x(4),)).source


def test_known_clusters_are_conditioned_on(make_pair: MakePair, make_x: MakeX) -> None:
    """Semi-supervised: facet 0's KL becomes log q(z) - log p(z | c) - log p(c) at the given c."""
    model, guide = make_pair()
    x, c = make_x(4), torch.tensor([0, 1, 2, 0])
    labelled = poutine.condition(model, data={"c_0": c})
    pyro.set_rng_seed(1)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(labelled, without(guide, "c_0"), x)

    zs, posteriors = draw(guide, x), guide.posteriors(x)
    prior = model.priors[0]
    known = posteriors[0].log_prob(zs[0]) - prior().component(c).log_prob(zs[0]) - prior().log_weights()[c]
    free = posteriors[1].log_prob(zs[1]) + cluster_terms(model, guide, x, 1, zs[1])
    expected = (known + free - model.observation(zs).log_prob(x)).sum()
    torch.testing.assert_close(loss, expected.item(), **TOLERANCE)


def test_a_known_latent_is_conditioned_on(make_pair: MakePair, make_x: MakeX) -> None:
    """The term log q(z) of facet 0 is left out; its clusters are still summed out."""
    model, guide = make_pair()
    x, z = make_x(4), torch.randn(4, 2)
    known = poutine.condition(model, data={"z_0": z})
    pyro.set_rng_seed(1)
    z_1 = [posterior.rsample() for posterior in guide.posteriors(x)][1]
    pyro.set_rng_seed(1)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(known, without(guide, "z_0"), x)

    kl = cluster_terms(model, guide, x, 0, z)
    kl = kl + guide.posteriors(x)[1].log_prob(z_1) + cluster_terms(model, guide, x, 1, z_1)
    expected = (kl - model.observation([z, z_1]).log_prob(x)).sum()
    torch.testing.assert_close(loss, expected.item(), **TOLERANCE)


def draw(guide: MultiFacetGuide, x: Tensor) -> list[Tensor]:
    """The z of both facets that the guide draws at seed 1 if it also draws c_0."""
    pyro.set_rng_seed(1)
    trace = poutine.trace(guide).get_trace(x)
    return [trace.nodes[latent_site(j)]["value"] for j in range(2)]


def cluster_terms(model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, j: int, z: Tensor) -> Tensor:
    """sum_c q(c | x) (log q(c | x) - log pi_c - log p(z | c)) per item."""
    prior = model.priors[j]
    logits = guide.assignment_logits(j, model.priors[j](), guide.posteriors(x)[j], z)
    return (logits.exp() * (logits - prior().log_weights() - prior().log_prob(z))).sum(-1)


def without(guide: MultiFacetGuide, site: str) -> Callable[[Tensor], None]:
    """The guide without one site."""
    return poutine.block(guide, hide=[site])


def test_facet_elbo_refuses_a_wrapped_model_with_advice(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair()
    wrapped = poutine.condition(model, data={"c_0": torch.zeros(4)})
    with pytest.raises(InputError, match=r"wrapped by a handler.*TraceEnum_ELBO\(max_plate_nesting=1\)"):
        FacetELBO().loss(wrapped, guide, make_x(4))


@pytest.mark.parametrize("loss", (TraceEnum_ELBO(max_plate_nesting=1), FacetELBO()), ids=("TraceEnum", "FacetELBO"))
def test_the_loss_falls_with_svi(make_pair: MakePair, make_x: MakeX, loss: TraceEnum_ELBO | FacetELBO) -> None:
    svi = SVI(*make_pair(), ClippedAdam({"lr": 0.01, "lrd": 0.999}), loss=loss)
    x = make_x(32)
    losses = [svi.step(x) for _ in range(40)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert svi.evaluate_loss(x) < losses[0]


@pytest.mark.parametrize(
    "loss",
    (pytest.param(TraceEnum_ELBO(max_plate_nesting=1), marks=pytest.mark.slow), FacetELBO()),
    ids=("TraceEnum", "FacetELBO"),
)
def test_the_loss_falls_with_a_torch_optimizer(
    make_pair: MakePair, make_x: MakeX, loss: TraceEnum_ELBO | FacetELBO
) -> None:
    model, guide = make_pair()
    elbo = loss(model, guide)
    assert len(list(elbo.parameters())) == len([*model.parameters(), *guide.parameters()])
    optimizer = torch.optim.AdamW(elbo.parameters(), lr=0.01)
    x = make_x(32)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        value = elbo(x)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


@pytest.mark.filterwarnings("ignore:.*sample sites configured for enumeration:UserWarning")
def test_losses_that_sample_the_clusters_agree_on_average(make_pair: MakePair, make_x: MakeX) -> None:
    """Trace_ELBO draws c; RenyiELBO at alpha → 1 is the ELBO, at 0 a tighter bound. 4 SE: 1 seed in 16,000 each."""
    model, guide = make_pair()
    x = make_x(4)

    def estimates(loss: Trace_ELBO | FacetELBO | RenyiELBO, num: int) -> Tensor:
        return torch.tensor([loss.loss(model, guide, x) for _ in range(num)])

    vectorized = {"num_particles": 200, "max_plate_nesting": 1, "vectorize_particles": True}
    exact = estimates(FacetELBO(num_particles=200), 10)
    sampled = estimates(Trace_ELBO(**vectorized), 40)
    assert (sampled.mean() - exact.mean()).abs() < 4 * (sampled.var() / 40 + exact.var() / 10).sqrt()
    tighter = estimates(RenyiELBO(alpha=0.0, **vectorized), 40)
    assert tighter.mean() < exact.mean() - 4 * (tighter.var() / 40 + exact.var() / 10).sqrt()


@pytest.mark.parametrize("training", [True, False])
def test_a_convolutional_pair_with_batch_norm_works_with_the_same_tools(training: bool) -> None:
    facets = (Facet(num_clusters=3, latent_dim=2), Facet(num_clusters=4, latent_dim=3))
    shape = (1, 8, 8)
    model = MultiFacetModel(
        [MixturePrior(f) for f in facets],
        ConvLadderDecoder(facets, shape, channels=(3,), num_residual_blocks=1),
        GaussianLikelihood(scale=0.5),
    )
    encoder = ConvLadderEncoder(facets, shape, channels=(3,), num_residual_blocks=1, head_init_scale=1.0)
    guide = MultiFacetGuide(model, encoder=encoder)
    x = torch.rand(6, *shape)
    SVI(model, guide, ClippedAdam({"lr": 1e-3}), loss=FacetELBO()).step(x)  # changes the statistics of batch norm
    model.train(training)
    guide.train(training)
    pyro.set_rng_seed(1)
    pyros = TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x)
    pyro.set_rng_seed(1)
    assert FacetELBO(closed_form=False).loss(model, guide, x) == pytest.approx(pyros, rel=0, abs=1e-10)
    # Particles and draws are further batch dimensions, which convolutions do not support.
    assert math.isfinite(
        TraceEnum_ELBO(max_plate_nesting=1, num_particles=3, vectorize_particles=True).loss(model, guide, x)
    )
    draws = Predictive(model, guide=guide, num_samples=5, parallel=True)(x)
    assert draws["x"].shape == (5, 6, *shape)
    assert Predictive(model, num_samples=5, parallel=True)(num=7)["x"].shape == (5, 7, *shape)
