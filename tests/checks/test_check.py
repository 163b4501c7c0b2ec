import math

import pytest

from pyro_mfcvae.checks.check import BAD_LEVEL, WARN_LEVEL, Check, Question, Threshold, correct

QUESTION = Question("name", "asks?", "mean", "normal", "much", "unit", Threshold(warn=0.1, bad=0.5, source="a test"))


def make(value: float, p_value: float = 0.0) -> Check:
    return Check(QUESTION, value, p_value, "advice")


def test_the_effect_decides_if_it_is_significant() -> None:
    verdicts = [make(value).verdict for value in (-1.0, 0.1, 0.1001, 0.5, 0.5001)]
    assert verdicts == ["good", "good", "warn", "warn", "bad"]


@pytest.mark.parametrize(
    ("p_value", "verdict"),
    [(BAD_LEVEL, "bad"), (1.01 * BAD_LEVEL, "warn"), (WARN_LEVEL, "warn"), (1.01 * WARN_LEVEL, "good")],
)
def test_a_large_effect_needs_a_small_p_value(p_value: float, verdict: str) -> None:
    assert make(3.0, p_value).verdict == verdict


def test_nan_is_bad() -> None:
    assert make(math.nan, 1.0).verdict == "bad"
    assert make(math.inf).verdict == "bad"


def test_p_values_are_corrected_for_the_table() -> None:
    first, second = correct([make(3.0, 0.02), make(3.0, 0.6)])
    assert (first.table_p_value, first.verdict) == (0.04, "warn")
    assert (second.table_p_value, second.verdict) == (1.0, "good")


def test_the_record_has_all_fields() -> None:
    record = make(0.2, 0.01).record()
    assert record["verdict"] == "warn" and record["table_p_value"] == 0.01
    assert record["threshold"] == {"warn": 0.1, "bad": 0.5, "source": "a test"}
    assert {"name", "asks", "statistic", "exact", "blind", "unit", "value", "p_value", "facet"} <= record.keys()
