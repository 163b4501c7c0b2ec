import warnings
from pathlib import Path

import arviz
import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
import torch
from exact_mixture import exact_mixture_data
from linear_gaussian import draw, exact_log_evidence, linear_pair

from pyro_mfcvae import InputError
from pyro_mfcvae.checks.comparison import compare_evidence
from pyro_mfcvae.draws.arviz_data import (
    assigned_clusters,
    attach,
    load_inference_data,
    num_facets,
    pareto_k,
    save_inference_data,
    to_arviz,
    to_elpd,
    to_inference_data,
    values,
)

DIMS = {
    "posterior": {"c_0": "chain draw item", "z_0": "chain draw item z_0_dim", "c_1": "chain draw item"},
    "posterior_predictive": {"mean": "chain draw item", "x": "chain draw item x_dim_0"},
    "log_likelihood": {"x": "chain draw item", "x_reference": "chain draw reference_item"},
    "sample_stats": {
        "log_weight": "chain draw item",
        "log_weight_1": "chain draw weighed_item",
        "elbo": "item",
        "assignment_0": "item cluster_0",
    },
    "prior": {"c_0": "chain draw", "z_1": "chain draw z_1_dim"},
    "prior_predictive": {"x": "chain draw x_dim_0", "contrast": "chain draw"},
    "sample_stats_prior": {"rank_0": "chain draw z_0_dim", "weight_1": "cluster_1", "log_evidence": "chain draw"},
    "observed_data": {"x": "item x_dim_0", "mean": "item"},
    "constant_data": {"side": "item"},
}


def test_groups_dims_and_coords_have_names() -> None:
    data = exact_mixture_data()
    for group, variables in DIMS.items():
        for name, dims in variables.items():
            assert data[group][name].dims == tuple(dims.split()), (group, name)
    sizes = data["posterior"]["z_0"].sizes
    assert dict(sizes) == {"chain": 1, "draw": 64, "item": 200, "z_0_dim": 2}
    assert data["posterior"]["item"].values.tolist() == list(range(200))
    assert data["log_likelihood"]["x"].sizes["draw"] == 1
    assert num_facets(data) == 2
    np.testing.assert_array_equal(values(data, "constant_data", "side"), np.arange(200) % 2)


def test_the_most_probable_cluster_is_the_assigned_one() -> None:
    data = exact_mixture_data()
    assert assigned_clusters(data).shape == (200, 2)
    np.testing.assert_array_equal(assigned_clusters(data)[:, 1], values(data, "sample_stats", "assignment_1").argmax(1))


def test_netcdf_gives_back_every_bit(tmp_path: Path) -> None:
    data = to_inference_data(linear_pair(), draw(linear_pair(), 12), num_samples=30, num_simulated=40)
    attach(data, "sample_stats", "seed_agreement", (("facet",), np.array([0.5, 1.0])))
    save_inference_data(data, tmp_path / "here" / "posterior.nc")
    again = load_inference_data(tmp_path / "here" / "posterior.nc")
    for group in (*DIMS,)[:-1]:
        assert set(again[group].data_vars) == set(data[group].data_vars)
        for name, array in data[group].data_vars.items():
            assert again[group][name].dims == array.dims
            assert again[group][name].dtype == array.dtype
            np.testing.assert_array_equal(again[group][name].values, array.values)
    assert values(again, "sample_stats", "seed_agreement").tolist() == [0.5, 1.0]


def test_evidence_is_exact_where_the_guide_is() -> None:
    pair = linear_pair()
    x = draw(pair, 30)
    data = to_inference_data(pair, x, num_samples=30, num_simulated=20)
    np.testing.assert_allclose(values(data, "log_likelihood", "x"), exact_log_evidence(pair, x), atol=1e-10)


def test_own_statistics_join_those_that_are_there() -> None:
    x = draw(linear_pair(), 10)
    largest = {"largest": lambda x: x.max(-1).values}
    data = to_inference_data(linear_pair(), x, num_samples=30, num_simulated=20, statistics=largest, pixels=False)
    assert set(data["observed_data"].data_vars) == {"x", "mean", "contrast", "largest"}
    np.testing.assert_array_equal(values(data, "observed_data", "largest"), x.max(-1).values)
    assert set(data["posterior_predictive"].data_vars) == {"mean", "contrast", "largest"}


