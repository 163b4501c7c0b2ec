"""Items drawn from the model, whose clusters and z are known, and the guide's results for them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.draws.items import (
    BOUND_DRAWS,
    Groups,
    Part,
    compare_halves,
    event_dims,
    gather,
    items_at_a_time,
    marginal_assignment,
)
from pyro_mfcvae.draws.statistics import Statistic
from pyro_mfcvae.infer.importance import weigh
from pyro_mfcvae.mfcvae import MFCVAE

_RANK_DRAWS = 99  # draws of q(z | x) for every simulated item: ranks 0 … 99
_MAX_DENSITIES = 2**24  # largest number of log densities of components in memory


@torch.no_grad()
def simulate(pair: MFCVAE, x: Tensor, *, num: int, statistics: Mapping[str, Statistic]) -> Groups:
    """Draw P items from the model, and compute the guide's results for them. For ArviZ, an item is a draw of the prior.

    If elements may be missing, each simulated item lacks the same elements as a random item of ``x``. This is exact if
    elements are missing completely at random.

    Args:
        pair: in evaluation mode.
        x: the items whose missing elements are copied, (N, *event_shape).
        num: P.
        statistics: statistics of the drawn items, by name.
    """
    priors, dims = pair.priors, event_dims(pair)

    def draw(size: int) -> Part:
        cs, zs = zip(*(prior.sample(size) for prior in priors), strict=True)
        items = pair.model.observation(zs).sample()
        if pair.model.missing:
            pattern = x[torch.randint(len(x), (size,))].to(items.device)
            items = torch.where(pattern.isnan(), pattern, items)
        filled, _ = pair.model.split_missing(items)
        posteriors = pair.encode(items)
        part: Part = {
            "prior": {},
            "prior_predictive": {name: (("draw",), f(filled)) for name, f in statistics.items()},
            "sample_stats_prior": {},
        }
        part["prior_predictive"]["x"] = (("draw", *dims), items)
        known = part["sample_stats_prior"]
        for j, (c, z, posterior) in enumerate(zip(cs, zs, posteriors, strict=True)):
            z_dims, clusters = ("draw", f"z_{j}_dim"), ("draw", f"cluster_{j}")
            draws = posterior.sample((_RANK_DRAWS,))
            probs = marginal_assignment(pair, j, priors[j], posterior, draws)
            part["prior"] |= {f"c_{j}": (("draw",), c.to(torch.int16)), f"z_{j}": (z_dims, z)}
            known |= {
                f"assignment_{j}": (clusters, probs),
                f"rank_{j}": (z_dims, _rank(draws, z)),
                f"residual_{j}": (z_dims, standardise(draws, z)),
                f"density_rank_{j}": (("draw",), _rank(posterior.log_prob(draws), posterior.log_prob(z))),
            }
        known |= _weigh_simulated(pair, items, zs, posteriors)
        return part

    largest = max(f.num_clusters * f.latent_dim for f in pair.model.facets)
    most = max(min(items_at_a_time(pair) // BOUND_DRAWS, _MAX_DENSITIES // (_RANK_DRAWS * largest)), 1)
    with pyro.get_param_store().scope():
        sizes = [min(most, num - start) for start in range(0, num, most)] or [1]
        return gather((draw(size) for size in sizes), along="draw", size=num)


def _weigh_simulated(
    pair: MFCVAE, items: Tensor, zs: Sequence[Tensor], posteriors: Sequence[dist.TorchDistribution]
) -> dict[str, tuple[tuple[str, ...], Tensor]]:
    """Compute the bound and the held-out half, with the same number of draws as for data, and the rank of log p(x, z)
    at the true z.
    """
    draws = [posterior.sample((BOUND_DRAWS,)) for posterior in posteriors]
    drawn, true = (weigh(pair.model, pair.draw_priors(), posteriors, z, items) for z in (draws, [z[None] for z in zs]))
    log_joint, log_joint_true = (
        weighed.log_weights + sum(q.log_prob(z) for q, z in zip(posteriors, weighed.zs, strict=True))
        for weighed in (drawn, true)
    )
    bound, half = compare_halves(drawn, *pair.model.split_missing(items))
    return {
        "bound": (("draw",), bound),
        "held_out": (("draw",), half),
        "joint_rank": (("draw",), _rank(log_joint, log_joint_true[0])),
    }


def describe_priors(
    pair: MFCVAE, groups: Sequence[NDArray[np.int64]]
) -> dict[str, tuple[tuple[str, ...], NDArray[Any]]]:
    """The weights of the clusters, ``weight_j``, and the group of each cluster, ``group_j``, (K_j,)."""
    known: dict[str, tuple[tuple[str, ...], NDArray[Any]]] = {}
    for j, (prior, labels) in enumerate(zip(pair.priors, groups, strict=True)):
        clusters = (f"cluster_{j}",)
        known[f"weight_{j}"] = (clusters, prior.log_weights().exp().detach().cpu().numpy())
        known[f"group_{j}"] = (clusters, np.asarray(labels))
    return known


def standardise(draws: Tensor, z: Tensor) -> Tensor:
    """L⁻¹ (z - m), (N, D), where m and L Lᵀ are the mean and covariance of draws (R, N, D). Its covariance is I if z
    has the distribution of the draws.

    The result is scaled for R draws of a normal distribution: (1 + 1/R) (R - 1) / (R - D - 2).
    """
    num, dim = draws.shape[0], draws.shape[-1]
    mean = draws.mean(0)
    centred = (draws - mean).double()
    covariance = torch.einsum("rnd,rne->nde", centred, centred) / (num - 1)
    ridge = 1e-9 * covariance.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True).clamp(min=1e-30)
    covariance = covariance + torch.diag_embed(ridge.expand(-1, dim))
    factor = torch.linalg.cholesky(covariance)
    residual = torch.linalg.solve_triangular(factor, (z - mean).double().unsqueeze(-1), upper=False).squeeze(-1)
    inflation = (1 + 1 / num) * (num - 1) / max(num - dim - 2, 1)
    return (residual / inflation**0.5).to(z.dtype)


def _rank(draws: Tensor, truth: Tensor) -> Tensor:
    """Fraction of draws (R, …) below the truth (…), plus uniform noise of one step.

    It is uniform if the truth has the distribution of the draws.

    Cook, Gelman and Rubin 2006; Talts et al. 2018.
    """
    below = (draws < truth).sum(0) + (draws == truth).sum(0) * torch.rand_like(truth)
    return (below + torch.rand_like(truth)) / (len(draws) + 1)
