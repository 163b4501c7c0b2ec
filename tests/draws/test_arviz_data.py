import warnings
from collections.abc import Iterator
from pathlib import Path

import arviz
import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
import torch
import xarray
from exact_mixture import exact_mixture_data
from linear_gaussian import draw, exact_log_evidence, linear_pair

from pyro_mfcvae import InputError
from pyro_mfcvae.checks.comparison import compare_evidence
from pyro_mfcvae.draws.arviz_data import (
    assigned_clusters,
    attach,
    load_inference_data,
    num_facets,
    save_inference_data,
    to_arviz,
    to_elpd,
    to_inference_data,
    values,
)
from pyro_mfcvae.draws.psis import pareto_k

DIMS = {
    "posterior": {"c_0": "chain draw item", "z_0": "chain draw item z_0_dim", "c_1": "chain draw item"},
    "posterior_predictive": {"mean": "chain draw item", "x": "chain draw item x_dim_0"},
    "log_likelihood": {"x": "chain draw item"},
    "sample_stats": {"log_weight": "chain draw item", "log_weight_1": "chain draw weighed_item"},
    "prior": {"c_0": "chain draw", "z_1": "chain draw z_1_dim"},
    "prior_predictive": {"x": "chain draw x_dim_0", "contrast": "chain draw"},
    "sample_stats_prior": {"rank_0": "chain draw z_0_dim", "joint_rank": "chain draw", "bound": "chain draw"},
    "observed_data": {"x": "item x_dim_0", "mean": "item"},
    "constant_data": {
        "label_side": "item",
        "elbo": "item",
        "assignment_0": "item cluster_0",
        "weight_1": "cluster_1",
        "reference_evidence": "reference_item",
    },
}


def test_groups_dims_and_coords_have_names() -> None:
    data = exact_mixture_data()
    for group, variables in DIMS.items():
        for name, dims in variables.items():
            assert data[group][name].dims == tuple(dims.split()), (group, name)
    sizes = data["posterior"]["z_0"].sizes
    assert dict(sizes) == {"chain": 1, "draw": 64, "item": 200, "z_0_dim": 2}
    assert data["posterior"]["item"].values.tolist() == list(range(200))
    assert num_facets(data) == 2
    np.testing.assert_array_equal(values(data, "constant_data", "label_side"), np.arange(200) % 2)


def test_the_most_probable_cluster_is_the_assigned_one() -> None:
    data = exact_mixture_data()
    assert assigned_clusters(data).shape == (200, 2)
    np.testing.assert_array_equal(
        assigned_clusters(data)[:, 1], values(data, "constant_data", "assignment_1").argmax(1)
    )


def test_netcdf_keeps_every_bit(tmp_path: Path) -> None:
    data = to_inference_data(linear_pair(), draw(linear_pair(), 12), num_samples=30, num_simulated=40)
    attach(data, "constant_data", "seed_agreement", (("facet",), np.array([0.5, 1.0])))
    save_inference_data(data, tmp_path / "here" / "posterior.nc")
    again = load_inference_data(tmp_path / "here" / "posterior.nc")
    for group in DIMS:
        assert set(again[group].data_vars) == set(data[group].data_vars)
        for name, array in data[group].data_vars.items():
            assert again[group][name].dims == array.dims
            assert again[group][name].dtype == array.dtype
            np.testing.assert_array_equal(again[group][name].values, array.values)
    assert values(again, "constant_data", "seed_agreement").tolist() == [0.5, 1.0]


def test_the_evidence_is_exact_for_an_exact_guide() -> None:
    pair = linear_pair()
    x = draw(pair, 30)
    data = to_inference_data(pair, x, num_samples=30, num_simulated=20)
    evidence = exact_log_evidence(pair, x).expand(30, -1)  # the same at every draw
    found = values(data, "log_likelihood", "x")
    np.testing.assert_allclose(found, evidence, atol=0.0006)
    np.testing.assert_allclose(found.mean(0), evidence[0], atol=1e-10)


def test_custom_statistics_are_added() -> None:
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
    # ArviZ gives sums over 200 items, and 1.x rounds them to the digits that their errors allow.
    column = "elpd" if "elpd" in table else "elpd_loo"
    assert float(table[column]["broken"]) == pytest.approx(200 * rows[1].evidence, rel=0.05)
    assert abs(float(table["elpd_diff"]["broken"])) == pytest.approx(200 * rows[1].difference, rel=0.1)
    assert float(table["dse"]["broken"]) == pytest.approx(200 * rows[1].difference_standard_error, rel=0.1)


