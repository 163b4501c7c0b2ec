"""Statistics of images for predictive checks, because comparisons of single pixels would show little."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.compilation import first_line

Statistic = Callable[[Tensor], Tensor]
"""Function that maps items (…, *event_shape) to one number per item, (…)."""


def statistics_for(event_shape: Sequence[int]) -> dict[str, Statistic]:
    """The statistics for items of a shape: mean and contrast for all items, also edges and strokes for images."""
    num_dims = len(event_shape)
    chosen: dict[str, Statistic] = {
        "mean": lambda x: x.flatten(-num_dims).mean(-1),
        "contrast": lambda x: x.flatten(-num_dims).std(-1, correction=0),
    }
    if num_dims == 3 and min(event_shape[1:]) > 1:
        chosen["edge_energy"] = edge_energy
        if event_shape[0] == 1:
            chosen["stroke_width"] = stroke_width
    return chosen


def check_statistics(statistics: Mapping[str, Statistic], event_shape: Sequence[int]) -> None:
    """Refuse a statistic that does not give a number per item, or that has the name of the items."""
    items = torch.zeros(2, 3, *event_shape)  # with leading dimensions for draws and items
    for name, statistic in statistics.items():
        if name == "x":
            raise InputError(
                "expected a statistic that is not called 'x', like the items, got one: give it another name"
            )
        try:
            found = statistic(items)
        except Exception as error:  # a custom function may raise any exception
            raise InputError(
                f"expected a statistic {name!r} of tensors of shape {tuple(items.shape)}, got {type(error).__name__}: "
                f"{first_line(error)}"
            ) from error
        if not isinstance(found, Tensor) or found.shape != (2, 3):
            what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise InputError(
                f"expected a number per item from the statistic {name!r}, shape (2, 3) for {tuple(items.shape)}, got "
                f"{what}: reduce only the last {len(event_shape)} dimensions"
            )


def edge_energy(images: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, vertically and horizontally: (…, C, H, W) → (…)."""
    return sum((d.square().flatten(-3).mean(-1) for d in _differences(images)), images.new_zeros(()))


def stroke_width(images: Tensor) -> Tensor:
    """Width of light strokes on black, in pixels: the ink divided by half of the length of its outline, (…, 1, H, W) →
    (…).

    A stroke of width w and length l ≫ w has the ink w l and an outline of length 2 l. The outline is measured along
    rows and columns, so for a slanted stroke it is up to √2 times too long. Use this statistic to compare images, not
    to measure lengths.
    """
    outline = sum((d.abs().flatten(-3).sum(-1) for d in _differences(images)), images.new_zeros(()))
    return 2 * images.flatten(-3).sum(-1) / outline.clamp(min=1e-6)


def _differences(images: Tensor) -> tuple[Tensor, Tensor]:
    return images.diff(dim=-2), images.diff(dim=-1)
