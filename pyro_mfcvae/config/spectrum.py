"""The variances of items along their principal directions, and the scale of the likelihood that follows from them."""

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.errors import InputError

NATS = 400.0
"""The largest value of sum_i var_i / (2 scale²), the cost in nats of the variance of an item."""

# Two clusters that lie four standard deviations of q(z | x) apart overlap by 2.3 %, which is less than
# `pyro_mfcvae.groups.MERGE_THRESHOLD`, so they are not merged.
_MOST_UNITS = 4.0

# Number of items from which the directions are computed.
_NUM_MEASURED = 1000


def measure_spectrum(items: Tensor, *, standardize: bool = False) -> NDArray[np.float64]:
    """The variances along the principal directions of items (N, *event_shape), largest first.

    Args:
        items: uint8 or floats.
        standardize: whether every element is divided by its standard deviation.

    Raises:
        InputError: all items are alike.
    """
    x = centred(items, _NUM_MEASURED, standardize=standardize)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    spectrum: NDArray[np.float64] = np.linalg.eigvalsh(gram)[::-1].clip(min=0) / len(x)
    if not spectrum.sum() > 0:
        raise InputError("expected items that differ, got items that are all alike: check the data")
    return spectrum


def centred(items: Tensor, most: int, *, standardize: bool) -> NDArray[np.float64]:
    """At most ``most`` random items, flattened and centred, (N, P).

    Bytes are divided by 255. A missing element is replaced by the mean of this element over the items.
    """
    x = _choose(items, most)
    x = np.where(np.isnan(x), 0.0, x - np.nan_to_num(np.nanmean(x, axis=0)))
    if not standardize:
        return x
    scale = x.std(0)
    standardized: NDArray[np.float64] = x / np.where(scale > 0, scale, 1.0)
    return standardized


def contrast(items: Tensor) -> float:
    """The variance of images (N, *event_shape) as a share of the variance of black and white images with the same mean.

    An element in [0, 1] with the mean m has at most the variance m (1 - m), that of a Bernoulli variable. The result is
    the ratio of the sums over all elements. It is 1 if all elements are 0 or 1. It is 0 for items that are not images
    with values in [0, 1].
    """
    x = _choose(items, _NUM_MEASURED)
    if items.ndim != 4 or np.isnan(x).any() or x.min() < 0 or x.max() > 1:
        return 0.0
    mean = x.mean(0)
    largest = float((mean * (1 - mean)).sum())
    return float(x.var(0).sum()) / largest if largest else 0.0


def choose_scale(spectrum: NDArray[np.float64]) -> float:
    """The standard deviation of a Gaussian likelihood for items with these variances, largest first.

    It is the smallest number that meets two conditions. First, the variance of an item costs at most 400 nats, so that
    the reconstruction does not outweigh the KL. Second, over the directions whose standard deviation exceeds the scale,
    the geometric mean of the ratio of the two is at most 4. In a linear model the scale is the width of q(z | x) along
    a direction, so with a finer scale z describes differences that clusters do not need, and moves items of one cluster
    apart. The first condition decides if the variance is spread over many directions, the second if a few directions
    have all of it.
    """
    scale = math.sqrt(float(spectrum.sum()) / (2 * NATS))
    for _ in range(len(spectrum)):
        wide = spectrum[spectrum > scale**2]
        wider = float(np.exp(np.log(wide).mean() / 2)) / _MOST_UNITS if len(wide) else 0.0
        if wider <= scale * (1 + 1e-6):
            break
        scale = wider
    return float(f"{scale:.3g}")


def _choose(items: Tensor, most: int) -> NDArray[np.float64]:
    """At most ``most`` random items, flattened, (N, P); bytes are divided by 255."""
    order = np.random.default_rng(0).permutation(len(items))[:most]
    values = items[np.sort(order)].flatten(1)
    chosen: NDArray[np.float64] = values.double().numpy() / (1 if values.is_floating_point() else 255)
    return chosen
