"""Training on the command line: ``mfcvae fit | sweep``."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pyro_mfcvae.atomic_io import check_utf8, expand_user
from pyro_mfcvae.cli.options import (
    COMMON,
    Common,
    Count,
    Data,
    Device,
    Directory,
    Flag,
    Preset,
    Settings,
    option,
)
from pyro_mfcvae.cli.terminal import console, print_json, print_scores, print_sweep, say, say_trials
from pyro_mfcvae.config.custom_parts import import_parts
from pyro_mfcvae.config.flags import SettingFlags, as_settings
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.config.text import DEFAULT, load_preset, override, preset_names, takes_auto
from pyro_mfcvae.data.catalogue import DATASETS
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.safety.locks import claim, hold, is_first

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from pyro_mfcvae.data.datasets import Dataset
    from pyro_mfcvae.runs.fit import Fit
    from pyro_mfcvae.train.callbacks import Callback


@dataclass(frozen=True)
class Changes:
    """Changes of the preset's settings: one option per setting, or all of them after --set."""

    set: Settings = ()
    flags: Annotated[SettingFlags, tyro.conf.arg(name="")] = field(default_factory=SettingFlags)

    def as_list(self) -> list[str]:
        """All changes, in the form KEY=VALUE."""
        return [*chain.from_iterable(self.set), *as_settings(self.flags)]


@dataclass(frozen=True)
class Machines:
    """The machines and devices of one fit.

    Attributes:
        devices: Number of devices of each machine that train together; each takes its share of every batch.
        num_nodes: Number of machines, each started by torchrun or Slurm; see docs/cluster.md.
    """

    device: Device = "auto"
    devices: Count = 1
    num_nodes: Count = 1

    @property
    def num_processes(self) -> int:
        """The number of processes: one per device, on all machines."""
        return self.devices * self.num_nodes


@dataclass(frozen=True)
class Workers:
    """The processes and the device of a sweep.

    Attributes:
        workers: Number of runs at a time; by default one per GPU, or one per CPU core.
        together: Train all seeds at once in one process on one device; useful if a single seed does not use all of a
            GPU.
    """

    workers: Annotated[int | None, option("N")] = None
    together: Flag = False
    device: Device = "auto"


def fit(
    preset: Preset = None,
    /,
    data: Data = None,
    out: Directory = None,
    changes: Annotated[Changes, tyro.conf.arg(name="")] = Changes(),
    resume: Flag = False,
    machines: Annotated[Machines, tyro.conf.arg(name="")] = Machines(),
    minutes: Annotated[float | None, option("M")] = None,
    common: Common = COMMON,
) -> None:
    """Train a model and show its clusters.

    Without arguments this is the demo: in a few minutes it finds hue and shape of drawn images as two clusterings. If
    your data and the preset's differ in size, the number of epochs is changed so that the number of steps stays the
    same, unless you set it. --training.epochs "[5, 9]" is the same as --set "training.epochs=[5, 9]".

    Args:
        preset: A preset's name (see `mfcvae presets`). By default the preset with the data's name; for other data auto,
            which chooses settings from the data (--facets.number 3 asks for three facets); without data shapes.
        data: A data set's name (see `mfcvae datasets`), a .npz, .npy, .h5, .csv or .parquet file, or a folder of
            images; by default the preset's.
        out: The run's folder. By default a new one below runs/.
        resume: Continue the run in --out from its last checkpoint.
        minutes: Shorten the schedule so that its steps take at most M minutes on this machine.
    """
    settings = changes.as_list()
    if resume and (out is None or preset or data or settings):
        raise InputError("expected --resume with --out DIR and no settings, got others: give only these two")
    import_parts(common.parts)
    chosen = None if resume else _choose_config(preset, data, settings)
    from pyro_mfcvae.config.build import load_data
    from pyro_mfcvae.runs.fit import fit as fit_run
    from pyro_mfcvae.runs.folder import RunFolder
    from pyro_mfcvae.train.callbacks import ProgressBar, log_to_tensorboard
    from pyro_mfcvae.train.devices import open_fabric

    reasons: Sequence[str] = ()
    console.quiet = common.json or not is_first(machines.num_processes)
    if resume:
        run = RunFolder.open(out)  # type: ignore[arg-type]
        hold(run.path, machines.num_processes)
        config, dataset = run.read_config(), None
    else:
        run = RunFolder(claim(out, preset or data or DEFAULT, machines.num_processes))
        config, dataset, reasons = _suit_data(chosen, data if chosen is None else preset, settings, common.root)
    fabric = open_fabric(**asdict(machines), precision=config.training.precision)
    console.quiet = common.json or not fabric.is_global_zero
    dataset = dataset or load_data(config, root=common.root)
    _say_start(config, dataset, reasons, on_cpu=fabric.device.type == "cpu")
    if reasons or (minutes is not None and not resume):
        config = _fit_budget(config, dataset, minutes, fabric)
    with ExitStack() as stack:
        callbacks: list[Callback] = [stack.enter_context(ProgressBar(console))]
        if find_spec("tensorboard") and fabric.is_global_zero:
            callbacks.append(log_to_tensorboard(run.tensorboard_path))
        result = fit_run(config, run, data=dataset, fabric=fabric, callbacks=tuple(callbacks))
    _say_result(result)
    if common.json and fabric.is_global_zero:
        print_json({"run": str(run.path), **result.summary})


