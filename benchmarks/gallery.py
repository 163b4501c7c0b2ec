"""The pictures of docs/gallery.md, from runs of the presets `shapes` and `stickfigures`.

python benchmarks/gallery.py                                            # trains both, seed 0
python benchmarks/gallery.py --shapes runs/a --stickfigures runs/b      # takes existing runs

`mfcvae fit` and `mfcvae sample` write the pictures into a run; here they are reduced to 256 colours: examples of every
group, images composed of two, and images drawn from the largest clusters.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from provenance import ROOT

# Run → its figure, and the end of the picture's name after gallery-.
PICTURES = {
    "shapes": (("composed-0", "shapes-figure"), ("composed-1", "shapes-hue"), ("generated-0", "shapes-drawn")),
    "stickfigures": (("clusters", "sticks"), ("composed-1", "sticks-upper"), ("generated-0", "sticks-drawn")),
}


def mfcvae(*args: str) -> None:
    """Run a command of the package."""
    subprocess.run([sys.executable, "-m", "pyro_mfcvae", *args], check=True)


def main(runs: dict[str, Path | None]) -> None:
    """Train the presets for which no run is given, draw the pictures, and copy them to docs/."""
    with tempfile.TemporaryDirectory() as folder:
        for preset, given in runs.items():
            run = given or Path(folder) / preset
            if given is None:
                mfcvae("fit", preset, "--seed", "0", "--out", str(run))
            mfcvae("sample", str(run), "--num", "8")
            for figure, name in PICTURES[preset]:
                with Image.open(run / "figures" / f"{figure}.png") as picture:
                    small = picture.convert("RGB").quantize(256)
                small.save(ROOT / "docs" / f"gallery-{name}.png", optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in PICTURES:
        parser.add_argument(f"--{name}", type=Path)
    main(vars(parser.parse_args()))
