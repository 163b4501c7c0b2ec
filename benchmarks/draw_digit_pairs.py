"""Draw pairs of MNIST's test digits 0 to 3 side by side, 14 × 14 pixels each, with two independent labels.

python benchmarks/draw_digit_pairs.py pairs.npz
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from pyro_mfcvae.data.datasets import load_dataset


def main(path: Annotated[Path, tyro.conf.Positional], num: int = 8000, seed: int = 0) -> None:
    """Write ``num`` pairs, with the labels ``left`` and ``right``; MFCVAE_DATA names the folder of MNIST."""
    test = load_dataset("mnist").test
    images, digits = test.images[:, 0].numpy(), test.labels["digit"].numpy()
    images, digits = images[digits < 4], digits[digits < 4]
    halves = images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).round().astype(np.uint8)
    left, right = np.random.default_rng(seed).integers(len(halves), size=(2, num))
    np.savez(path, images=np.concatenate([halves[left], halves[right]], 2), left=digits[left], right=digits[right])


if __name__ == "__main__":
    tyro.cli(main)
