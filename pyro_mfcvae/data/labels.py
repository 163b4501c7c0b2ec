"""Read label sets from the arrays that are stored together with the items."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.errors import InputError

Arrays = Mapping[str, NDArray[np.generic]]

NAME_KEYS = ("names", "files", "filenames", "paths")
"""An array of texts under one of these keys gives the names of the items."""

# A table of whole numbers is read as label sets only if it has at most this number of columns.
_MAX_COLUMNS = 16
# Labels above this value are renumbered, because scores use tables of counts with a column per value.
_MAX_VALUE = 100_000


@dataclass
class Labels:
    """The label sets and names of the items of one split.

    Attributes:
        sets: int64 (N,) per label set, negative if unknown.
        names: names of the items, if the file has them.
        notes: one line for each array that was not used.
    """

    sets: dict[str, Tensor] = field(default_factory=dict)
    names: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)


def read_labels(arrays: Arrays, num_items: int, *, path: Path, others: Arrays | None = None) -> Labels:
    """The label sets among arrays.

    A label set is an array (N,) or (N, 1) of whole numbers (integers, or floats with NaN for unknown), of booleans, or
    of texts, which are numbered in alphabetical order. One-hot rows (N, K) are one label set; other whole numbers (N,
    M) with M ≤ 16 are M label sets. Everything else is left out, with a note.

    Args:
        arrays: name → array.
        num_items: N.
        path: path of the file.
        others: the arrays of the other split, so that texts get the same numbers in both splits.

    Raises:
        InputError: a one-dimensional array of numbers does not have one number per item.
    """
    labels = Labels()
    for name, array in arrays.items():
        if name in NAME_KEYS and array.dtype.kind in "US" and array.shape == (num_items,):
            labels.names = tuple(_as_text(array))
            continue
        column = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
        other = None if others is None else others.get(name)
        found = _label_sets(name, column, other)
        if isinstance(found, str):
            labels.notes.append(f"passed over {name!r} of {path}: {found}")
        elif len(column) != num_items:
            if column.dtype.kind in "US" or column.ndim > 1:
                labels.notes.append(f"passed over {name!r} of {path}: {len(column)} entries for {num_items} items")
                continue
            raise InputError(
                f"expected one {name!r} label for each of {num_items} items of {path}, got {len(column)}: give one "
                "label per item, or leave the array out"
            )
        else:
            labels.sets |= {key: torch.from_numpy(values) for key, values in found.items()}
    return labels


def _label_sets(
    name: str, array: NDArray[np.generic], other: NDArray[np.generic] | None
) -> dict[str, NDArray[np.int64]] | str:
    """Label sets by name, or the reason why there are none."""
    if array.ndim not in (1, 2) or array.size == 0:
        return f"an array of shape {array.shape}, not one label per item"
    if array.dtype.kind in "US":
        return {name: _number_texts(array, other)} if array.ndim == 1 else "a table of texts"
    if array.dtype.kind not in "biuf":
        return f"values of type {array.dtype}"
    values = _as_whole_numbers(array)
    if isinstance(values, str):
        return values
    if values.ndim == 1:
        return {name: values}
    if values.shape[1] > 1 and np.isin(values, (0, 1)).all() and (values.sum(1) == 1).all():
        return {name: values.argmax(1)}
    if values.shape[1] > _MAX_COLUMNS:
        return f"a table of {values.shape[1]} columns, more than {_MAX_COLUMNS}"
    return {f"{name}_{column}": np.ascontiguousarray(values[:, column]) for column in range(values.shape[1])}


def _as_whole_numbers(array: NDArray[np.generic]) -> NDArray[np.int64] | str:
    """The values as int64, −1 for NaN; or the reason why this is impossible."""
    if array.dtype.kind == "f":
        floats = array.astype(np.float64)
        known = ~np.isnan(floats)
        if not known.any() or not np.array_equal(floats[known], np.rint(floats[known])) or np.isinf(floats).any():
            return "floats that are no whole numbers"
        if np.abs(floats[known]).max() > 2**53:
            return "floats too large to be labels"
        return np.where(known, floats, -1).astype(np.int64)
    if array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
        return "numbers too large to be labels"
    whole: NDArray[np.int64] = array.astype(np.int64)
    return whole


def compact(train: dict[str, Tensor], test: dict[str, Tensor] | None) -> None:
    """Renumber label sets with very large values from 0, in the same way in both splits; −1 still means unknown."""
    for name, values in train.items():
        twin = None if test is None else test.get(name)
        both = values if twin is None else torch.cat([values, twin])
        if len(both) and int(both.max()) > _MAX_VALUE:
            known = both[both >= 0].unique()
            for split in (train, test or {}):
                if name in split:
                    place = torch.searchsorted(known, split[name])
                    split[name] = torch.where(split[name] >= 0, place, torch.full_like(place, -1))


def _number_texts(array: NDArray[np.generic], other: NDArray[np.generic] | None) -> NDArray[np.int64]:
    texts = np.array(_as_text(array))
    both = texts if other is None or other.dtype.kind not in "US" else np.concatenate([texts, _as_text(other)])
    numbers: NDArray[np.int64] = np.searchsorted(np.unique(both), texts).astype(np.int64)
    return numbers


def _as_text(array: NDArray[np.generic]) -> list[str]:
    flat = array.reshape(-1)
    if array.dtype.kind == "S":
        return [value.decode("utf-8", "backslashreplace") for value in flat.tolist()]
    # Texts in NumPy files that were tampered with may contain invalid code points.
    return [str(value).encode("utf-8", "backslashreplace").decode() for value in flat.tolist()]