def test_images_have_channels_rows_and_columns() -> None:
    x = np.zeros((1, 2, 3, 1, 4, 5))
    groups = {"posterior_predictive": {"x": (("chain", "draw", "item", "channel", "height", "width"), x)}}
    assert to_arviz(groups)["posterior_predictive"]["x"].sizes["width"] == 5


def test_arviz_draws_our_k_hat_and_compares_our_evidence() -> None:
    good, broken = exact_mixture_data(), exact_mixture_data(shift=1.0)
    elpd = to_elpd(broken)
    np.testing.assert_array_equal(elpd.pareto_k, pareto_k(values(broken, "sample_stats", "log_weight").T))
    with matplotlib.rc_context({"backend": "agg"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ArviZ's own
        arviz.plot_khat(elpd)
        table = arviz.compare({"broken": elpd, "good": to_elpd(good)})
        arviz.plot_compare(table)
        matplotlib.pyplot.close("all")
    assert list(table.index) == ["good", "broken"]
    weights = {name: values(d, "sample_stats", "log_weight") for name, d in (("good", good), ("broken", broken))}
    rows = compare_evidence(weights)
    # Theirs are sums over 200 items, and 1.x rounds them to the digits that their errors leave.
    column = "elpd" if "elpd" in table else "elpd_loo"
    assert float(table[column]["broken"]) == pytest.approx(200 * rows[1].evidence, rel=0.01)
    assert abs(float(table["elpd_diff"]["broken"])) == pytest.approx(200 * rows[1].difference, rel=0.1)
    assert float(table["dse"]["broken"]) == pytest.approx(200 * rows[1].difference_standard_error, rel=0.1)


def test_arvizs_own_checks_and_tables_take_our_groups() -> None:
    data = exact_mixture_data()
    table = arviz.summary(data, var_names=["z_0"], coords={"item": [0]}, kind="stats")
    assert list(table.index) == ["z_0[0, 0]", "z_0[0, 1]"]
    plot = arviz.plot_ppc_dist if hasattr(arviz, "plot_ppc_dist") else arviz.plot_bpv
    with matplotlib.rc_context({"backend": "agg"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plot(data, var_names=["contrast"])
        matplotlib.pyplot.close("all")


def test_pareto_k_is_that_of_the_right_tail() -> None:
    """N(0, 1) weighed by draws of N(0, s): the weights' tail index is 1 - s² for s < 1; for s ≥ 1 they are bounded."""
    generator = np.random.default_rng(0)
    for scale, expected in ((0.5, 0.75), (0.7, 0.51)):
        z = scale * generator.standard_normal(40_000)
        log_weights = -z * z / 2 + z * z / (2 * scale**2)
        # 40,000 draws: a standard error below 0.03, and a logarithm in the tail that slows convergence.
        assert pareto_k(log_weights[None])[0] == pytest.approx(expected, abs=0.1)
    z = 2 * generator.standard_normal(40_000)
    assert pareto_k(-z * z / 2 + z * z / 8) <= 0


def test_equal_weights_have_k_hat_0_and_are_not_changed() -> None:
    log_weights = np.full((2, 50), -700.0)
    log_weights[1] += np.random.default_rng(0).standard_normal(50)
    before = log_weights.copy()
    k_hat = pareto_k(log_weights)
    assert k_hat[0] == 0 and k_hat[1] != 0
    np.testing.assert_array_equal(log_weights, before)


def test_mistakes_are_told(tmp_path: Path) -> None:
    pair = linear_pair()
    x = draw(pair, 5)
    with pytest.raises(InputError, match=r"num_samples must be ≥ 30, the fewest that k-hat can be found from, got 29"):
        to_inference_data(pair, x, num_samples=29)
    with pytest.raises(InputError, match="expected a 'side' label for each of 5 items, got 4"):
        to_inference_data(pair, x, labels={"side": torch.zeros(4)})
    with pytest.raises(InputError, match="a statistic cannot be called 'x', as the items themselves are"):
        to_inference_data(pair, x, statistics={"x": lambda x: x.mean(-1)})
    with pytest.raises(
        InputError, match=r"'all' must give a number per item: from \(2, 3, 6\) expected .* got a float"
    ):
        to_inference_data(pair, x, statistics={"all": lambda x: x.mean().item()})  # type: ignore[dict-item,return-value]
    with pytest.raises(InputError, match=r"expected the NetCDF file .*none.nc, which is not there"):
        load_inference_data(tmp_path / "none.nc")
