"""What `auto` compares before it chooses dimensions: divisions of the dimensions among two facets, and one mixture.

    python benchmarks/divisions.py mnist stickfigures faces=cmu_faces.npz --seeds 0 1

For every data set and seed the script prints the held-out log-likelihood of independent mixtures for each division, and
that of a single mixture in all dimensions (joint), in nats per item, less the cost of the components. It writes
results/divisions.json; records of data that are not run again are kept.
"""

import json
from typing import Annotated

import numpy as np
import tyro
from auto import SAID
from baselines import RESULTS
from provenance import provenance

from pyro_mfcvae.atomic_io import write_json
from pyro_mfcvae.config.auto import configure_auto
from pyro_mfcvae.config.spectrum import centred
from pyro_mfcvae.subspaces.dims import search_divisions
from pyro_mfcvae.subspaces.score import SubspaceScore
from pyro_mfcvae.subspaces.search import divisions, principal_axes

_NUM_DIMS, _NUM_ITEMS, _MOST_CLUSTERS = 12, 3000, 20


def compare(name: str, data: str, seed: int) -> dict[str, float]:
    """The score of every division, and of one mixture."""
    settings = [*SAID.get(name, ()), "facets.latent_dim=[6, 6]", f"seed={seed}"]
    config, dataset, _ = configure_auto(data, settings, None)
    options = config.likelihood.options
    items = centred(dataset.train.images, _NUM_ITEMS, standardize=options["standardize"])
    mean, components = principal_axes(items, _NUM_DIMS, scale=options["scale"], seed=seed)
    rng = np.random.default_rng(seed)
    points = (items - mean) @ components
    draws = points + rng.normal(size=points.shape)
    found = search_divisions(draws, divisions(_NUM_DIMS), _MOST_CLUSTERS, rng)
    scores = {" + ".join(map(str, dims)): best.score for dims, best in found.items()}
    scores["joint"], _ = SubspaceScore(draws, (_NUM_DIMS,), _MOST_CLUSTERS)(np.eye(_NUM_DIMS))
    return {key: round(score, 3) for key, score in scores.items()}


def main(data: Annotated[tuple[str, ...], tyro.conf.Positional], seeds: tuple[int, ...] = (0, 1)) -> None:
    """Compare divisions on data sets with two labels, each given as a name or as NAME=PATH."""
    target = RESULTS / "divisions.json"
    rows = json.loads(target.read_text())["rows"] if target.is_file() else []
    for item in data:
        name, _, path = item.partition("=")
        rows = [row for row in rows if row["data"] != name]
        for seed in seeds:
            rows.append({"data": name, "seed": seed, "scores": compare(name, path or name, seed)})
            print(rows[-1], flush=True)
            write_json(target, {**provenance(), "rows": rows})


if __name__ == "__main__":
    tyro.cli(main)
