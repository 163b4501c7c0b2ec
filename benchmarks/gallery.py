"""The pictures of docs/gallery.md, from runs of the presets `shapes` and `stickfigures`.

python benchmarks/gallery.py                                            # trains both, seed 0
python benchmarks/gallery.py --shapes runs/a --stickfigures runs/b      # takes runs that exist

Every picture is one that `mfcvae fit` or `mfcvae sample` writes into a run, brought to 256 colours: examples of every
group, images composed of two, and images drawn from the largest clusters.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from provenance import ROOT

# Run → the figure in its folder, and what follows gallery- in the picture's name.
PICTURES = {
    "shapes": (("composed-0", "shapes-figure"), ("composed-1", "shapes-hue"), ("generated-0", "shapes-drawn")),
    "stickfigures": (("clusters", "sticks"), ("composed-1", "sticks-upper"), ("generated-0", "sticks-drawn")),
}


def mfcvae(*args: str) -> None:
    """Run a command of the package."""
    subprocess.run([sys.executable, "-m", "pyro_mfcvae", *args], check=True)


def main(runs: dict[str, Path | None]) -> None:
    """Train where no run is given, draw, and copy the pictures to docs/."""
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
