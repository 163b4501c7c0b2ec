"""A run folder: what a fit leaves behind, and what every later command reads.

config.toml             the configuration, complete
model.safetensors       parameters and buffers of the pair
checkpoint/             all that ``--resume`` needs
metrics.jsonl           one record per epoch
summary.json            what came out
groups.json             which clusters are one group, and what groups are called
assignments.parquet     which item is in which group of which facet
figures/                pictures
tensorboard/            the same metrics as TensorBoard events, where tensorboard is installed
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyro_mfcvae.atomic_io import read_text, write_json, write_text
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.config.text import read_config, to_toml
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.runs.checkpoints import load_pair
from pyro_mfcvae.runs.grouping import Grouping
from pyro_mfcvae.train.step_log import EpochRecord


@dataclass(frozen=True)
class RunFolder:
    """Paths and contents of one run's folder."""

    path: Path

    @classmethod
    def new(cls, path: Path) -> "RunFolder":
        """A folder for a new run, which must not hold anything yet; nothing is written."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} already exists and is not empty: choose another --out, or go on with --resume")
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The folder of an earlier run."""
        run = cls(path)
        if not run.config_path.is_file():
            raise InputError(f"{path} is not a run folder: expected a config.toml in it, as mfcvae fit writes")
        return run

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
        """Record the configuration."""
        write_text(self.config_path, to_toml(config))

    def read_config(self) -> Config:
        """The run's configuration."""
        return read_config(read_text(self.config_path), source=str(self.config_path))

    def load_pair(self) -> MFCVAE:
        """The fitted model and guide, on the CPU."""
        if not self.model_path.is_file():
            raise InputError(f"the run {self.path} is not finished: go on with mfcvae fit --resume --out {self.path}")
        return load_pair(self.read_config(), self.model_path)

    def model_fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of ``model.safetensors``."""
        with self.model_path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def read_grouping(self, pair: MFCVAE | None = None) -> Grouping:
        """The groups as the user left them; those that the model itself suggests where there is no ``groups.json``.

        Args:
            pair: the run's, where it is loaded already.
        """
        pair = pair or self.load_pair()
        return Grouping.read(self.groups_path, model=self.model_fingerprint()) or Grouping.from_trees(pair.groups())

    def write_grouping(self, grouping: Grouping) -> None:
        """Replace ``groups.json``."""
        grouping.write(self.groups_path, model=self.model_fingerprint())

    def append_metrics(self, record: EpochRecord, *, seconds: float) -> None:
        """Add an epoch's record, with the training time so far."""
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**asdict(record), "seconds": round(seconds, 3)}) + "\n")

    @property
    def has_unresumable_work(self) -> bool:
        """Whether to begin anew would lose something: a model, or more than an epoch that was not checkpointed."""
        return self.model_path.is_file() or len(self.read_lines()) > 1

    def read_lines(self) -> list[str]:
        """The lines of ``metrics.jsonl``, with their ends; the last may be half a line."""
        return read_text(self.metrics_path).splitlines(keepends=True) if self.metrics_path.is_file() else []

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every epoch's record so far."""
        return [_parse(line, self.metrics_path) for line in self.read_lines()]

    def truncate_metrics(self, num_epochs: int) -> None:
        """Keep an epoch's line each: of an epoch that was not checkpointed nothing is left, nor of half a line."""
        write_text(self.metrics_path, "".join(self.read_lines()[:num_epochs]))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replace ``summary.json``."""
        write_json(self.summary_path, summary)

    def read_summary(self) -> dict[str, Any]:
        """What came out of the finished run."""
        return _parse(read_text(self.summary_path), self.summary_path)


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        record = str(error)
    if not isinstance(record, dict):
        raise InputError(f"{path} is spoiled, expected JSON objects as mfcvae fit writes them: bring the file back")
    return record
