"""A run folder, which a fit writes and all later commands read.

config.toml             the configuration, complete
model.safetensors       parameters and buffers of the pair
checkpoint/             the state for ``--resume``
metrics.jsonl           one record per epoch
summary.json            the results
groups.json             the groups of clusters and their names
assignments.parquet     the groups and clusters of every item
figures/                pictures
tensorboard/            the same metrics as TensorBoard events, if tensorboard is installed
"""

import hashlib
import json
import logging
import math
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pyro_mfcvae.atomic_io import append_line, as_json, read_bytes, read_text, write_text
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.config.text import read_config, to_toml
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.runs.checkpoints import Checkpoint, config_digest, load_pair
from pyro_mfcvae.runs.evaluation import Summary
from pyro_mfcvae.runs.grouping import Grouping
from pyro_mfcvae.safety.json_files import has_form, parse_object
from pyro_mfcvae.safety.locks import check_empty, locked
from pyro_mfcvae.train.step_log import EpochRecord

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """Paths and contents of one run's folder."""

    path: Path

    @classmethod
    def new(cls, path: Path) -> "RunFolder":
        """The folder of a new run. It must be empty; nothing is written."""
        check_empty(path)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The folder of an earlier run."""
        run = cls(path)
        if not run.config_path.is_file():
            raise InputError(
                f"expected a run folder with a config.toml, as mfcvae fit writes, got {path}: check the path"
            )
        return run

    def lock(self) -> AbstractContextManager[None]:
        """Lock the folder for this process, see `locked`."""
        return locked(self.path)

    @property
    def config_path(self) -> Path:
        return self.path / "config.toml"

    @property
    def model_path(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint" / "training.safetensors"

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, which must belong to the settings in ``config.toml`` if this file exists."""
        return Checkpoint(self.checkpoint_path, self.config_digest())

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary_path(self) -> Path:
        return self.path / "summary.json"

    @property
    def groups_path(self) -> Path:
        return self.path / "groups.json"

    @property
    def assignments_path(self) -> Path:
        return self.path / "assignments.parquet"

    @property
    def figures_path(self) -> Path:
        return self.path / "figures"

    @property
    def clusters_figure(self) -> Path:
        return self.figures_path / "clusters.png"

    @property
    def curves_figure(self) -> Path:
        return self.figures_path / "curves.png"

    @property
    def tensorboard_path(self) -> Path:
        return self.path / "tensorboard"

    def write_config(self, config: Config) -> None:
        """Write the configuration. This is done once, because models and checkpoints contain its digest."""
        if not self.config_path.is_file():
            write_text(self.config_path, to_toml(config))

    def change_config(self, config: Config) -> None:
        """Replace the configuration of a run, to train it for longer; its last checkpoint stays valid.

        The checkpoint is changed first. If the process stops after this, the previous checkpoint still belongs to the
        old configuration.
        """
        text = to_toml(config)
        self.checkpoint.sign_for(config_digest(text))
        write_text(self.config_path, text)

    def config_digest(self) -> str:
        """`config_digest` of ``config.toml``, or an empty text if the file does not exist."""
        return config_digest(read_text(self.config_path)) if self.config_path.is_file() else ""

    def read_config(self) -> Config:
        """The run's configuration."""
        return read_config(read_text(self.config_path), source=str(self.config_path))

    def load_pair(self) -> MFCVAE:
        """The fitted model and guide, on the CPU."""
        if not self.model_path.is_file():
            raise InputError(
                f"expected a finished run, got {self.path}: resume it with mfcvae fit --resume --out {self.path}"
            )
        return load_pair(self.read_config(), self.model_path, digest=self.config_digest())

    def model_fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of ``model.safetensors``."""
        with self.model_path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def read_grouping(self, pair: MFCVAE | None = None) -> Grouping:
        """The groups in ``groups.json``, with the user's changes; the groups that the model suggests if there is no
        such file.

        Args:
            pair: the run's pair, if it is already loaded.
        """
        if kept := self.kept_grouping():
            return kept
        if self.groups_path.is_file():
            _log.warning(
                "%s has the groups of another model and is ignored: the groups are those that the model suggests; "
                "bring back the file of this run for its groups and names",
                self.groups_path,
            )
        return Grouping.from_trees((pair or self.load_pair()).groups())

    def kept_grouping(self) -> Grouping | None:
        """The groups in ``groups.json``; None if there is no such file, or if it belongs to another model."""
        num_clusters = self.read_config().facets.num_clusters
        return Grouping.read(self.groups_path, model=self.model_fingerprint(), num_clusters=num_clusters)

    def write_grouping(self, grouping: Grouping) -> None:
        """Replace ``groups.json``."""
        grouping.write(self.groups_path, model=self.model_fingerprint())

    def groups_state(self) -> tuple[str, bytes]:
        """Fingerprint of the model and content of ``groups.json``, to detect changes by other processes."""
        return self._present_model(), self.groups_path.read_bytes() if self.groups_path.is_file() else b""

    def append_metrics(self, record: EpochRecord, *, seconds: float) -> None:
        """Append an epoch's record, with the training time so far."""
        append_line(self.metrics_path, json.dumps({**asdict(record), "seconds": round(seconds, 3)}))

    @property
    def has_unresumable_work(self) -> bool:
        """Whether a new start would lose work that cannot be resumed: a model, or epochs without a checkpoint."""
        return self.model_path.is_file() or len(self._read_whole_lines()) > 1

    def read_metrics(self) -> list[dict[str, Any]]:
        """The records of all epochs so far; lines that are not records, such as partial lines, are left out."""
        return [json.loads(line) for line in self._read_whole_lines() if has_form(line, _Line)]

    def truncate_metrics(self, num_epochs: int) -> None:
        """Truncate ``metrics.jsonl`` to the first epochs: lines without a checkpoint and partial lines are dropped."""
        write_text(self.metrics_path, "".join(self._read_whole_lines(num_epochs)))

    def metrics_digest(self, num_epochs: int) -> str:
        """Digest of the lines of the first epochs."""
        return hashlib.sha256("".join(self._read_whole_lines(num_epochs)).encode()).hexdigest()[:16]

    def check_metrics(self, num_epochs: int, *, digest: str) -> None:
        """Warn if the lines of the first epochs have changed since the checkpoint was written.

        The training continues, because the model does not depend on these lines.
        """
        if self.metrics_digest(num_epochs) != digest:
            _log.warning(
                "%s was changed or lost lines since it was written (%d of %d epochs are left): curves have gaps or "
                "wrong values, but the model does not depend on them",
                self.metrics_path,
                len(self._read_whole_lines(num_epochs)),
                num_epochs,
            )

    def _read_whole_lines(self, num_epochs: int | None = None) -> list[str]:
        """The lines of ``metrics.jsonl`` that are records of consecutive epochs, with their line ends."""
        lines: list[str] = []
        last = 0
        content = read_bytes(self.metrics_path) if self.metrics_path.is_file() else b""
        for line in content.splitlines(keepends=True):
            epoch = _epoch_of(line)
            if last < epoch <= (epoch if num_epochs is None else num_epochs) and line.endswith(b"\n"):
                lines.append(line.decode())
                last = epoch
        return lines

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json`` with a checksum and digests of the configuration, metrics and model."""
        digests = {
            "config_digest": self.config_digest(),
            "model_fingerprint": self._present_model(),
            "metrics_digest": self.metrics_digest(summary.get("epochs", 0)),
        }
        summary = {**summary, **digests}
        write_text(self.summary_path, as_json({**summary, _CHECKSUM: _checksum(summary)}))

    def read_summary(self) -> dict[str, Any]:
        """The results of the finished run.

        Raises:
            InputError: the file is damaged, was changed, or belongs to other settings or to another model.
        """
        summary = parse_object(text := read_text(self.summary_path), self.summary_path)
        if summary.pop(_CHECKSUM, None) != _checksum(summary):
            raise InputError(
                f"expected {self.summary_path} as mfcvae fit wrote it, got a file with another checksum, so it was "
                "damaged or changed: bring a copy back, or write it again with mfcvae fit --resume"
            )
        if summary.pop("config_digest", None) != self.config_digest():
            raise InputError(
                f"expected {self.summary_path} for the settings in config.toml, got results for other settings: bring "
                f"back the file of this run"
            )
        model = self._present_model()
        if summary.pop("model_fingerprint", model) != model:
            raise InputError(
                f"expected {self.summary_path} and the model beside it from one training, got files of two: bring back "
                "the files of this run, or write them again with mfcvae fit --resume"
            )
        if not has_form(text, Summary) or len(summary["facets"]) != len(self.read_config().facets.num_clusters):
            raise InputError(
                f"expected the results of this run in {self.summary_path}, got other fields or facets: write it again "
                "with mfcvae fit --resume"
            )
        self.check_metrics(summary["epochs"], digest=summary.pop("metrics_digest", ""))
        return summary

    def _present_model(self) -> str:
        return self.model_fingerprint() if self.model_path.is_file() else ""


_CHECKSUM = "sha256"


@dataclass(frozen=True, kw_only=True)
class _Line(EpochRecord):
    """A line of ``metrics.jsonl`` that a plot of curves can use."""

    seconds: float

    def __post_init__(self) -> None:
        per_facet: tuple[list[Any], ...] = (self.kl, self.active_clusters, self.alpha, self.beta)
        numbers = [self.elbo, self.reconstruction, self.seconds, *chain.from_iterable(per_facet)]
        if len({len(values) for values in per_facet}) > 1 or not all(map(math.isfinite, numbers)):
            raise ValueError("a number is not finite, or a facet is missing")


def _checksum(summary: dict[str, Any]) -> str:
    return hashlib.sha256(as_json(summary).encode()).hexdigest()


def _epoch_of(line: bytes) -> int:
    """The epoch of a line's record; 0 if the line is not a record."""
    try:
        record = json.loads(line)
        epoch = record["epoch"]
        complete = record.keys() >= {"elbo", "seconds"}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return 0
    return epoch if complete and type(epoch) is int else 0
