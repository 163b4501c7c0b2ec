from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike

from pyro_mfcvae.data.labels import compact, read_labels
from pyro_mfcvae.errors import InputError

Y = [2, 0, 1, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array(Y, dtype=np.int16), {"y": Y}),
        (np.array(Y, dtype=np.float32), {"y": Y}),
        ([2.0, np.nan, 1.0, 0.0], {"y": [2, -1, 1, 0]}),
        (np.array(Y)[:, None], {"y": Y}),
        ([True, False, True, True], {"y": [1, 0, 1, 1]}),
        (np.eye(3)[Y], {"y": Y}),
        (np.eye(3, dtype=bool)[Y], {"y": Y}),
        ([[1, 1], [0, 0], [0, 1], [1, 0]], {"y_0": [1, 0, 0, 1], "y_1": [1, 0, 1, 0]}),
        ([[5.0, np.nan], [0, 0], [0, 1], [1, 0]], {"y_0": [5, 0, 0, 1], "y_1": [-1, 0, 1, 0]}),
    ],
)
def test_labels_are_read_in_the_forms_that_people_keep(values: ArrayLike, expected: dict[str, list[int]]) -> None:
    found = read_labels({"y": np.asarray(values)}, 4, path=Path("a.npz"))
    assert {name: labels.tolist() for name, labels in found.sets.items()} == expected
    assert (found.notes, found.names) == ([], None)


@pytest.mark.parametrize(
    "values",
    [
        [0.5, 1.0, 2.0, 3.0],
        [np.inf, 1, 2, 3],
        [1e30, 1, 2, 3],
        np.zeros((4, 2, 2)),
        np.zeros((3, 2)),
        np.array([1j, 2, 3, 4]),
    ],
)
def test_other_arrays_are_passed_over_with_a_note(values: ArrayLike) -> None:
    found = read_labels({"weight": np.asarray(values)}, 4, path=Path("a.npz"))
    assert found.sets == {}
    assert [note.startswith("passed over 'weight' of a.npz: ") for note in found.notes] == [True]


def test_texts_under_the_key_names_are_the_items_names() -> None:
    found = read_labels({"files": np.array(["a.png", "b.png"]), "kind": np.array(["x", "w"])}, 2, path=Path("a.npz"))
    assert found.names == ("a.png", "b.png")
    assert found.sets["kind"].tolist() == [1, 0]


def test_numbers_in_one_dimension_are_one_per_item() -> None:
    with pytest.raises(
        InputError, match=r"expected one 'y' label for each of 4 items of a.npz, got 3: give one label per item"
    ):
        read_labels({"y": np.arange(3)}, 4, path=Path("a.npz"))


def test_very_large_values_get_the_same_numbers_in_both_splits() -> None:
    """Tables of counts have a column per value, and 10¹⁰ columns do not fit into memory."""
    train = {"y": torch.tensor([10**12, 7, -3, 5]), "small": torch.tensor([3, 1, 0, 2])}
    test = {"y": torch.tensor([7, 10**12, 10**11]), "small": torch.tensor([9, 9, 9])}
    compact(train, test)
    assert train["y"].tolist() == [3, 1, -1, 0]
    assert test["y"].tolist() == [1, 3, 2]
    assert train["small"].tolist() == [3, 1, 0, 2]
