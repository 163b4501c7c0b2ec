"""The built-in data set: light figures on coloured backgrounds, generated when needed.

There are two facets, which are independent by construction: the *shape* of the figure and the *hue* of the background.
Place, size, angle and shades vary independently of both.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_mfcvae.errors import InputError

SHAPES = ("disk", "square", "triangle", "cross")
"""Names of the values of label ``shape``, in order."""

HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")
"""Names of the values of label ``hue``, in order; hue number i is at 60·i degrees of the colour circle."""

_REFERENCE_SIZE = 32  # lengths in Jitter are in pixels of a picture of this width
_CHUNK = 1024  # pictures drawn at once: about 25 MB of work space at 32 by 32


@dataclass(frozen=True)
class Jitter:
    """The variation within one class of one facet; every quantity is uniform and independent of all others.

    With the defaults each figure lies completely inside the picture, so figures with the same ``radius`` have the same
    area.

    Args:
        centre: largest shift of the centre along each axis, in pixels of a 32 by 32 picture.
        radius: lowest and highest radius of the disk with the figure's area, in pixels of a 32 by 32 picture.
        angle: largest rotation to either side, in degrees.
        hue: largest shift of the ground's hue to either side, in degrees of the colour circle.
        saturation: lowest and highest saturation of the ground, in [0, 1].
        value: lowest and highest value (HSV) of the ground, in [0, 1].
        brightness: lowest and highest grey of the figure, in [0, 1].
    """

    centre: float = 2.0
    radius: tuple[float, float] = (7.0, 8.5)
    angle: float = 15.0
    hue: float = 10.0
    saturation: tuple[float, float] = (0.7, 1.0)
    value: tuple[float, float] = (0.5, 0.75)
    brightness: tuple[float, float] = (0.88, 1.0)


def draw_shapes(
    num: int, *, seed: int = 0, size: int = 32, jitter: Jitter | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw ``num`` pictures: pixel = coverage · figure + (1 - coverage) · ground, both labels uniform and independent.

    Coverage is clamp(½ - d, 0, 1), where d is the signed distance in pixels between the centre of the pixel and the
    edge of the figure; this makes smooth edges. All figures of one radius r have the area π r², so the mean brightness
    does not depend on the shape. The same arguments always give the same pictures.

    Args:
        num: number of pictures, at least 1.
        seed: seed of the random generator, from 0 to 2**32 - 1.
        size: height and width in pixels, at least 8.
        jitter: the variation within a class; ``Jitter()`` if None.

    Returns:
        images, uint8 of shape (num, 3, size, size), and the labels ``shape`` and ``hue``, int64 of shape (num,), which
        index SHAPES and HUES.

    Raises:
        InputError: if ``num`` or ``size`` is too small or ``seed`` outside its range.
    """
    if num < 1:
        raise InputError(f"expected at least one picture to draw, got num={num}; ask for num=1 or more")
    if size < 8:
        raise InputError(
            f"expected pictures of at least 8 by 8 pixels, got size={size}; smaller figures all look the same"
        )
    if not 0 <= seed < 2**32:
        raise InputError(
            f"expected a seed from 0 to 2**32 - 1, got {seed}; torch would cut it to 32 bits without a warning"
        )
    jitter = jitter or Jitter()
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(num, generator=generator, dtype=torch.float32)

    shape = torch.randint(len(SHAPES), (num,), generator=generator)
    hue = torch.randint(len(HUES), (num,), generator=generator)
    pixel = size / _REFERENCE_SIZE
    pose = torch.stack(
        [
            uniform(-jitter.centre, jitter.centre) * pixel,
            uniform(-jitter.centre, jitter.centre) * pixel,
            uniform(*jitter.radius) * pixel,
            uniform(-jitter.angle, jitter.angle).deg2rad(),
        ],
        dim=-1,
    )
    ground = _hsv_to_rgb(
        hue.float() * (360 / len(HUES)) + uniform(-jitter.hue, jitter.hue),
        uniform(*jitter.saturation),
        uniform(*jitter.value),
    )
    figure = uniform(*jitter.brightness)

    # All random numbers are drawn above, and in float32, so that the pictures depend neither on the size of the chunks
    # nor on torch's default dtype.
    return _paint(shape, pose, ground, figure, size), {"shape": shape, "hue": hue}


def _paint(shape: Tensor, pose: Tensor, ground: Tensor, figure: Tensor, size: int) -> Tensor:
    """Pictures, uint8 (N, 3, size, size), of figures with a pose (N, 4) and a grey (N,) on grounds (N, 3)."""
    num = len(shape)
    images = torch.empty(num, 3, size, size, dtype=torch.uint8)
    for start in range(0, num, _CHUNK):
        part = slice(start, start + _CHUNK)
        cover = _coverage(shape[part], pose[part], size)[:, None]
        colour = torch.lerp(ground[part, :, None, None], figure[part, None, None, None], cover)
        images[part] = (colour * 255).round().to(torch.uint8)
    return images


def _disk(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.hypot(x, y) - r


def _square(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    half_side = math.sqrt(math.pi / 4) * r  # (2 h)² = π r²
    return torch.maximum(x.abs(), y.abs()) - half_side


def _triangle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    inradius = math.sqrt(math.pi / (3 * math.sqrt(3))) * r  # equilateral: 3√3 ρ² = π r²
    sides = torch.maximum(y, math.sqrt(3) / 2 * x.abs() - y / 2)  # y grows downwards, so the tip points up
    return sides - inradius


def _cross(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    length = math.sqrt(math.pi * 9 / 20) * r  # half-length l, half-width l/3: 8 l·l/3 - 4 (l/3)² = π r²
    x, y = x.abs(), y.abs()
    return torch.maximum(torch.maximum(x, y) - length, torch.minimum(x, y) - length / 3)


_DISTANCES: tuple[Callable[[Tensor, Tensor, Tensor], Tensor], ...] = (_disk, _square, _triangle, _cross)


def _coverage(shape: Tensor, pose: Tensor, size: int) -> Tensor:
    """Share of each pixel that the figure covers, (N, size, size), from pose (N, 4): centre x, y, radius, angle."""
    axis = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    centre_x, centre_y, radius, angle = pose[:, :, None, None].unbind(dim=1)
    x, y = axis - centre_x, axis[:, None] - centre_y
    x, y = angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x
    cover = torch.empty_like(x)
    for index, distance in enumerate(_DISTANCES):
        chosen = shape == index
        cover[chosen] = (0.5 - distance(x[chosen], y[chosen], radius[chosen])).clamp(0, 1)
    return cover


def _hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Colours (N, 3) in [0, 1]: channel = v - v·s·clamp(min(k, 4 - k), 0, 1), k = (n + hue/60) mod 6, n = 5, 3, 1."""
    k = (hue.new_tensor([5.0, 3.0, 1.0]) + hue[:, None] / 60) % 6
    fall = torch.minimum(k, 4 - k).clamp(0, 1)
    return value[:, None] * (1 - saturation[:, None] * fall)