def test_checks_and_tables_of_arviz_accept_our_groups() -> None:
    data = exact_mixture_data()
    table = arviz.summary(data, var_names=["z_0"], coords={"item": [0]}, kind="stats")
    assert list(table.index) == ["z_0[0, 0]", "z_0[0, 1]"]
    plot = arviz.plot_ppc_dist if hasattr(arviz, "plot_ppc_dist") else arviz.plot_bpv
    with matplotlib.rc_context({"backend": "agg"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plot(data, var_names=["contrast"])
        matplotlib.pyplot.close("all")


@pytest.fixture
def quiet() -> Iterator[None]:
    """Context that ignores ArviZ's warnings and draws figures without a screen."""
    with matplotlib.rc_context({"backend": "agg"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        matplotlib.pyplot.close("all")


def test_loo_and_compare_of_arviz_give_the_evidence(quiet: None) -> None:
    """log p(x) is the same at every draw, so leave-one-out changes nothing."""
    good, broken = exact_mixture_data(), exact_mixture_data(shift=1.0)
    found = arviz.loo(good)
    elpd = found.elpd_loo if hasattr(found, "elpd_loo") else found.elpd
    assert float(elpd) == pytest.approx(values(good, "log_likelihood", "x").mean(0).sum(), rel=1e-6)
    assert list(arviz.compare({"broken": broken, "good": good}).index) == ["good", "broken"]


@pytest.mark.parametrize("group", ["posterior", "sample_stats", "log_likelihood", "sample_stats_prior"])
def test_every_group_becomes_a_table(group: str, quiet: None) -> None:
    """By the method of ArviZ 0.23, and by that of xarray, which is used with ArviZ 1."""
    pair = linear_pair()
    data = to_inference_data(pair, draw(pair, 6), num_samples=30, num_simulated=20, pixels=False)
    if hasattr(data, "to_dataframe"):
        assert len(data.to_dataframe(groups=[group])) == (20 if group == "sample_stats_prior" else 30)
        assert len(data.to_dataframe()) == 30
    else:
        dataset = data[group].to_dataset()
        assert len(dataset.to_dataframe()) == np.prod(list(dataset.sizes.values()))


@pytest.mark.parametrize("dim", ["chain", "draw"])
def test_draws_are_put_together(dim: str) -> None:
    pair = linear_pair()
    x = draw(pair, 6)
    parts = [to_inference_data(pair, x, num_samples=30, num_simulated=20, pixels=False) for _ in range(2)]
    if hasattr(arviz, "concat"):
        both = arviz.concat(*parts, dim=dim)["posterior"]
    else:
        both = xarray.concat([part["posterior"].to_dataset() for part in parts], dim=dim)
    assert both.sizes[dim] == 2 * parts[0]["posterior"].sizes[dim]


def test_plots_of_arviz_accept_our_groups(quiet: None) -> None:
    data = exact_mixture_data()
    if hasattr(arviz, "plot_ppc"):
        arviz.plot_trace(data, var_names=["z_0"], coords={"item": [0]})
        arviz.plot_ppc(data, var_names=["mean"], num_pp_samples=5)
        arviz.plot_ppc(data, var_names=["mean"], group="prior", num_pp_samples=5)
    else:
        arviz.plot_trace(data, var_names=["z_0"], coords={"item": [0]})
        arviz.plot_ppc_dist(data, var_names=["mean"])


def test_labels_of_any_kind_and_name_are_kept(tmp_path: Path) -> None:
    pair = linear_pair()
    labels = {"item": np.arange(4), "a/b": torch.arange(4), "elbo": np.zeros(4, bool)}
    data = to_inference_data(pair, draw(pair, 4), num_samples=30, num_simulated=20, labels=labels)
    save_inference_data(data, tmp_path / "posterior.nc")
    again = load_inference_data(tmp_path / "posterior.nc")
    for name in ("item", "a_b"):
        assert values(again, "constant_data", f"label_{name}").tolist() == [0, 1, 2, 3]
    assert values(again, "constant_data", "elbo").any()


def test_no_items_and_no_simulated_items_leave_empty_groups() -> None:
    pair = linear_pair()
    data = to_inference_data(pair, draw(pair, 3)[:0], num_samples=30, num_simulated=0)
    assert data["posterior"]["z_0"].shape == (1, 30, 0, 2) and data["prior"]["z_0"].shape == (1, 0, 2)


def test_mistakes_are_reported(tmp_path: Path) -> None:
    pair = linear_pair()
    x = draw(pair, 5)
    with pytest.raises(InputError, match="expected num_samples ≥ 30, the fewest draws that k-hat can be"):
        to_inference_data(pair, x, num_samples=29)
    with pytest.raises(InputError, match="expected a 'side' label for each of 5 items, got 4"):
        to_inference_data(pair, x, num_samples=30, num_simulated=0, labels={"side": torch.zeros(4)})
    with pytest.raises(InputError, match="expected a statistic that is not called 'x', like the items, got one"):
        to_inference_data(pair, x, statistics={"x": lambda x: x.mean(-1)})
    with pytest.raises(
        InputError, match=r"a number per item from the statistic 'all', shape \(2, 3\) for \(2, 3, 6\), got a float"
    ):
        to_inference_data(pair, x, statistics={"all": lambda x: x.mean().item()})  # type: ignore[dict-item,return-value]
    with pytest.raises(InputError, match=r"expected the NetCDF file .*none.nc, which is not there"):
        load_inference_data(tmp_path / "none.nc")


def test_arrays_are_accepted_like_tensors(quiet: None) -> None:
    pair = linear_pair()
    x = draw(pair, 6)
    found = []
    for items in (x, x.numpy()):
        torch.manual_seed(0)
        found.append(to_inference_data(pair, items, reference=items, num_samples=30, num_simulated=20))
    for group in ("posterior", "sample_stats", "constant_data"):
        assert found[0][group].equals(found[1][group])
