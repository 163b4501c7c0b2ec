"""Checks on the command line: ``mfcvae check | compare``."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional, UseAppendAction

from pyro_mfcvae.cli.options import COMMON, Common, Count, Data, Directory, Run, Seed, option
from pyro_mfcvae.cli.terminal import console, print_comparison, print_criticism, print_json, say
from pyro_mfcvae.config.custom_parts import find_function, import_parts
from pyro_mfcvae.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_mfcvae.checks.criticism import Criticism
    from pyro_mfcvae.config.schema import Config
    from pyro_mfcvae.data.images import Split
    from pyro_mfcvae.draws.statistics import Statistic
    from pyro_mfcvae.mfcvae import MFCVAE
    from pyro_mfcvae.runs.grouping import Grouping

# The fewest draws from which ArviZ estimates k-hat.
_MIN_DRAWS = 30
_NUM_REFERENCE = 250
_DENSITIES = {"gaussian", "continuous_bernoulli"}


@dataclass(frozen=True)
class Extent:
    """The numbers of items and draws of a check.

    Attributes:
        items: Largest number of test items to check.
        draws: How many draws of the posterior per item, 30 or more.
        minutes: Time for the draws. Their number, from 32 to 256 per item, is then chosen so that log p(x) of a typical
            item has a Monte Carlo error of 0.1 nats, if the time allows it. If 32 draws take too long, fewer items are
            checked.
    """

    items: Count = 2000
    draws: Count = 64
    minutes: Annotated[float | None, option("MINUTES")] = None

    def check(self) -> None:
        """Refuse numbers of items, draws or minutes that are too small."""
        if self.items < 100:
            raise InputError(f"expected --items 100 or more, got {self.items}: fewer items give the checks no power")
        if self.minutes is not None and not self.minutes > 0:
            raise InputError(f"expected --minutes above 0, got {self.minutes}: give a time")
        _check_draws(self.draws)

    def plan(self, pair: "MFCVAE", images: "Tensor") -> tuple[int, int]:
        """The numbers of items and of draws that fit into the time."""
        from pyro_mfcvae.draws.sizes import plan_sizes, try_draws

        if self.minutes is None:
            return self.items, self.draws
        return plan_sizes(60 * self.minutes, try_draws(pair, images), min(self.items, len(images)), pair.num_facets)


def check(
    run: Run,
    /,
    extent: Annotated[Extent, tyro.conf.arg(name="")] = Extent(),
    data: Data = None,
    sweep: Directory = None,
    statistic: Annotated[tuple[str, ...], UseAppendAction, option("MODULE.FUNCTION")] = (),
    seed: Seed = 0,
    common: Common = COMMON,
) -> None:
    """Check whether to believe a run's clusters: posterior checks with verdicts, and a sentence per facet.

    Writes checks/posterior.nc (NetCDF for ArviZ, from which every verdict can be computed again), checks/checks.json,
    checks/items.parquet (a row per item) and figures into the run's folder. docs/checks.md explains them.

    Args:
        data: Check the test items of another data set, for example data that may be of another kind.
        sweep: Folder of a sweep. The clusters are compared with those of its other runs. By default it is the sweep
            that contains the run.
        statistic: Import path of a function that maps images (..., C, H, W) to one number each; it is used as a further
            statistic. The working folder is searched as well. Give the option once per function.
    """
    extent.check()
    _check_single(run)
    statistics = _find_statistics(statistic)
    import_parts(common.parts)

    from pyro_mfcvae.checks.criticism import criticise
    from pyro_mfcvae.config.build import load_data
    from pyro_mfcvae.draws.arviz_data import to_inference_data
    from pyro_mfcvae.runs.folder import RunFolder
    from pyro_mfcvae.train.devices import set_seed

    console.quiet = common.json
    folder = RunFolder.open(run)
    pair, config = folder.load_pair(), folder.read_config()
    own = load_data(config, root=common.root)
    dataset = load_data(config, data, root=common.root) if data else own
    dataset.check_event_shape(pair.model.event_shape)
    others = _other_pairs(run, sweep, pair)
    set_seed(seed)
    num_items, num_draws = extent.plan(pair, dataset.test.images)
    index, chosen = _choose(dataset.test, num_items)
    grouping = folder.read_grouping(pair)
    is_new = dataset is not own or own.holds_out
    posterior = to_inference_data(
        pair,
        chosen.images,
        reference=_choose(own.train, _NUM_REFERENCE)[1].images if is_new else None,
        num_samples=num_draws,
        statistics=statistics,
        labels=chosen.labels,
        pixels=False,
    )
    _attach_known(posterior, grouping, chosen, others)
    criticism = criticise(posterior, settings=asdict(config))
    _write_checks(run / "checks", posterior, criticism, index)
    _say_checks(f"{len(chosen)} items of {dataset.name}, {num_draws} draws each", criticism, run / "checks")
    if common.json:
        print_json({"run": str(run), "items": len(chosen), **loads(criticism.to_json())})


def _say_checks(asked: str, criticism: "Criticism", folder: Path) -> None:
    print_criticism(criticism)
    counts = ", ".join(f"{n} {v.replace('_', ' ')}" for v, n in criticism.counts.items() if n or v != "set_aside")
    say(f"\n{asked}: {counts}")
    say(f"Monte Carlo error of log p(x) of a typical item, from the number of draws: {criticism.monte_carlo_error:.2g}")
    say(f"Figures, numbers (checks.json), items (items.parquet) and draws for ArviZ (posterior.nc) are in {folder}.")


def _attach_known(posterior: Any, grouping: "Grouping", chosen: "Split", others: Sequence["MFCVAE"]) -> None:
    """Add the run's groups to the draws, and the agreement of the clusters of the ``chosen`` items with other runs."""
    import numpy as np

    from pyro_mfcvae.draws.arviz_data import assigned_clusters, attach, attach_groups
    from pyro_mfcvae.runs.evaluation import evaluate
    from pyro_mfcvae.runs.sweep import facet_agreement

    suggested = [groups.tree.labels() for groups in grouping.facets]
    attach_groups(posterior, [groups.labels for groups in grouping.facets], suggested=suggested)
    if others:
        found = assigned_clusters(posterior)
        agreement = [facet_agreement(found, evaluate(other, chosen).assignments) for other in others]
        attach(posterior, "constant_data", "seed_agreement", (("facet",), np.mean(agreement, 0)))


