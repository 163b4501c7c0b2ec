from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyro_mfcvae.api.inputs import to_array
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
    "items", [X, torch.from_numpy(X), PAIRS, DataLoader(PAIRS, batch_size=3), Dictionaries(), Stream()]
)
def test_items_come_out_of_every_container(items: object) -> None:
    np.testing.assert_array_equal(to_array(items), X)


def test_other_containers_pass_as_they_are() -> None:
    assert to_array([[1, 2]]) == [[1, 2]]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (TensorDataset(torch.zeros(0, 2)), "expected at least one item, got an empty data set"),
        (DataLoader([{"pixels": torch.zeros(2)}]), "expected an item under 'image', 'x' or 'pixel_values', got pixels"),
        (DataLoader([torch.zeros(2), torch.zeros(3)], batch_size=1), "expected items of one shape, got"),
    ],
)
def test_what_does_not_fit_is_refused(items: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_array(items)
