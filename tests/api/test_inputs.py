from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyro_mfcvae.api.inputs import to_array, to_labels, to_tensor
from pyro_mfcvae.errors import InputError

X = np.arange(24, dtype=np.float32).reshape(4, 2, 3)


class Dictionaries(Dataset[dict[str, np.ndarray]]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return {"label": np.array(1), "image": X[i]}


class Stream(IterableDataset[np.ndarray]):
    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(X)


PAIRS = TensorDataset(torch.from_numpy(X), torch.zeros(4))


@pytest.mark.parametrize(
    "items",
    [X, torch.from_numpy(X), PAIRS, DataLoader(PAIRS, batch_size=3), Dictionaries(), Stream(), list(X), tuple(X)],
)
def test_items_are_read_from_every_container(items: object) -> None:
    np.testing.assert_array_equal(to_array(items), X)


def test_other_containers_are_returned_unchanged() -> None:
    assert to_array([[1, 2]]) == [[1, 2]]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (TensorDataset(torch.zeros(0, 2)), "expected at least one item, got an empty data set"),
        (DataLoader([{"pixels": torch.zeros(2)}]), "expected an item under 'image', 'x' or 'pixel_values', got pixels"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], r"expected items of one shape, got \(2, 3\) and \(2, 4\)"),
        (Path("photos"), "expected items in memory, got the path 'photos'"),
        (DataLoader([torch.zeros(2), torch.zeros(3)], batch_size=1), "expected items of one shape, got"),
    ],
)
def test_what_does_not_fit_is_refused(items: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_array(items)


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        (np.array(["b", None, "a"], dtype=object), [1, -1, 0]),
        (np.array([["b"], [np.nan], ["a"]], dtype=object), [[1], [-1], [0]]),
        (pd.Categorical(["b", None, "a"]), [1, -1, 0]),
        (pd.Series([7, None, 3], dtype="object"), [1, -1, 0]),
        ([5, 6, 5], [5, 6, 5]),
        (torch.tensor([True, False]), [True, False]),
    ],
)
def test_labels_that_are_missing_are_unknown(labels: object, numbers: list[object]) -> None:
    assert to_labels(labels).tolist() == numbers


def test_vectors_must_be_numbers() -> None:
    assert to_tensor(np.array([[1, 2.5]], dtype=object)).tolist() == [[1.0, 2.5]]
    with pytest.raises(InputError, match=r"expected numbers, got others \(could not convert string to float: 'x'\)"):
        to_tensor(np.array([[1.0, "x"]], dtype=object))
