"""Load pairs from files of `MFCVAE.save`. Each file contains its configuration, and no pickle is read."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as deserialize

from pyro_mfcvae.atomic_io import read_bytes
from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.text import read_config
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.safety.json_files import parse_shape


def load_pair_file(path: str | Path) -> MFCVAE:
    """Load the pair of a file, on the CPU, in evaluation mode and in the precision in which it was saved.

    Raises:
        InputError: the file is missing, cannot be read, or was not written by `MFCVAE.save`.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"expected the file of a model, got {path}, which is not a file: give the path of one")
    return pair_from_bytes(read_bytes(path), source=str(path))


def pair_from_bytes(content: bytes, *, source: str = "the bytes of a model") -> MFCVAE:
    """The pair in the bytes of `MFCVAE.to_bytes`; error messages call the bytes ``source``."""
    try:
        tensors = deserialize(content)
        # Eight bytes hold the length of the header, which is JSON (the format's own specification).
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"expected safetensors in {source}, got other bytes ({error}): save it again") from None
    metadata = header.get("__metadata__") or {}
    if not {"recipe", "event_shape"} <= metadata.keys():
        raise InputError(
            f"expected what pair.save wrote in {source}, got tensors without the configuration of their model: give "
            f"the run's folder instead"
        )
    config = read_config(metadata["recipe"], source=source)
    if (shape := parse_shape(metadata["event_shape"])) is None:
        raise InputError(
            f"expected the shape of an item in {source}, got {metadata['event_shape'][:40]!r}: save it again"
        )
    pair = build_pair(config, shape, stored_bytes=len(content))
    if "model.alpha" in tensors:
        pair.to(tensors["model.alpha"].dtype)
    try:
        pair.load_state_dict(tensors)
    except RuntimeError as error:
        first = next((line.strip() for line in str(error).splitlines()[1:]), "")
        raise InputError(
            f"expected the tensors of its configuration in {source}, got other tensors ({first}): save it again"
        ) from None
    return pair.eval()
