import copy

import numpy as np
import pytest
from exact_mixture import exact_mixture_arrays, exact_mixture_data

from pyro_mfcvae.checks.check import Check
from pyro_mfcvae.checks.guide import check_guide
from pyro_mfcvae.draws.arviz_data import attach, values
from pyro_mfcvae.draws.check_data import CheckData


def by_name(**guide: float) -> dict[str, Check]:
    return {check.name: check for check in check_guide(exact_mixture_arrays(**guide))}  # type: ignore[arg-type]


def test_the_exact_guide_passes() -> None:
    checks = by_name()
    assert checks["k-hat of the guide"].value == 0
    assert checks["k-hat of the guide"].details["median"] < 0.5
    assert checks["evidence above the ELBO"].value == pytest.approx(0, abs=1e-9)
    assert {check.verdict for check in checks.values()} == {"good"}


@pytest.mark.parametrize("guide", [{"spread": 0.5}, {"shift": 1.0}])
@pytest.mark.parametrize("off", range(2))
def test_a_facet_that_is_off_is_told_from_one_that_is_exact(guide: dict[str, float], off: int) -> None:
    """The facets are independent a posteriori, so the exact one has equal weights wherever the other is held."""
    data = exact_mixture_data(**guide, off=(off,))  # type: ignore[arg-type]
    checks = {
        check.facet: check for check in check_guide(CheckData.from_arviz(data)) if check.name == "k-hat of q(z_j|x)"
    }
    assert {j for j, check in checks.items() if check.verdict != "good"} == {off}
    assert (checks[1 - off].value, checks[1 - off].details["median"]) == (0, 0)
    assert checks[off].details["items"] == 200
    log_weights = values(data, "sample_stats", f"log_weight_{1 - off}")
    np.testing.assert_allclose(log_weights, log_weights[:1].repeat(64, 0), atol=1e-10)
    assert check_guide(CheckData.from_arviz(data))[0].verdict != "good"


@pytest.mark.parametrize("guide", [{"spread": 0.5}, {"shift": 1.0}])
def test_guides_that_are_off_are_told(guide: dict[str, float]) -> None:
    checks = by_name(**guide)
    assert checks["k-hat of the guide"].verdict == "bad"
    assert checks["evidence above the ELBO"].verdict != "good"


def test_a_guide_that_is_wide_costs_nats_but_no_trust() -> None:
    checks = by_name(spread=1.3)
    assert checks["k-hat of the guide"].verdict == "good"
    assert 0.05 < checks["evidence above the ELBO"].value < 0.2


def test_the_numbers_are_nats() -> None:
    data, details = exact_mixture_data(shift=1.0), by_name(shift=1.0)["evidence above the ELBO"].details
    evidence, elbo = values(data, "log_likelihood", "x"), values(data, "sample_stats", "elbo")
    assert details["evidence"] == pytest.approx(evidence.mean())
    assert details["gap"] + details["given_away_by_the_rule"] == pytest.approx(np.mean(evidence - elbo))
    assert details["given_away_by_the_rule"] > 0


def test_items_whose_k_hat_cannot_be_found_are_not_trusted() -> None:
    data = copy.deepcopy(exact_mixture_data())
    log_weight = values(data, "sample_stats", "log_weight").copy()
    log_weight[:, :50] = np.nan
    attach(data, "sample_stats", "log_weight", (("chain", "draw", "item"), log_weight[None]))
    assert check_guide(CheckData.from_arviz(data))[0].value >= 0.25
