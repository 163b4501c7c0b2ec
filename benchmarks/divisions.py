"""What `auto` compares before it chooses dimensions: divisions of the dimensions among facets, and one mixture.

    python benchmarks/divisions.py mnist stickfigures cmu_faces=cmu_faces.npz --seeds 0 1

For every data set and seed the script prints the held-out log-likelihood of independent mixtures for each division, and
that of a single mixture in all dimensions (joint), in nats per item, less the cost of the components; and the gain of
the single mixture on up to 10,000 items with its standard error. It writes results/divisions.json; records of data that
are not run again are kept.
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
from pyro_mfcvae.subspaces.dims import divide_dims
from pyro_mfcvae.subspaces.search import MOST_COMPARED, MOST_ITEMS, most_items


def compare(name: str, data: str, seed: int) -> dict[str, float]:
    """The score of every division and of one mixture, and by how much the latter is better."""
    # Without a linear start, `auto` does not search.
    settings = [*SAID.get(name, ()), f"seed={seed}", "schedule.linear_start_steps=0"]
    config, dataset, _ = configure_auto(data, settings, None)
    options = config.likelihood.options
    images, most_clusters = dataset.train.images, max(config.facets.num_clusters)
    searched, compared = (
        centred(images, most_items(images[0].numel(), most=most), standardize=options["standardize"])
        for most in (MOST_ITEMS, MOST_COMPARED)
    )
    division = divide_dims(
        searched,
        sum(config.facets.latent_dim),
        len(config.facets.latent_dim),
        scale=options["scale"],
        most_clusters=most_clusters,
        seed=seed,
    )
    gain = division.gain_of_one(compared, most_clusters=most_clusters, seed=seed)
    scores = {" + ".join(map(str, dims)): best.score for dims, best in division.found.items()}
    scores |= {"joint": division.joint, "gain of joint": gain.nats, "error of gain": gain.error}
    return {key: round(score, 3) for key, score in scores.items()}


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
