"""Images in the page: each row or table of images is one picture in a data URI."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Width of an image on the screen, in pixels.
_TILE = 44

# Images up to this width are compressed without loss; larger images are regarded as photographs and compressed with
# loss.
_MOST_EXACT = 32


@dataclass(frozen=True)
class Strip:
    """A picture of several images.

    Attributes:
        source: data URI.
        alt: a description in words.
        width: width on the screen, in pixels.
        is_pixelated: whether pixels are shown as squares.
    """

    source: str
    alt: str
    width: int
    is_pixelated: bool


def draw_strip(images: Sequence[NDArray[np.float64]], *, alt: str) -> Strip | None:
    """Draw images (H, W, 3) in [0, 1] side by side; None if there are no images."""
    return draw_table([images], alt=alt) if len(images) else None


def draw_table(rows: Sequence[Sequence[NDArray[np.float64] | None]], *, alt: str) -> Strip:
    """Draw images (H, W, 3) in [0, 1] as a table, with an empty place for None. Empty places and gaps are
    transparent.
    """
    from PIL import Image

    height, width = next(image for row in rows for image in row if image is not None).shape[:2]
    gap = max(1, round(width / 14))
    columns = max(map(len, rows))
    canvas = np.zeros((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            if image is not None:
                place = canvas[r * (height + gap) :][:height, c * (width + gap) :][:, :width]
                place[..., :3] = (image.clip(0, 1) * 255).round()
                place[..., 3] = 255
    exact = width <= _MOST_EXACT
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "webp", lossless=exact, quality=85)
    source = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
    return Strip(source, alt, columns * _TILE, exact)
