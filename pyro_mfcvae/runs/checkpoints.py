"""Models and checkpoints on disk: their contents, the digests of configuration and data, and their loading."""

import hashlib
import json
import logging
import tomllib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.safety.json_files import parse_shape
from pyro_mfcvae.safety.stopping import held_signals
from pyro_mfcvae.safety.tensor_files import SpoiledFileError, check_fit, read_tensors, write_tensors
from pyro_mfcvae.train.training import Training

_log = logging.getLogger(__name__)


def config_digest(text: str) -> str:
    """Digest of the settings in a ``config.toml``: 16 hex digits of a SHA-256.

    Layout and comments do not change it. The path of the data does not change it either, so that data can be moved;
    data have their own fingerprint.
    """
    table = tomllib.loads(text)
    if isinstance(data := table.pop("data", None), dict):
        table["data"] = {key: value for key, value in data.items() if key != "source"}
    return hashlib.sha256(json.dumps(table, sort_keys=True, default=str).encode()).hexdigest()[:16]


def save_pair(pair: MFCVAE, path: Path, *, config: str = "", data: str = "") -> None:
    """Write all parameters and buffers of a pair, with its event shape.

    Args:
        pair: the pair.
        path: the file.
        config: `config_digest` of its configuration.
        data: fingerprint of the data that it was trained on.
    """
    metadata = {"event_shape": json.dumps(pair.model.event_shape), "config": config, "data": data}
    write_tensors(dict(pair.state_dict()), path, metadata=metadata)


