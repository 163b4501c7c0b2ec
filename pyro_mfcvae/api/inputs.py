"""Items in common containers: arrays, tensors, tables, PyTorch data sets and loaders."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from pyro_mfcvae.errors import InputError

_IMAGE_DIM = 2  # an entry of a list is an image if it has rows and columns


def to_array(items: Any) -> Any:
    """Convert a tensor, a list of images, a PyTorch data set or a loader to one NumPy array.

    The items of a data set may be tensors, arrays or images, or pairs of such an item and a label, which is ignored. A
    loader gives batches of such items. Everything else is returned unchanged.

    Raises:
        InputError: a data set has no items or items of different shapes, or a path was given.
    """
    if isinstance(items, str | Path):
        raise InputError(
            f"expected items in memory, got the path {str(items)!r}: pyro_mfcvae.fit and mfcvae fit read files and "
            "folders"
        )
    if isinstance(items, Tensor):
        return items.detach().cpu().numpy()
    if isinstance(items, list | tuple) and items and np.ndim(items[0]) >= _IMAGE_DIM:
        return _join([_first(item) for item in items], np.stack)
    if isinstance(items, DataLoader):
        return _join([_first(batch) for batch in items], np.concatenate)
    if isinstance(items, IterableDataset):
        return _join([_first(item) for item in items], np.stack)
    if isinstance(items, Dataset):
        return _join([_first(items[i]) for i in range(len(items))], np.stack)  # type: ignore[arg-type]
    return items


def to_labels(labels: Any) -> NDArray[Any]:
    """Labels as an array. Objects, such as those in a pandas table, are numbered by their text; a missing label
    (None, NaN, NA) becomes −1.
    """
    array = np.asarray(to_array(labels))
    if array.dtype.kind != "O":
        return array
    import pandas

    known = ~np.asarray(pandas.isna(array))
    numbers = np.full(array.shape, -1)
    numbers[known] = np.unique(array[known].astype(str), return_inverse=True)[1]
    return numbers


def _first(item: Any) -> NDArray[Any]:
    """The item of a pair of item and label, or of a dictionary with the key "image", "x" or "pixel_values"."""
    if isinstance(item, dict):
        name = next((name for name in ("image", "x", "pixel_values") if name in item), None)
        if name is None:
            raise InputError(
                f"expected an item under 'image', 'x' or 'pixel_values', got {', '.join(item)}: name it so"
            )
        item = item[name]
    if isinstance(item, tuple | list):
        item = item[0]
    return item.detach().cpu().numpy() if isinstance(item, Tensor) else np.asarray(item)


def _join(parts: list[NDArray[Any]], join: Any) -> NDArray[Any]:
    if not parts:
        raise InputError("expected at least one item, got an empty data set: check its folder or its filter")
    shapes = {part.shape[join is np.concatenate :] for part in parts}
    if len(shapes) > 1:
        raise InputError(
            f"expected items of one shape, got {' and '.join(map(str, sorted(shapes)[:3]))}: resize them in the "
            f"transform of the data set"
        )
    joined: NDArray[Any] = join(parts)
    return joined


def is_image_array(items: Any) -> bool:
    """Whether an array holds images: it has three or four dimensions."""
    return getattr(items, "ndim", 0) in (3, 4)


def to_tensor(vectors: NDArray[Any]) -> Tensor:
    """Vectors as a tensor of torch's default type.

    Raises:
        InputError: they contain something other than numbers.
    """
    if vectors.dtype.kind not in "biuf":
        try:
            vectors = vectors.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"expected numbers, got others ({error}): leave out or encode such columns") from None
    return torch.as_tensor(np.ascontiguousarray(vectors), dtype=torch.get_default_dtype())
