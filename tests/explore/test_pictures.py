"""Values of pictures: pixels, missing pixels, vectors, the map, and the points inside a line."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_mfcvae.explore.pictures import colour_of, draw_map, is_inside, to_data_uri, to_image


def test_pictures_have_the_pixel_values() -> None:
    grey = torch.tensor([[[0.0, 1.0], [float("nan"), 0.2]]], dtype=torch.float64)
    assert np.asarray(to_image(grey)).tolist() == [[0, 255], [128, 51]]
    colour = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    assert np.asarray(to_image(colour)).tolist() == colour.permute(1, 2, 0).tolist()
    assert to_image(torch.zeros(4, 2, 2)).mode == "RGBA"


def test_a_vector_is_a_bar_per_feature() -> None:
    bars = np.asarray(to_image(np.array([0.0, 1.0, 2.0])))
    dark = (bars < 128).sum(0)
    assert dark.tolist() == [1, 16, 32]


def test_large_items_are_reduced_and_small_ones_are_not() -> None:
    for side, expected in ((28, 28), (400, 96)):
        uri = to_data_uri(torch.zeros(1, side, side))
        image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        assert image.size == (expected, expected)


def test_colours_are_different() -> None:
    colours = [colour_of(g) for g in range(40)]
    assert len(set(colours)) == 40
    assert all(len(colour) == 7 for colour in colours)


def test_the_map_has_a_dot_per_item() -> None:
    image = np.asarray(Image.open(io.BytesIO(draw_map(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([0, 1])))))
    assert image.shape == (480, 720, 4)
    assert image[0, 0].tolist() == [0x00, 0x72, 0xB2, 230]
    assert image[-1, -1].tolist() == [0xD5, 0x5E, 0x00, 230]
    assert (image[..., 3] > 0).sum() < 40


def test_inside_is_decided_by_crossings() -> None:
    points = np.array([[0.5, 0.5], [0.1, 0.9], [0.9, 0.1], [2.0, 0.5]])
    square = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    assert is_inside(points, square).tolist() == [True, True, True, False]
    triangle = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]
    assert is_inside(points[1:3] + 0.05, triangle).tolist() == [False, False]
    bow = [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0)]
    assert is_inside(np.array([[0.1, 0.5], [0.5, 0.9], [0.9, 0.5]]), bow).tolist() == [True, False, True]


@pytest.mark.parametrize("num", [0, 1])
def test_a_map_of_few_items_can_be_drawn(num: int) -> None:
    assert draw_map(np.zeros((num, 2)), np.zeros(num, int)).startswith(b"\x89PNG")
