"""Choose the numbers of items and draws for a Monte Carlo error and a time limit."""

from time import perf_counter
from typing import NamedTuple

import numpy as np
from torch import Tensor

from pyro_mfcvae.draws.items import draw_log_weights
from pyro_mfcvae.draws.psis import monte_carlo_error, smooth
from pyro_mfcvae.mfcvae import MFCVAE

ENOUGH = 0.1
"""A Monte Carlo error of log p(x) of an item, in nats, that is small compared with the differences between items."""

_FEWEST, _MOST = 32, 256  # draws per item


class Pilot(NamedTuple):
    """Cost and error of one draw of one item.

    Attributes:
        seconds: seconds to weigh the draw.
        error: Monte Carlo standard error of log p(x) of a typical item (the median) from one draw, in nats; it is
            divided by the square root of the number of draws.
    """

    seconds: float
    error: float


def try_draws(pair: MFCVAE, x: Tensor) -> Pilot:
    """Measure cost and error of a draw on at most 64 of the items ``x``."""
    some = x[:64]
    # The first call does work that later calls reuse, so it is not timed.
    draw_log_weights(pair, some[:8], num_samples=_FEWEST)
    start = perf_counter()
    log_weights = draw_log_weights(pair, some, num_samples=_FEWEST)
    seconds = (perf_counter() - start) / (_FEWEST * len(some))
    errors = monte_carlo_error(smooth(log_weights.T.numpy())[0])
    return Pilot(seconds, float(np.median(errors)) * _FEWEST**0.5)


def plan_sizes(seconds: float, pilot: Pilot, num_items: int, num_facets: int) -> tuple[int, int]:
    """Choose the number of items, and of draws per item.

    The number of draws, from 32 to 256, gives log p(x) of a typical item an error of 0.1 nats, if the time allows it.
    If the time is too short for 32 draws, there are fewer items, but at least 200. Every item needs its draws twice (to
    weigh them, and to replicate and save), and 4 more draws per facet.
    """
    budget = seconds / pilot.seconds
    fitting = budget / num_items / 2 - 4 * num_facets
    num_draws = int(min(_MOST, max(_FEWEST, min(fitting, np.ceil((pilot.error / ENOUGH) ** 2)))))
    return int(min(num_items, max(200, budget / (2 * num_draws + 4 * num_facets)))), num_draws
