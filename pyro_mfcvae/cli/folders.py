"""The folders that a command writes to, held until it ends. Nothing here imports torch."""

import os
from contextlib import ExitStack
from pathlib import Path

from pyro_mfcvae.locks import claimed, claimed_next, locked

held = ExitStack()
"""The locks of the command's folders; the entry point ends them."""


def hold(folder: Path, world_size: int = 1) -> Path:
    """Hold a folder that may have files.

    Args:
        folder: to hold.
        world_size: how many processes train as one; the first of them holds the folder.
    """
    if _is_first(world_size):
        held.enter_context(locked(folder))
    return folder


def claim(out: Path | None, name: str, world_size: int = 1, *, kind: str = "") -> Path:
    """Hold a new folder, by default one below runs/ that is called after the data."""
    stem = Path("runs") / (Path(name).resolve().stem + kind)
    if not _is_first(world_size):  # writes nothing
        return out or stem
    return held.enter_context(claimed_next(stem) if out is None else claimed(out))


def _is_first(world_size: int) -> bool:
    """Whether this process is the first of those that train as one, before they have met: it alone writes."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return world_size == 1 or int(next((rank for rank in ranks if rank is not None), "0")) == 0
