"""Rendered rooms like those of the 3D Shapes data (Burgess and Kim 2018), for use without that file.

A solid stands on the floor of a room. Floor hue, wall hue, object hue, scale and shape of the solid, and the
orientation of the camera vary, each with the same number of values as in 3D Shapes. The pictures are not those of 3D
Shapes, so never report results on them as results on 3D Shapes.
"""

import colorsys
import math
from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor

from pyro_mfcvae.errors import InputError

FACTORS: dict[str, int] = {
    "floor_hue": 10,
    "wall_hue": 10,
    "object_hue": 10,
    "scale": 8,
    "shape": 4,
    "orientation": 15,
}
"""The factors of a scene in their order, and the number of values of each."""

SOLIDS = ("cube", "cylinder", "sphere", "capsule")
"""Names of the values of the factor ``shape``, in order."""

_SCALES = (0.75, 1.25)  # lowest and highest scale
_ORIENTATIONS = (-30.0, 30.0)  # degrees; the camera turns around the solid
_ROOM = 3.4  # half of the width of the room, in units in which a solid of scale 1 is 2 wide
_CAMERA = (3.3, 2.2)  # distance from the solid's axis, and height
_LOOKS_AT = 0.85  # height
_FIELD = 0.62  # tangent of half the field of view
_LIGHT = (0.35, -0.6, 0.72)  # direction to the light, as seen from the camera
_AMBIENT = 0.45
_SAMPLES = 2  # rays per pixel along each axis

Hit = tuple[Tensor, Tensor]
"""Distances along the rays, infinite where they miss, and unit normals (…, 3)."""


def render_scenes(factors: Mapping[str, Tensor], *, size: int = 32) -> Tensor:
    """Render scenes: pixel = sum over floor, wall, solid of (share of the pixel's rays · shade) · colour(hue).

    Args:
        factors: for every name in FACTORS the scenes' values, integers of shape (N,); hue number i of 10 is 36·i
            degrees of the colour circle.
        size: height and width in pixels.

    Returns:
        uint8 of shape (N, 3, size, size).

    Raises:
        InputError: a factor is missing or out of range.
    """
    if factors.keys() != FACTORS.keys():
        raise InputError(f"expected the factors {', '.join(FACTORS)}, got {', '.join(factors)}")
    for name, num_values in FACTORS.items():
        if factors[name].min() < 0 or factors[name].max() >= num_values:
            raise InputError(f"expected values 0 … {num_values - 1} of {name}, got {factors[name].tolist()}")
    hues = torch.stack([factors[f"{part}_hue"] for part in ("floor", "wall", "object")], -1)
    palette = torch.stack([_vector(*colorsys.hsv_to_rgb(i / 10, 0.85, 1.0)) for i in range(10)])
    geometry = torch.stack([factors["shape"], factors["scale"], factors["orientation"]], -1)
    distinct, which = geometry.unique(dim=0, return_inverse=True)
    shades = torch.stack([_shades(*values, size) for values in distinct.tolist()])  # (M, 3, size, size)
    images = torch.empty(len(hues), 3, size, size, dtype=torch.uint8)
    for part in torch.arange(len(hues)).split(1024):
        pixels = torch.einsum("nphw,npc->nchw", shades[which[part]], palette[hues[part]])
        images[part] = (255 * pixels).round().to(torch.uint8)
    return images


def draw_scenes(num: int, *, seed: int = 0, size: int = 32) -> tuple[Tensor, dict[str, Tensor]]:
    """Render ``num`` ≥ 1 scenes whose factors are all uniform and independent; returns the images and the factors."""
    if num < 1:
        raise InputError(f"expected at least one scene to draw, got num={num}; ask for num=1 or more")
    generator = torch.Generator().manual_seed(seed)
    factors = {name: torch.randint(values, (num,), generator=generator) for name, values in FACTORS.items()}
    return render_scenes(factors, size=size), factors


@cache
def _shades(shape: int, scale: int, orientation: int, size: int) -> Tensor:
    """Shade of floor, wall and solid in every pixel, 0 where a part is hidden, (3, size, size)."""
    origin, directions = _rays(math.radians(_at(orientation, 15, _ORIENTATIONS)), size * _SAMPLES)
    solid = tuple(_SOLIDS.values())[shape](origin, directions, _at(scale, 8, _SCALES))
    hits = (_hit_plane(origin, directions, 2, 0.0), _hit_walls(origin, directions), solid)
    nearest = torch.stack([distance for distance, _ in hits]).argmin(0)
    light = _vector(*_LIGHT) / math.hypot(*_LIGHT)
    parts = []
    for index, (_, normal) in enumerate(hits):
        lit = _AMBIENT + (1 - _AMBIENT) * (normal @ light).clamp_min(0)
        parts.append(torch.where(nearest == index, lit, 0.0))
    return torch.nn.functional.avg_pool2d(torch.stack(parts), _SAMPLES)


def _vector(*values: float) -> Tensor:
    """A vector in float64, so that the pictures do not depend on torch's default type."""
    return torch.tensor(values, dtype=torch.float64)


def _at(index: int, num: int, ends: tuple[float, float]) -> float:
    """Value number ``index`` of ``num`` evenly spaced values."""
    return ends[0] + (ends[1] - ends[0]) * index / (num - 1)


