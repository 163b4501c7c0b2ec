"""Draws of a fitted pair as ArviZ data. Only this module distinguishes ArviZ 0.23 from ArviZ 1.x.

ArviZ 0.23 has `InferenceData` and takes log weights; ArviZ 1.x has xarray's `DataTree` and takes their negatives. In
both, ``data["posterior"]`` is a group and ``data["posterior"]["z_0"]`` a variable.

Only drawing needs torch; saved data are read, checked and shown without torch.

`to_inference_data` returns, for S draws and N items:

======================  ==========================================================================================
posterior               c_j (chain, draw, item); z_j (chain, draw, item, z_j_dim), from q(z, c | x); random
                        parameters of the priors, such as probs_j (chain, draw, cluster_j), from q(theta)
posterior_predictive    every statistic of a replicated item (chain, draw, item); x itself with ``pixels``
log_likelihood          x (chain, draw, item): log p(x) by Pareto-smoothed weights of all draws. z is summed out and
                        the networks' weights are one point, so it is the same at every draw (but for 0.001 nats,
                        since ArviZ 1 refuses equal values), and ``arviz.loo`` finds the evidence itself
sample_stats            log_weight (chain, draw, item): log p(x, z) - log q(z | x); of two facets or more
                        log_weight_j (chain, draw, weighed_item), for 250 of the items: log p(x, z_j | z_-j =
                        means) - log q(z_j | x), see `draw_facet_log_weights`
prior, prior_predictive c_j, z_j; x and its statistics, all (chain, draw, …): an item is a draw
sample_stats_prior      what the guide infers for prior_predictive: assignment_j (…, cluster_j), rank_j and
                        residual_j (…, z_j_dim), density_rank_j, joint_rank, bound, held_out, see `simulate`
observed_data           x, and its statistics (item)
constant_data           numbers without draws. For items: elbo; bound and held_out; assignment_j and
                        weighted_assignment_j (item, cluster_j): q(c_j | x), and p(c_j | x) by importance weights;
                        kl_j, loss_without_j, discrepancy_j, rule_loss_j; label_NAME. For clusters: weight_j,
                        group_j, suggested_group_j. reference_evidence (reference_item)
======================  ==========================================================================================
"""

from collections.abc import Mapping, Sequence
from importlib import import_module  # ArviZ is Any, so that mypy treats it as untyped, because 0.23 has only some types
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.atomic_io import write_atomically
from pyro_mfcvae.draws.psis import MIN_DRAWS, pareto_k
from pyro_mfcvae.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_mfcvae.draws.items import Groups
    from pyro_mfcvae.draws.statistics import Statistic
    from pyro_mfcvae.infer.asking import Array
    from pyro_mfcvae.mfcvae import MFCVAE

# Number of random items for which single facets are weighed. This needs a decoding per facet and draw.
_FACET_ITEMS = 250


def to_inference_data(
    pair: "MFCVAE",
    x: "Array",
    *,
    reference: "Array | None" = None,
    num_samples: int = 64,
    num_simulated: int = 2000,
    statistics: "Mapping[str, Statistic] | None" = None,
    labels: "Mapping[str, Tensor | NDArray[Any]] | None" = None,
    pixels: bool = True,
) -> Any:
    """Draw for the items ``x`` (N, *event_shape) and from the model; return the draws as ArviZ data.

    The top of this module lists the groups and their variables. The groups of clusters are the result of
    ``pair.groups`` for these items; `attach_groups` sets other groups. For every item, x and S draws of c, z, log
    weights and statistics are kept in memory; pixels of draws are kept for one batch only.

    Args:
        pair: put in evaluation mode.
        x: the items, as bytes or as floats that the model accepts.
        reference: items of the training data, (M, *event_shape), to compare the evidence with.
        num_samples: S ≥ 30, draws per item.
        num_simulated: P, items drawn from the model.
        statistics: further statistics by name, in addition to those of `statistics_for`.
        labels: labels of the items, (N,) integers by name, see `attach_labels`.
        pixels: keep replicated items, which take S times the memory of ``x``.

    Returns:
        An ``arviz.InferenceData``, or from ArviZ 1 on an ``xarray.DataTree``.

    Raises:
        InputError: sizes do not fit, a statistic does not give a number per item, or the draws would not fit into
            memory.
    """
    from torch import randperm

    from pyro_mfcvae.draws.items import draw_facet_log_weights, draw_items, draw_log_weights, smoothed_evidence
    from pyro_mfcvae.draws.simulation import describe_priors, simulate
    from pyro_mfcvae.draws.statistics import check_statistics, statistics_for
    from pyro_mfcvae.draws.theta import draw_theta
    from pyro_mfcvae.infer.asking import as_tensor

    _check_num_samples(num_samples)
    x = as_tensor(x)
    check_statistics(statistics or {}, pair.model.event_shape)
    pair.eval()
    chosen = statistics_for(pair.model.event_shape) | dict(statistics or {})
    arrays = draw_items(pair, x, num_samples=num_samples, statistics=chosen, pixels=pixels)
    known = arrays["constant_data"]
    if pair.num_facets > 1:
        some = x[randperm(len(x))[:_FACET_ITEMS]]
        arrays["sample_stats"] |= draw_facet_log_weights(pair, some, num_samples=num_samples)["sample_stats"]
    arrays["posterior"] |= draw_theta(pair, num_samples=num_samples)
    arrays |= simulate(pair, x, num=num_simulated, statistics=chosen)
    groups = _build_groups(pair, [known[f"assignment_{j}"][1] for j in range(pair.num_facets)])
    known |= describe_priors(pair, groups)
    if reference is not None:
        log_weights = draw_log_weights(pair, as_tensor(reference), num_samples=num_samples)
        known["reference_evidence"] = (("reference_item",), smoothed_evidence(log_weights).numpy())
    return attach_labels(to_arviz(arrays), labels or {})


