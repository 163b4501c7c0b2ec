"""Draw product photos of mixed sizes and formats: 4 objects × 4 colours × 3 backgrounds, with a labels.csv.

python benchmarks/draw_product_photos.py photos/
"""

import csv
import itertools
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFilter

OBJECTS = ("mug", "bottle", "bag", "lamp")
COLOURS = {"red": (200, 40, 45), "blue": (40, 85, 190), "yellow": (235, 190, 40), "black": (38, 38, 38)}
BACKGROUNDS = ("studio", "wood", "dusk")
_SCALE = 4  # Every photo is drawn larger and then reduced, which gives smooth edges.


def draw_photo(
    kind: str, colour: str, background: str, *, size: tuple[int, int], rng: np.random.Generator
) -> Image.Image:
    """One RGB photo of a size (width, height): the object stands near the middle, on its background."""
    width, height = (side * _SCALE for side in size)
    image = _draw_background(background, width, height, rng)
    rgb = tuple(int(np.clip(value + rng.normal(0, 10), 0, 255)) for value in COLOURS[colour])
    if colour == "black":
        rgb = (rgb[0],) * 3
    unit = min(width, height) * rng.uniform(0.62, 0.78)
    x, y = width / 2 + unit * rng.uniform(-0.06, 0.06), height / 2 + unit * rng.uniform(-0.05, 0.05)
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    _draw_object(ImageDraw.Draw(layer), kind, x, y, unit, rgb)
    layer = layer.rotate(rng.uniform(-6, 6), resample=Image.Resampling.BILINEAR, center=(x, y))
    shadow = Image.new("RGBA", image.size, (0, 0, 0, 0))
    ImageDraw.Draw(shadow).ellipse(_box(x, y + unit * 0.5, unit * 0.42, unit * 0.07), fill=(0, 0, 0, 90))
    image.alpha_composite(shadow.filter(ImageFilter.GaussianBlur(unit * 0.02)))
    image.alpha_composite(layer)
    reduced = image.convert("RGB").resize(size, Image.Resampling.BOX)
    pixels = np.asarray(reduced, dtype=np.float64)
    grain = rng.normal(0, 3, (*pixels.shape[:2], 1))
    return Image.fromarray(np.clip(pixels * rng.uniform(0.92, 1.05) + grain, 0, 255).astype(np.uint8))


def _box(x: float, y: float, half_width: float, half_height: float) -> tuple[float, float, float, float]:
    return x - half_width, y - half_height, x + half_width, y + half_height


def _draw_background(kind: str, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    rows = np.linspace(0, 1, height)[:, None, None]
    match kind:
        case "studio":
            pixels = np.broadcast_to(243 - 22 * rows, (height, width, 3)).copy()
        case "wood":
            waves = np.sin(rows * 60 + rng.uniform(0, 6) + 0.6 * np.sin(np.linspace(0, 5, width))[None, :, None])
            pixels = np.array([176, 128, 82]) + 14 * waves
        case _:
            pixels = np.array([72, 92, 104]) * (1 - rows) + np.array([120, 140, 128]) * rows
            pixels = np.broadcast_to(pixels, (height, width, 3)).copy()
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGBA")


def _draw_object(draw: ImageDraw.ImageDraw, kind: str, x: float, y: float, unit: float, rgb: tuple[int, ...]) -> None:
    dark = tuple(int(0.65 * value) for value in rgb)
    match kind:
        case "mug":
            draw.ellipse(
                _box(x + unit * 0.3, y + unit * 0.08, unit * 0.2, unit * 0.22), outline=dark, width=int(unit * 0.08)
            )
            draw.rounded_rectangle(
                _box(x - unit * 0.05, y + unit * 0.08, unit * 0.32, unit * 0.4), unit * 0.07, fill=rgb
            )
            draw.ellipse(_box(x - unit * 0.05, y - unit * 0.31, unit * 0.32, unit * 0.08), fill=dark)
        case "bottle":
            draw.rectangle(_box(x, y - unit * 0.33, unit * 0.07, unit * 0.2), fill=rgb)
            draw.rectangle(_box(x, y - unit * 0.47, unit * 0.09, unit * 0.04), fill=dark)
            draw.rounded_rectangle(_box(x, y + unit * 0.16, unit * 0.18, unit * 0.34), unit * 0.08, fill=rgb)
        case "bag":
            draw.arc(_box(x, y - unit * 0.16, unit * 0.2, unit * 0.28), 180, 360, fill=dark, width=int(unit * 0.06))
            corners = [(-0.36, -0.14), (0.36, -0.14), (0.46, 0.48), (-0.46, 0.48)]
            draw.polygon([(x + unit * u, y + unit * v) for u, v in corners], fill=rgb)
        case _:
            corners = [(-0.16, -0.48), (0.16, -0.48), (0.4, 0.02), (-0.4, 0.02)]
            draw.polygon([(x + unit * u, y + unit * v) for u, v in corners], fill=rgb)
            draw.rectangle(_box(x, y + unit * 0.22, unit * 0.035, unit * 0.24), fill=dark)
            draw.ellipse(_box(x, y + unit * 0.46, unit * 0.22, unit * 0.05), fill=dark)


def save_photo(image: Image.Image, path: Path, rng: np.random.Generator, *, grey: bool) -> Path:
    """Save in one of the formats of photos; grey photos have mode L."""
    if grey:
        image = image.convert("L")
        image.save(path.with_suffix(".png"))
        return path.with_suffix(".png")
    suffix = str(rng.choice([".jpg", ".png", ".webp", ".rgba"], p=[0.5, 0.2, 0.15, 0.15]))
    if suffix == ".rgba":
        image.putalpha(255)
        image.save(path.with_suffix(".png"))
        return path.with_suffix(".png")
    image.save(path.with_suffix(suffix), quality=90)
    return path.with_suffix(suffix)


def main(folder: Annotated[Path, tyro.conf.Positional], num: int = 420, seed: int = 0) -> None:
    """Write ``num`` photos: JPEG, PNG, WebP, PNG with transparency, and grey ones."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    cells = list(itertools.product(OBJECTS, COLOURS, BACKGROUNDS))
    sizes = [(320, 240), (240, 320), (256, 256), (400, 300), (180, 200)]
    rows = []
    for n in range(num):
        kind, colour, background = cells[n % len(cells)]
        image = draw_photo(kind, colour, background, size=sizes[rng.integers(len(sizes))], rng=rng)
        grey = colour == "black" and background == "studio" and n % 2 == 0
        path = save_photo(image, folder / f"photo_{n:03d}", rng, grey=grey)
        rows.append((path.name, kind, colour, background))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "object", "colour", "background"), *rows])


if __name__ == "__main__":
    tyro.cli(main)
