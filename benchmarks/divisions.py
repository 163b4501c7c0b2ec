"""What `auto` compares before it chooses dimensions: divisions of the dimensions among facets, and one mixture.

    python benchmarks/divisions.py mnist stickfigures faces=cmu_faces.npz --seeds 0 1

For every data set and seed the script prints the held-out log-likelihood of independent mixtures for each division, and
that of a single mixture in all dimensions (joint), in nats per item, less the cost of the components. It writes
results/divisions.json; records of data that are not run again are kept.
"""

import json
from typing import Annotated

import tyro
from auto import SAID
from baselines import RESULTS
from provenance import provenance

from pyro_mfcvae.atomic_io import write_json
from pyro_mfcvae.config.auto import configure_auto
from pyro_mfcvae.config.spectrum import centred
from pyro_mfcvae.subspaces import divide_dims, most_items


def compare(name: str, data: str, seed: int) -> dict[str, float]:
    """The score of every division, and of one mixture."""
    # Without a linear start, `auto` does not search.
    settings = [*SAID.get(name, ()), f"seed={seed}", "schedule.linear_start_steps=0"]
    config, dataset, _ = configure_auto(data, settings, None)
    options = config.likelihood.options
    images = dataset.train.images
    division = divide_dims(
        centred(images, most_items(images[0].numel()), standardize=options["standardize"]),
        sum(config.facets.latent_dim),
        len(config.facets.latent_dim),
        scale=options["scale"],
        most_clusters=max(config.facets.num_clusters),
        seed=seed,
    )
    scores = {" + ".join(map(str, dims)): score for dims, score in division.independent.items()}
    return {key: round(score, 3) for key, score in {**scores, "joint": division.joint}.items()}


def main(data: Annotated[tuple[str, ...], tyro.conf.Positional], seeds: tuple[int, ...] = (0, 1)) -> None:
    """Compare divisions on data sets, each given as a name or as NAME=PATH."""
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
