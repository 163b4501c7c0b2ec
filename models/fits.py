"""Fits of mixtures to points by expectation maximisation; the methods ``fit`` of the priors call them."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.errors import InputError

Covariance = Literal["diagonal", "full", "spherical", "tied"]

# Added to the diagonal of every fitted covariance, in units of z², so that a component with only a few items does not
# become a spike.
_MIN_VARIANCE = 1e-4

# The same, relative to the largest variance. With a smaller number, a Cholesky factor in float64 would have no correct
# digits.
_MIN_VARIANCE_RATIO = 1e-10

# Iterations of the variational fit of a Dirichlet process. Many are needed, because clusters become empty slowly.
_MAX_ITERATIONS = 1000

# Weight of the prior on a mean in that fit, as a number of items: nearly 0.
_MEAN_PRECISION = 0.01

# The smallest starting weight of a component, in units of 1/K, because a weight of 0 would stay 0.
_MIN_SHARE = 0.01


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """The settings of a prior's method ``fit(z, settings)``, which fits the prior to points z (N, D).

    Attributes:
        variance: replace the fitted covariances by variance · I; None keeps the fitted ones.
        seed: seed of the starting values.
        known: further points (M, D) and their clusters (M,), negative if unknown; None if there are none.
        encoder_inputs: function that maps indices (K,) of points to the encoder's inputs for their items, (K,
            *in_shape); None if the points do not come from items.
    """

    variance: float | None = None
    seed: int = 0
    known: tuple[Tensor, Tensor] | None = None
    encoder_inputs: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class GaussianFit:
    """A fitted mixture of K Gaussians, in float64 on the CPU; its clusters have descending weights.

    Attributes:
        weights: (K,), positive.
        means: (K, D).
        covariances: (K, D, D).
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor


def fit_gaussians(
    z: Tensor, num_clusters: int, *, covariance: Covariance, settings: FitSettings, concentration: float | None = None
) -> GaussianFit:
    """Fit a mixture of Gaussians with scikit-learn, starting from k-means.

    If the clusters of enough points are known, EM starts from the means of these points and their pooled covariance.

    Args:
        z: (N, D), N ≥ K.
        num_clusters: K.
        covariance: the shape of the covariances.
        settings: see `FitSettings`.
        concentration: fit a truncated Dirichlet process of this concentration, by variational inference; None for EM.

    Raises:
        InputError: fewer points than clusters.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

    check_enough(z, num_clusters)
    kind = "diag" if covariance == "diagonal" else covariance
    z = z.detach().double().cpu()
    floor = max(_MIN_VARIANCE, _MIN_VARIANCE_RATIO * z.var(0, correction=0).max().item())
    common = {"covariance_type": kind, "reg_covar": floor, "random_state": settings.seed}
    if concentration is not None:
        mixture = BayesianGaussianMixture(
            n_components=num_clusters,
            weight_concentration_prior_type="dirichlet_process",
            weight_concentration_prior=concentration,
            mean_precision_prior=_MEAN_PRECISION,
            max_iter=_MAX_ITERATIONS,
            **common,
        )
    else:
        start = {}
        if settings.known is not None:
            points, clusters = settings.known
            start = _start_at(points.double().cpu(), clusters, z, num_clusters, kind=kind, seed=settings.seed)
        mixture = GaussianMixture(n_components=num_clusters, **start, **common)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # this is only a starting point for SVI
        mixture.fit(z.numpy())
    weights, means, fitted = (
        torch.from_numpy(values) for values in (mixture.weights_, mixture.means_, mixture.covariances_)
    )
    # A stick-breaking hyperprior expects the first clusters to be the largest, so the clusters are sorted.
    order = weights.argsort(descending=True)
    shaped = _as_matrices(fitted if covariance == "tied" else fitted[order], num_clusters, z.shape[1], covariance)
    share = weights[order].clamp_min(_MIN_SHARE / num_clusters)
    if settings.variance is not None:
        shaped = settings.variance * torch.eye(z.shape[1]).to(z).expand_as(shaped)
    return GaussianFit(share / share.sum(), means[order], shaped)


def _as_matrices(fitted: Tensor, num_clusters: int, dim: int, covariance: Covariance) -> Tensor:
    match covariance:
        case "diagonal":
            return torch.diag_embed(fitted)
        case "spherical":
            return torch.diag_embed(fitted[:, None].expand(num_clusters, dim))
        case "tied":
            return fitted.expand(num_clusters, dim, dim)
    return fitted


def _start_at(
    known: Tensor, clusters: Tensor, z: Tensor, num_clusters: int, *, kind: str, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Starting values of EM, as arguments of GaussianMixture; empty if there are too few known points to estimate a
    covariance.

    Clusters without a known point start at the centres of k-means of ``z``.
    """
    from sklearn.cluster import KMeans

    clusters = clusters.cpu()
    points, numbers = known[clusters >= 0].numpy(), clusters[clusters >= 0].numpy()
    named, index = np.unique(numbers, return_inverse=True)
    dim = points.shape[1]
    if len(points) - len(named) <= dim:
        return {}
    centres = np.stack([points[index == k].mean(0) for k in range(len(named))])
    deviations = points - centres[index]
    covariance = deviations.T @ deviations / (len(points) - len(named)) + _MIN_VARIANCE * np.eye(dim)
    if len(named) < num_clusters:
        others = KMeans(num_clusters - len(named), n_init=1, random_state=seed).fit(z.numpy())
        centres = np.concatenate([centres, others.cluster_centers_])
    precision = np.linalg.inv(covariance)
    precisions = {
        "full": np.broadcast_to(precision, (num_clusters, dim, dim)),
        "tied": precision,
        "diag": np.broadcast_to(1 / covariance.diagonal(), (num_clusters, dim)),
        "spherical": np.full(num_clusters, 1 / covariance.diagonal().mean()),
    }
    weights = np.full(num_clusters, 1 / num_clusters)
    return {"means_init": centres, "precisions_init": precisions[kind], "weights_init": weights}


