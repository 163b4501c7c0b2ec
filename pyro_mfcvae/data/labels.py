"""Label sets out of arrays, in the forms in which people keep them."""

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_log = logging.getLogger(__name__)

# float64 holds every whole number up to this size.
_LARGEST = 2**53


def read_labels(name: str, array: NDArray[np.generic], num_items: int) -> dict[str, Tensor]:
    """The label sets that an array of numbers or truths holds, int64 (N,) each; none, and a warning, where it has none.

    - (N,) or (N, 1): one label set. Floats must be whole; NaN means unlabelled, which is −1.
    - (N, m), m ≥ 2, of zeros and a single 1 in every row: one label set, the column of the 1 (one-hot).
    - (N, m), other whole numbers: m label sets, ``name_0`` … ``name_{m-1}``.

    Args:
        name: of the array.
        array: whatever lies beside the images.
        num_items: N.
    """
    values = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    numbers = _whole_numbers(values)
    is_plain = values.ndim == 1 and values.dtype.kind != "f"  # of another length than N, it is a mistake to report
    if numbers is None or values.ndim not in (1, 2) or (len(values) != num_items and not is_plain):
        _log.warning(
            "the array %r of shape %s and type %s is left out: labels are whole numbers, one or more per image",
            name,
            array.shape,
            array.dtype,
        )
        return {}
    if numbers.ndim == 1:
        return {name: torch.from_numpy(numbers)}
    if np.isin(numbers, (0, 1)).all() and (numbers.sum(1) == 1).all():
        return {name: torch.from_numpy(numbers.argmax(1))}
    return {f"{name}_{i}": torch.from_numpy(column.copy()) for i, column in enumerate(numbers.T)}


def _whole_numbers(values: NDArray[np.generic]) -> NDArray[np.int64] | None:
    """Integers, with −1 for NaN; None where a value is no whole number."""
    if values.dtype.kind in "iub":
        return values.astype(np.int64)
    if values.dtype.kind != "f":
        return None
    known = np.nan_to_num(values.astype(np.float64), nan=-1.0)
    if not (np.isfinite(known) & (known == known.round()) & (np.abs(known) <= _LARGEST)).all():
        return None
    return known.astype(np.int64)
