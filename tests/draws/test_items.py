import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from known_models import draw as draw_known
from known_models import make_pair as make_known_pair
from linear_gaussian import NOISE, NUM_PIXELS, ExactEncoder, draw, linear_pair
from torch import Tensor

from pyro_mfcvae import InputError
from pyro_mfcvae.draws.items import (
    compare_halves,
    draw_facet_log_weights,
    draw_items,
    draw_log_weights,
    evidence_of,
)
from pyro_mfcvae.draws.psis import log_mean, smooth
from pyro_mfcvae.guides import SampleAssignment
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.models import MultiFacetModel
from pyro_mfcvae.models.generative import MultiFacetModel as Model

Make = Callable[..., tuple[MultiFacetModel, object]]
MakeX = Callable[[int], Tensor]


def test_draws_weights_and_elbo_are_those_of_the_pair(make_pair: Make, make_x: Callable[[int], Tensor]) -> None:
    pair, x = MFCVAE(*make_pair(2)), make_x(50)
    groups = draw_items(pair, x, num_samples=40, statistics={}, pixels=True)  # five batches
    zs = [torch.from_numpy(groups["posterior"][f"z_{j}"][1][0]) for j in range(2)]
    assert [tuple(z.shape) for z in zs] == [(40, 50, 2), (40, 50, 3)]
    log_weights = pair.model.log_likelihood(zs, x)
    elbo = log_weights.clone()
    for z, q, prior, q_c in zip(zs, pair.encode(x), pair.priors, pair.assign(x), strict=True):
        joint = prior.log_weights() + prior.log_prob(z)
        log_weights = log_weights + joint.logsumexp(-1) - q.log_prob(z)
        elbo = elbo + (q_c * (joint - q_c.log())).sum(-1) - q.log_prob(z)
    stats = groups["constant_data"]
    np.testing.assert_allclose(groups["sample_stats"]["log_weight"][1][0], log_weights.detach(), atol=1e-10)
    np.testing.assert_allclose(stats["elbo"][1], elbo.mean(0).detach(), atol=1e-10)
    evidence = log_mean(smooth(log_weights.detach().T.numpy())[0])
    np.testing.assert_allclose(groups["log_likelihood"]["x"][1][0].mean(0), evidence, atol=1e-10)
    assert groups["posterior_predictive"]["x"][1].shape == (1, 40, 50, 1, 2, 3)
    for j, q_c in enumerate(pair.assign(x)):
        np.testing.assert_allclose(stats[f"assignment_{j}"][1], q_c.detach(), atol=1e-10)
        drawn = torch.nn.functional.one_hot(torch.from_numpy(groups["posterior"][f"c_{j}"][1][0]).long(), 3 + j)
        # Mean of 40 draws of 50 items, each against its own probability: standard error below 0.012.
        torch.testing.assert_close(drawn.double().mean((0, 1)), q_c.mean(0), atol=0.05, rtol=0)


def test_the_weights_of_a_facet_use_the_means_of_the_other_facets(make_pair: Make, make_x: MakeX) -> None:
    pair, x = MFCVAE(*make_pair(3)), make_x(12)
    pyro.set_rng_seed(1)
    stats = draw_facet_log_weights(pair, x, num_samples=30)["sample_stats"]
    pyro.set_rng_seed(1)
    posteriors = pair.encode(x)
    for j, (q, prior) in enumerate(zip(posteriors, pair.priors, strict=True)):
        z = q.sample((30,))
        zs = [z if i == j else other.mean for i, other in enumerate(posteriors)]
        prior_density = (prior.log_weights() + prior.log_prob(z)).logsumexp(-1)
        expected = pair.model.log_likelihood(zs, x) + prior_density - q.log_prob(z)
        dims, log_weights = stats[f"log_weight_{j}"]
        assert dims == ("chain", "draw", "weighed_item")
        np.testing.assert_allclose(log_weights[0], expected.detach(), atol=1e-10)


def test_the_best_independent_facets_of_a_normal_posterior_have_equal_weights() -> None:
    """x = W z + noise, z ~ N(0, I): p(z | x) = N(P⁻¹ Wᵀ x / sigma², P⁻¹) with P = I + Wᵀ W / sigma². The best q of
    independent facets has its mean, and the blocks of P as precisions (Bishop 2006, equation 10.13)."""
    pair = linear_pair()
    for prior in pair.model.priors:
        num, dim = prior.facet.num_clusters, prior.facet.latent_dim
        prior.set_mixture(torch.zeros(num, dim), torch.eye(dim).expand(num, dim, dim), probs=torch.ones(num) / num)
    W = pair.model.decoder.weight.copy_(torch.randn(NUM_PIXELS, 3))
    P = torch.eye(3) + W.T @ W / NOISE**2

    class Best(ExactEncoder):
        def forward(self, x: Tensor) -> list[dist.TorchDistribution]:
            locs = torch.linalg.solve(P, (x @ W / NOISE**2).T).T.split([2, 1], -1)
            blocks = (P[:2, :2], P[2:, 2:])
            return [dist.MultivariateNormal(m, precision_matrix=b) for m, b in zip(locs, blocks, strict=True)]

    pair.guide.encoder = Best(pair.model)
    x = draw(pair, 20)
    stats = draw_facet_log_weights(pair, x, num_samples=50)["sample_stats"]
    for j in range(2):
        log_weights = stats[f"log_weight_{j}"][1][0]
        np.testing.assert_allclose(log_weights, log_weights[:1].repeat(50, 0), atol=1e-10)
    assert (
        draw_log_weights(pair, x, num_samples=50).std(0).min() > 0.1
    )  # the joint draws of both facets have unequal weights


