"""ArviZ data of the mixture whose posterior is known, for tests of single checks."""

from functools import cache
from typing import Any

import pyro
import torch
from linear_gaussian import draw, linear_pair

from pyro_mfcvae.draws.arviz_data import to_inference_data
from pyro_mfcvae.draws.check_data import CheckData
from pyro_mfcvae.guides import SampleAssignment


@cache
def exact_mixture_data(
    *,
    spread: float = 1.0,
    shift: float = 0.0,
    off: tuple[int, ...] = (0, 1),
    seed: int = 0,
    reference: bool = True,
    num_samples: int = 64,
) -> Any:
    """200 items, 2,000 simulated items. Tests share it, so they must not change it."""
    assert torch.get_default_dtype() == torch.float64
    pyro.set_rng_seed(seed)
    pair = linear_pair(spread=spread, shift=shift, off=off, rule=SampleAssignment())
    x = draw(pair, 200)
    other = draw(pair, 200) if reference else None
    data = to_inference_data(
        pair, x, reference=other, num_samples=num_samples, num_simulated=2000, labels={"side": torch.arange(200) % 2}
    )
    return data


@cache
def exact_mixture_arrays(
    *, spread: float = 1.0, shift: float = 0.0, off: tuple[int, ...] = (0, 1), seed: int = 0, reference: bool = True
) -> CheckData:
    """The same data in the form that the checks read."""
    return CheckData.from_arviz(exact_mixture_data(spread=spread, shift=shift, off=off, seed=seed, reference=reference))