def _say_result(result: "Fit") -> None:
    run = result.run
    print_scores(result.evaluation)
    say(f"\nExamples of every group: {run.clusters_figure}")
    say(f"Which item is in which group: {run.assignments_path} (as csv: mfcvae assign {run.path})")
    say(f"All files of this run are in {run.path} ({result.summary['seconds']:.0f} s of training).")


def sweep(
    preset: Preset = None,
    /,
    seeds: Count = 10,
    data: Data = None,
    out: Directory = None,
    changes: Annotated[Changes, tyro.conf.arg(name="")] = Changes(),
    workers: Annotated[Workers, tyro.conf.arg(name="")] = Workers(),
    common: Common = COMMON,
) -> None:
    """Train several seeds and compare them: mean ± standard deviation, and the agreement of their groups.

    Given the folder of an earlier sweep, it continues the runs that are not finished. All runs are scored on the
    same test items. ARI across seeds is the agreement of a facet's groups, or clusters, with those of the matching
    facet in another run; it is 1 if both are the same.

    Args:
        preset: A preset's name (see `mfcvae presets`). By default the preset with the data's name; auto for other data;
            shapes without data.
        seeds: Number of seeds, counted from 0.
        data: A data set's name, a .npz, .npy, .h5, .csv or .parquet file, or a folder of images; by default the
            preset's.
        out: Folder of the runs, seed-0, seed-1 and so on. By default a new one below runs/.
    """
    if seeds < 1 or (workers.workers is not None and workers.workers < 1):
        raise InputError(f"expected --seeds and --workers of 1 or more, got {seeds} and {workers.workers}: raise them")
    import_parts(common.parts)
    settings = changes.as_list()
    if "seed" in map(_key_of, settings):
        raise InputError(
            "expected no setting seed, since the seeds of a sweep count from 0, got one: give their number with --seeds"
        )
    chosen = _choose_config(preset, data, settings)
    from pyro_mfcvae.atomic_io import write_json
    from pyro_mfcvae.runs.folder import RunFolder
    from pyro_mfcvae.runs.sweep import sweep as run_sweep

    if out is not None and RunFolder(out).config_path.is_file():
        raise InputError(f"expected a folder of a sweep, got {out} with a single run: choose another --out")
    folder = hold(out) if out is not None else claim(None, preset or data or DEFAULT, kind="-sweep")
    console.quiet = common.json
    config, *_ = _suit_data(chosen, data if chosen is None else preset, settings, common.root)
    say(f"Training seeds 0 to {seeds - 1}. Each writes its progress to {folder / 'seed-N' / 'metrics.jsonl'}.")

    def tell(seed: int, summary: dict[str, Any]) -> None:
        say(f"seed {seed}: ELBO {summary['elbo']:.2f}, {summary['seconds']:.0f} s")

    result = run_sweep(config, folder, seeds=range(seeds), root=common.root, on_done=tell, **asdict(workers))
    write_json(folder / "sweep.json", result.summary())
    print_sweep(result)
    say(f"\nThe seed with the highest ELBO is {result.best_seed}: {folder / f'seed-{result.best_seed}'}")
    say(f"All files of this sweep are in {folder}.")
    if common.json:
        print_json({"sweep": str(folder), **result.summary()})


