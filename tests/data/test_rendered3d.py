import math

import pytest
import torch
from torch import Tensor

from pyro_mfcvae.data.rendered3d import FACTORS, SOLIDS, draw_scenes, render_scenes
from pyro_mfcvae.errors import InputError


def scene(**changed: int) -> Tensor:
    """One scene of 64 by 64 pixels, (3, 64, 64) in [0, 1]: green floor, blue wall, red solid, from the front."""
    factors = {"floor_hue": 3, "wall_hue": 7, "object_hue": 0, "scale": 4, "shape": 2, "orientation": 7} | changed
    return render_scenes({name: torch.tensor([value]) for name, value in factors.items()}, size=64)[0] / 255.0


def hue(pixel: Tensor) -> float:
    """The hue of a pixel, in [0, 1)."""
    red, green, blue = pixel.tolist()
    return math.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue) / (2 * math.pi) % 1


@pytest.mark.parametrize(("part", "place"), [("floor_hue", (60, 5)), ("wall_hue", (4, 32)), ("object_hue", (34, 32))])
def test_each_hue_colours_only_its_part(part: str, place: tuple[int, int]) -> None:
    base = scene()
    for value in range(10):
        image = scene(**{part: value})
        found = hue(image[:, *place])
        assert abs((found - value / 10 + 0.5) % 1 - 0.5) < 0.04
        for other in {(60, 5), (4, 32), (34, 32)} - {place}:
            assert torch.equal(image[:, *other], base[:, *other])


def area(**changed: int) -> float:
    """Share of the picture that the solid takes."""
    image = scene(**changed)
    return float((image[0] > image[1:].amax(0)).float().mean())


@pytest.mark.parametrize("shape", range(len(SOLIDS)))
def test_the_solid_grows_with_scale(shape: int) -> None:
    areas = [area(shape=shape, scale=scale) for scale in range(8)]
    assert areas == sorted(areas)
    assert areas[7] > 2 * areas[0]


def test_round_solids_look_the_same_from_all_sides_and_the_cube_does_not() -> None:
    for shape, name in enumerate(SOLIDS):
        sides = [area(shape=shape, orientation=orientation) for orientation in range(15)]
        assert (max(sides) - min(sides) < 0.004) == (name != "cube")


def test_opposite_orientations_are_mirror_images_except_for_the_light() -> None:
    left, right = scene(orientation=2, shape=0), scene(orientation=12, shape=0)
    differs = left.argmax(0) != right.argmax(0).flip(-1)  # a ray that touches an edge may hit it on one side only
    assert differs.float().mean() < 0.002


def test_solids_differ() -> None:
    images = [scene(shape=shape) for shape in range(4)]
    for i in range(4):
        for j in range(i):
            assert (images[i] - images[j]).abs().amax(0).gt(0.2).float().mean() > 0.02


def test_drawn_scenes_repeat_and_cover_all_factors() -> None:
    images, factors = draw_scenes(300, seed=3, size=8)
    again, _ = draw_scenes(300, seed=3, size=8)
    assert images.shape == (300, 3, 8, 8)
    assert images.dtype == torch.uint8
    assert torch.equal(images, again)
    assert {name: len(values.unique()) for name, values in factors.items()} == FACTORS
    assert not torch.equal(draw_scenes(300, seed=4, size=8)[0], images)


def test_errors() -> None:
    _, factors = draw_scenes(2, size=8)
    with pytest.raises(InputError, match=r"expected the factors floor_hue, wall_hue, .* got scale"):
        render_scenes({"scale": torch.zeros(1, dtype=torch.long)})
    with pytest.raises(InputError, match=r"expected values 0 … 3 of shape, got \[4, 4\]"):
        render_scenes(factors | {"shape": torch.tensor([4, 4])})
    with pytest.raises(InputError, match="at least one scene to draw, got num=0"):
        draw_scenes(0)
