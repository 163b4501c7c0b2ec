"""Checks on the command line: ``mfcvae check | compare``."""

from collections.abc import Mapping
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction

from pyro_mfcvae.cli.options import Count, Data, Directory, Json, Parts, Root, Run, Seed, option
from pyro_mfcvae.cli.terminal import console, print_comparison, print_criticism, print_json, say
from pyro_mfcvae.config.custom_parts import find_function, import_parts
from pyro_mfcvae.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_mfcvae.data.images import Split
    from pyro_mfcvae.mfcvae import MFCVAE

# The fewest draws that ArviZ estimates k-hat from.
_MIN_DRAWS = 30
_NUM_REFERENCE = 250
_DENSITIES = {"gaussian", "continuous_bernoulli"}


def check(
    run: Run,
    /,
    items: Count = 2000,
    draws: Count = 64,
    minutes: Annotated[float | None, option("MINUTES")] = None,
    data: Data = None,
    sweep: Directory = None,
    statistic: Annotated[tuple[str, ...], UseAppendAction, option("MODULE.FUNCTION")] = (),
    seed: Seed = 0,
    parts: Parts = (),
    root: Root = None,
    json: Json = False,
) -> None:
    """Ask whether a run's clusters are to be believed: posterior checks, a verdict each, and a sentence per facet.

    Writes checks/posterior.nc (NetCDF for ArviZ, from which every verdict can be made again), checks/checks.json,
    checks/items.parquet (a row per item) and figures below the run's folder. docs/checks.md explains them.

    Args:
        items: How many test items to check on, at most.
        draws: How many draws of the posterior per item, 30 or more.
        minutes: Time for the draws: as many as fit, from 32 to 256 per item, and fewer items where these do not fit.
        data: Check on another data set's test items, such as data that may be of another kind.
        sweep: Folder of a sweep whose other runs to compare the clusters with; by default the one that holds the run.
        statistic: Import path of a function from images (..., C, H, W) to a number each, to replicate as well. The
            working folder is searched; give the option once per function.
    """
    if items < 100:
        raise InputError(f"expected --items 100 or more, got {items}: fewer items give the checks no power")
    if minutes is not None and not minutes > 0:
        raise InputError(f"expected --minutes above 0, got {minutes}: give a time")
    if (run / "sweep.json").is_file():
        seeds = " ".join(str(path.parent) for path in sorted(run.glob("seed-*/config.toml"))[:3]) or "none yet"
        raise InputError(f"expected the folder of one run, got the sweep {run}: check one of its runs ({seeds} …)")
    _check_draws(draws)
    statistics = {path.rpartition(".")[2]: find_function(path) for path in statistic}
    if len(statistics) < len(statistic):
        raise InputError(f"expected statistics with different names, got {' '.join(statistic)}")
    import_parts(parts)

    from dataclasses import asdict

    import numpy as np

    from pyro_mfcvae.atomic_io import write_text
    from pyro_mfcvae.checks.criticism import criticise
    from pyro_mfcvae.data.datasets import load_dataset
    from pyro_mfcvae.draws.arviz_data import assigned_clusters, attach, save_inference_data, to_inference_data
    from pyro_mfcvae.draws.sizes import plan_sizes, seconds_per_draw
    from pyro_mfcvae.plots import save_figure
    from pyro_mfcvae.runs.evaluation import evaluate
    from pyro_mfcvae.runs.folder import RunFolder
    from pyro_mfcvae.runs.sweep import facet_agreement
    from pyro_mfcvae.train.devices import set_seed

    console.quiet = json
    folder = RunFolder.open(run)
    pair, config = folder.load_pair(), folder.read_config()
    own = load_dataset(config.data.source, root=root, seed=config.seed, size=config.data.size, fit=config.data.fit)
    dataset = (
        load_dataset(data, root=root, seed=config.seed, size=config.data.size, fit=config.data.fit) if data else own
    )
    dataset.check_event_shape(pair.model.event_shape)
    others = _other_pairs(run, sweep, pair)
    set_seed(seed)
    if minutes is not None:
        seconds = seconds_per_draw(pair, dataset.test.images)
        items, draws = plan_sizes(60 * minutes, seconds, min(items, len(dataset.test)), pair.num_facets)
    index, chosen = _choose(dataset.test, items)
    grouping = folder.read_grouping(pair)
    is_new = dataset is not own or own.holds_out
    posterior = to_inference_data(
        pair,
        chosen.images,
        labels=chosen.labels,
        reference=_choose(own.train, _NUM_REFERENCE)[1].images if is_new else None,
        num_samples=draws,
        statistics=statistics,
        groups=[grouping.labels(j) for j in range(pair.num_facets)],
        pixels=False,
    )
    if others:
        found = assigned_clusters(posterior)
        agreement = [facet_agreement(found, evaluate(other, chosen).assignments) for other in others]
        attach(posterior, "constant_data", "seed_agreement", (("facet",), np.mean(agreement, 0)))
    criticism = criticise(posterior, settings=asdict(config))
    target = run / "checks"
    save_inference_data(posterior, target / "posterior.nc")
    write_text(target / "checks.json", criticism.to_json())
    _write_items(target / "items.parquet", {"item": index.numpy()} | criticism.items())
    for name, figure in criticism.figures().items():
        save_figure(figure, target / f"{name}.png")
    print_criticism(criticism)
    counts = ", ".join(f"{n} {verdict}" for verdict, n in criticism.counts.items())
    say(f"\n{len(chosen)} items of {dataset.name}, {draws} draws each: {counts}")
    say(f"Figures, numbers (checks.json), items (items.parquet) and draws for ArviZ (posterior.nc) lie in {target}.")
    if json:
        print_json({"run": str(run), "items": len(chosen), **loads(criticism.to_json())})


