import numpy as np
import pytest
from exact_mixture import exact_mixture_arrays, exact_mixture_data

from pyro_mfcvae.checks.predictive import bayesian_p_value, check_predictions
from pyro_mfcvae.draws.arviz_data import assigned_clusters, values
from pyro_mfcvae.draws.check_data import CheckData


def test_the_p_value_counts_replicated_data_sets_and_half_the_ties() -> None:
    observed = np.array([1.0, 3.0])
    replicated = np.array([[2.0, 2.0], [4.0, 3.0], [0.0, 1.0], [5.0, 5.0]])  # means 2 (a tie), 3.5, 0.5, 5
    assert bayesian_p_value(observed, replicated) == 0.5 * 0.25 + 0.5


def test_items_of_the_model_pass() -> None:
    checks = check_predictions(exact_mixture_arrays())
    assert [check.name for check in checks] == ["replicated contrast", "replicated mean"]
    assert {check.verdict for check in checks} == {"good"}


def test_a_shifted_guide_replicates_something_else() -> None:
    mean = check_predictions(exact_mixture_arrays(shift=1.0))[1]
    assert mean.verdict != "good"
    assert mean.details["p_value"] in (0.0, 1.0)
    data = exact_mixture_data(shift=1.0)
    observed, replicated = values(data, "observed_data", "mean"), values(data, "posterior_predictive", "mean")
    assert mean.value == pytest.approx(abs(replicated.mean() - observed.mean()) / observed.std())


def test_clusters_have_their_own() -> None:
    data = exact_mixture_data()
    clusters = assigned_clusters(data)
    rows = check_predictions(CheckData.from_arviz(data))[1].details["clusters"]
    assert {(row["facet"], row["cluster"]) for row in rows} >= {(0, 0), (0, 1), (1, 0), (1, 1)}
    observed, replicated = values(data, "observed_data", "mean"), values(data, "posterior_predictive", "mean")
    for row in rows:
        members = clusters[:, row["facet"]] == row["cluster"]
        assert row["items"] == members.sum() >= 20
        assert row["p_value"] == bayesian_p_value(observed[members], replicated[:, members])
