import math
import warnings
from collections.abc import Callable, Iterator, Sequence

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta
from pyro.optim import Adam
from torch import Tensor, nn

from pyro_mfcvae import Facet, FacetELBO, InputError
from pyro_mfcvae.facets import cluster_site, latent_site
from pyro_mfcvae.guides import MLPLadderEncoder, MultiFacetGuide, SampleAssignment
from pyro_mfcvae.models import (
    BernoulliLikelihood,
    GaussianLikelihood,
    LadderDecoder,
    MixturePrior,
    MLPLadderDecoder,
    MultiFacetModel,
)

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
MakeX = Callable[[int], Tensor]


def log_probs(model: MultiFacetModel, x: Tensor, cs: list[Tensor], zs: list[Tensor]) -> dict[str, Tensor]:
    """The log probability of every site of the model's trace, weighted and scaled, summed over the items."""
    values = {cluster_site(j): c for j, c in enumerate(cs)} | {latent_site(j): z for j, z in enumerate(zs)}
    trace = poutine.trace(poutine.condition(model, data=values)).get_trace(x)
    trace.compute_log_prob()
    return {site: trace.nodes[site]["log_prob_sum"] for site in [*values, "x"]}


def by_hand(model: MultiFacetModel, x: Tensor, cs: list[Tensor], zs: list[Tensor]) -> dict[str, Tensor]:
    output = model.decoder(zs, model.alpha)
    expected = {"x": (x * output.sigmoid().log() + (1 - x) * (-output).sigmoid().log()).sum()}
    for j, (prior, c, z) in enumerate(zip(model.priors, cs, zs, strict=True)):
        expected[cluster_site(j)] = prior.logits.log_softmax(-1)[c].sum()
        sigma = prior.scale_tril @ prior.scale_tril.mT
        expected[latent_site(j)] = torch.distributions.MultivariateNormal(prior.loc[c], sigma[c]).log_prob(z).sum()
    return expected


def draw(model: MultiFacetModel, num: int) -> tuple[list[Tensor], list[Tensor]]:
    cs = [torch.randint(f.num_clusters, (num,)) for f in model.facets]
    return cs, [torch.randn(num, f.latent_dim) for f in model.facets]


def test_the_joint_density_is_that_of_the_generative_process(make_pair: MakePair, make_x: MakeX) -> None:
    model, _ = make_pair(covariance="full")
    model.alpha.copy_(torch.tensor([0.3, 1.0]))
    x, (cs, zs) = make_x(4), draw(model, 4)
    torch.testing.assert_close(log_probs(model, x, cs, zs), by_hand(model, x, cs, zs), rtol=0.0, atol=1e-10)


def test_beta_weighs_the_facets_and_num_data_scales_everything(make_pair: MakePair, make_x: MakeX) -> None:
    model, _ = make_pair(3, covariance="full", num_data=50)
    model.beta.copy_(torch.tensor([0.0, 0.5, 2.0]))
    x, (cs, zs) = make_x(4), draw(model, 4)
    weights = {"x": 1.0, "c_0": 0.0, "z_0": 0.0, "c_1": 0.5, "z_1": 0.5, "c_2": 2.0, "z_2": 2.0}
    expected = {site: weights[site] * 50 / 4 * value for site, value in by_hand(model, x, cs, zs).items()}
    torch.testing.assert_close(log_probs(model, x, cs, zs), expected, rtol=0.0, atol=1e-9)


def test_it_returns_the_data_or_draws_new_ones(make_pair: MakePair, make_x: MakeX) -> None:
    model, _ = make_pair()
    x = make_x(4)
    assert model(x) is x
    drawn = model(num=7)
    assert drawn.shape == (7, 1, 2, 3)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}