def central_items(z: Tensor, num_clusters: int, *, seed: int) -> Tensor:
    """Indices (K,) of the points nearest to the centres of k-means of ``z`` (N, D).

    Raises:
        InputError: fewer points than clusters.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import pairwise_distances_argmin

    check_enough(z, num_clusters)
    points = z.detach().double().cpu().numpy()
    centres = KMeans(num_clusters, n_init=1, random_state=seed).fit(points).cluster_centers_
    return torch.from_numpy(pairwise_distances_argmin(centres, points))


def check_enough(z: Tensor, num_clusters: int) -> None:
    """Refuse fewer points than clusters."""
    if len(z) < num_clusters:
        raise InputError(
            f"expected at least as many items as the {num_clusters} components of a mixture, got {len(z)}: give more "
            "items, or a facet with fewer clusters"
        )


def read_values(name: str, values: Any, shape: tuple[int, ...], *, like: Tensor) -> Tensor:
    """Values of a mixture as a tensor with the device and precision of another tensor.

    Raises:
        InputError: the values do not have this shape, or they are not finite. (Values on a GPU are not checked for
            being finite, because this would wait for the device.)
    """
    tensor = torch.as_tensor(values, device=like.device)
    if tuple(tensor.shape) != shape:
        raise InputError(f"expected {name} of shape {shape}, got {tuple(tensor.shape)}: pass one row per cluster")
    if tensor.device.type == "cpu" and not tensor.isfinite().all():
        raise InputError(f"expected finite values of {name}, got other values: find out why they are NaN or infinite")
    return tensor


def cholesky(covariance: Tensor) -> Tensor:
    """L with covariance = L Lᵀ, (…, D, D), factorised in float64 on the CPU.

    A covariance that is rounded to float32 may no longer be positive definite, so it is factorised first and rounded
    afterwards.

    Raises:
        InputError: the covariance is not positive definite.
    """
    factor, info = torch.linalg.cholesky_ex(covariance.double().cpu())
    if info.any() or not math.isfinite(factor.sum().item()):
        raise InputError(
            "expected positive definite covariances, got one that is not: compute it in float64, or add a small "
            "multiple of the identity"
        )
    return factor
