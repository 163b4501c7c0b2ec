import math

import numpy as np
import pytest
import torch
from known_models import draw, make_pair
from linear_gaussian import draw as draw_linear
from linear_gaussian import linear_pair

from pyro_mfcvae.draws.simulation import describe_priors, simulate, standardise


def test_simulated_items_come_with_the_truth() -> None:
    pair = linear_pair()
    groups = simulate(pair, draw_linear(pair, 4), num=3000, statistics={"mean": lambda x: x.mean(-1)})
    c, z = groups["prior"]["c_0"][1][0], groups["prior"]["z_0"][1][0]
    prior = pair.model.priors[0]
    weights = prior().log_weights().exp()
    for k in range(3):
        np.testing.assert_allclose((c == k).mean(), weights[k].item(), atol=0.04)  # 4 standard errors
        np.testing.assert_allclose(z[c == k].mean(0), prior.loc[k].detach(), atol=0.2)
    projected = groups["prior_predictive"]["x"][1][0] @ pair.model.decoder.weight.numpy()
    np.testing.assert_allclose((projected[:, :2] - z).std(), 1.5, atol=0.1)
    known = groups["sample_stats_prior"]
    assert known["rank_0"][1].shape == (1, 3000, 2) and known["joint_rank"][1].shape == (1, 3000)
    for name in ("rank_0", "joint_rank", "density_rank_1"):
        assert known[name][1].min() > 0 and known[name][1].max() < 1
        assert known[name][1].mean() == pytest.approx(0.5, abs=0.03)
    np.testing.assert_allclose(known["residual_0"][1][0].std(0), 1, atol=0.06)


def test_simulated_items_miss_the_pixels_that_the_data_miss() -> None:
    pair = make_pair(3, 2, missing=True)
    x = draw(pair, 50)
    patterns = {tuple(row) for row in x.isnan().tolist()}
    items = simulate(pair, x, num=200, statistics={})["prior_predictive"]["x"][1][0]
    assert {tuple(row) for row in np.isnan(items).tolist()} <= patterns


def test_whitened_residuals_of_correlated_draws_are_uncorrelated() -> None:
    """The scale of the residuals is corrected for few draws, from which a covariance is estimated badly."""
    factor = torch.tensor([[2.0, 0.0], [1.5, 0.5]])
    draws, truth = torch.randn(30, 20_000, 2) @ factor.T + 3, torch.randn(20_000, 2) @ factor.T + 3
    residuals = standardise(draws, truth)
    torch.testing.assert_close(residuals.T @ residuals / 20_000, torch.eye(2), atol=0.04, rtol=0)
    assert residuals.mean(0).abs().max() < 4 / math.sqrt(20_000)


def test_weights_and_groups_are_kept_for_every_cluster() -> None:
    found = describe_priors(linear_pair(), [np.array([0, 1, 0]), np.array([0, 0])])
    np.testing.assert_allclose(found["weight_0"][1], [0.5, 0.3, 0.2])
    assert found["group_0"][0] == ("cluster_0",) and found["group_0"][1].tolist() == [0, 1, 0]
