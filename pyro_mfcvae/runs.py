"""A run folder: what a fit leaves behind, and what every later command reads.

config.toml             the configuration, complete
model.safetensors       parameters and buffers of the pair
checkpoint/             all that ``--resume`` needs
metrics.jsonl           one record per epoch
summary.json            what came out
figures/                pictures
tensorboard/            the same metrics as TensorBoard events, where tensorboard is installed
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyro_mfcvae.checkpoints import load_pair
from pyro_mfcvae.config import Config
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.files import write_json, write_text
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.settings import read_config, to_toml
from pyro_mfcvae.training import EpochRecord


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
        return read_config(self.config_path.read_text(encoding="utf-8"), source=str(self.config_path))

    def load_pair(self) -> MFCVAE:
        """The fitted model and guide, on the CPU."""
        if not self.model_path.is_file():
            raise InputError(f"the run {self.path} is not finished: go on with mfcvae fit --resume --out {self.path}")
        return load_pair(self.read_config(), self.model_path)

    def append_metrics(self, record: EpochRecord, *, seconds: float) -> None:
        """Add an epoch's record, with the training time so far."""
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**asdict(record), "seconds": round(seconds, 3)}) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every epoch's record so far."""
        if not self.metrics_path.is_file():
            return []
        return [json.loads(line) for line in self.metrics_path.read_text(encoding="utf-8").splitlines()]

    def keep_metrics(self, num_epochs: int) -> None:
        """Keep an epoch's line each: of an epoch that was not checkpointed nothing is left, nor of half a line."""
        text = self.metrics_path.read_text(encoding="utf-8") if self.metrics_path.is_file() else ""
        write_text(self.metrics_path, "".join(text.splitlines(keepends=True)[:num_epochs]))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replace ``summary.json``."""
        write_json(self.summary_path, summary)

    def read_summary(self) -> dict[str, Any]:
        """What came out of the finished run."""
        summary: dict[str, Any] = json.loads(self.summary_path.read_text(encoding="utf-8"))
        return summary