def _check_num_samples(num_samples: int) -> None:
    if num_samples < MIN_DRAWS:
        least = f"≥ {MIN_DRAWS}, the fewest draws that k-hat can be estimated from"
        raise InputError(f"expected num_samples {least}, got {num_samples}: take more")


def _build_groups(pair: "MFCVAE", probs: "Sequence[NDArray[Any]]") -> "Sequence[NDArray[np.int64]]":
    """The groups that ``pair.groups`` would find for items with these q(c_j | x), (N, K_j)."""
    from torch import from_numpy

    from pyro_mfcvae.groups import build_groups

    shares = [np.bincount(p.argmax(-1), minlength=p.shape[-1]) / len(p) for p in probs] if len(probs[0]) else None
    trees = build_groups(pair.priors, weights=None if shares is None else [from_numpy(share) for share in shares])
    return [tree.labels() for tree in trees]


def to_arviz(groups: "Groups") -> Any:
    """Convert named arrays to ``arviz.InferenceData`` or ``xarray.DataTree``. The coordinates of every dim are 0,
    1, ….
    """
    import xarray

    arviz = import_module("arviz")
    datasets = {}
    for name in sorted(groups, key=lambda group: ("prior" in group, group != "posterior")):
        sizes = {
            dim: size for dims, array in groups[name].values() for dim, size in zip(dims, array.shape, strict=True)
        }
        coords = {dim: np.arange(size) for dim, size in sizes.items()}
        datasets[name] = xarray.Dataset(
            groups[name], coords=coords, attrs={"inference_library": "pyro_mfcvae", "arviz_version": arviz.__version__}
        )
    if not _takes_nested_groups(arviz):
        return arviz.InferenceData(**datasets)
    return xarray.DataTree.from_dict(datasets)


def _takes_nested_groups(arviz: ModuleType) -> bool:
    """Whether this is ArviZ 1, which takes one nested dict; 0.23 takes an argument per group."""
    return "data" in signature(arviz.from_dict).parameters


def save_inference_data(data: Any, path: Path) -> None:
    """Write NetCDF; the file appears complete or not at all."""
    write_atomically(path, lambda temporary: data.to_netcdf(str(temporary), engine="h5netcdf"))


def load_inference_data(path: Path) -> Any:
    """Read a file of `save_inference_data` into memory. It may be written with ArviZ 0.23 or 1.x."""
    import xarray

    arviz = import_module("arviz")
    if not path.is_file():
        raise InputError(f"expected the NetCDF file {path}, which is not there: mfcvae check RUN writes one")
    if not _takes_nested_groups(arviz):
        return arviz.from_netcdf(str(path), engine="h5netcdf").load()
    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        return tree.load()


