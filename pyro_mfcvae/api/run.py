"""Fit, load and query runs from Python."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import cached_property
from html import escape
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_fabric.loggers.logger import Logger

from pyro_mfcvae.api.choices import ARRAY, as_dataset, choose
from pyro_mfcvae.api.model_files import load_pair_file
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.data.datasets import Dataset, load_dataset
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.runs.assignments import Assigner, read_assignments
from pyro_mfcvae.runs.fit import fit as fit_run
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.runs.grouping import Grouping
from pyro_mfcvae.runs.new_items import image_size, lowest_alike, prepare_like
from pyro_mfcvae.safety.locks import claimed, claimed_next
from pyro_mfcvae.train.callbacks import Callback, open_progress_bar, use_loggers

if TYPE_CHECKING:
    import pandas

    from pyro_mfcvae.explore.server import InlineExplorer


class Run:
    """A finished run in its folder.

    Args:
        path: the folder.
        data: the array that it was trained on, if it was trained on one; otherwise the configuration names the data.
    """

    def __init__(self, path: str | Path, *, data: Any = None) -> None:
        self.folder = RunFolder.open(Path(path).expanduser())
        self._data = None if data is None else as_dataset(data, form=self.config.data)

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder.path

    @property
    def config(self) -> Config:
        """All settings."""
        return self.folder.read_config()

    @property
    def summary(self) -> dict[str, Any]:
        """The results, as in ``summary.json``."""
        return self.folder.read_summary()

    @cached_property
    def pair(self) -> MFCVAE:
        """Model and guide, on the CPU."""
        return self.folder.load_pair()

    @property
    def grouping(self) -> Grouping:
        """The groups of clusters, with the user's changes."""
        return self.folder.read_grouping(self.__dict__.get("pair"))

    @property
    def assignments(self) -> "pandas.DataFrame":
        """A row per item: its group, cluster and probability in every facet, see `pyro_mfcvae.runs.assignments`."""
        model = self.folder.model_fingerprint()
        return read_assignments(self.folder.assignments_path, model=model, grouping=self.grouping)

    @property
    def scores(self) -> "pandas.DataFrame":
        """Agreement of each facet's groups with each label on the test items: majority accuracy, NMI and ARI."""
        import pandas

        rows = [
            {"facet": j, "groups": facet["num_groups"], "label": label}
            | {score: facet["groups"][score][label] for score in ("accuracy", "nmi", "ari")}
            for j, facet in enumerate(self.summary["facets"])
            for label in facet["groups"]["accuracy"]
        ]
        return pandas.DataFrame(rows, columns=["facet", "groups", "label", "accuracy", "nmi", "ari"])

    def assign(self, data: Any, *, root: str | Path | None = None) -> "pandas.DataFrame":
        """Assign other items: rows as in `assignments`; ``unlike`` is true for items unlike the training items.

        Images of other sizes are resized to the size of the run's images, by the setting `data.fit` of the run.

        Args:
            data: a name, a path, an array of images, a PyTorch data set or loader.
            root: folder of the data sets' files.
        """
        import pyarrow as pa

        shape = self.pair.model.event_shape
        form = replace(self.config.data, size=image_size(shape))
        dataset = as_dataset(data, form=form, root=_path_or_none(root), seed=self.config.seed)
        lowest = lowest_alike(self.folder.assignments_path)
        assigner = Assigner(self.pair, self.grouping, thumbnails=False, lowest=lowest)
        rows = (assigner.rows(prepare_like(split, shape), name=name) for name, split in dataset.splits.items())
        return pa.concat_tables(chain.from_iterable(rows)).to_pandas()

    def continue_(
        self, *, epochs: int, device: str = "auto", verbose: bool = True, root: str | Path | None = None
    ) -> "Run":
        """Train the last stage for more epochs, starting at the last checkpoint. Returns the run with its new results.

        Raises:
            InputError: the run was fitted to an array, and `Run` was opened without that array.
        """
        config = self.config
        if epochs < 1:
            raise InputError(f"expected epochs ≥ 1, got {epochs}: give the number of further epochs")
        if self._data is None and config.data.source == ARRAY:
            raise InputError(
                f"expected the array that the run was trained on: open it as Run({str(self.path)!r}, data=…)"
            )
        data = self._data or load_dataset(
            config.data.source, root=_path_or_none(root), seed=config.seed, size=config.data.size, fit=config.data.fit
        )
        *earlier, last = config.stage_epochs
        if config.training.tolerance and self.folder.summary_path.is_file():  # the training may have ended early
            last = min(last, math.ceil(self.summary["epochs"] / config.schedule.scale) - sum(earlier))
        longer = (*earlier, last + math.ceil(epochs / config.schedule.scale))
        config = replace(config, training=replace(config.training, epochs=longer, tolerance=0.0))
        with self.folder.lock():
            self.folder.change_config(config)
            _train(config, self.folder, data, device=device, verbose=verbose)
        return Run(self.path, data=self._data)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report, one HTML page, and return its path."""
        from pyro_mfcvae.report.page import write_report

        return write_report(self.folder, _path_or_none(path))

    def explore(self, *, height: int = 800) -> "InlineExplorer":
        """Show the explorer in a notebook, ``height`` pixels high, until `close` is called. Needs the extra
        ``explore``.
        """
        from pyro_mfcvae.explore import check_installed

        check_installed()
        from pyro_mfcvae.explore.server import explore

        return explore(self.folder, data=self._data, height=height)

    def __repr__(self) -> str:
        lines = [f"Run({str(self.path)!r})"]
        if self.folder.summary_path.is_file():
            summary = self.summary
            lines.append(f"  {summary['data']}, {summary['epochs']} epochs, ELBO {summary['elbo']:.2f} nats per item")
            for j, (facet, num) in enumerate(zip(summary["facets"], self.grouping.num_groups, strict=True)):
                use = f"{facet['clusters_in_use']} of {facet['num_clusters']} clusters"
                groups = f"{num} group{'s' * (num != 1)}"
                lines.append(f"  facet {j}: {groups} ({use})")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head, *rest = repr(self).splitlines()
        lines = "<br>".join(escape(line.strip()) for line in rest)
        table = self.scores.to_html(index=False, float_format="%.3f") if rest and len(self.scores) else ""
        return f"<div><strong>{escape(head)}</strong><br>{lines}{table}</div>"


def fit(
    data: Any,
    *,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    labels: Mapping[str, Any] | None = None,
    device: str = "auto",
    verbose: bool = True,
    loggers: Sequence[Logger] = (),
) -> Run:
    """Train on data and return the finished run, as ``mfcvae fit`` does.

    Args:
        data: a name that `mfcvae datasets` lists, a path, an array or tensor of images, a PyTorch data set or loader.
        preset: name of a preset. If None, the preset with the name of the data is used. If no preset has this name,
            ``auto`` chooses the settings.
        settings: changes of the preset's settings, such as {"training.epochs": 5, "facets.num_clusters": [20, 10]}.
        out: the run's folder; a new one below ``runs/`` if None.
        labels: name → label of each item, for data in an array; labels are used for scores only.
        device: auto, cpu or cuda.
        verbose: whether to show a progress bar.
        loggers: loggers with the interface of Lightning Fabric, such as its CSVLogger, or those of W&B and MLflow.
            They receive the settings, the record of every epoch, and how the training ended.
    """
    named = isinstance(data, str | Path)
    if named and labels:
        raise InputError(
            "expected labels only with an array, got them with a path: leave them out, since they are "
            "read from its files"
        )
    stem = Path("runs") / Path(str(data) if named else ARRAY).stem
    with claimed_next(stem) if out is None else claimed(Path(out).expanduser()) as path:
        config, dataset = choose(data, preset=preset, changes=dict(settings or {}), labels=labels)
        _train(config, RunFolder(path), dataset, device=device, verbose=verbose, loggers=loggers)
    return Run(path, data=None if named else dataset)


def load(path: str | Path) -> MFCVAE:
    """The fitted pair of a run's folder, or of a file that `MFCVAE.save` wrote, on the CPU and in evaluation mode."""
    path = Path(path).expanduser()
    return RunFolder.open(path).load_pair() if path.is_dir() else load_pair_file(path)


def _train(
    config: Config,
    folder: RunFolder,
    data: Dataset,
    *,
    device: str,
    verbose: bool,
    loggers: Sequence[Logger] = (),
) -> None:
    with ExitStack() as stack:
        callbacks: list[Callback] = [*stack.enter_context(use_loggers(loggers, asdict(config)))]
        if verbose:
            callbacks.append(stack.enter_context(open_progress_bar()))
        fit_run(config, folder, data=data, device=device, callbacks=tuple(callbacks))


def _path_or_none(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).expanduser()
