"""Write data of more kinds: four that are drawn, and four data sets of scikit-learn with one characteristic each.

    python benchmarks/draw_other_data.py FOLDER

``triples.npz``: three of MNIST's test digits side by side, 14 × 14 pixels each, with different digits at each place.
``angles.npz``: one of five grey outlines at any angle, under one of three lights. ``flowers.npz``: small colour photos
of flowers of three species in four colours. ``vectors.npz``: 400 features, which are a non-linear map of two
clusterings and noise. ``iris.npz``, ``wine.npz`` and ``breast_cancer.npz``: tables. ``digits.npz``: digits of 8 × 8
pixels.
"""

import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from pyro_mfcvae.data.datasets import load_dataset

Arrays = dict[str, NDArray[Any]]
_TABLES = {"iris": "species", "wine": "cultivar", "breast_cancer": "diagnosis"}
_DIGITS = {"left": (0, 1, 4, 7), "middle": (2, 3, 5), "right": (6, 8, 9)}
_COLOURS = ((220, 40, 60), (240, 200, 40), (120, 60, 200), (240, 240, 240))
_PETALS = {3: 0.55, 5: 0.38, 9: 0.22}  # their number, and their width in units of the radius


def draw_triples(rng: np.random.Generator, num: int = 4000) -> Arrays:
    """Three digits side by side."""
    test = load_dataset("mnist").test
    digits = test.labels["digit"].numpy()
    halves = test.images.float().reshape(-1, 14, 2, 14, 2).mean((2, 4)).round().byte().numpy()
    labels = {place: rng.integers(len(values), size=num) for place, values in _DIGITS.items()}
    parts = [
        halves[[rng.choice(np.flatnonzero(digits == values[k])) for k in labels[place]]]
        for place, values in _DIGITS.items()
    ]
    return {"images": np.concatenate(parts, 2), **labels}


def outline(kind: int) -> NDArray[np.float64]:
    """A closed line of 200 points: a disc, a trefoil, a cross, a star and a drop."""
    t = np.linspace(0, 2 * math.pi, 200, endpoint=False)
    wave = np.cos(2 * t)
    radius = (
        np.ones_like(t),
        1 + 0.35 * np.cos(3 * t),
        0.75 + 0.35 * np.sign(wave) * np.abs(wave) ** 0.3,
        0.8 + 0.3 * np.cos(5 * t),
        0.6 + 0.5 * np.cos(t / 2) ** 8,
    )[kind]
    return np.stack([radius * np.cos(t), radius * np.sin(t)], 1)


def draw_angles(rng: np.random.Generator, num: int = 1500) -> Arrays:
    """Grey outlines at any angle under one of three lights."""
    objects, lights = rng.integers(5, size=num), rng.integers(3, size=num)
    rows, columns = np.meshgrid(*[np.linspace(-1, 1, 32)] * 2, indexing="ij")
    images = []
    for kind, light in zip(objects, lights, strict=True):
        angle, size = rng.uniform(0, 2 * math.pi), rng.uniform(40, 46)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        image = Image.new("L", (128, 128), 20)
        ImageDraw.Draw(image).polygon([tuple(point) for point in 64 + size * outline(kind) @ turn], fill=180)
        grey = np.asarray(image.resize((32, 32), Image.Resampling.BOX), np.float64)
        towards = 2 * math.pi / 3 * light + 0.1 * rng.normal()
        shade = 0.7 + 0.4 * (columns * math.cos(towards) + rows * math.sin(towards))
        images.append((grey * shade + 4 * rng.normal(size=grey.shape)).clip(0, 255).round().astype(np.uint8))
    return {"images": np.stack(images)[:, None], "object": objects, "light": lights}


def draw_flowers(rng: np.random.Generator, num: int = 1200) -> Arrays:
    """Flowers with three, five or nine petals, in four colours, on a green background."""
    species, colours = rng.integers(3, size=num), rng.integers(4, size=num)
    images = [draw_flower(rng, list(_PETALS)[s], c) for s, c in zip(species, colours, strict=True)]
    return {"images": np.stack(images), "species": species, "colour": colours}


def draw_flower(rng: np.random.Generator, num_petals: int, colour: int) -> NDArray[np.uint8]:
    """One flower, (3, 32, 32)."""
    ground = np.array([40, 110, 50]) + 12 * rng.normal(size=3) + 18 * rng.normal(size=(128, 128, 3))
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))
    pen, radius = ImageDraw.Draw(image), rng.uniform(34, 44)
    middle, first = 64 + 3 * rng.normal(size=2), rng.uniform(-0.25, 0.25)
    fill = tuple(int(value) for value in (np.array(_COLOURS[colour]) + 10 * rng.normal(size=3)).clip(0, 255))
    t = np.linspace(0, 2 * math.pi, 40)
    for petal in range(num_petals):
        angle = first + 2 * math.pi * petal / num_petals - math.pi / 2
        along, across = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
        line = np.outer(0.65 + 0.5 * np.cos(t), along) + np.outer(_PETALS[num_petals] * np.sin(t), across)
        pen.polygon([tuple(point) for point in middle + radius * line], fill=fill)
    x, y = middle
    pen.ellipse([x - 9, y - 9, x + 9, y + 9], fill=(120, 70, 20) if colour == 1 else (230, 180, 30))
    return np.asarray(image.resize((32, 32), Image.Resampling.BOX)).transpose(2, 0, 1)


def draw_vectors(rng: np.random.Generator, num: int = 1500) -> Arrays:
    """Two clusterings of four dimensions each and six dimensions of noise, mapped to 400 features."""
    first, second = rng.integers(5, size=num), rng.integers(3, size=num)
    centres = [3 * rng.normal(size=(size, 4)) for size in (5, 3)]
    noise = rng.normal(size=(num, 14)) * np.repeat([0.7, 1.0], [8, 6])
    hidden = np.concatenate([centres[0][first], centres[1][second], np.zeros((num, 6))], 1) + noise
    mapped = hidden @ rng.normal(size=(14, 400)) / 4
    features = 2 * np.tanh(0.5 * mapped) + 0.3 * mapped + 0.5 * rng.normal(size=mapped.shape)
    return {"images": features.astype(np.float32), "first": first, "second": second}


def read_tables() -> dict[str, Arrays]:
    """The data sets of scikit-learn."""
    from sklearn import datasets

    found: dict[str, Arrays] = {}
    for name, label in _TABLES.items():
        data = getattr(datasets, f"load_{name}")()
        found[name] = {"x": data.data.astype(np.float32), label: data.target}
    data = datasets.load_digits()
    return found | {"digits": {"images": (data.images * 255 / 16).round().astype(np.uint8), "digit": data.target}}


def main(folder: Annotated[Path, tyro.conf.Positional], seed: int = 7) -> None:
    """Write the files; MFCVAE_DATA names the folder of MNIST."""
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (draw_triples, draw_angles, draw_flowers, draw_vectors):
        name = draw.__name__.removeprefix("draw_")
        np.savez_compressed(folder / f"{name}.npz", **draw(np.random.default_rng(seed)))
    for name, arrays in read_tables().items():
        np.savez_compressed(folder / f"{name}.npz", **arrays)


if __name__ == "__main__":
    tyro.cli(main)
