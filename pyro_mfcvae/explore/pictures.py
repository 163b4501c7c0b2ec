"""PNG pictures: thumbnails of items, and the map of a facet's latent space."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

MAP_WIDTH, MAP_HEIGHT = 720, 480
_THUMBNAIL = 96
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
_BAR_HEIGHT = 32
_FEWEST_FOR_SMALL_DOTS = 8_000


def to_image(item: Tensor | NDArray[np.generic]) -> Image.Image:
    """A picture of one item.

    Args:
        item: (C, H, W) with 1, 3 or 4 channels, uint8 or floats in [0, 1], where NaN is a missing pixel; or a vector
            (p,), which is drawn as one bar per feature, scaled from its smallest to its largest value.
    """
    pixels = np.asarray(item.cpu() if isinstance(item, Tensor) else item)
    if pixels.ndim == 1:
        pixels = _draw_bars(pixels)[None]
    if pixels.dtype != np.uint8:
        pixels = (np.nan_to_num(np.clip(pixels, 0, 1), nan=0.5) * 255).round().astype(np.uint8)
    if len(pixels) in (3, 4):
        return Image.fromarray(np.ascontiguousarray(pixels[:4].transpose(1, 2, 0)))
    return Image.fromarray(np.ascontiguousarray(pixels[0]))


def to_png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def to_data_uri(item: Tensor | NDArray[np.generic], size: int = _THUMBNAIL) -> str:
    """A data URI with a PNG of one item; items larger than ``size`` pixels are reduced to this size."""
    image = to_image(item)
    if max(image.size) > size:
        image.thumbnail((size, size), Image.Resampling.BOX)
    return "data:image/png;base64," + base64.b64encode(to_png(image)).decode()


def colour_of(group: int) -> str:
    """The colour of a group on the map and in the tree, as #rrggbb: six fixed colours, then hues around the colour
    circle."""
    if group < len(_COLOURS):
        return _COLOURS[group]
    hue = (group * 0.618034) % 1
    channels = [0.5 + 0.35 * np.cos(2 * np.pi * (hue + shift)) for shift in (0, 1 / 3, 2 / 3)]
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)


def draw_map(points: NDArray[np.float64], groups: NDArray[np.int64]) -> bytes:
    """A PNG of all items as dots in the colour of their group on a transparent background.

    Args:
        points: (N, 2) in [0, 1]; the second axis points up.
        groups: (N,).
    """
    palette = np.array([_channels(colour_of(g)) for g in range(int(groups.max(initial=0)) + 1)], dtype=np.uint8)
    canvas = np.zeros((MAP_HEIGHT, MAP_WIDTH, 4), np.uint8)
    radius = 1 if len(points) >= _FEWEST_FOR_SMALL_DOTS else 2
    columns = np.rint(points[:, 0] * (MAP_WIDTH - 1)).astype(int)
    rows = np.rint((1 - points[:, 1]) * (MAP_HEIGHT - 1)).astype(int)
    for down in range(-radius + 1, radius + 1):
        for right in range(-radius + 1, radius + 1):
            y, x = np.clip(rows + down, 0, MAP_HEIGHT - 1), np.clip(columns + right, 0, MAP_WIDTH - 1)
            canvas[y, x, :3] = palette[groups]
            canvas[y, x, 3] = 230
    return to_png(Image.fromarray(canvas))


def is_inside(points: NDArray[np.float64], corners: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
    """Whether each of the points (N, 2) lies inside a polygon, by the even-odd rule, (N,)."""
    x, y = points.T
    inside = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _draw_bars(values: NDArray[np.generic]) -> NDArray[np.float64]:
    numbers = np.asarray(values, np.float64)
    low, high = np.nanmin(numbers), np.nanmax(numbers)
    heights = np.nan_to_num((numbers - low) / max(high - low, 1e-12)) * (_BAR_HEIGHT - 1)
    levels = np.arange(_BAR_HEIGHT)[::-1, None]
    return np.where(levels <= heights, 0.25, 1.0)
