"""Saving and restoring, as safetensors: no pickle is ever written or read, and every file is replaced atomically."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyro_mfcvae.atomic_io import write_atomically
from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.train.training import Training


def save_pair(pair: MFCVAE, path: Path) -> None:
    """All parameters and buffers of a pair; the file also says for which event shape it is."""
    _save(dict(pair.state_dict()), path, event_shape=json.dumps(pair.model.event_shape))


def load_pair(config: Config, path: Path) -> MFCVAE:
    """The pair that `save_pair` wrote, built from its configuration, on the CPU."""
    tensors, metadata = _load(path, "event_shape")
    pair = build_pair(config, json.loads(metadata["event_shape"]))
    _fill(pair, tensors, path)
    return pair.eval()


def save_training(training: Training, path: Path) -> None:
    """The whole state of a training at an epoch's end: parameters, buffers, optimiser and random state."""
    tensors = {f"pair.{name}": tensor for name, tensor in training.pair.state_dict().items()}
    for index, state in training.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    for index, state in enumerate(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []):
        tensors[f"random.cuda.{index}"] = state
    _save(tensors, path, epoch=str(training.epoch), data=training.data_fingerprint)


def load_training(training: Training, path: Path) -> None:
    """Put a training of the same configuration where `save_training` left one: it goes on as if it had not stopped.

    Raises:
        InputError: the file is spoiled, of another configuration, or of a training on other data.
    """
    tensors, metadata = _load(path, "epoch")
    if metadata.get("data") != training.data_fingerprint:
        raise InputError(
            f"{path} is of a training on other data (fingerprint {metadata.get('data')}, now "
            f"{training.data_fingerprint}): bring those back, or start a run in another folder"
        )
    groups: dict[str, dict[str, Tensor]] = {"pair": {}, "optimizer": {}, "random": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        groups[group][rest] = tensor
    _fill(training.pair, groups["pair"], path)
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in groups["optimizer"].items():
        index, _, key = name.partition(".")
        states.setdefault(int(index), {})[key] = tensor
    training.optimizer.load_state_dict({**training.optimizer.state_dict(), "state": states})
    torch.set_rng_state(groups["random"].pop("cpu"))
    if torch.cuda.is_available() and groups["random"]:
        torch.cuda.set_rng_state_all([groups["random"][f"cuda.{i}"] for i in range(len(groups["random"]))])
    training.epoch = int(metadata["epoch"])


def _save(tensors: dict[str, Tensor], path: Path, **metadata: str) -> None:
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: save_file(contiguous, temporary, metadata=metadata or None))


def _load(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file, whose metadata must have the key that tells what kind of file it is."""
    if not path.is_file():
        raise InputError(f"expected the saved tensors {path}, which is not there")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise InputError(
            f"{path} is not a readable safetensors file: {error}; bring it back (mfcvae fit --resume writes a "
            "model.safetensors again)"
        ) from None
    if key not in metadata:
        raise InputError(f"{path} holds other tensors: expected the metadata {key!r}, as mfcvae fit writes them")
    return tensors, metadata


def _fill(pair: MFCVAE, tensors: dict[str, Tensor], path: Path) -> None:
    try:
        pair.load_state_dict(tensors)
    except RuntimeError as error:
        told = next((line.strip() for line in str(error).splitlines()[1:]), "")
        raise InputError(
            f"{path} does not fit its configuration: {told}; bring back the config.toml that it was trained with"
        ) from None
