"""Items in common containers: arrays, tensors, tables, PyTorch data sets and loaders."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from pyro_mfcvae.errors import InputError


def to_array(items: Any) -> Any:
    """Convert a tensor, a PyTorch data set or a loader to one NumPy array; return everything else as it is.

    A data set's items may be tensors, arrays or images, or pairs of such an item and a label, which is left out. A
    loader gives batches of them.

    Raises:
        InputError: a data set has no items, or items of different shapes.
    """
    if isinstance(items, Tensor):
        return items.detach().cpu().numpy()
    if isinstance(items, DataLoader):
        return _join([_first(batch) for batch in items], np.concatenate)
    if isinstance(items, IterableDataset):
        return _join([_first(item) for item in items], np.stack)
    if isinstance(items, Dataset):
        return _join([_first(items[i]) for i in range(len(items))], np.stack)  # type: ignore[arg-type]
    return items


def _first(item: Any) -> NDArray[Any]:
    """The item from a pair of item and label, or from a dictionary that has it under "image", "x" or "pixel_values"."""
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
            f"expected items of one shape, got {' and '.join(map(str, sorted(shapes)[:3]))}: resize them in the data "
            "set's transform"
        )
    joined: NDArray[Any] = join(parts)
    return joined


def is_image_array(items: Any) -> bool:
    """Whether an array holds images: three dimensions or four."""
    return getattr(items, "ndim", 0) in (3, 4)


def to_tensor(vectors: NDArray[Any]) -> Tensor:
    """Vectors as a tensor of torch's default type."""
    return torch.as_tensor(np.ascontiguousarray(vectors), dtype=torch.get_default_dtype())
