import copy

import numpy as np
import pytest
from exact_mixture import exact_mixture_arrays, exact_mixture_data

from pyro_mfcvae.checks.typicality import check_typicality, typicality
from pyro_mfcvae.draws.arviz_data import attach, values
from pyro_mfcvae.draws.check_data import CheckData


def test_typicality_is_two_sided() -> None:
    reference = np.arange(99.0)
    np.testing.assert_allclose(typicality(np.array([-5.0, 49.0, 500.0]), reference), [0.01, 0.99, 0.01], atol=1e-12)


def test_items_like_the_training_items_pass() -> None:
    checks = check_typicality(exact_mixture_arrays())
    assert [check.name for check in checks] == ["overfitting", "outliers", "typical set"]
    assert {check.verdict for check in checks} == {"good"}


def test_without_training_items_there_is_less_to_say() -> None:
    assert [check.name for check in check_typicality(exact_mixture_arrays(reference=False))] == ["typical set"]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (-5.0, {"overfitting": "bad", "outliers": "bad", "typical set": "bad"}),
        (5.0, {"overfitting": "good", "outliers": "bad", "typical set": "bad"}),
    ],
)
def test_evidence_that_is_off_either_way_is_told(by: float, expected: dict[str, str]) -> None:
    data = copy.deepcopy(exact_mixture_data())
    evidence = values(data, "log_likelihood", "x")
    shifted = (evidence + by * evidence.std())[None, None]
    attach(data, "log_likelihood", "x", (("chain", "draw", "item"), shifted))
    assert {check.name: check.verdict for check in check_typicality(CheckData.from_arviz(data))} == expected
