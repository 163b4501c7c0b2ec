from dataclasses import replace

import numpy as np
import pytest
from exact_mixture import exact_mixture_arrays

from pyro_mfcvae.checks.check import Check
from pyro_mfcvae.checks.information import CLUSTERS, LOSS, check_information, describe_information
from pyro_mfcvae.draws.check_data import FacetData

GENERATOR = np.random.default_rng(0)


def with_facet(**changes: np.ndarray) -> dict[str, Check]:
    """The checks of facet 0 after some of its arrays are replaced."""
    data = exact_mixture_arrays()
    facets = (replace(data.facets[0], **changes), data.facets[1])  # type: ignore[arg-type]
    return {check.name: check for check in check_information(replace(data, facets=facets)) if check.facet == 0}


def test_facets_that_the_items_depend_on_pass() -> None:
    assert {check.verdict for check in check_information(exact_mixture_arrays())} == {"good"}


def test_a_facet_that_the_decoder_ignores_is_bad() -> None:
    check = with_facet(loss_without=1e-3 * GENERATOR.standard_normal(200))[LOSS.name]
    assert check.verdict == "bad" and check.value == pytest.approx(1, abs=1e-3)
    assert "collapsed" in check.advice


def test_the_effect_is_the_likelihood_that_is_left() -> None:
    check = with_facet(loss_without=np.full(200, np.log(4.0)))[LOSS.name]
    assert check.value == pytest.approx(0.25) and check.verdict == "good"


def test_one_cluster_for_all_items_has_no_information() -> None:
    probs = np.tile([0.999, 0.0005, 0.0005], (200, 1))
    assert with_facet(probs=probs)[CLUSTERS.name].verdict == "bad"


def test_even_clusters_have_the_information_of_k_clusters() -> None:
    probs = np.eye(3)[np.arange(300) % 3]
    assert with_facet(probs=probs)[CLUSTERS.name].value == pytest.approx(1 / 3)


def test_information_of_a_normal_channel() -> None:
    """z = s + n with Var(s) = 3, Var(n) = 1: I = ½ log 4 per coordinate; two of three coordinates are active."""
    signal = GENERATOR.standard_normal((2000, 3)) * [3**0.5, 3**0.5, 0.0]
    facet: FacetData = replace(
        exact_mixture_arrays().facets[0], z=signal + GENERATOR.standard_normal((400, 2000, 3)), kl=np.full(2000, 2.0)
    )
    found = describe_information(facet)
    assert found["information_z"] == pytest.approx(np.log(4.0), rel=0.05)
    assert found["active_units"] == 2 and found["kl"] == 2
