import math
from collections.abc import Callable, Iterator, Sequence

import pyro
import pyro.distributions as dist
import pytest
import torch
from identity_encoder import random_mean_pair
from torch import Tensor, nn

from pyro_mfcvae import Facet, FacetELBO, InputError, to_inference_data
from pyro_mfcvae.draws.arviz_data import to_elpd
from pyro_mfcvae.guides import AnalyticAssignment, LadderEncoder, MultiFacetGuide, SampleAssignment
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.models import GaussianLikelihood, LadderDecoder, MixturePrior, MultiFacetModel

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
MakeX = Callable[[int], Tensor]


def test_encode_and_assign(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair(3)
    x = make_x(5)
    posteriors = MFCVAE(model, guide).encode(x)
    for j, (posterior, expected) in enumerate(zip(posteriors, guide.encoder(x), strict=True)):
        assert torch.equal(posterior.mean, expected.mean)
        assert torch.equal(posterior.stddev, expected.stddev)
        rule = AnalyticAssignment()
        logits = rule(j, model.priors[j](), expected, expected.mean)
        torch.testing.assert_close(MFCVAE(model, guide).assign(x)[j], logits.exp())


def test_assign_averages_a_rule_that_needs_a_draw_over_q_z(make_pair: MakePair, make_x: MakeX) -> None:
    """128 draws against 20,000: 5 standard errors for 35 probabilities."""
    model, guide = make_pair(rule=SampleAssignment)
    x, pair = make_x(5), MFCVAE(model, guide)
    found = pair.assign(x)
    for prior, q, probs in zip(pair.priors, guide.encoder(x), found, strict=True):
        of_draws = (prior.log_weights() + prior.log_prob(q.sample((20_000,)))).softmax(-1)
        assert ((probs - of_draws.mean(0)).abs() <= 5 * of_draws.std(0) / 128**0.5 + 1e-6).all()
    assert all(torch.equal(a, b) for a, b in zip(found, pair.assign(x), strict=True))


def test_reconstruct_and_render_are_expectations(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair()
    x = make_x(5)
    zs = [posterior.mean for posterior in guide.encoder(x)]
    expected = model.decoder(zs, torch.ones(2)).sigmoid()
    torch.testing.assert_close(MFCVAE(model, guide).reconstruct(x), expected)
    torch.testing.assert_close(MFCVAE(model, guide).render(zs), expected)


def test_swap_exchanges_the_chosen_facets(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair(3)
    pair, a, b = MFCVAE(model, guide), make_x(5), make_x(5)
    assert torch.equal(pair.swap(a, b, facets=[]), pair.reconstruct(a))
    assert torch.equal(pair.swap(a, b, facets=range(3)), pair.reconstruct(b))
    z_a, z_b = ([q.mean for q in pair.encode(x)] for x in (a, b))
    torch.testing.assert_close(pair.swap(a, b, facets=[1]), pair.render([z_a[0], z_b[1], z_a[2]]))
    torch.testing.assert_close(pair.swap(a, b[:1], facets=[1])[2], pair.swap(a[2:3], b[:1], facets=[1])[0])


def test_traverse_changes_only_one_dimension(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair(2)
    pair, x, values = MFCVAE(model, guide), make_x(5), torch.tensor([-1.0, 0.0, 2.5, 4.0])
    images = pair.traverse(x, facet=1, dim=2, values=values)
    assert images.shape == (4, 5, 1, 2, 3)
    shallow, deep = (posterior.mean for posterior in pair.encode(x))
    for image, value in zip(images, values, strict=True):
        moved = torch.cat([deep[:, :2], value.expand(5, 1)], -1)
        torch.testing.assert_close(image, pair.render([shallow, moved]))
    torch.testing.assert_close(pair.encode(x)[1].mean, deep)  # later calls do not write to earlier results


def test_sample_draws_facets_from_the_chosen_clusters(make_pair: MakePair) -> None:
    model, guide = make_pair(covariance="full")
    pair, seen = MFCVAE(model, guide), []
    model.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for prior in model.priors:
        num_clusters, latent_dim = prior.loc.shape
        centres = 100.0 * torch.arange(num_clusters)[:, None].expand(-1, latent_dim)
        prior.set_mixture(centres, torch.eye(latent_dim).expand(num_clusters, -1, -1))
    images = pair.sample(200, clusters={0: 2})
    assert images.shape == (200, 1, 2, 3)
    assert ((images >= 0) & (images <= 1)).all()
    held, free = ((z / 100).round() for z in seen[0])
    assert (held == 2).all()
    assert free.unique().tolist() == [0.0, 1.0, 2.0, 3.0]
    pair.sample(200)
    assert (seen[1][0] / 100).round().unique().tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_temperature_multiplies_the_distance_to_the_mean(make_pair: MakePair, temperature: float) -> None:
    model, guide = make_pair(covariance="full")
    pair = MFCVAE(model, guide)
    torch.manual_seed(1)
    hot = pair.sample_latents(50, clusters={0: 1, 1: 2})
    torch.manual_seed(1)
    cold = pair.sample_latents(50, clusters={0: 1, 1: 2}, temperature=temperature)
    for j, k in enumerate((1, 2)):
        loc = model.priors[j].loc[k]
        torch.testing.assert_close(cold[j] - loc, temperature * (hot[j] - loc))


def test_elbo_terms_are_closed_forms_if_they_exist(make_pair: MakePair, make_x: MakeX) -> None:
    x = make_x(5)
    for rule, closed_form in ((AnalyticAssignment, True), (SampleAssignment, False)):
        model, guide = make_pair(rule=rule)
        model.beta.copy_(torch.tensor([0.25, 1.0]))
        pyro.set_rng_seed(1)
        terms = MFCVAE(model, guide).elbo_terms(x)
        pyro.set_rng_seed(1)
        loss = FacetELBO(closed_form=closed_form).loss(model, guide, x)
        assert terms.total.sum().item() == pytest.approx(-loss, abs=1e-10)
        by_hand = terms.reconstruction - 0.25 * (terms.kl_z + terms.kl_c)[:, 0] - (terms.kl_z + terms.kl_c)[:, 1]
        torch.testing.assert_close(terms.total, by_hand)
        assert not terms.total.requires_grad


# A model that is small enough for numerical integration: z in R, x = w z + b + noise in R², so that p(x) is a mixture
# of two Gaussians and p(z | x) too.

WEIGHT = torch.tensor([1.0, -0.5], dtype=torch.float64)
BIAS = torch.tensor([0.2, 0.1], dtype=torch.float64)
NOISE = 0.7
FACETS = (Facet(num_clusters=2, latent_dim=1),)


class LinearDecoder(LadderDecoder):
    def forward(self, zs: Sequence[Tensor], alpha: Tensor) -> Tensor:
        return WEIGHT * zs[0] + BIAS

    def hidden_layers(self) -> Iterator[nn.Module]:
        yield from ()


class WideEncoder(LadderEncoder):
    """A guide that is centred on the least-squares z and wide enough to cover both modes of the posterior."""

    def forward(self, x: Tensor) -> list[dist.TorchDistribution]:
        loc = 0.5 * ((x - BIAS) @ WEIGHT)[:, None] / WEIGHT.square().sum()
        return [dist.Normal(loc, torch.tensor(1.2)).to_event(1)]

    def hidden_layers(self) -> Iterator[nn.Module]:
        yield from ()


def small_pair() -> tuple[MFCVAE, Callable[[Tensor], Tensor]]:
    """The pair, and its exact log p(x)."""
    prior = MixturePrior(FACETS[0])
    loc, variance = torch.tensor([[-1.0], [1.5]]), torch.tensor([0.3, 0.8])
    probs = torch.tensor([0.4, 0.6])
    prior.set_mixture(loc, variance[:, None, None], probs=probs)
    model = MultiFacetModel([prior], LinearDecoder(FACETS, (2,)), GaussianLikelihood(scale=NOISE))
    pair = MFCVAE(model, MultiFacetGuide(model, encoder=WideEncoder(FACETS, (2,))))
    sigma = variance[:, None, None] * torch.outer(WEIGHT, WEIGHT) + NOISE**2 * torch.eye(2)
    components = torch.distributions.MultivariateNormal(WEIGHT * loc + BIAS, sigma)
    return pair, lambda x: (probs.log() + components.log_prob(x[:, None])).logsumexp(-1)


def test_log_evidence_is_exact_in_the_limit_and_unbiased_before() -> None:
    """4 standard errors of the mean weight, for 6 items at each of two sizes: fails for 1 seed in 1,300."""
    pair, log_evidence = small_pair()
    x = torch.tensor([[-1.0, 0.5], [1.5, -0.5], [0.0, 0.0], [0.5, 0.5], [2.0, -1.0], [-2.0, 1.5]])
    exact = log_evidence(x)
    for num_samples, num_repeats in ((1, 20_000), (50, 400)):
        repeated = x.repeat(num_repeats, 1)
        estimates = pair.log_evidence(repeated, num_samples=num_samples).unflatten(0, (num_repeats, 6))
        ratios = (estimates - exact).exp()
        assert ((ratios.mean(0) - 1).abs() < 4 * ratios.std(0) / math.sqrt(num_repeats)).all()
        assert (estimates.mean(0) < exact).all()  # Jensen's inequality
    torch.testing.assert_close(pair.log_evidence(x, num_samples=100_000), exact, rtol=0.0, atol=0.02)


def test_the_elbo_is_below_the_evidence_and_more_samples_get_closer() -> None:
    pair, log_evidence = small_pair()
    x = torch.tensor([[0.3, -0.2]])
    items = x.expand(20_000, -1)
    elbo = pair.elbo_terms(items).total.mean()
    bounds = [pair.log_evidence(items[: 20_000 // s], num_samples=s).mean() for s in (1, 10, 100)]
    assert elbo < bounds[0] < bounds[1] < bounds[2] < log_evidence(x) + 1e-3
    assert log_evidence(x) - elbo > 0.05


def test_errors(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair()
    other, _ = make_pair()
    pair, x = MFCVAE(model, guide), make_x(4)
    with pytest.raises(InputError, match="expected a guide that was made for this model"):
        MFCVAE(other, guide)
    with pytest.raises(InputError, match=r"expected x of shape \(N, 1, 2, 3\), got \(4, 6\)"):
        pair.encode(x.flatten(1))
    with pytest.raises(InputError, match="expected a facet from 0 to 1, got 2"):
        pair.swap(x, x, facets=[2])
    with pytest.raises(InputError, match="expected a facet from 0 to 1, got -1"):
        pair.sample(3, clusters={-1: 0})
    with pytest.raises(InputError, match="expected a cluster of facet 1 from 0 to 3, got 4"):
        pair.sample(3, clusters={1: 4})
    for temperature in (-1, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"expected a temperature from 0 to 1e6, got {temperature}"):
            pair.sample(3, temperature=temperature)
    with pytest.raises(InputError, match="expected a dimension of facet 0 from 0 to 1, got 2"):
        pair.traverse(x, facet=0, dim=2, values=torch.zeros(3))
    with pytest.raises(InputError, match="expected num_samples ≥ 1, got 0"):
        pair.log_evidence(x, num_samples=0)


def test_the_evidence_of_a_random_mean_is_the_predictive_density() -> None:
    """z ~ Normal(loc, 0.5), loc ~ q = Normal(2, 1), x = z + noise of 0.3: log p(x) = log N(x; 2, 0.25 + 1 + 0.09).

    32 draws of theta: a standard error of about 0.05 nats for the mean of 300 items; the evidence at the median
    of q(loc) is off by more than 1 nat. KL(q(theta) ‖ p(theta)) is counted once.
    """
    pair, x = random_mean_pair(), 2 + 1.158 * torch.randn(300, 1)
    exact = dist.Normal(2.0, (0.25 + 1 + 0.09) ** 0.5).log_prob(x[:, 0]).mean().item()
    plugged_in = dist.Normal(2.0, (0.25 + 0.09) ** 0.5).log_prob(x[:, 0]).mean().item()
    found = torch.stack([pair.log_evidence(x, num_samples=60).mean() for _ in range(5)]).mean().item()
    assert found == pytest.approx(exact, abs=0.12) and exact - plugged_in > 0.8
    score = to_elpd(to_inference_data(pair, x, num_samples=60, num_simulated=0))
    elpd = score.elpd_loo if hasattr(score, "elpd_loo") else score.elpd  # before ArviZ 1.0, and since
    assert elpd / 300 == pytest.approx(exact, abs=0.2)
    terms = [pair.elbo_terms(x).kl_globals.item() for _ in range(20)]
    kl = math.log(3.0) + (1 + 4) / 18 - 0.5
    assert sum(terms) / 20 == pytest.approx(kl, abs=0.3)
