"""Fits of mixture priors to what the encoder says of the data, by expectation maximisation."""

import math
import warnings
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.guides.amortized import MultiFacetGuide
from pyro_mfcvae.models.bayesian import BayesianMixturePrior
from pyro_mfcvae.models.generative import Known, MultiFacetModel
from pyro_mfcvae.models.mixture_priors import MixturePrior
from pyro_mfcvae.models.priors import FacetPrior
from pyro_mfcvae.models.vamp import VampPrior

# Added to the diagonal of every fitted covariance: a component that sits on a few items must not become a spike.
_MIN_VARIANCE = 1e-4


# Items that the encoder sees at once: bounds the memory that its feature maps take.
_NUM_AT_ONCE = 1000


# Of the variational fit of a Dirichlet process, which empties clusters slowly.
_MAX_ITERATIONS = 1000


# Items that its prior on a mean counts for: as good as none.
_MEAN_PRECISION = 0.01


# Smallest weight that a component starts with, in units of 1/K: at 0 it could never come back.
_MIN_SHARE = 0.01


@torch.no_grad()
def initialize_mixtures(
    model: MultiFacetModel,
    guide: MultiFacetGuide,
    x: Tensor,
    *,
    facets: Iterable[int] | None = None,
    to_means: bool = False,
    posterior_units: bool = False,
    variance: float | None = None,
    seed: int = 0,
    items: Tensor | None = None,
    known: Known | None = None,
) -> None:
    """Fit mixtures to what the encoder says of ``x``, by expectation maximisation.

    One draw of every item's q(z_j | x), that is, a draw of the aggregate posterior, goes to scikit-learn's
    GaussianMixture, which starts from k-means; the prior takes over means, covariances and, where it learns them,
    weights; a `VampPrior` takes the items nearest to the centres of k-means. The aggregate posterior is the prior that
    the ELBO would choose, were it free. The encoder sees about a thousand items at once, in the mode (training or
    evaluation) that it is in.

    Where the clusters of some ``items`` are known, EM starts at the means of their E[z_j | x] and at their pooled
    covariance within clusters, if there are enough of them for it; the mixture is then renumbered to suit them.

    Args:
        model: its priors are overwritten, in place.
        guide: its q(z_j | x).
        x: the items to fit to, (N, *event_shape), N ≥ K_j.
        facets: which facets; all where None.
        to_means: fit to E[z_j | x] instead of draws (as the paper does).
        posterior_units: measure each dimension of z_j in units of the standard deviation (root mean square over x) that
            q(z_j | x) has in it. EM itself does not mind units; k-means does, and would part the items along a wide
            dimension where a narrower one tells more of them apart. Makes no difference to spherical covariances.
        variance: start with covariances variance · I, whatever was fitted (the paper: 0.01).
        seed: of EM's start; the draws of z take Pyro's random state.
        items: further items, (M, *event_shape).
        known: by facet, the clusters of ``items``, (M,), negative where unknown.

    Raises:
        InputError: too few items, a prior of another kind, or the units of a q(z | x) that is not Gaussian.
    """
    chosen = range(len(model.facets)) if facets is None else tuple(facets)
    if not chosen:
        return
    if posterior_units:
        check_posterior_units(guide)
    known = {j: clusters for j, clusters in (known or {}).items() if j in chosen}
    parts = [guide.posteriors(part) for part in x.tensor_split(math.ceil(len(x) / _NUM_AT_ONCE))]
    for j in chosen:
        prior = model.priors[j]
        z = torch.cat([posteriors[j].mean if to_means else posteriors[j].sample() for posteriors in parts])
        unit = torch.ones_like(z[0])
        if posterior_units:
            unit = torch.cat([posteriors[j].variance for posteriors in parts]).mean(0).sqrt()
        match prior:
            case MixturePrior():
                seen = (guide.posteriors(items)[j].mean, known[j]) if items is not None and j in known else None
                fit_mixture(prior, z, unit=unit, variance=variance, seed=seed, seen=seen)
            case VampPrior():
                _check_enough(z, prior.facet.num_clusters)
                central = x[_central_items(z / unit, prior.facet.num_clusters, seed)]
                prior.set_pseudo_inputs(guide.encoder_input(central))
            case _:
                raise InputError(
                    f"only a MixturePrior or VampPrior can be fitted, and facet {j} has a {type(prior).__name__}: "
                    "leave it out"
                )
    if items is not None and known:
        align_clusters(model, guide, items, known)
    guide.restart_globals(chosen)


def check_posterior_units(guide: MultiFacetGuide) -> None:
    """Refuse a q(z | x) whose standard deviations have no formula."""
    if guide.encoder.covariance is None:
        raise InputError(
            "this q(z | x) is not Gaussian, so z cannot be measured in its standard deviations: leave "
            "mixture_fit.units=latent (posterior_units=False)"
        )