def to_elpd(data: Any) -> Any:
    """Evidence and k-hat of every item in the form of ``arviz.loo``, for ``arviz.plot_khat`` and ``arviz.compare``.

    The networks' weights are fixed, so log p(x) of held-out items is their log predictive density. So no item is left
    out, and the effective number of parameters is 0. ArviZ gives sums over items, `Comparison` gives means.

    Returns:
        An ``arviz.ELPDData``; from ArviZ 1.3 on, its subclass for ``loo``.
    """
    import xarray

    arviz = import_module("arviz")
    log_weights, evidence = values(data, "sample_stats", "log_weight").T, values(data, "log_likelihood", "x").mean(0)
    num_items, num_samples = log_weights.shape
    good_k = min(1 - 1 / np.log10(num_samples), 0.7)  # Vehtari et al. 2024, section 3.2.4
    k_hat = pareto_k(log_weights)
    elpd, se = float(evidence.sum()), float((num_items * evidence.var()) ** 0.5)
    items = {"item": np.arange(num_items)}
    record: dict[str, Any] = {
        "elpd_loo": elpd,
        "se": se,
        "p_loo": 0.0,
        "n_samples": num_samples,
        "n_data_points": num_items,
        "warning": bool((k_hat > good_k).any()),
        "loo_i": xarray.DataArray(evidence, items, ("item",), name="loo_i"),
        "pareto_k": xarray.DataArray(k_hat, items, ("item",), name="pareto_k"),
        "scale": "log",
        "good_k": good_k,
    }
    if not _takes_nested_groups(arviz):
        return arviz.ELPDData(data=list(record.values()), index=list(record))
    make = getattr(arviz, "ELPDDataLOO", arviz.ELPDData)
    renamed = {"elpd_loo": "elpd", "p_loo": "p", "loo_i": "elpd_i"}
    kind = {"kind": "loo"} if "kind" in signature(make).parameters else {}
    return make(**kind, **{renamed.get(name, name): value for name, value in record.items()})


def attach(data: Any, group: str, name: str, variable: tuple[tuple[str, ...], NDArray[Any]]) -> None:
    """Add an array with its dims to an existing group, in place."""
    import xarray

    dims, array = variable
    data[group][name] = xarray.DataArray(array, dims=dims)


def attach_labels(data: Any, labels: "Mapping[str, Tensor | NDArray[Any]]") -> Any:
    """Add labels of the items to the data of `to_inference_data`, as label_NAME of constant_data; returns the data.

    Args:
        data: draws for N items.
        labels: (N,) integers by name, as tensors or arrays. In names, "/" is replaced by "_", since NetCDF reserves
            "/".

    Raises:
        InputError: the number of labels is not N.
    """
    num_items = data["constant_data"].sizes["item"]
    for name, label in labels.items():
        if len(label) != num_items:
            raise InputError(
                f"expected a {name!r} label for each of {num_items} items, got {len(label)}: pass one for each"
            )
        array = label if isinstance(label, np.ndarray) else label.cpu().numpy()
        attach(data, "constant_data", f"label_{name.replace('/', '_')}", (("item",), array))
    return data


def attach_groups(
    data: Any, groups: "Sequence[NDArray[np.int64]]", *, suggested: "Sequence[NDArray[np.int64]] | None" = None
) -> None:
    """Set, in place, the group that every cluster belongs to: group_j of constant_data, (K_j,) per facet.

    Args:
        data: draws.
        groups: the groups in use.
        suggested: the groups that the model suggests, if the user may have chosen other groups; saved as
            suggested_group_j.
    """
    for name, labels_of_facets in {"group": groups, "suggested_group": suggested or ()}.items():
        for j, labels in enumerate(labels_of_facets):
            attach(data, "constant_data", f"{name}_{j}", ((f"cluster_{j}",), np.asarray(labels)))


def values(data: Any, group: str, name: str) -> NDArray[Any]:
    """An array of a group. The axes of chain and draw are removed if there is one chain and one draw."""
    variable = data[group][name]
    if "chain" in variable.dims:
        variable = variable.isel(chain=0)
    if variable.sizes.get("draw") == 1:
        variable = variable.isel(draw=0)
    array: NDArray[Any] = variable.values
    return array


def num_facets(data: Any) -> int:
    """J."""
    return sum(str(name).startswith("z_") for name in data["posterior"].data_vars)


def assigned_clusters(data: Any) -> NDArray[np.int64]:
    """The most probable cluster of every item in every facet, (N, J)."""
    return np.stack([values(data, "constant_data", f"assignment_{j}").argmax(-1) for j in range(num_facets(data))], -1)
