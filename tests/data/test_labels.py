import logging

import numpy as np
import pytest
from numpy.typing import ArrayLike

from pyro_mfcvae.data.labels import read_labels

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
    found = read_labels("y", np.asarray(values), 4)
    assert {name: labels.tolist() for name, labels in found.items()} == expected


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
def test_other_arrays_are_left_out_with_a_warning(values: ArrayLike, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert read_labels("weight", np.asarray(values), 4) == {}
    assert "the array 'weight' of shape" in caplog.text
