"""Helpers for queries of a pair, which run without gradients, in evaluation mode, in batches, and for data of any
number type.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.guides.amortized import MultiFacetGuide
from pyro_mfcvae.interop.inputs import native, whole
from pyro_mfcvae.interop.param_store import outside_store, reconcile
from pyro_mfcvae.interop.random_weights import refuse_random_weights
from pyro_mfcvae.models.generative import MultiFacetModel
from pyro_mfcvae.networks import density_dtype

Array = Tensor | NDArray[Any]

# Largest number of values of x, times the number of draws, in a batch. The activations of the networks take tens of
# times this memory.
_MAX_VALUES = 1_000_000
_MAX_ITEMS = 4096

_NO_POSTERIOR = "a pair does not know their posterior; replay the model (poutine.replay) with your guide over them"

# Seed of the draws in queries, so that a query has the same result at every call.
_SEED = 0


@contextmanager
def asking(model: MultiFacetModel, guide: MultiFacetGuide) -> Iterator[None]:
    """Context without gradients, in evaluation mode, that does not write to Pyro's parameter store."""
    guide.check_model(model)
    refuse_random_weights(model, guide, reason=_NO_POSTERIOR)
    reconcile(model, guide, register=False)
    with torch.no_grad(), outside_store(), evaluating(model, guide):
        yield


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Context with all submodules in evaluation mode; afterwards each returns to the mode that it had."""
    modes = [(module, module.training) for root in modules for module in root.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Context in which draws use a fixed seed; afterwards torch's random state is restored."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(_SEED)
        yield


def as_data(model: MultiFacetModel, x: Array) -> Tensor:
    """Convert an array or tensor of any number type to the model's float type, on the model's device.

    Images as bytes are divided by 255, as in training. All other data keep their values: vectors, counts, codes, and
    every type except bytes.
    """
    tensor = as_tensor(x).to_dense()
    if tensor.is_complex():
        raise InputError(f"expected real numbers, got {tensor.dtype}: pass their real part")
    support = model.likelihood.support(model.decoder.out_shape)
    is_scaled = tensor.dtype == torch.uint8 and len(model.event_shape) > 1 and not support.is_discrete
    data = tensor.to(model.alpha.device, density_dtype(model.alpha.dtype))
    return data / 255 if is_scaled else data


def read_data(model: MultiFacetModel, x: Array) -> Tensor:
    """Convert x by `as_data`, and check it as a call of the model does.

    Raises:
        InputError: the shape or values do not fit the model.
    """
    data = as_data(model, x)
    model.check_items(data)
    return data


def as_tensor(x: Array) -> Tensor:
    """An array as a tensor of its number type.

    Raises:
        InputError: it does not hold numbers.
    """
    try:
        return x if isinstance(x, Tensor) else torch.from_numpy(native(x))
    except (TypeError, ValueError):
        raise InputError(f"expected numbers, got {type(x).__name__} of other values: convert them to floats") from None


def as_latents(model: MultiFacetModel, zs: Sequence[Array]) -> tuple[list[Tensor], torch.Size]:
    """Flatten one z per facet, (…, D_j), to N rows (N, D_j) on the model's device; return them and their common batch
    shape.

    Raises:
        InputError: there is not one z per facet, of its dimension, or the batch shapes do not broadcast.
    """
    dims = [facet.latent_dim for facet in model.facets]
    tensors = [as_tensor(z).to(model.alpha.device) for z in zs]
    shapes = [tuple(z.shape) for z in tensors]
    wish = f"expected one z per facet, of shapes {', '.join(f'(…, {dim})' for dim in dims)}"
    if [shape[-1:] for shape in shapes] != [(dim,) for dim in dims]:
        raise InputError(f"{wish}, got {shapes}: pass one for every facet, shallowest first")
    try:
        batch = torch.broadcast_shapes(*(shape[:-1] for shape in shapes))
    except RuntimeError:
        raise InputError(
            f"{wish} whose leading dimensions broadcast, got {shapes}: pass equally many items of each"
        ) from None
    return [z.expand(*batch, dim).reshape(-1, dim) for z, dim in zip(tensors, dims, strict=True)], batch


def check_number(name: str, value: Any) -> int:
    """Check that an argument of a query is a whole number ≥ 1.

    Raises:
        InputError: ``value`` is not a whole number, or is below 1.
    """
    number = whole(value)
    if number is None or number < 1:
        raise InputError(f"expected {name} ≥ 1, got {value!r}: pass a whole number, 1 or more")
    return number


def check_clusters(model: MultiFacetModel, clusters: Mapping[int, int] | None) -> dict[int, int]:
    """Check the chosen clusters, a dict from facet to cluster.

    Raises:
        InputError: they are not a dict by facet, or there is no such facet or cluster.
    """
    if clusters is None:
        return {}
    if not isinstance(clusters, Mapping):
        raise InputError(f"expected one cluster by facet, clusters={{0: 2}}, got {clusters!r}: pass a dict")
    chosen = {}
    for facet, cluster in clusters.items():
        j = check_facet(model, facet)
        k, last = whole(cluster), model.facets[j].num_clusters - 1
        if k is None or not 0 <= k <= last:
            raise InputError(f"expected a cluster of facet {j} from 0 to {last}, got {cluster!r}: choose one of them")
        chosen[j] = k
    return chosen


def check_facet(model: MultiFacetModel, facet: Any) -> int:
    """Check the number of a facet, and return it.

    Raises:
        InputError: there is no such facet.
    """
    j, last = whole(facet), len(model.facets) - 1
    if j is None or not 0 <= j <= last:
        raise InputError(f"expected a facet from 0 to {last}, got {facet!r}: choose one of them")
    return j


def in_batches(model: MultiFacetModel, *xs: Tensor, num_draws: int = 1) -> Iterator[tuple[Tensor, ...]]:
    """Batches of the same items of several tensors (N, …), small enough for ``num_draws`` computations per item."""
    size = min(max(_MAX_VALUES // (math.prod(model.event_shape) * num_draws), 1), _MAX_ITEMS)
    yield from zip(*(x.split(size) for x in xs), strict=True)


def map_batches(
    model: MultiFacetModel, ask: Callable[..., Tensor], *xs: Tensor, num_draws: int = 1, dim: int = 0
) -> Tensor:
    """The results of ``ask`` for all batches, concatenated along the dimension of the items."""
    return torch.cat([ask(*parts) for parts in in_batches(model, *xs, num_draws=num_draws)], dim)


def join_posteriors(parts: Sequence[dist.TorchDistribution]) -> dist.TorchDistribution | None:
    """Concatenate the distributions of batches to one for all items; None if the family does not allow this."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if type(first) is dist.MultivariateNormal:
        return dist.MultivariateNormal(_cat(parts, "loc"), scale_tril=_cat(parts, "scale_tril"))
    if type(first) is dist.LowRankMultivariateNormal:
        loc, cov_factor, cov_diag = (_cat(parts, name) for name in ("loc", "cov_factor", "cov_diag"))
        return dist.LowRankMultivariateNormal(loc, cov_factor, cov_diag)
    if type(first) is dist.Independent and type(first.base_dist) is dist.Normal:
        bases = [part.base_dist for part in parts]
        return dist.Normal(_cat(bases, "loc"), _cat(bases, "scale")).to_event(first.reinterpreted_batch_ndims)
    return None


def _cat(parts: Sequence[Any], name: str) -> Tensor:
    return torch.cat([getattr(part, name) for part in parts])
