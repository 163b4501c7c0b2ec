"""The variances of items along their principal directions, and the scale of the likelihood that follows from them."""

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.errors import InputError

NATS = 400.0
"""The most nats that the variance of an item may be worth: sum_i var_i / (2 scale²)."""

# Two clusters that lie four standard deviations of q(z | x) apart overlap by 2.3 %, which is less than
# `pyro_mfcvae.groups.MERGE_THRESHOLD`: they stay two groups.
_MOST_UNITS = 4.0

# Number of items from which the directions are found.
_NUM_MEASURED = 1000


def measure_spectrum(items: Tensor, *, standardize: bool = False) -> NDArray[np.float64]:
    """The variances along the principal directions of items (N, *event_shape), largest first.

    Args:
        items: uint8 or floats.
        standardize: whether every element is divided by its standard deviation.

    Raises:
        InputError: the items are all alike.
    """
    x = centred(items, _NUM_MEASURED, standardize=standardize)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    spectrum: NDArray[np.float64] = np.linalg.eigvalsh(gram)[::-1].clip(min=0) / len(x)
    if not spectrum.sum() > 0:
        raise InputError("expected items that differ, got items that are all alike: check the data")
    return spectrum


def centred(items: Tensor, most: int, *, standardize: bool) -> NDArray[np.float64]:
    """At most ``most`` random items without their mean, flat, (N, P).

    Bytes count as shares of 255. A missing element is replaced by the mean of that element over the items.
    """
    order = np.random.default_rng(0).permutation(len(items))[:most]
    values = items[np.sort(order)].flatten(1)
    x = values.double().numpy() / (1 if values.is_floating_point() else 255)
    x = np.where(np.isnan(x), 0.0, x - np.nan_to_num(np.nanmean(x, axis=0)))
    if not standardize:
        return x
    scale = x.std(0)
    standardized: NDArray[np.float64] = x / np.where(scale > 0, scale, 1.0)
    return standardized


def choose_scale(spectrum: NDArray[np.float64]) -> float:
    """The standard deviation of a Gaussian likelihood for items with these variances, largest first.

    It is the smallest at which both hold: the variance of an item is worth no more than 400 nats, so that the
    reconstruction does not drown the KL; and the directions whose standard deviation exceeds the scale do so by a
    factor of 4 at most in the geometric mean. In a linear model the scale is the width of q(z | x) along a direction,
    so finer scales describe differences that clusters do not need, and press items of one cluster apart. The first
    limit decides where the variance is spread over many directions, the second where a few hold all of it.
    """
    scale = math.sqrt(float(spectrum.sum()) / (2 * NATS))
    for _ in range(len(spectrum)):
        wide = spectrum[spectrum > scale**2]
        wider = float(np.exp(np.log(wide).mean() / 2)) / _MOST_UNITS if len(wide) else 0.0
        if wider <= scale * (1 + 1e-6):
            break
        scale = wider
    return float(f"{scale:.3g}")