def _choose_config(preset: str | None, data: str | None, settings: Sequence[str]) -> Config | None:
    """The configuration for a preset, data and settings, before the data are read.

    The result is None for the preset auto, which chooses settings from the data.
    """
    if takes_auto(preset, data):
        return None
    if preset is None:
        preset = data if data in preset_names() else DEFAULT
    config = load_preset(preset)
    if data is not None:
        if not {"data", "data.source"}.isdisjoint(map(_key_of, settings)):
            raise InputError("expected the data once, got them as --data and as --set data.source: leave one out")
        config = replace(config, data=replace(config.data, source=data))
    return override(config, settings)


def _suit_data(
    config: Config | None, name: str | None, settings: Sequence[str], root: Path | None
) -> tuple[Config, "Dataset | None", Sequence[str]]:
    """Returns the configuration for the data; the data, if they had to be read; and sentences for the user.

    ``name`` is the name of the preset, or of the data if the configuration is None.
    """
    from pyro_mfcvae.config.auto import configure_auto
    from pyro_mfcvae.config.build import adapt_epochs, load_data

    if config is None:
        say("Reading the data and choosing settings for them; on a laptop this takes up to half a minute …")
        return configure_auto(name, settings, root)
    source, dataset, preset = config.data.source, None, name
    if preset is None:
        preset = source if source in preset_names() else DEFAULT
    made_for = DATASETS[load_preset(preset).data.source].num_items
    if source in DATASETS:
        num_items = DATASETS[source].num_items
    else:
        dataset = load_data(config, root=root)
        num_items = len(dataset.train)
        # An absolute path is valid from every working folder.
        path = expand_user(source).resolve()
        check_utf8(path)
        config = replace(config, data=replace(config.data, source=str(path)))
    if made_for and num_items and num_items != made_for and "training.epochs" not in map(_key_of, settings):
        config = adapt_epochs(config, made_for=made_for, num_items=num_items)
    return config, dataset, ()


def _fit_budget(config: Config, dataset: "Dataset", minutes: float | None, fabric: "Fabric") -> Config:
    """The configuration, with a shortened schedule if it would take too long; prints the expected time."""
    from pyro_mfcvae.runs.trials import estimate_seconds

    if minutes is not None and not minutes > 0:
        raise InputError(f"expected --minutes above 0, got {minutes:g}: raise it")
    expected = estimate_seconds(config, dataset, fabric) / 60
    share = min(minutes / expected, 1.0) if minutes else 1.0
    shortened = "" if share == 1 else f"; the schedule was shortened to {share:.0%} of its steps"
    about = f"{'at most ' * bool(config.training.tolerance)}about {max(share * expected, 0.1):.1f}"
    say(f"  time: {about} minutes of steps on this machine ({fabric.device}){shortened}")
    return replace(config, schedule=replace(config.schedule, scale=config.schedule.scale * share))


def _key_of(setting: str) -> str:
    """The name in a setting of the form NAME=VALUE."""
    return setting.partition("=")[0].strip()


def _say_start(config: Config, dataset: "Dataset", reasons: Sequence[str], *, on_cpu: bool) -> None:
    from pyro_mfcvae.runs.trials import describe_load

    hints = [hint] if on_cpu and (hint := describe_load()) else []
    say_trials()
    say("\n".join([_describe(config, dataset), *(f"  {reason}" for reason in reasons), *dataset.notes, *hints]))


def _describe(config: Config, dataset: "Dataset") -> str:
    # This is how `ProgressiveSchedule.stretched` rounds.
    epochs = [math.ceil(round(epochs * config.schedule.scale, 6)) for epochs in config.stage_epochs if epochs]
    shape = " × ".join(map(str, dataset.event_shape))
    labels = f"labels {' and '.join(dataset.train.labels)}" if dataset.train.labels else "no labels"
    clusters = " and ".join(map(str, config.facets.num_clusters))
    return (
        f"{dataset.name}: {len(dataset.train)} items of shape {shape}, {labels}, {len(config.facets.num_clusters)} "
        f"facets of {clusters} clusters, {' and '.join(map(str, epochs))} epochs"
    )