def test_observation_is_the_likelihood_of_the_decoders_output(make_pair: MakePair) -> None:
    model, _ = make_pair()
    model.alpha.copy_(torch.tensor([0.0, 0.5]))
    zs = [torch.randn(5, 4, 2), torch.randn(5, 4, 3)]
    observation = model.observation(zs)
    assert (observation.batch_shape, observation.event_shape) == ((5, 4), (1, 2, 3))
    output = model.decoder(zs, torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(model.decode(zs), output)
    torch.testing.assert_close(observation.mean, output.sigmoid())


def test_every_model_has_a_name_of_its_own(make_pair: MakePair) -> None:
    names = [make_pair()[0]._pyro_name for _ in range(3)]
    assert len(set(names)) == 3
    assert make_pair(name="mine")[0]._pyro_name == "mine"


def test_weights_are_buffers_that_start_at_one(make_pair: MakePair) -> None:
    model, _ = make_pair(3)
    buffers = dict(model.named_buffers())
    assert torch.equal(buffers["alpha"], torch.ones(3))
    assert torch.equal(buffers["beta"], torch.ones(3))


def test_errors(make_pair: MakePair, make_x: MakeX, make_facets: Callable[[int], tuple[Facet, ...]]) -> None:
    model, _ = make_pair()
    with pytest.raises(InputError, match=r"expected x of shape \(N, 1, 2, 3\), got \(4, 6\)"):
        model(make_x(4).flatten(1))
    with pytest.raises(InputError, match=r"expected the data x, or num ≥ 1 .* got num=None"):
        model()
    model.num_data = 3
    with pytest.raises(InputError, match="a batch of at most num_data=3 items, got 4"):
        model(make_x(4))
    shallow, deep = make_facets(2)
    decoder = MLPLadderDecoder((shallow, deep), (4,), rung_dims=(5, 6))
    with pytest.raises(InputError, match="expected priors and decoder of the same facets"):
        MultiFacetModel([MixturePrior(deep), MixturePrior(shallow)], decoder, BernoulliLikelihood())


# --- the collapsed model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ("diagonal", "full"))
def test_the_collapsed_density_is_the_sum_over_all_clusters(
    make_pair: MakePair, make_x: MakeX, covariance: str
) -> None:
    """For each item, p(z, x) is the sum of p(c, z, x) over all 3 · 4 pairs of clusters."""
    model, _ = make_pair(2, covariance=covariance)
    x, (_, zs) = make_x(5), draw(model, 5)
    given = {latent_site(j): z for j, z in enumerate(zs)}

    def item_log_prob(program: Callable[..., object], values: dict[str, Tensor]) -> Tensor:
        trace = poutine.trace(poutine.condition(program, data=values)).get_trace(x)
        trace.compute_log_prob()
        return sum(trace.nodes[site]["log_prob"] for site in [*values, "x"])  # type: ignore[return-value]

    joint = [
        item_log_prob(model, given | {"c_0": torch.full((5,), i), "c_1": torch.full((5,), k)})
        for i in range(3)
        for k in range(4)
    ]
    collapsed = item_log_prob(model.collapsed, given)
    torch.testing.assert_close(collapsed, torch.stack(joint).logsumexp(0), rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("num_data", (None, 40))
@pytest.mark.parametrize("beta", ((1.0, 1.0), (0.3, 0.0)))
def test_trace_elbo_of_the_collapsed_pair_is_that_of_the_sample_rule(
    make_pair: MakePair, make_x: MakeX, beta: tuple[float, float], num_data: int | None
) -> None:
    """SampleAssignment's bound is the collapsed one, so losses are equal draw by draw, and so are all gradients: that
    of q(c|z) is zero at this optimum."""
    model, guide = make_pair(2, rule=SampleAssignment, num_data=num_data)
    model.beta.copy_(torch.tensor(beta))
    x, results = make_x(6), []
    for elbo, programs in (
        (FacetELBO(closed_form=False), (model, guide)),
        (Trace_ELBO(), (model.collapsed, guide.collapsed)),
    ):
        for module in (model, guide):
            module.zero_grad()
        pyro.set_rng_seed(1)
        loss = elbo.loss_and_grads(*programs, x)
        results.append((loss, [p.grad.clone() if p.grad is not None else None for p in model.parameters()]))
        results[-1][1].extend(p.grad.clone() for p in guide.encoder.parameters() if p.grad is not None)
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-9)
    for actual, expected in zip(results[0][1], results[1][1], strict=True):
        if actual is not None and expected is not None:
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_renyi_gradients_of_the_collapsed_pair_are_exact() -> None:
    """The bound of two draws at alpha = 1/2, by hand from the written-out weights: losses and gradients to 1e-10."""
    facet = Facet(num_clusters=2, latent_dim=1)
    prior = MixturePrior(facet)
    prior.set_mixture(torch.tensor([[-1.0], [2.0]]), torch.full((2, 1, 1), 0.3), probs=torch.tensor([0.4, 0.6]))
    model = MultiFacetModel([prior], MLPLadderDecoder([facet], (3,), rung_dims=(4,)), BernoulliLikelihood())
    guide = MultiFacetGuide(model, encoder=MLPLadderEncoder([facet], (3,), rung_dims=(4,)))
    x = torch.rand(1, 3)
    parameters = [*model.parameters(), *guide.parameters()]
    pyro.set_rng_seed(3)
    loss = RenyiELBO(alpha=0.5, num_particles=2).loss_and_grads(model.collapsed, guide.collapsed, x)
    gradients = [p.grad.clone() for p in parameters]
    pyro.set_rng_seed(3)
    weights = []
    for _ in range(2):
        q = guide.posteriors(x)[0]
        z = q.rsample()
        joint = prior.logits.log_softmax(-1) + torch.distributions.Normal(prior.loc, prior.scale).log_prob(z).T
        weights.append(model.log_likelihood([z], x) + joint.logsumexp(-1) - q.log_prob(z))
    bound = 2 * ((0.5 * torch.stack(weights)).logsumexp(0) - math.log(2)).sum()
    assert loss == pytest.approx(-bound.item(), abs=1e-10)
    for gradient, expected in zip(gradients, torch.autograd.grad(-bound, parameters), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=0.0, atol=1e-10)


class Line(LadderDecoder):
    """Decodes z as x."""

    def forward(self, zs: Sequence[Tensor], alpha: Tensor) -> Tensor:
        return zs[0]

    def hidden_layers(self) -> Iterator[nn.Module]:
        return iter(())


def line_model() -> tuple[MultiFacetModel, Tensor, Tensor, Tensor]:
    """z ~ 0.7 N(-1, 0.7²) + 0.3 N(1, 0.7²), x | z ~ N(z, 1): two items, and the exact means and deviations of z | x."""
    facet = Facet(num_clusters=2, latent_dim=1)
    prior = MixturePrior(facet)
    prior.set_mixture(torch.tensor([[-1.0], [1.0]]), torch.full((2, 1, 1), 0.49), probs=torch.tensor([0.7, 0.3]))
    x = torch.tensor([[-1.0], [1.5]])
    grid = torch.linspace(-8, 8, 20_001)
    normal = torch.distributions.Normal
    density = (0.7 * normal(-1.0, 0.7).log_prob(grid).exp() + 0.3 * normal(1.0, 0.7).log_prob(grid).exp()) * normal(
        grid, 1.0
    ).log_prob(x).exp()
    density = density / density.sum(-1, keepdim=True)
    mean = (density * grid).sum(-1)
    deviation = ((density * grid.square()).sum(-1) - mean.square()).sqrt()
    return MultiFacetModel([prior], Line([facet], (1,)), GaussianLikelihood()), x, mean, deviation


@pytest.mark.filterwarnings("ignore")
def test_an_automatic_guide_over_z_trains_on_the_collapsed_model() -> None:
    """A delta guide finds the mode of p(z | x), which is a stationary point of the joint density."""
    model, x, *_ = line_model()
    model.requires_grad_(False)
    guide = AutoDelta(model.collapsed)
    guide(x)
    optimizer = torch.optim.LBFGS(guide.parameters(), line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = Trace_ELBO().differentiable_loss(model.collapsed, guide, x)
        loss.backward()
        return loss

    optimizer.step(closure)
    z = guide.median(x)["z_0"].detach().requires_grad_()
    joint = model.priors[0]().marginal().log_prob(z).sum() + model.log_likelihood([z], x).sum()
    (slope,) = torch.autograd.grad(joint, z)
    assert slope.abs().max() < 1e-4


@pytest.mark.slow
def test_nuts_draws_the_posterior_of_the_collapsed_model() -> None:
    """600 draws of two items: means within 0.2 and deviations within 20 %, about 4 standard errors at 150 effective."""
    model, x, mean, deviation = line_model()
    sampler = MCMC(NUTS(model.collapsed), num_samples=600, warmup_steps=100, disable_progbar=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sampler.run(x)
    assert not [w for w in caught if "has a copy for every value" in str(w.message)]
    z = sampler.get_samples()["z_0"]
    assert z.shape == (600, 2, 1)
    torch.testing.assert_close(z.mean(0)[:, 0], mean, rtol=0.0, atol=0.2)
    torch.testing.assert_close(z.std(0)[:, 0], deviation, rtol=0.2, atol=0.0)


@pytest.mark.filterwarnings("ignore:(?!z_0 has)")
def test_nuts_on_enumerated_clusters_warns() -> None:
    model, x, *_ = line_model()
    sampler = MCMC(NUTS(model), num_samples=1, warmup_steps=1, disable_progbar=True)
    with pytest.warns(UserWarning, match=r"z_0 has a copy for every value of c_0.* Run NUTS.* on model\.collapsed"):
        sampler.run(x)


def test_enumeration_with_z_from_a_guide_does_not_warn(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair(2)
    x = make_x(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        elbo = TraceEnum_ELBO(max_plate_nesting=1, num_particles=3, vectorize_particles=True)
        elbo.loss(config_enumerate(model, "parallel"), guide.collapsed, x)
        elbo.loss(model, guide, x)


def test_the_collapsed_pair_trains_under_svi_and_draws(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair(2)
    x = make_x(8)
    before = [p.detach().clone() for p in (*model.parameters(), *guide.encoder.parameters())]
    svi = SVI(model.collapsed, guide.collapsed, Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(3):
        svi.step(x)
    after = [*model.parameters(), *guide.encoder.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    draws = Predictive(model.collapsed, num_samples=7)(num=4)
    assert draws["z_0"].shape == (7, 4, 2) and draws["x"].shape == (7, 4, 1, 2, 3)
    assert "c_0" not in draws