def _rays(angle: float, size: int) -> tuple[Tensor, Tensor]:
    """The position of the camera (3,) and a unit direction for every pixel (size, size, 3); x points right, y away
    from the camera, z up.
    """
    distance, height = _CAMERA
    origin = _vector(distance * math.sin(angle), -distance * math.cos(angle), height)
    forward = torch.nn.functional.normalize(_vector(0.0, 0.0, _LOOKS_AT) - origin, dim=0)
    right = _vector(math.cos(angle), math.sin(angle), 0.0)
    upward = torch.linalg.cross(right, forward)
    ticks = ((torch.arange(size, dtype=torch.float64) + 0.5) / size * 2 - 1) * _FIELD
    across, down = torch.meshgrid(ticks, ticks, indexing="xy")
    directions = forward + across[..., None] * right - down[..., None] * upward
    return origin, torch.nn.functional.normalize(directions, dim=-1)


def _hit_plane(origin: Tensor, directions: Tensor, axis: int, at: float) -> Hit:
    """The plane where coordinate ``axis`` is ``at``."""
    distance = (at - origin[axis]) / directions[..., axis]
    normal = torch.zeros_like(directions)
    normal[..., axis] = (origin[axis] - at).sign()
    return torch.where(distance > 0, distance, math.inf), normal


def _hit_walls(origin: Tensor, directions: Tensor) -> Hit:
    """The left, right and back wall, which are infinitely high."""
    return _nearest(*(_hit_plane(origin, directions, axis, at) for axis, at in ((0, -_ROOM), (0, _ROOM), (1, _ROOM))))


def _hit_box(origin: Tensor, directions: Tensor, scale: float) -> Hit:
    """A cube on the floor, edge 1.6 · scale."""
    half = 0.8 * scale
    centre = _vector(0.0, 0.0, half)
    towards = (centre - origin) / directions
    reach = half / directions.abs()
    entry, axis = (towards - reach).max(-1)
    hits = entry < (towards + reach).amin(-1)
    normal = torch.nn.functional.one_hot(axis, 3) * -directions.sign()
    return torch.where(hits, entry, math.inf), normal


def _hit_sphere(origin: Tensor, directions: Tensor, radius: float, height: float) -> Hit:
    """A sphere with its centre on the axis."""
    offset = origin - _vector(0.0, 0.0, height)
    along = directions @ offset
    inside = along.square() - (offset.square().sum() - radius**2)
    distance = -along - inside.clamp_min(0).sqrt()
    normal = (offset + distance[..., None] * directions) / radius
    return torch.where(inside > 0, distance, math.inf), normal


def _hit_tube(origin: Tensor, directions: Tensor, radius: float, ends: tuple[float, float]) -> Hit:
    """The side of an upright cylinder around the axis."""
    a = directions[..., :2].square().sum(-1)
    b = directions[..., :2] @ origin[:2]
    inside = b.square() - a * (origin[:2].square().sum() - radius**2)
    distance = (-b - inside.clamp_min(0).sqrt()) / a
    place = origin + distance[..., None] * directions
    hits = (inside > 0) & (place[..., 2] > ends[0]) & (place[..., 2] < ends[1])
    normal = torch.cat([place[..., :2] / radius, torch.zeros_like(place[..., :1])], -1)
    return torch.where(hits, distance, math.inf), normal


def _hit_cylinder(origin: Tensor, directions: Tensor, scale: float) -> Hit:
    """A cylinder with its lid, of radius 0.85 · scale and height 1.6 · scale."""
    radius, height = 0.85 * scale, 1.6 * scale
    distance, normal = _hit_plane(origin, directions, 2, height)
    place = origin + distance[..., None] * directions
    lid = torch.where(place[..., :2].square().sum(-1) < radius**2, distance, math.inf), normal
    return _nearest(_hit_tube(origin, directions, radius, (0.0, height)), lid)


def _hit_ball(origin: Tensor, directions: Tensor, scale: float) -> Hit:
    """A sphere of radius 0.95 · scale."""
    return _hit_sphere(origin, directions, 0.95 * scale, 0.95 * scale)


def _hit_capsule(origin: Tensor, directions: Tensor, scale: float) -> Hit:
    """A tube between two half spheres, of radius 0.62 · scale and height 2.1 · scale."""
    radius, height = 0.62 * scale, 2.1 * scale
    ends = (radius, height - radius)
    spheres = (_hit_sphere(origin, directions, radius, end) for end in ends)
    return _nearest(_hit_tube(origin, directions, radius, ends), *spheres)


def _nearest(*hits: Hit) -> Hit:
    """The first of several hits, for every ray."""
    distances = torch.stack([distance for distance, _ in hits])
    normals = torch.stack([normal for _, normal in hits])
    distance, index = distances.min(0)
    normal = normals.gather(0, index[None, ..., None].expand(1, *normals.shape[1:]))[0]
    return distance, normal


_SOLIDS: dict[str, Callable[[Tensor, Tensor, float], Hit]] = {
    "cube": _hit_box,
    "cylinder": _hit_cylinder,
    "sphere": _hit_ball,
    "capsule": _hit_capsule,
}