def test_the_sample_rule_gives_the_collapsed_bound(make_pair: Make, make_x: Callable[[int], Tensor]) -> None:
    pair = MFCVAE(*make_pair(2, rule=SampleAssignment))
    groups = draw_items(pair, make_x(20), num_samples=30, statistics={}, pixels=False)
    log_weights = groups["sample_stats"]["log_weight"][1][0]
    np.testing.assert_allclose(groups["constant_data"]["elbo"][1], log_weights.mean(0), atol=1e-10)
    assert not groups["constant_data"]["rule_loss_0"][1].any()


def test_importance_weights_find_the_exact_posterior_of_c() -> None:
    """The draws come from a guide that is too wide. There are 2,000, so that errors of single probabilities are
    about 0.01.
    """
    x = draw(linear_pair(), 20)
    exact = [q.mixture_distribution.probs.detach() for q in linear_pair().encode(x)]
    groups = draw_items(linear_pair(spread=1.3), x, num_samples=2000, statistics={}, pixels=False)
    for j, probs in enumerate(exact):
        np.testing.assert_allclose(groups["constant_data"][f"weighted_assignment_{j}"][1], probs, atol=0.06)


def test_missing_elements_are_left_out_of_data_and_replications(make_pair: Make) -> None:
    model, guide = make_pair(2)
    assert isinstance(model, Model)
    model.missing = True
    x = torch.rand(8, 1, 2, 3)
    x[:, :, 0] = torch.nan
    statistics = {"top": lambda x: x[..., 0, :].abs().sum((-1, -2)), "all": lambda x: x.sum((-1, -2, -3))}
    groups = draw_items(MFCVAE(model, guide), x, num_samples=30, statistics=statistics, pixels=False)  # type: ignore[arg-type]
    assert not groups["posterior_predictive"]["top"][1].any() and not groups["observed_data"]["top"][1].any()
    assert groups["posterior_predictive"]["all"][1].any()
    assert np.isfinite(groups["sample_stats"]["log_weight"][1]).all()


def test_bytes_count_as_shares_of_255(make_pair: Make) -> None:
    pair = MFCVAE(*make_pair(1))
    images = torch.randint(256, (10, 1, 2, 3), dtype=torch.uint8)
    runs = []
    for x in (images, images.double() / 255):
        pyro.set_rng_seed(3)
        runs.append(draw_log_weights(pair, x, num_samples=30))
    assert torch.equal(*runs)


def test_draws_that_do_not_fit_into_memory_are_refused(make_pair: Make) -> None:
    pair = MFCVAE(*make_pair(2))
    x = torch.rand(1, 1, 2, 3).expand(10**7, 1, 2, 3)
    with pytest.raises(
        InputError, match=r"at most 2 GiB, got 100 draws for 10000000 items, which take \d+\.\d GiB: take fewer"
    ):
        draw_items(pair, x, num_samples=100, statistics={}, pixels=False)
    with pytest.raises(InputError, match="or pixels=False"):
        draw_items(pair, x, num_samples=100, statistics={}, pixels=True)


def test_evidence_of_equal_weights_is_their_value() -> None:
    assert evidence_of(torch.full((7, 2), -3.0)).tolist() == pytest.approx([-3.0, -3.0])
    assert evidence_of(torch.tensor([[0.0], [math.log(3.0)]])).item() == pytest.approx(math.log(2.0))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_pixels_of_the_draws() -> None:
    """The 30 replications of 1,000 more items of 12 kB would take 360 MB. An item with its draws and statistics
    takes 14 kB; allocators and caches add a few MiB of noise.
    """
    program = """
import resource, torch
from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.draws.statistics import statistics_for
from pyro_mfcvae.draws.items import draw_items
from pyro_mfcvae.config.text import load_preset

shape = (3, 32, 32)
pair = build_pair(load_preset("shapes"), shape).eval()
x = torch.randint(256, (1500, *shape), dtype=torch.uint8)
for num in (100, 500, 1500):
    draw_items(pair, x[:num], num_samples=30, statistics=statistics_for(shape), pixels=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    _, few, many = map(float, found.stdout.split())
    assert many - few < 100


def test_halves_of_independent_elements_predict_each_other_by_their_own_density(make_pair: Make) -> None:
    """If x does not depend on z, log p(x_B | x_A) is the mean log density of the elements of B."""
    pair = linear_pair()
    pair.model.decoder.weight.zero_()
    x = torch.randn(40, NUM_PIXELS)
    draws = pair.weigh(x, num_samples=20)
    _, half = compare_halves(draws, x, None)
    densities = dist.Normal(0.0, NOISE).log_prob(x)
    assert ((half >= densities.min(-1).values - 1e-9) & (half <= densities.max(-1).values + 1e-9) | (half == 0)).all()


def test_an_item_loses_nothing_without_a_facet_that_the_decoder_ignores(make_x: MakeX) -> None:
    pair = make_known_pair(3, 2, cut=(1,))
    groups = draw_items(pair, draw_known(pair, 30), num_samples=30, statistics={}, pixels=False)["constant_data"]
    np.testing.assert_allclose(groups["loss_without_1"][1], 0, atol=1e-4)
    assert groups["loss_without_0"][1].mean() > 1