def fit_mixture(
    prior: MixturePrior,
    z: Tensor,
    *,
    unit: Tensor | None = None,
    variance: float | None = None,
    seed: int = 0,
    seen: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Fit one mixture prior to points ``z`` (N, D), N ≥ K, as `initialize_mixtures` does.

    ``unit`` (D,) is what to measure them in; ``seen`` are further points (M, D) and their clusters (M,), negative where
    unknown.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

    num_clusters = prior.facet.num_clusters
    _check_enough(z, num_clusters)
    kind = "diag" if prior.covariance == "diagonal" else prior.covariance
    if unit is None or kind == "spherical":
        unit = torch.ones_like(z[0])
    z = z / unit
    min_variance = _MIN_VARIANCE / unit.square().mean().item()
    settings = {"covariance_type": kind, "reg_covar": min_variance, "random_state": seed}
    if isinstance(prior, BayesianMixturePrior) and prior.stick_breaking:
        mixture = BayesianGaussianMixture(
            n_components=num_clusters,
            weight_concentration_prior_type="dirichlet_process",
            weight_concentration_prior=prior.concentration.item(),
            mean_precision_prior=_MEAN_PRECISION,
            max_iter=_MAX_ITERATIONS,
            **settings,
        )
    else:
        start = {} if seen is None else _start_at(seen[0] / unit, seen[1], z, num_clusters, kind, seed)
        mixture = GaussianMixture(n_components=num_clusters, **start, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is a start, SVI goes on from there
        mixture.fit(z.double().cpu().numpy())
    means, weights, fitted = (
        torch.from_numpy(values).to(prior.loc) for values in (mixture.means_, mixture.weights_, mixture.covariances_)
    )
    # Sticks are broken in order: the first clusters are those that the hyperprior expects to be large.
    order = weights.argsort(descending=True)
    means, weights = means[order], weights[order]
    fitted = fitted if prior.covariance == "tied" else fitted[order]
    match prior.covariance:
        case "diagonal":
            covariance = torch.diag_embed(fitted)
        case "spherical":
            covariance = torch.diag_embed(fitted[:, None].expand_as(prior.loc))
        case "tied":
            covariance = fitted.expand(num_clusters, -1, -1)
        case _:
            covariance = fitted
    probs = weights.clamp_min(_MIN_SHARE / num_clusters)
    prior.set_mixture(
        means * unit,
        covariance * unit * unit[:, None] if variance is None else _isotropic(prior, variance),
        probs=probs / probs.sum() if prior.learns_weights else None,
    )


def _start_at(
    seen: Tensor, clusters: Tensor, z: Tensor, num_clusters: int, kind: str, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Where EM starts, as GaussianMixture takes it; nothing where too few points are known for a covariance (D, D).

    Clusters without a known point start at the centres of k-means of ``z``.
    """
    from sklearn.cluster import KMeans

    points, numbers = seen[clusters >= 0].double().cpu().numpy(), clusters[clusters >= 0].cpu().numpy()
    named, index = np.unique(numbers, return_inverse=True)
    dim = points.shape[1]
    if len(points) - len(named) <= dim:
        return {}
    centres = np.stack([points[index == k].mean(0) for k in range(len(named))])
    deviations = points - centres[index]
    covariance = deviations.T @ deviations / (len(points) - len(named)) + _MIN_VARIANCE * np.eye(dim)
    if len(named) < num_clusters:
        others = KMeans(num_clusters - len(named), n_init=1, random_state=seed).fit(z.double().cpu().numpy())
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


@torch.no_grad()
def align_clusters(model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: Known) -> None:
    """Renumber the clusters of the facets in ``known`` so that the items ``x`` (N, *event_shape) fit them best.

    Of all renumberings the one that puts most probability on what is known: sum_n q(c_j = known[j]_n | x_n) is largest.
    Mixtures that were just fitted have their clusters in no particular order.

    Raises:
        InputError: a prior is no `MixturePrior`.
    """
    from scipy.optimize import linear_sum_assignment

    for j, clusters in known.items():
        prior = model.priors[j]
        check_can_be_renumbered(prior, j)
        z = guide.posteriors(x)[j].mean
        mixture = prior()
        probs = (mixture.log_weights() + mixture.log_prob(z)).softmax(-1)
        num_clusters = prior.facet.num_clusters
        gain = probs.new_zeros(num_clusters, num_clusters)  # of calling the column's cluster by the row's number
        gain.index_add_(0, clusters.clamp_min(0), probs * (clusters >= 0).unsqueeze(-1))
        _, order = linear_sum_assignment(gain.cpu().numpy(), maximize=True)
        prior.renumber(torch.from_numpy(order).to(z.device))
    guide.restart_globals(known)


def check_can_be_renumbered(prior: FacetPrior, j: int) -> None:
    """Refuse known clusters of a facet whose prior is fitted to the data, but cannot be renumbered to suit them."""
    if can_be_fitted(prior) and not isinstance(prior, MixturePrior):
        raise InputError(
            f"the clusters of facet {j} cannot be known, since its {type(prior).__name__} numbers them as it likes: "
            "take a MixturePrior (prior.kind=gaussian), or leave supervision.label out"
        )


def can_be_fitted(prior: FacetPrior) -> bool:
    """Whether `initialize_mixtures` knows how to fit a prior."""
    return isinstance(prior, MixturePrior | VampPrior)


def _check_enough(z: Tensor, num_clusters: int) -> None:
    if len(z) < num_clusters:
        raise InputError(
            f"a mixture of {num_clusters} components needs at least as many items, got {len(z)}: give more"
        )


def _central_items(z: Tensor, num_clusters: int, seed: int) -> Tensor:
    """Numbers of the items nearest to the centres of k-means of ``z`` (N, D)."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import pairwise_distances_argmin

    points = z.double().cpu().numpy()
    centres = KMeans(num_clusters, n_init=1, random_state=seed).fit(points).cluster_centers_
    return torch.from_numpy(pairwise_distances_argmin(centres, points))


def _isotropic(prior: MixturePrior, variance: float) -> Tensor:
    """K times variance · I, (K, D, D)."""
    eye = torch.eye(prior.facet.latent_dim).to(prior.loc)
    return (variance * eye).expand(prior.facet.num_clusters, -1, -1)
