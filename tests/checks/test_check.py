import math

from pyro_mfcvae.checks.check import Check, Threshold

THRESHOLD = Threshold(warn=0.1, bad=0.5, source="a test")


def make(value: float, *, is_noise: bool = False) -> Check:
    return Check("name", "asks?", value, "unit", THRESHOLD, "advice", is_noise=is_noise)


def test_the_number_decides_and_a_threshold_itself_is_still_passed() -> None:
    assert [make(value).verdict for value in (-1.0, 0.1, 0.1001, 0.5, 0.5001)] == [
        "good",
        "good",
        "warn",
        "warn",
        "bad",
    ]


def test_a_number_that_is_none_is_bad() -> None:
    assert make(math.nan).verdict == "bad"
    assert make(math.inf).verdict == "bad"


def test_what_chance_makes_is_good() -> None:
    assert make(3.0, is_noise=True).verdict == "good"


def test_the_record_holds_everything() -> None:
    record = make(0.2).record()
    assert record["verdict"] == "warn"
    assert record["threshold"] == {"warn": 0.1, "bad": 0.5, "source": "a test"}
    assert record["asks"] == "asks?" and record["advice"] == "advice" and record["facet"] is None
