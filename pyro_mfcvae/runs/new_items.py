"""New items for a run: their conversion to the form of the training items, and the evidence below which an item is
unlike these.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pyro_mfcvae.data.images import Size, Split, to_channels
from pyro_mfcvae.data.limits import reading
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.safety.parquet_files import check_parquet

# An item is unlike the training items if its evidence is below this quantile of the training items' evidence.
_UNLIKE_QUANTILE = 0.001

REWRITE = "mfcvae assign RUN --format parquet writes it again"
"""What to do if a run's ``assignments.parquet`` cannot be used, for error messages."""


def image_size(event_shape: Sequence[int]) -> Size | None:
    """Height and width to which new images are resized; None if the items are vectors."""
    return (event_shape[1], event_shape[2]) if len(event_shape) == 3 else None


def prepare_like(split: Split, event_shape: Sequence[int]) -> Split:
    """Convert items to the number of channels that a model was trained on: grey becomes RGB, colours become grey, and
    transparency is dropped.

    Raises:
        InputError: the items differ from the training items in more than the channels.
    """
    images = split.images
    if images.ndim == 4 and len(event_shape) == 3 and images.shape[1] != event_shape[0]:
        images = to_channels(images, event_shape[0])
    if tuple(images.shape[1:]) != tuple(event_shape):
        raise InputError(
            f"expected items of shape {tuple(event_shape)}, which the run was trained on, got "
            f"{tuple(split.images.shape[1:])}: choose data of that shape"
        )
    return replace(split, images=images)


def lowest_alike(path: Path) -> float:
    """The evidence below which an item is unlike the training items; 99.9 % of the training items have a higher
    evidence.

    The result is minus infinity if the file does not exist.

    Args:
        path: the run's ``assignments.parquet``.
    """
    import pyarrow.parquet as pq

    if not path.is_file():
        return -math.inf
    check_parquet(path, cure=REWRITE)
    with reading(path, REWRITE):
        return float(np.quantile(pq.read_table(path, columns=["evidence"])["evidence"].to_numpy(), _UNLIKE_QUANTILE))