def load_pair(config: Config, path: Path, *, digest: str | None = None) -> MFCVAE:
    """Load the pair that `save_pair` wrote, built from its configuration, on the CPU.

    Raises:
        InputError: the file is damaged, or belongs to another configuration than that of ``digest``.
    """
    tensors, metadata = read_tensors(path, "event_shape")
    _check_config(metadata, digest, path)
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    pair = build_pair(config, _event_shape(metadata, path), stored_bytes=num_bytes)
    check_fit(tensors, pair.state_dict(), path)
    pair.load_state_dict(tensors)
    return pair.eval()


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training on disk, and the previous state, which is used if the last file is damaged.

    Args:
        path: file of the last state.
        config: `config_digest` of the run's configuration.
    """

    path: Path
    config: str = ""

    @property
    def previous_path(self) -> Path:
        return self.path.with_name("previous.safetensors")

    @property
    def exists(self) -> bool:
        """Whether there is a state from which a training can be resumed."""
        return self.path.is_file() or self.previous_path.is_file()

    @property
    def seed(self) -> int | None:
        """The seed of the training; None if the last state cannot be read (`load` then raises the reason)."""
        path = self.path if self.path.is_file() else self.previous_path
        try:
            return int(read_tensors(path, "seed")[1]["seed"])
        except (InputError, ValueError):
            return None

    def save(self, training: Training, *, metrics: str = "") -> None:
        """Write the state after a whole step; the last state becomes the previous one.

        Args:
            training: between two steps.
            metrics: digest of the lines of ``metrics.jsonl`` up to this state.
        """
        ready = self.path.with_name("next.safetensors")
        save_training(training, ready, config=self.config, metrics=metrics)
        with held_signals():
            if self.path.is_file():
                self.path.replace(self.previous_path)
            ready.replace(self.path)

    def sign_for(self, config: str) -> None:
        """Write the digest of another configuration into the last state; the previous state is not changed.

        Raises:
            InputError: the last state is missing, damaged, or belongs to another configuration than this checkpoint.
        """
        tensors, metadata = read_tensors(self.path, "epoch")
        _check_config(metadata, self.config, self.path)
        write_tensors(tensors, self.path, metadata={**metadata, "config": config})

    def load(self, training: Training) -> dict[str, str]:
        """Set a training to the last state, or to the previous state if the last one is damaged; returns the metadata.

        Raises:
            InputError: neither file can be used: each is damaged, or belongs to another configuration or other data.
        """
        if not self.path.is_file():
            metadata = load_training(training, self.previous_path, config=self.config)
            _log.warning("%s is missing: the training resumes from %s", self.path, self.previous_path)
            return metadata
        try:
            return load_training(training, self.path, config=self.config)
        except InputError as error:
            if not self.previous_path.is_file():
                raise
            try:
                metadata = load_training(training, self.previous_path, config=self.config)
            except InputError:
                raise error from None
            _log.warning("%s; the training resumes from %s, one checkpoint earlier", error, self.previous_path)
            return metadata


def save_training(training: Training, path: Path, *, config: str = "", metrics: str = "") -> None:
    """Write the state of a training after a step: parameters, buffers, optimiser, random state, and sums of the
    epoch.
    """
    tensors = {f"pair.{name}": tensor for name, tensor in training.pair.state_dict().items()}
    for index, state in training.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    for index, state in enumerate(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []):
        tensors[f"random.cuda.{index}"] = state
    tensors["epoch.sums"] = training.epoch_sums
    tensors["epoch.elbos"] = torch.tensor(training.course.elbos, dtype=torch.float64)
    tensors |= {f"dependence.{name}": tensor for name, tensor in _moments_of_facets(training).items()}
    metadata = {
        "epoch": str(training.epoch),
        "steps": str(training.steps_taken),
        "data": training.data_fingerprint,
        "config": config,
        "metrics": metrics,
        "learning_rate_factor": repr(training.learning_rate_factor),
        "seed": str(training.seed),
    }
    write_tensors(tensors, path, metadata=metadata)


def load_training(training: Training, path: Path, *, config: str | None = None) -> dict[str, str]:
    """Set a training of the same configuration to the state of `save_training`, from which it continues as if it had
    not stopped.

    Everything is checked before the training is changed.

    Returns:
        The file's metadata.

    Raises:
        InputError: the file is damaged, or belongs to another configuration or other data.
    """
    tensors, metadata = read_tensors(path, "epoch")
    if metadata.get("data") != training.data_fingerprint:
        raise InputError(
            f"expected a checkpoint of a training on the same data (fingerprint {training.data_fingerprint}), got "
            f"{path} with fingerprint {metadata.get('data')}: bring those data back, or start a run in another folder"
        )
    _check_config(metadata, config, path)
    counts = _counts(metadata, training, path)
    kinds = ("pair", "optimizer", "random", "epoch", "dependence")
    groups: dict[str, dict[str, Tensor]] = {kind: {} for kind in kinds}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        if group not in groups:
            raise SpoiledFileError(f"expected no tensor {name!r} in {path}, got one: bring a copy of the file back")
        groups[group][rest] = tensor
    check_fit(groups["pair"], training.pair.state_dict(), path)
    elbos = torch.zeros(counts[0], dtype=torch.float64)
    check_fit(groups["epoch"], {"sums": training.epoch_sums, "elbos": elbos}, path)
    check_fit(groups["dependence"], _moments_of_facets(training), path)
    states = _moments(groups["optimizer"], training, path)
    cuda = _random_states(groups["random"], path)
    training.pair.load_state_dict(groups["pair"])
    training.optimizer.load_state_dict({**training.optimizer.state_dict(), "state": states})
    for name, tensor in _moments_of_facets(training).items():
        tensor.copy_(groups["dependence"][name])
    torch.set_rng_state(groups["random"]["cpu"])
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
    training.restore(*counts, sums=groups["epoch"]["sums"], elbos=groups["epoch"]["elbos"])
    return metadata


def _counts(metadata: dict[str, str], training: Training, path: Path) -> tuple[int, int, float]:
    try:
        epoch, steps, factor = int(metadata["epoch"]), int(metadata["steps"]), float(metadata["learning_rate_factor"])
    except (KeyError, ValueError):
        epoch, steps, factor = -1, 0, 1.0
    if not (0 <= epoch <= training.num_epochs and 0 <= steps < training.steps_per_epoch and 0 < factor <= 1):
        raise SpoiledFileError(
            f"expected a checkpoint within {training.num_epochs} epochs, got {path} with {metadata}: bring a copy "
            "of the file back"
        )
    return epoch, steps, factor


def _moments_of_facets(training: Training) -> dict[str, Tensor]:
    """Name → running moment of the penalty on dependent facets; empty if there is no penalty."""
    dependence = getattr(training.objective, "dependence", None)
    return {} if dependence is None else dict(dependence.named_buffers())


def _moments(tensors: dict[str, Tensor], training: Training, path: Path) -> dict[int, dict[str, Tensor]]:
    """The optimiser's state by parameter. A parameter without a step, or with a fit after the last step, has no
    state.
    """
    parameters = [p for group in training.optimizer.param_groups for p in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        number = int(index) if index.isdecimal() and len(index) < 10 else len(parameters)
        if number >= len(parameters):
            raise InputError(f"expected no tensor 'optimizer.{name}' in {path}, got one: bring a copy of the file back")
        states.setdefault(number, {})[key] = tensor
    for number, state in states.items():
        like = parameters[number]
        check_fit(state, {"step": torch.zeros((), dtype=torch.float32), "exp_avg": like, "exp_avg_sq": like}, path)
        for key in ("exp_avg", "exp_avg_sq"):
            state[key] = torch.empty_like(like).copy_(state[key])  # fused Adam needs the memory layout of the parameter
    return states


def _random_states(states: dict[str, Tensor], path: Path) -> list[Tensor]:
    """The states of the CUDA devices; an empty list if the file has states of fewer devices than this machine has."""
    check_fit({k: v for k, v in states.items() if k == "cpu"}, {"cpu": torch.get_rng_state()}, path)
    here = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    names = [f"cuda.{index}" for index in range(len(here))]
    if not names or any(name not in states for name in names):
        return []
    found = {name: states[name] for name in names}
    check_fit(found, dict(zip(names, here, strict=True)), path)
    return list(found.values())


def _check_config(metadata: dict[str, str], digest: str | None, path: Path) -> None:
    # in a file that was saved outside of a run it is ""
    if digest is not None and metadata.get("config") not in ("", digest):
        raise InputError(
            f"expected {path} of the settings in config.toml beside it (digest {digest}), got one of other settings "
            f"(digest {metadata.get('config')}): bring back the config.toml, or the file, of this run"
        )


def _event_shape(metadata: dict[str, str], path: Path) -> tuple[int, ...]:
    if (shape := parse_shape(metadata["event_shape"])) is None:
        raise SpoiledFileError(
            f"expected the shape of an item in {path}, got {metadata['event_shape'][:40]!r}: bring a copy of "
            "the file back"
        )
    return shape
