"""Make the pictures of docs/gallery.md and README from runs of the presets `shapes` and `stickfigures`.

python benchmarks/gallery.py                                            # trains both, seed 0
python benchmarks/gallery.py --shapes runs/a --stickfigures runs/b      # takes existing runs

`mfcvae fit` and `mfcvae sample` write the pictures into a run: examples of every group, images composed of two images,
and images drawn from the groups. This script reduces them to 256 colours. README's picture shows the same images twice:
the first item of every pair of groups, once sorted by the groups of facet 0 and once by those of facet 1.
"""

import argparse
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas
from PIL import Image, ImageDraw, ImageFont
from provenance import ROOT

# Run → figure → name of the picture.
PICTURES = {
    "shapes": {
        "clusters": "demo",
        "composed-0": "gallery-shapes-figure",
        "composed-1": "gallery-shapes-hue",
        "generated-0": "gallery-shapes-drawn",
    },
    "stickfigures": {
        "clusters": "gallery-sticks",
        "composed-1": "gallery-sticks-upper",
        "generated-0": "gallery-sticks-drawn",
    },
}

# README's picture, in pixels: an image with its margin, a title, and the space between the two facets.
CELL, TITLE, GAP = 78, 44, 40


def mfcvae(*args: str) -> None:
    """Run a command of the package."""
    subprocess.run([sys.executable, "-m", "pyro_mfcvae", *args], check=True)


def draw_twice(run: Path) -> Image.Image:
    """Draw the same images sorted by two facets, side by side. A row is a group, and its images are in random order."""
    items = pandas.read_parquet(run / "assignments.parquet")
    groups = ["facet_0_group", "facet_1_group"]
    shown = items.drop_duplicates(groups).sample(frac=1, random_state=0)
    panels = [
        [[Image.open(BytesIO(image["bytes"])) for image in members["image"]] for _, members in shown.groupby(group)]
        for group in groups
    ]
    widths = [CELL * max(len(row) for row in panel) for panel in panels]
    height = TITLE + CELL * max(len(panel) for panel in panels)
    picture = Image.new("RGB", (sum(widths) + GAP, height), "white")
    draw = ImageDraw.Draw(picture)
    for j, (panel, left) in enumerate(zip(panels, (0, widths[0] + GAP), strict=True)):
        draw.text((left, 0), f"facet {j}: {len(panel)} groups", fill="black", font=ImageFont.load_default(30))
        for y, x in np.ndindex(len(panel), max(len(row) for row in panel)):
            if x < len(panel[y]):
                image = panel[y][x].convert("RGB").resize((CELL - 4, CELL - 4), Image.Resampling.BICUBIC)
                picture.paste(image, (left + CELL * x, TITLE + CELL * y))
    return picture


def main(runs: dict[str, Path | None]) -> None:
    """Train the presets for which no run is given, draw the pictures, and copy them to docs/."""
    with tempfile.TemporaryDirectory() as folder:
        for preset, given in runs.items():
            run = given or Path(folder) / preset
            if given is None:
                mfcvae("fit", preset, "--seed", "0", "--out", str(run))
            mfcvae("sample", str(run), "--num", "8")
            for figure, name in PICTURES[preset].items():
                with Image.open(run / "figures" / f"{figure}.png") as picture:
                    small = picture.convert("RGB").quantize(256)
                small.save(ROOT / "docs" / f"{name}.png", optimize=True)
            if preset == "shapes":
                draw_twice(run).quantize(256).save(ROOT / "docs" / "two-facets.png", optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in PICTURES:
        parser.add_argument(f"--{name}", type=Path)
    main(vars(parser.parse_args()))
