"""The preset ``auto`` with no option except the data, and the number of facets if it is not two, on every data set.

    python benchmarks/auto.py stickfigures shapes nrletters mnist fashion_mnist
    python benchmarks/auto.py pairs=pairs.npz cmu_faces=cmu_faces.npz photos=photos/ --seeds 0 1 2

Labels are used for scores only. The script writes results/auto-NAME.json after every seed. A record has the groups of
every facet; the ARI, NMI and accuracy of every label in its facet (by a one-to-one matching by NMI) and its largest NMI
in any other facet (leak), for groups and for clusters; scores of the groups in the facet with the highest NMI ("best");
the groups by other criteria (`python benchmarks/groups.py` compares them); and the seconds of training. Records of
seeds that are not run again are kept.

With ``--trials`` the script runs only the short trainings by which ``training.n_init`` chooses a seed, and adds their
held-out ELBOs to the file.
"""

import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import tyro
from baselines import RESULTS, score, score_best
from groups import judge
from provenance import provenance

from pyro_mfcvae.atomic_io import write_json
from pyro_mfcvae.config.auto import configure_auto
from pyro_mfcvae.config.text import to_toml
from pyro_mfcvae.runs.fit import fit
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.runs.trials import try_seeds
from pyro_mfcvae.train.devices import open_fabric

# Settings that a user would give: that there are three characteristics, or that photos are resized.
SAID: dict[str, tuple[str, ...]] = {
    "nrletters": ("facets.number=3",),
    "photos": ("facets.number=3",),
    "triples": ("facets.number=3",),
    "cmu_faces": ("data.size=32",),
}


def measure(
    name: str, data: str, seed: int, *, settings: Sequence[str] = (), device: str = "cpu", compares: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train with one seed; returns the record and the configuration.

    Args:
        name: name of the record.
        data: name or path of the data.
        seed: seed of the training.
        settings: further settings.
        device: where to train.
        compares: whether the record has the groups by other criteria.
    """
    config, dataset, _ = configure_auto(data, [*SAID.get(name, ()), f"seed={seed}", *settings], None)
    with tempfile.TemporaryDirectory() as folder:
        found = fit(config, RunFolder.new(Path(folder) / "run"), data=dataset, device=device)
        criteria = judge(Path(folder) / "run", data=dataset) if compares else []
    labels = {label: values.numpy() for label, values in dataset.test.labels.items()}
    row = {
        "seed": seed,
        "groups": [facet["num_groups"] for facet in found.summary["facets"]],
        "labels": score(found.evaluation.groups, labels),
        "best": score_best(found.evaluation.groups, labels),
        "clusters": score(found.evaluation.assignments, labels),
        "criteria": criteria,
        "elbo": found.summary["elbo"],
        "epochs": found.summary["epochs"],
        "seconds": found.summary["seconds"],
        "data_fingerprint": dataset.fingerprint(),
    }
    # without paths of this machine
    named = replace(config, data=replace(config.data, source=Path(config.data.source).name))
    return row, {"config": to_toml(named)}


def measure_trials(name: str, data: str, seeds: tuple[int, ...]) -> list[float]:
    """Run the trials; returns their ELBOs. The data are those of seed 0."""
    config, dataset, _ = configure_auto(data, [*SAID.get(name, ()), "seed=0"], None)
    elbos = try_seeds(config, dataset.train.images, seeds, fabric=open_fabric("cpu"))
    return [round(elbo, 2) for elbo in elbos]


def main(
    data: Annotated[tuple[str, ...], tyro.conf.Positional],
    seeds: tuple[int, ...] = (0, 1, 2),
    device: str = "cpu",
    workers: int = 1,
    trials: bool = False,
) -> None:
    """Run auto on data sets, each given as a name or as NAME=PATH; ``workers`` trainings at a time."""
    for item in data:
        name, _, path = item.partition("=")
        target = RESULTS / f"auto-{name}.json"
        record = json.loads(target.read_text()) if target.is_file() else {"rows": []}
        if trials:
            record["trials"] = {"seeds": seeds, "elbo": measure_trials(name, path or name, seeds)}
            print(f"{name}: held-out ELBO of the trials {record['trials']['elbo']}", flush=True)
            write_json(target, record)
            continue
        rows = {row["seed"]: row for row in record["rows"]}
        kept = {"trials": record["trials"]} if "trials" in record else {}
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            for done in as_completed([pool.submit(measure, name, path or name, seed, device=device) for seed in seeds]):
                row, chosen = done.result()
                rows[row["seed"]] = {**row, **{key: provenance()[key] for key in ("commit", "machine")}}
                scores = "; ".join(
                    f"{label}: ARI {s['ari']:.2f}, NMI {s['nmi']:.2f}, leak {s['leak']:.2f}"
                    for label, s in row["labels"].items()
                )
                seconds = f"{row['seconds']:.0f} s"
                print(f"{name}, seed {row['seed']}: groups {row['groups']}; {scores} ({seconds})", flush=True)
                record = {"data": name, **chosen, **kept, "rows": [rows[s] for s in sorted(rows)]}
                write_json(target, {**provenance(), **record})


if __name__ == "__main__":
    tyro.cli(main)
