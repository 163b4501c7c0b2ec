"""Fits of the priors' mixtures to draws of q(z | x)."""

import math
from collections.abc import Iterable
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.guides.amortized import MultiFacetGuide
from pyro_mfcvae.infer.asking import Array, check_facet, read_data
from pyro_mfcvae.interop.inputs import Known
from pyro_mfcvae.models.fits import FitSettings
from pyro_mfcvae.models.generative import MultiFacetModel
from pyro_mfcvae.models.priors import FacetPrior

# Number of items per batch of the encoder; it bounds the memory of the feature maps.
_NUM_AT_ONCE = 1000


@runtime_checkable
class Fittable(Protocol):
    """A prior that can be fitted to points. `initialize_mixtures` needs only this method."""

    def fit(self, z: Tensor, settings: FitSettings) -> None:
        """Fit the prior to points ``z`` (N, D), in place."""


@runtime_checkable
class Renumberable(Protocol):
    """A prior whose clusters can change their numbers."""

    def renumber(self, order: Tensor) -> None:
        """Make cluster ``order[k]`` the new cluster k, in place."""


@torch.no_grad()
def initialize_mixtures(
    model: MultiFacetModel,
    guide: MultiFacetGuide,
    x: Array,
    *,
    facets: Iterable[int] | int | None = None,
    variance: float | None = None,
    seed: int = 0,
    items: Tensor | None = None,
    known: Known | None = None,
) -> None:
    """Fit every prior to one draw of the aggregate posterior, the prior that would maximise the ELBO.

    One draw z_j ~ q(z_j | x) of every item is passed to the prior's method ``fit(z, settings)``. A `MixturePrior` is
    set to the means, covariances and, if it learns them, weights of scikit-learn's GaussianMixture, which starts from
    k-means. A `VampPrior` is set to the items nearest to the centres of k-means. A custom prior uses its own ``fit``.
    The encoder reads about a thousand items at once, in its current mode.

    If the clusters of enough ``items`` are known, EM starts at the means of their E[z_j | x] and at their pooled
    covariance. After the fit the clusters are renumbered to match the known ones.

    Args:
        model: the model, whose priors are overwritten in place.
        guide: the guide, for q(z_j | x).
        x: the items to fit to, (N, *event_shape), N ≥ K_j.
        facets: numbers of the facets; all if None.
        variance: if given, priors are fitted to E[z_j | x] instead of draws, and all covariances are variance · I; the
            paper's code uses 0.01.
        seed: seed of the start of EM; the draws of z use Pyro's random state.
        items: further items, (M, *event_shape).
        known: clusters of ``items`` by facet, (M,), negative if unknown.

    Raises:
        InputError: the guide or the number of items does not fit, or a prior has no ``fit``.
    """
    guide.check_model(model)
    chosen = _chosen_facets(model, facets)
    if not chosen:
        return
    x = read_data(model, x)
    for j in chosen:
        _check_can_be_fitted(model.priors[j], j)
    clusters = _known_clusters(model, known, items, chosen)
    parts = [guide.posteriors(part) for part in x.tensor_split(math.ceil(len(x) / _NUM_AT_ONCE))]
    seen = guide.posteriors(items) if items is not None and clusters else None
    for j in chosen:
        settings = FitSettings(
            variance=variance,
            seed=seed,
            known=(seen[j].mean, clusters[j]) if seen is not None and j in clusters else None,
            encoder_inputs=lambda index: guide.encoder_input(x[index.to(x.device)]),
        )
        z = torch.cat([posteriors[j].sample() if variance is None else posteriors[j].mean for posteriors in parts])
        cast(Fittable, model.priors[j]).fit(z, settings)
    if items is not None and clusters:
        align_clusters(model, guide, items, clusters)
    guide.restart_globals(chosen)


def _chosen_facets(model: MultiFacetModel, facets: Iterable[int] | int | None) -> tuple[int, ...]:
    if facets is None:
        return tuple(range(len(model.facets)))
    return tuple(check_facet(model, j) for j in (facets if isinstance(facets, Iterable) else [facets]))


def _known_clusters(
    model: MultiFacetModel, known: Known | None, items: Tensor | None, chosen: tuple[int, ...]
) -> dict[int, Tensor]:
    if not known:
        return {}
    if items is None:
        raise InputError("expected the items whose clusters are known, got none: pass items=…")
    return {j: c for j, c in (model.read_known(known, items) or {}).items() if j in chosen}


def _check_can_be_fitted(prior: FacetPrior, j: int) -> None:
    if not can_be_fitted(prior):
        raise InputError(
            f"expected priors that can be fitted, got a {type(prior).__name__} without a method fit(z, settings) for "
            f"facet {j}: give it one, or leave the facet out"
        )


def check_num_items(model: MultiFacetModel, num: int) -> None:
    """Refuse a fit of any facet's mixture to fewer items than clusters."""
    for j, facet in enumerate(model.facets):
        if num < facet.num_clusters:
            raise InputError(
                f"expected at least {facet.num_clusters} items for the clusters of facet {j}, got {num}: choose fewer "
                "clusters, or more items (mixture_fit.items)"
            )


@torch.no_grad()
def align_clusters(model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: Known) -> None:
    """Renumber the clusters of the facets in ``known`` so that they match the known clusters of the items ``x`` (N,
    *event_shape) best.

    The renumbering maximises sum_n q(c_j = known[j]_n | x_n). This is needed because the order of the clusters in a
    fitted mixture is arbitrary. A prior that is not fitted keeps its numbers.

    Raises:
        InputError: a prior can be fitted, but has no ``renumber``.
    """
    from scipy.optimize import linear_sum_assignment

    for j, clusters in (model.read_known(known, x) or {}).items():
        prior = model.priors[j]
        check_can_be_renumbered(prior, j)
        if not isinstance(prior, Renumberable):
            continue
        mixture, z = prior(), guide.posteriors(x)[j].mean
        probs = (mixture.log_weights() + mixture.log_prob(z)).softmax(-1)
        num_clusters = prior.facet.num_clusters
        # gain[row, column]: the sum if the cluster ``column`` gets the number ``row``
        gain = probs.new_zeros(num_clusters, num_clusters)
        gain.index_add_(0, clusters.clamp_min(0), probs * (clusters >= 0).unsqueeze(-1))
        _, order = linear_sum_assignment(gain.cpu().numpy(), maximize=True)
        prior.renumber(torch.from_numpy(order).to(z.device))
    guide.restart_globals(known)


def check_can_be_renumbered(prior: FacetPrior, j: int) -> None:
    """Refuse known clusters of a facet whose prior is fitted to the data but cannot be renumbered."""
    if can_be_fitted(prior) and not isinstance(prior, Renumberable):
        raise InputError(
            f"expected a prior whose clusters can be renumbered to match the known ones, got a {type(prior).__name__} "
            f"for facet {j}: take a MixturePrior (prior.kind=gaussian), give yours a method renumber(order), or leave "
            "supervision.label out"
        )


def can_be_fitted(prior: FacetPrior) -> bool:
    """Whether `initialize_mixtures` can fit a prior, that is, whether it has a method ``fit``."""
    return isinstance(prior, Fittable)