def _write_checks(target: Path, posterior: Any, criticism: "Criticism", index: "Tensor") -> None:
    """Write the results of `check` for the test items ``index`` to a folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pyro_mfcvae.atomic_io import write_atomically, write_text
    from pyro_mfcvae.draws.arviz_data import save_inference_data
    from pyro_mfcvae.plots import save_figure

    save_inference_data(posterior, target / "posterior.nc")
    write_text(target / "checks.json", criticism.to_json())
    items = pa.table({"item": index.numpy()} | criticism.items())
    write_atomically(target / "items.parquet", lambda temporary: pq.write_table(items, temporary))
    for name, figure in criticism.figures().items():
        save_figure(figure, target / f"{name}.png")


def compare(
    runs: Annotated[tuple[Path, ...], Positional, option("RUN RUN ...")],
    /,
    items: Count = 1000,
    draws: Count = 64,
    out: Annotated[Path, option("DIR")] = Path("comparison"),
    seed: Seed = 0,
    common: Common = COMMON,
) -> None:
    """Rank runs by the evidence of the same items, with standard errors of the differences.

    All runs are compared on the test items of the first run's data. The evidence has two errors, from the number of
    items and from the number of draws. Writes comparison.json and comparison.png.

    Args:
        runs: Folders of two or more runs.
        items: Largest number of test items.
        draws: How many draws of the posterior per item, 30 or more.
        out: Folder to write to.
    """
    if len(runs) < 2 or len(set(runs)) < len(runs):
        raise InputError(f"expected two or more different runs to compare, got {' '.join(map(str, runs)) or 'none'}")
    _check_draws(draws)
    import_parts(common.parts)

    from pyro_mfcvae.atomic_io import write_json
    from pyro_mfcvae.checks.comparison import compare_evidence, plot_comparison
    from pyro_mfcvae.config.build import load_data
    from pyro_mfcvae.draws.items import draw_log_weights
    from pyro_mfcvae.plots import save_figure
    from pyro_mfcvae.runs.folder import RunFolder
    from pyro_mfcvae.train.devices import set_seed

    console.quiet = common.json
    folders = [RunFolder.open(path) for path in runs]
    configs = [folder.read_config() for folder in folders]
    _check_comparable(configs)
    dataset = load_data(configs[0], root=common.root)
    set_seed(seed)
    _, chosen = _choose(dataset.test, items)
    log_weights = {}
    for path, folder in zip(runs, folders, strict=True):
        pair = folder.load_pair()
        dataset.check_event_shape(pair.model.event_shape)
        log_weights[str(path)] = draw_log_weights(pair, chosen.images, num_samples=draws).numpy()
    rows = compare_evidence(log_weights)
    write_json(out / "comparison.json", [row.record() for row in rows])
    save_figure(plot_comparison(rows), out / "comparison.png")
    print_comparison(rows)
    say(f"\n{len(chosen)} items of {dataset.name}. Table and figure are in {out}.")
    if common.json:
        print_json([row.record() for row in rows])


def _check_comparable(configs: "Sequence[Config]") -> None:
    """Refuse runs whose log p(x) cannot be compared."""
    kinds = {"a density" if c.likelihood.kind in _DENSITIES else c.likelihood.kind for c in configs}
    if len(kinds) > 1:
        raise InputError(
            f"expected likelihoods of one kind, got {' and '.join(sorted(kinds))}: densities and probabilities of x "
            "cannot be compared; choose other runs"
        )
    pictures = {(c.data.source, c.data.size, c.data.fit) for c in configs}
    if len(pictures) > 1:
        named = ", ".join(sorted(f"{source} (size {size}, {fit})" for source, size, fit in pictures))
        raise InputError(
            f"expected runs of the same data in the same form, got {named}: log p(x) of different items or sizes "
            "cannot be compared; choose runs of one data set"
        )


def _choose(split: "Split", num: int) -> "tuple[Tensor, Split]":
    """Choose at most ``num`` items at random; returns them and their indices."""
    import torch

    from pyro_mfcvae.data.images import Split

    index = torch.randperm(len(split))[:num]
    return index, Split(split.images[index], {name: label[index] for name, label in split.labels.items()})


def _find_statistics(paths: Sequence[str]) -> "dict[str, Statistic]":
    """The functions of some import paths, by name."""
    statistics = {path.rpartition(".")[2]: find_function(path) for path in paths}
    if len(statistics) < len(paths):
        raise InputError(f"expected statistics with different names, got {' '.join(paths)}")
    return statistics


def _check_single(run: Path) -> None:
    if (run / "sweep.json").is_file():
        seeds = " ".join(str(path.parent) for path in sorted(run.glob("seed-*/config.toml"))[:3]) or "none yet"
        raise InputError(f"expected the folder of one run, got the sweep {run}: check one of its runs ({seeds} …)")


def _check_draws(draws: int) -> None:
    if draws < _MIN_DRAWS:
        raise InputError(f"expected --draws {_MIN_DRAWS} or more, the fewest for a k-hat, got {draws}: take more")


def _other_pairs(run: Path, sweep: Path | None, pair: "MFCVAE") -> list["MFCVAE"]:
    """The assignments of all other finished runs of the sweep; runs of another kind are refused."""
    from pyro_mfcvae.runs.folder import RunFolder

    if sweep is None:
        if not (run.resolve().parent / "sweep.json").is_file():
            return []
        sweep = run.resolve().parent
    others = {
        path.parent: RunFolder.open(path.parent).load_pair()
        for path in sorted(sweep.glob("seed-*/model.safetensors"))
        if path.parent.resolve() != run.resolve()
    }
    if not others:
        raise InputError(f"expected finished runs seed-0, seed-1 … in {sweep}, but there are none besides {run}")
    for path, other in others.items():
        if (other.num_facets, other.model.event_shape) != (pair.num_facets, pair.model.event_shape):
            raise InputError(
                f"expected runs of {pair.num_facets} facets on items of shape {pair.model.event_shape} in {sweep}, got "
                f"{path.name} of {other.num_facets} on {other.model.event_shape}: give the sweep that holds the run"
            )
    return list(others.values())
