"""The numbers of items and draws that fit into a time."""

from time import perf_counter

from torch import Tensor

from pyro_mfcvae.draws.items import draw_log_weights
from pyro_mfcvae.mfcvae import MFCVAE


def seconds_per_draw(pair: MFCVAE, x: Tensor) -> float:
    """The seconds to weigh one draw of one item, measured on at most 64 of the items ``x``."""
    some, num = x[:64], 32
    draw_log_weights(pair, some[:8], num_samples=num)  # the first call includes work that later calls reuse
    start = perf_counter()
    draw_log_weights(pair, some, num_samples=num)
    return (perf_counter() - start) / (num * len(some))


def plan_sizes(seconds: float, seconds_per_draw: float, num_items: int, num_facets: int) -> tuple[int, int]:
    """The numbers of items, and of draws for each, that fit into a time: 32 to 256 draws; then fewer items, at least
    200.

    Every item takes its draws twice (once to weigh, once to replicate and save), and 4 more per facet.
    """
    budget = seconds / seconds_per_draw
    num_draws = int(min(256, max(32, budget / num_items / 2 - 4 * num_facets)))
    return int(min(num_items, max(200, budget / (2 * num_draws + 4 * num_facets)))), num_draws