def compare(
    runs: Annotated[tuple[Path, ...], Positional, option("RUN RUN ...")],
    /,
    items: Count = 1000,
    draws: Count = 64,
    out: Annotated[Path, option("DIR")] = Path("comparison"),
    seed: Seed = 0,
    parts: Parts = (),
    root: Root = None,
    json: Json = False,
) -> None:
    """Rank runs by the evidence of the same items, with standard errors of the differences.

    All runs are asked about the test items of the first one's data. The evidence has two errors: that of the mean over
    items, and that of the draws. Writes comparison.json and comparison.png.

    Args:
        runs: Folders of two or more runs.
        items: How many test items, at most.
        draws: How many draws of the posterior per item, 30 or more.
        out: Folder to write to.
    """
    if len(runs) < 2 or len(set(runs)) < len(runs):
        raise InputError(f"expected two or more different runs to compare, got {' '.join(map(str, runs)) or 'none'}")
    _check_draws(draws)
    import_parts(parts)

    from pyro_mfcvae.atomic_io import write_json
    from pyro_mfcvae.checks.comparison import compare_evidence, plot_comparison
    from pyro_mfcvae.data.datasets import load_dataset
    from pyro_mfcvae.draws.items import draw_log_weights
    from pyro_mfcvae.plots import save_figure
    from pyro_mfcvae.runs.folder import RunFolder
    from pyro_mfcvae.train.devices import set_seed

    console.quiet = json
    folders = [RunFolder.open(path) for path in runs]
    configs = [folder.read_config() for folder in folders]
    kinds = {"a density" if c.likelihood.kind in _DENSITIES else c.likelihood.kind for c in configs}
    if len(kinds) > 1:
        raise InputError(
            f"the runs' likelihoods are {' and '.join(sorted(kinds))}: densities and probabilities of x cannot be "
            "compared; choose runs with likelihoods of one kind"
        )
    pictures = {(c.data.source, c.data.size, c.data.fit) for c in configs}
    if len(pictures) > 1:
        named = ", ".join(sorted(f"{source} (size {size}, {fit})" for source, size, fit in pictures))
        raise InputError(
            f"expected runs of the same data in the same form, got {named}: log p(x) of different items or sizes "
            "cannot be compared; choose runs of one data set"
        )
    dataset = load_dataset(
        configs[0].data.source, root=root, seed=configs[0].seed, size=configs[0].data.size, fit=configs[0].data.fit
    )
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
    say(f"\n{len(chosen)} items of {dataset.name}. Table and figure lie in {out}.")
    if json:
        print_json([row.record() for row in rows])


def _choose(split: "Split", num: int) -> "tuple[Tensor, Split]":
    """At most ``num`` items, drawn at random, and their places."""
    import torch

    from pyro_mfcvae.data.images import Split

    index = torch.randperm(len(split))[:num]
    return index, Split(split.images[index], {name: label[index] for name, label in split.labels.items()})


def _write_items(path: Path, columns: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pyro_mfcvae.atomic_io import write_atomically

    write_atomically(path, lambda temporary: pq.write_table(pa.table(columns), temporary))


def _check_draws(draws: int) -> None:
    if draws < _MIN_DRAWS:
        raise InputError(f"expected --draws {_MIN_DRAWS} or more, the fewest for a k-hat, got {draws}: take more")


def _other_pairs(run: Path, sweep: Path | None, pair: "MFCVAE") -> list["MFCVAE"]:
    """What the finished runs of the sweep found, but for this one; refused where they are not of its kind."""
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
                f"{path.name} of {other.num_facets} on {other.model.event_shape}: give the sweep that the run is of"
            )
    return list(others.values())
