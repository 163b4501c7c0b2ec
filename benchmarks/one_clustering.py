"""How often `auto` sees whether vectors have one clustering or two, on data that no rule was chosen on.

    python benchmarks/one_clustering.py --seeds 0 1 2

Every data set is drawn: N vectors of D features, with one clustering of K Gaussian clusters in all directions, or with
two independent clusterings, of K and three clusters, in three directions each, and noise in the others, under a random
rotation. The script counts for how many `auto` gives all clusters to one facet, and writes
results/one_clustering.json. Nothing is trained.
"""

from typing import Any

import numpy as np
import torch
import tyro
from baselines import RESULTS
from numpy.typing import NDArray
from provenance import provenance

from pyro_mfcvae.atomic_io import write_json
from pyro_mfcvae.config.auto import choose_settings

SIZES = (200, 500, 1500)
KINDS = ((7, 3), (10, 5), (20, 4))  # D and K
_DISTANCE, _DISTANCE_OF_TWO = 2.0, 3.0  # standard deviation of the centres, in units of the clusters'


def draw(rng: np.random.Generator, num: int, dim: int, num_clusters: int, distance: float) -> NDArray[np.float64]:
    """Points of Gaussian clusters around random centres."""
    centres = distance * rng.normal(size=(num_clusters, dim))
    points: NDArray[np.float64] = centres[rng.integers(num_clusters, size=num)] + rng.normal(size=(num, dim))
    return points


def draw_two(rng: np.random.Generator, num: int, dim: int, num_clusters: int) -> NDArray[np.float64]:
    """Points with two independent clusterings."""
    parts = [draw(rng, num, 3, size, _DISTANCE_OF_TWO) for size in (num_clusters, 3)]
    rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    points: NDArray[np.float64] = np.concatenate([*parts, rng.normal(size=(num, dim - 6))], 1) @ rotation
    return points


def main(seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for num in SIZES:
            for dim, size in KINDS:
                drawn = {1: draw(rng, num, dim, size, _DISTANCE), 2: draw_two(rng, num, dim, size)}
                for clusterings, points in drawn.items():
                    x = torch.from_numpy(points).float()
                    offered = choose_settings(x, source="drawn", seed=seed).config.facets.num_clusters
                    rows.append({"seed": seed, "items": num, "features": dim, "clusters": size})
                    rows[-1] |= {"clusterings": clusterings, "offered": offered}
                    print(rows[-1], flush=True)
    for clusterings in (1, 2):
        own = [row["offered"][0] == 1 for row in rows if row["clusterings"] == clusterings]
        print(f"{clusterings} clusterings: all clusters in one facet for {sum(own)} of {len(own)}")
    write_json(RESULTS / "one_clustering.json", {**provenance(), "rows": rows})


if __name__ == "__main__":
    tyro.cli(main)
