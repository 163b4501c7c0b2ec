"""Linear start: before training, each facet gets its own subspace of the data's principal components.

A ladder that starts from random weights may put two characteristics into the same few dimensions of z. No linear map of
z separates them afterwards, although in the data themselves they often lie in different directions. So the principal
components are divided into the subspaces in which independent mixtures are most likely (`SubspaceScore`), and the
networks are trained to encode an item by its coordinates in these subspaces and to reconstruct it from them. Training
by the ELBO then starts from a linear multi-facet model, which can become nonlinear.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_mfcvae.guides.amortized import MultiFacetGuide
from pyro_mfcvae.models.generative import MultiFacetModel
from pyro_mfcvae.models.likelihoods import GaussianLikelihood
from pyro_mfcvae.subspaces.dims import search_divisions
from pyro_mfcvae.subspaces.search import (
    NUM_TRIES,
    BestRotation,
    Progress,
    divisions,
    most_items,
    principal_axes,
    slices_of,
)
from pyro_mfcvae.subspaces.several import search_rotations

Array = NDArray[np.float64]

# The learning rate falls linearly to this share of its first value.
_LAST_RATE = 0.2


@dataclass(frozen=True, eq=False)
class LinearFacets:
    """Linear coordinates of items, one slice per facet: t(x) = (x - mean) matrix.

    Attributes:
        mean: mean of the items, (P,).
        matrix: (P, D), scaled so that the coordinates have a mean square of 1.
        width: standard deviation of q(z | x) in these coordinates, the same in all directions.
        sizes: best number of components for each facet's slice.
        score: held-out log-likelihood per item minus the cost of the components, in nats, in units of ``width``.
    """

    mean: Array
    matrix: Array
    width: float
    sizes: tuple[int, ...]
    score: float


def find_linear_facets(
    items: Array,
    dims: Sequence[int],
    *,
    scale: float | None = None,
    most_clusters: int = 30,
    without_clusters: Collection[int] = (),
    seed: int = 0,
    num_tries: int = NUM_TRIES,
    on_progress: Progress | None = None,
) -> LinearFacets:
    """Divide the first D principal components of items among facets.

    In a linear model whose noise has the standard deviation ``scale``, q(z | x) has this width along every principal
    direction with a larger variance (Tipping and Bishop 1999). So the components are measured in units of ``scale``,
    and q(z | x) has the same width in all directions after a rotation.

    Args:
        items: (N, P), without missing elements.
        dims: D_j of each facet; their sum is D.
        scale: > 0. None means the maximum-likelihood estimate of probabilistic PCA, the root mean square of the
            residuals.
        most_clusters: largest number of clusters of a facet.
        without_clusters: numbers of the facets that have no clusters. The others get the first principal components,
            and these get the components that are left. If no facet has clusters, all are treated alike.
        seed: seed of the draws and of the starts.
        num_tries: number of rotations that are tried.
        on_progress: called after every rotation.

    Returns:
        The coordinates with the highest score among those that give every facet two components or more, if there are
        any. Among facets with the same number of dimensions, the deepest has the most variance.
    """
    rng = np.random.default_rng(seed)
    mean, components = principal_axes(items, sum(dims), scale=scale, seed=seed)
    points = (items - mean) @ components
    plain = sorted(without_clusters) if len(without_clusters) < len(dims) else []
    order = [*(j for j in range(len(dims)) if j not in plain), *plain]  # facets in the order of their components
    parts = [dims[j] for j in order[: len(dims) - len(plain)]]
    first = points[:, : sum(parts)]
    found = _search(first + rng.normal(size=first.shape), parts, most_clusters, rng, num_tries, on_progress)
    rotation = np.eye(sum(dims))
    rotation[: sum(parts), : sum(parts)], positions = _by_variance(first, found.rotation, parts)
    slices = dict(zip(order, slices_of([dims[j] for j in order]), strict=True))
    sizes = dict(zip(order, [*(found.sizes[old] for old in positions), *[1] * len(plain)], strict=True))
    width = 1 / float(np.sqrt((points**2).mean()))
    columns = np.concatenate([rotation[:, slices[j]] for j in range(len(dims))], 1)
    return LinearFacets(
        mean=mean,
        matrix=components @ columns * width,
        width=width,
        sizes=tuple(sizes[j] for j in range(len(dims))),
        score=found.score,
    )


def _search(
    draws: Array,
    dims: Sequence[int],
    most_clusters: int,
    rng: np.random.Generator,
    num_tries: int,
    on_progress: Progress | None,
) -> BestRotation:
    """The best rotation found: by `search_divisions` for two facets, and by `search_rotations` for other numbers."""
    if len(dims) != 2:
        return search_rotations(draws, dims, most_clusters, rng, num_tries=num_tries, on_progress=on_progress)
    pair = (dims[0], dims[1])
    candidates = {*divisions(sum(dims)), pair}
    tries = -(-num_tries // len(candidates))
    return search_divisions(draws, candidates, most_clusters, rng, num_tries=tries, on_progress=on_progress)[pair]


def _by_variance(points: Array, rotation: Array, dims: Sequence[int]) -> tuple[Array, list[int]]:
    """The rotation, with slices of equal dimensions sorted by increasing variance, and the previous position of
    each slice.
    """
    slices = slices_of(dims)
    variances = [float((points @ rotation[:, part]).var(0).sum()) for part in slices]
    order = list(range(len(dims)))
    for dim in set(dims):
        places = [j for j, d in enumerate(dims) if d == dim]
        for place, old in zip(places, sorted(places, key=lambda j: variances[j]), strict=True):
            order[place] = old
    return np.concatenate([rotation[:, slices[old]] for old in order], 1), order


def start_linearly(
    model: MultiFacetModel,
    guide: MultiFacetGuide,
    draw_items: Callable[[int], Tensor],
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> LinearFacets:
    """Train encoder and decoder, in place, to be a linear multi-facet model of the items.

    Each step of Adam lowers the mean over a batch of

        sum_j KL(q(z_j | x) ‖ Normal(t_j(x), width² I)) - log p(x | z),   z ~ q(z | x),

    where t is the result of `find_linear_facets`. Every facet has full weight. The mixtures are not changed and must be
    fitted afterwards.

    Args:
        model: the model, in training mode.
        guide: the guide of the model, in training mode.
        draw_items: returns a number of random items, (N, *event_shape), or all items if there are fewer.
        num_steps: number of steps of Adam.
        batch_size: items in a step.
        learning_rate: learning rate of the first step; it falls linearly to a fifth.
        seed: seed of the search for subspaces.
        on_progress: called after every rotation that the search tries, and after every step.

    Returns:
        The coordinates.
    """
    features = _Features(model, draw_items(most_items(math.prod(model.event_shape))))
    likelihood, dims = model.likelihood, [facet.latent_dim for facet in model.facets]
    facets = find_linear_facets(
        features(features.items).double().cpu().numpy(),
        dims,
        scale=likelihood.scale.square().mean().sqrt().item() if isinstance(likelihood, GaussianLikelihood) else None,
        most_clusters=max(facet.num_clusters for facet in model.facets),
        without_clusters=[j for j, facet in enumerate(model.facets) if facet.num_clusters == 1],
        seed=seed,
        on_progress=on_progress,
    )
    mean, matrix = (torch.from_numpy(value).to(features.items) for value in (facets.mean, facets.matrix))
    parameters = [p for net in (guide.encoder, model.decoder) for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, learning_rate)
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - (1 - _LAST_RATE) * step / num_steps)
        x = draw_items(batch_size)
        targets = ((features(x) - mean) @ matrix).split(dims, -1)
        optimizer.zero_grad()
        _loss(model, guide, x, targets, facets.width).backward()
        optimizer.step()
        if on_progress:
            on_progress("linear start", step + 1, num_steps)
    optimizer.zero_grad()
    return facets


def _loss(model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, targets: Sequence[Tensor], width: float) -> Tensor:
    """The loss of `start_linearly`, averaged over the items."""
    posteriors = guide.encoder(guide.encoder_input(x))
    zs = [q.rsample() for q in posteriors]
    kl = torch.stack([_kl(*each, width) for each in zip(posteriors, targets, zs, strict=True)]).sum(0)
    filled, observed = model.split_missing(x)
    log_prob = model.likelihood(model.decoder(zs, torch.ones_like(model.alpha))).log_prob(filled)
    if observed is not None:
        log_prob = log_prob * observed
    return (kl - log_prob.flatten(1).sum(-1)).mean()


class _Features:
    """Computes the inputs of linear coordinates: items as the encoder reads them, flattened, with missing elements
    replaced by their mean.

    Args:
        model: the model, whose likelihood defines how the encoder reads an item.
        items: the items whose means replace missing elements.
    """

    def __init__(self, model: MultiFacetModel, items: Tensor) -> None:
        self._model = model
        self.items = items
        filled, observed = model.split_missing(items)
        values = model.likelihood.encoder_input(filled).flatten(1)
        weights = torch.ones_like(values) if observed is None else observed.flatten(1).to(values)
        self._mean = (values * weights).sum(0) / weights.sum(0).clamp_min(1)

    def __call__(self, x: Tensor) -> Tensor:
        filled, observed = self._model.split_missing(x)
        values = self._model.likelihood.encoder_input(filled).flatten(1)
        return values if observed is None else torch.where(observed.flatten(1), values, self._mean)


def _kl(posterior: dist.TorchDistribution, loc: Tensor, z: Tensor, width: float) -> Tensor:
    """KL(q ‖ Normal(loc, width² I)) of every item; at the drawn z if q is not a Gaussian with a diagonal covariance."""
    target = dist.Normal(loc, torch.full_like(loc, width)).to_event(1)
    try:
        return kl_divergence(posterior, target)
    except NotImplementedError:
        return posterior.log_prob(z) - target.log_prob(z)
