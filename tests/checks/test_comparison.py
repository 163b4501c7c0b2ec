import numpy as np
import pyro.distributions as dist
import pytest
import torch
from identity_encoder import random_mean_pair
from linear_gaussian import draw, exact_log_evidence, linear_pair

from pyro_mfcvae import MFCVAE, InputError
from pyro_mfcvae.checks.comparison import compare_evidence, plot_comparison, smoothed_evidence
from pyro_mfcvae.draws.items import draw_log_weights
from pyro_mfcvae.guides import MultiFacetGuide
from pyro_mfcvae.models import MixturePrior


def test_differences_are_paired() -> None:
    generator = np.random.default_rng(0)
    hard = 100 * generator.standard_normal(50)  # items differ far more than runs do
    noise = generator.standard_normal(50)
    rows = compare_evidence({"worse": np.tile(hard - 1 + noise, (30, 1)), "better": np.tile(hard, (30, 1))})
    assert [(row.name, row.rank) for row in rows] == [("better", 1), ("worse", 2)]
    assert (rows[0].difference, rows[0].difference_standard_error) == (0.0, 0.0)
    assert rows[1].difference == pytest.approx(np.mean(1 - noise))
    assert rows[1].difference_standard_error == pytest.approx(noise.std(ddof=1) / np.sqrt(50))
    assert rows[0].standard_error == pytest.approx(hard.std(ddof=1) / np.sqrt(50))
    assert rows[0].unreliable == 0


def test_the_evidence_is_that_of_the_model() -> None:
    pair = linear_pair()
    x = draw(pair, 100)
    weights = {
        "exact": draw_log_weights(pair, x, num_samples=50).numpy(),
        "narrow guide": draw_log_weights(linear_pair(spread=0.3), x, num_samples=50).numpy(),
    }
    best, other = compare_evidence(weights)
    assert best.name == "exact"
    assert best.evidence == pytest.approx(exact_log_evidence(pair, x).mean().item(), abs=1e-10)
    assert other.unreliable > 0.2
    assert [label.get_text() for label in plot_comparison([best, other]).axes[0].get_yticklabels()] == [
        "exact",
        "narrow guide",
    ]


def test_random_parameters_of_a_prior_are_averaged_over() -> None:
    """The mean of loc ~ q = Normal(2, 1) is random; a second run has loc fixed at 2, the median of q.

    Its evidence is more than one nat lower for items that are spread as widely as q(loc). 5 x 32 draws of loc give a
    standard error of 0.03 nats.
    """
    pair = random_mean_pair()
    x = 2 + 1.158 * torch.randn(300, 1)
    predictive = dist.Normal(2.0, (0.25 + 1 + 0.09) ** 0.5).log_prob(x[:, 0]).mean().item()
    at_median = dist.Normal(2.0, (0.25 + 0.09) ** 0.5).log_prob(x[:, 0]).mean().item()
    drawn = [draw_log_weights(pair, x, num_samples=60) for _ in range(5)]
    prior = MixturePrior(pair.model.facets[0])
    prior.set_mixture(torch.tensor([[2.0]]), torch.tensor([[[0.25]]]))
    pair.model.priors[0] = prior
    fixed = MFCVAE(pair.model, MultiFacetGuide(pair.model, encoder=pair.guide.encoder))
    best, other = compare_evidence(
        {"fixed": draw_log_weights(fixed, x, num_samples=300).numpy(), "random": torch.cat(drawn).numpy()}
    )
    assert (best.name, other.name) == ("random", "fixed")
    assert best.evidence == pytest.approx(predictive, abs=0.1)
    assert other.evidence == pytest.approx(at_median, abs=0.1) and predictive - at_median > 0.8
    assert best.monte_carlo_error < other.difference / 10


def test_mistakes_are_reported() -> None:
    with pytest.raises(InputError, match="expected two runs or more to compare, got 1: add one"):
        compare_evidence({"one": np.zeros((30, 5))})
    impossible = np.full((30, 5), -np.inf)
    with pytest.raises(
        InputError, match="expected finite weights, got other values for 5 of 5 items of two: these items"
    ):
        compare_evidence({"one": np.zeros((30, 5)), "two": impossible})
    with pytest.raises(InputError, match=r"expected the same items for all runs, got \[4, 5\] items"):
        compare_evidence({"one": np.zeros((30, 5)), "two": np.zeros((30, 4))})


def test_the_monte_carlo_error_is_the_spread_of_repetitions() -> None:
    """Weights exp(N(0, ½²)) of 100 draws: the standard deviation of log mean w over repetitions."""
    generator = np.random.default_rng(0)
    evidence, error = smoothed_evidence(0.5 * generator.standard_normal((2000, 100)))
    assert error.mean() == pytest.approx(evidence.std(), rel=0.05)
    assert evidence.mean() == pytest.approx(0.125, abs=0.005)
    assert smoothed_evidence(np.full((3, 50), -2.0))[1].tolist() == [0, 0, 0]
