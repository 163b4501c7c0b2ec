"""Checks of a model's inputs: data, and the known clusters of some items."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.distributions.constraints import Constraint
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.interop.tracing import is_tracing

Known = Mapping[int, Tensor | NDArray[Any] | Sequence[int]]
"""Maps a facet to the cluster of every item, integers (N,), negative if it is not known."""


def read_known(
    known: Known | None, facets: Sequence[Facet], num_items: int, device: torch.device
) -> dict[int, Tensor] | None:
    """The known clusters as int64 tensors on a device; integers of any type and container are accepted.

    Raises:
        InputError: they are not a dict by facet, there is no such facet, or there is not one integer below K_j per
            item.
    """
    if known is None:
        return None
    if not isinstance(known, Mapping):
        raise InputError(
            f"expected known clusters by facet, known={{0: clusters}}, got {type(known).__name__}: pass a dict, and "
            "leave out labels that are no clusters"
        )
    return {j: _read(j, known[j], facets, num_items).to(device) for j in known}


def _read(facet: Any, values: Any, facets: Sequence[Facet], num_items: int) -> Tensor:
    j = whole(facet)
    if j is None or not 0 <= j < len(facets):
        raise InputError(f"expected known clusters of facets 0 … {len(facets) - 1}, got facet {facet!r}: leave it out")
    num_clusters = facets[j].num_clusters
    wish = (
        f"expected the known clusters of facet {j} as {num_items} integers below {num_clusters}, negative where unknown"
    )
    try:
        clusters = values if isinstance(values, Tensor) else torch.from_numpy(native(values))
    except (TypeError, ValueError):
        raise InputError(f"{wish}, got {type(values).__name__} of no numbers: convert them to integers") from None
    if clusters.is_floating_point() or clusters.is_complex() or clusters.dtype == torch.bool:
        raise InputError(f"{wish}, got {clusters.dtype}: convert them to integers")
    if clusters.shape != (num_items,):
        raise InputError(f"{wish}, got the shape {tuple(clusters.shape)}: give one per item")
    clusters = clusters.long()
    if len(clusters) and (highest := int(clusters.max())) >= num_clusters:
        raise InputError(f"{wish}, got numbers up to {highest}: number the clusters from 0")
    return clusters


def whole(value: SupportsIndex | Any) -> int | None:
    """The value of a Python, NumPy or tensor integer; None for everything else."""
    try:
        return operator.index(value)
    except TypeError:
        return None


def native(values: Any) -> NDArray[Any]:
    """A copy as an array in the byte order of the machine, which torch requires, with NaN for masked elements."""
    if np.ma.is_masked(values):
        values = values.astype(np.result_type(values, np.float16)).filled(np.nan)
    array = np.asarray(values)
    return np.array(array, dtype=array.dtype.newbyteorder("="))


def check_data(x: Tensor, event_shape: Sequence[int], support: Constraint, *, like: Tensor, missing: bool) -> int:
    """The number of items of ``x``, checked in one pass over its values.

    Args:
        x: data, which should be (N, *event_shape) with N ≥ 1.
        event_shape: event shape of the model.
        support: support of one element.
        like: a tensor of the model, for type and device.
        missing: whether NaN is allowed, for elements that were not observed.

    Raises:
        InputError: the type, device, shape or values do not fit.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise InputError(
            f"expected x as a floating-point tensor, got {kind}: convert it; the queries of MFCVAE accept any type"
        )
    if tuple(x.shape[1:]) != tuple(event_shape) or x.dim() == 0:
        raise InputError(
            f"expected x of shape (N, {', '.join(map(str, event_shape))}), got {tuple(x.shape)}: reshape it"
        )
    if is_tracing():
        return x.shape[0]  # the size of a traced program is symbolic, and its values are unknown
    if x.shape[0] == 0:
        raise InputError("expected at least one item, got none: pass x with N ≥ 1")
    # In a model in half precision, densities and therefore draws are in float32.
    dtypes = {like.dtype, torch.promote_types(like.dtype, torch.float32)}
    if x.dtype not in dtypes or x.device != like.device:
        raise InputError(
            f"expected x like the model, {like.dtype} on {like.device}, got {x.dtype} on {x.device}: use x.to(…)"
        )
    _check_values(x.detach(), support, missing=missing)
    return x.shape[0]


def check_parts(model: Any) -> None:
    """Refuse parts that were replaced by parts for other facets or shapes, and invalid weights of facets.

    Args:
        model: a `MultiFacetModel`.

    Raises:
        InputError: a part or a weight does not fit.
    """
    facets, decoder = model.facets, model.decoder
    if tuple(prior.facet for prior in model.priors) != facets or decoder.facets != facets:
        raise InputError(
            f"expected priors and a decoder of the facets {facets}, got parts of other facets: build a new model"
        )
    event_shape = model.likelihood.event_shape(decoder.out_shape)
    if event_shape != model.event_shape:
        raise InputError(
            f"expected a decoder and a likelihood of data of shape {model.event_shape}, got ones of {event_shape}: "
            "build a new model"
        )
    if is_tracing():
        return  # values that are read here would become constants of the program
    for name in ("alpha", "beta"):
        weights = getattr(model, name)
        if weights.shape != (len(facets),):
            raise InputError(
                f"expected {name} of shape ({len(facets)},), one per facet, got {tuple(weights.shape)}: overwrite it "
                f"in place, model.{name}.fill_(…)"
            )
        if weights.device.type == "cpu" and not (weights >= 0).all():
            raise InputError(f"expected {name} ≥ 0, got {weights.tolist()}: set it to 0 to take a facet out")


def _check_values(x: Tensor, support: Constraint, *, missing: bool) -> None:
    if missing:
        x = torch.where(x.isnan(), max(getattr(support, "lower_bound", 0), 0), x)
    low, high = torch.stack(x.aminmax()).tolist()  # NaN if any value is
    if low != low:
        raise InputError(
            "expected x without NaN, got some: remove them, or build the model with missing=True (likelihood.missing) "
            "for elements that were not observed"
        )
    if low == float("-inf") or high == float("inf"):
        raise InputError(f"expected finite values of x, got values from {low} to {high}: remove the infinite ones")
    lowest, highest = getattr(support, "lower_bound", low), getattr(support, "upper_bound", high)
    if low < lowest or high > highest:
        wish = f"from {lowest} to {highest}" if hasattr(support, "upper_bound") else f"≥ {lowest}"
        raise InputError(
            f"expected values of x {wish} for this likelihood, got values from {low:.9g} to {high:.9g}: rescale x "
            "(bytes by 1/255), or choose another likelihood"
        )
    if support.is_discrete and (x.frac() != 0).any():
        raise InputError(
            "expected whole numbers in x for this likelihood, got other values: round them, or choose another "
            "likelihood"
        )
