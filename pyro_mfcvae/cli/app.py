"""The command line: ``mfcvae fit``, ``sweep``, ``evaluate`` and the commands of the other files."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from pyro_mfcvae.atomic_io import write_json
from pyro_mfcvae.cli.assign import assign
from pyro_mfcvae.cli.checks import check, compare
from pyro_mfcvae.cli.explore import explore
from pyro_mfcvae.cli.images import sample
from pyro_mfcvae.cli.report import report
from pyro_mfcvae.cli.terminal import console, print_scores, print_sweep, say, table
from pyro_mfcvae.config.build import adapt_epochs
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.config.text import DEFAULT, load_preset, override, preset_names
from pyro_mfcvae.data.datasets import DATASETS, Dataset, load_dataset
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.runs.evaluation import evaluate as evaluate_split
from pyro_mfcvae.runs.fit import fit as fit_run
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.runs.sweep import sweep as run_sweep
from pyro_mfcvae.train.callbacks import Callback, ProgressBar, TensorBoardCallback
from pyro_mfcvae.train.devices import open_fabric

app = tyro.extras.SubcommandApp()


@app.command
def fit(
    preset: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET")] = None,
    /,
    data: Annotated[str | None, tyro.conf.arg(metavar="NAME|PATH")] = None,
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    set: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE ...")] = (),
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    root: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
) -> None:
    """Train a model and show its clusters.

    Without any argument this is the demo: it draws images of figures on coloured grounds and finds hue and shape as two
    separate clusterings, in a few minutes on a laptop. For data of another size than the preset's, its epochs change so
    that the number of steps does not, unless training.epochs is set.

    Args:
        preset: A preset's name (see `mfcvae presets`). By default the one named as the data, or else shapes.
        data: A data set's name (see `mfcvae datasets`), a .npz, .npy or .h5 file, or a folder of images; by default the
            preset's.
        out: The run's folder. By default a new one below runs/.
        set: Settings of the preset to change, such as training.epochs=5 "facets.num_clusters=[20, 10]".
        resume: Go on with the run in --out, from its last checkpoint.
        device: Where to compute: auto, cpu or cuda.
        devices: How many devices of each machine train as one; each takes its share of every batch.
        num_nodes: How many machines, each started by torchrun or Slurm; see docs/cluster.md.
        root: Folder of the data sets' files; by default the environment variable MFCVAE_DATA.
    """
    if resume:
        if out is None or preset or data or set:
            raise InputError(
                "--resume goes on with the run in --out DIR as it was configured: give --out and no settings"
            )
        run = RunFolder.open(out)
        config, dataset = run.read_config(), None
    else:
        run = RunFolder.new(out or _new_folder(preset or data or DEFAULT))
        config, dataset = _configure(preset, data, list(chain.from_iterable(set)), root)
    fabric = open_fabric(device, devices=devices, num_nodes=num_nodes, precision=config.training.precision)
    console.quiet = not fabric.is_global_zero
    dataset = dataset or load_dataset(config.data.source, root=root, seed=config.seed)
    say(
        f"{dataset.name}: {len(dataset.train)} items of shape {' × '.join(map(str, dataset.event_shape))}, "
        f"{'labels ' + ' and '.join(dataset.train.labels) if dataset.train.labels else 'no labels'}, "
        f"{len(config.facets.num_clusters)} facets of {' and '.join(map(str, config.facets.num_clusters))} clusters, "
        f"{' and '.join(map(str, config.stage_epochs))} epochs"
    )
    with ExitStack() as stack:
        callbacks: list[Callback] = [stack.enter_context(ProgressBar(console))]
        if find_spec("tensorboard") and fabric.is_global_zero:
            callbacks.append(TensorBoardCallback(run.tensorboard_path))
        result = fit_run(config, run, data=dataset, fabric=fabric, callbacks=tuple(callbacks))
    print_scores(result.evaluation)
    say(f"\nExamples of every group: {run.clusters_figure}")
    say(f"Which item is in which group: {run.assignments_path} (as csv: mfcvae assign {run.path})")
    say(f"Everything of this run lies in {run.path} ({result.summary['seconds']:.0f} s of training).")


@app.command
def evaluate(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    /,
    data: Annotated[str | None, tyro.conf.arg(metavar="NAME|PATH")] = None,
    root: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
) -> None:
    """Score a run: facet by label, accuracy, NMI, ARI and clusters in use.

    Accuracy is by majority label: every cluster takes the most frequent label of its members. It grows with the number
    of clusters; NMI and ARI do not.

    Args:
        run: The run's folder.
        data: Another data set's name, .npz, .npy or .h5 file, or folder of images; by default the run's test items.
        root: Folder of the data sets' files; by default the environment variable MFCVAE_DATA.
    """
    folder = RunFolder.open(run)
    pair, config = folder.load_pair(), folder.read_config()
    dataset = load_dataset(data or config.data.source, root=root, seed=config.seed)
    dataset.check_event_shape(pair.model.event_shape)
    if data is None and folder.summary_path.is_file():
        before, now = folder.read_summary().get("data_fingerprint"), dataset.fingerprint()
        if before != now:
            say(f"These are not the data that the run was trained on (fingerprint {before}, now {now}).")
    result = evaluate_split(pair, dataset.test, grouping=folder.read_grouping(pair))
    say(f"{len(dataset.test)} items of {dataset.name}; ELBO {result.elbo:.2f} nats per item")
    print_scores(result)


@app.command
def sweep(
    preset: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET")] = None,
    /,
    seeds: int = 10,
    data: Annotated[str | None, tyro.conf.arg(metavar="NAME|PATH")] = None,
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    set: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE ...")] = (),
    workers: int | None = None,
    together: bool = False,
    device: str = "auto",
    root: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
) -> None:
    """Train several seeds and compare them: mean ± standard deviation, and whether they find the same.

    Given the folder of an earlier sweep, it goes on with the runs that are not finished. All runs are scored on the
    same test items. ARI across seeds is the agreement of a facet's clusters with those of the facet that matches it in
    another run: 1 where both cluster alike.

    Args:
        preset: A preset's name (see `mfcvae presets`). By default the one named as the data, or else shapes.
        seeds: How many; they count from 0.
        data: A data set's name, a .npz, .npy or .h5 file, or a folder of images; by default the preset's.
        out: Folder of the runs, seed-0, seed-1 and so on. By default a new one below runs/.
        set: Settings of the preset to change, as for `mfcvae fit`.
        workers: How many runs at a time; by default one per GPU, or one per CPU core.
        together: Train all seeds at once in one process, on one device: for a GPU that one seed does not fill.
        device: Where to compute: auto, cpu or cuda.
        root: Folder of the data sets' files; by default the environment variable MFCVAE_DATA.
    """
    if seeds < 1 or (workers is not None and workers < 1):
        raise InputError(f"expected --seeds and --workers of 1 or more, got {seeds} and {workers}")
    settings = list(chain.from_iterable(set))
    if "seed" in map(_key, settings):
        raise InputError("the seeds of a sweep count from 0: leave --set seed out, and say how many with --seeds")
    config, _ = _configure(preset, data, settings, root)
    folder = out or _new_folder(preset or data or DEFAULT, "sweep-")
    if RunFolder(folder).config_path.is_file():
        raise InputError(f"{folder} holds a single run: choose another --out")
    say(f"Training seeds 0 to {seeds - 1}. How far each is stands in {folder / 'seed-N' / 'metrics.jsonl'}.")

    def tell(seed: int, summary: dict[str, Any]) -> None:
        say(f"seed {seed}: ELBO {summary['elbo']:.2f}, {summary['seconds']:.0f} s")

    result = run_sweep(
        config, folder, seeds=range(seeds), root=root, device=device, workers=workers, together=together, on_done=tell
    )
    write_json(folder / "sweep.json", result.summary())
    print_sweep(result)
    say(f"\nBy its ELBO one would pick seed {result.best_seed}: {folder / f'seed-{result.best_seed}'}")
    say(f"Everything of this sweep lies in {folder}.")


app.command(assign)
app.command(check)
app.command(compare)
app.command(report)
app.command(sample)
app.command(explore)


@app.command
def presets() -> None:
    """List the presets that `mfcvae fit` knows."""
    rows = table("preset", "what it is")
    for name in preset_names():
        config = load_preset(name)
        clusters = ", ".join(map(str, config.facets.num_clusters))
        rows.add_row(name, config.description)
        rows.add_row("", f"data {config.data.source}; clusters per facet {clusters}", style="dim")
    console.print(rows)


@app.command
def datasets() -> None:
    """List the data sets that are known by name."""
    rows = table("data set", "what it is")
    for info in DATASETS.values():
        shape = " × ".join(map(str, info.event_shape or ()))
        rows.add_row(info.name, info.description)
        details = f"{shape}, {info.likelihood}; labels {', '.join(info.label_names)}; {info.split}"
        rows.add_row("", details, style="dim")
    console.print(rows)
    say("\nA path works as well: a .npz, .npy or .h5 file, or a folder of images.")


def _configure(
    preset: str | None, data: str | None, settings: Sequence[str], root: Path | None
) -> tuple[Config, Dataset | None]:
    """The configuration, and the data of a path, which had to be read to know how many they are."""
    if preset is None:
        preset = data if data in preset_names() else DEFAULT
    config = load_preset(preset)
    made_for = DATASETS[config.data.source].num_items
    keys = [_key(setting) for setting in settings]
    if data is not None:
        if not {"data", "data.source"}.isdisjoint(keys):
            raise InputError("expected the data once, got them as --data and as --set data.source: leave one out")
        config = replace(config, data=replace(config.data, source=data))
    config = override(config, settings)
    dataset = None
    if config.data.source in DATASETS:
        num_items = DATASETS[config.data.source].num_items
    else:
        dataset = load_dataset(config.data.source, root=root, seed=config.seed)
        num_items = len(dataset.train)
        source = str(Path(config.data.source).expanduser().resolve())  # found from other folders as well
        config = replace(config, data=replace(config.data, source=source))
    if made_for and num_items and num_items != made_for and "training.epochs" not in keys:
        config = adapt_epochs(config, made_for=made_for, num_items=num_items)
    return config, dataset


def _key(setting: str) -> str:
    return setting.partition("=")[0].strip()


def _new_folder(name: str, kind: str = "") -> Path:
    stem = Path(name).stem
    return next(path for n in count(1) if not (path := Path("runs") / f"{stem}-{kind}{n}").exists())


def main(args: Sequence[str] | None = None) -> None:
    """Entry point. A user's mistake is one line on standard error and exit code 2."""
    try:
        app.cli(prog="mfcvae", description="Several clusterings of your images at once.", args=args)
    except (InputError, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            error = InputError(f"cannot use {error.filename}: {(error.strerror or 'it failed').lower()}")
        Console(stderr=True).print(f"mfcvae: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(
            "mfcvae: stopped; a fit goes on from its last whole epoch with --resume --out DIR, a sweep with --out DIR"
        )
