"""Test accuracy of a preset over seeds, by facet and label: every seed, mean ± standard deviation, and the paper's
figure.

    python benchmarks/reproduction.py shapes
    python benchmarks/reproduction.py mnist-paper --seeds 0 1 2 3 4 5 6 7 8 9
    python benchmarks/reproduction.py shapes3d-floor --data rendered3d-floor

The result goes to benchmarks/results/NAME.json after every seed, with machine, data and seconds. Accuracy is by
majority label. In the file, "labels" has scores of single clusters, and "groups" those of groups.
"""

import json
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from provenance import provenance

from pyro_mfcvae.atomic_io import write_text
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.config.text import load_preset, override
from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.metrics import FacetScores
from pyro_mfcvae.runs.evaluation import evaluate
from pyro_mfcvae.runs.fit import fit
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.train.step_log import EpochRecord
from pyro_mfcvae.train.training import Training

RESULTS = Path(__file__).parent / "results"

# Falck et al. 2021: mean and standard deviation over ten seeds, by data set and label.
PAPER = {
    "mnist": {"digit": (0.9202, 0.0302)},
    "shapes3d-floor": {"floor_hue": (0.9946, 0.0110), "shape": (0.8847, 0.0182)},
    "shapes3d-wall": {"wall_hue": (1.0, 0.0), "shape": (0.9005, 0.0265)},
    "svhn": {"digit": (0.5625, 0.0088)},
}


@dataclass
class CurveMonitor:
    """Scores the test items after every epoch, without changing the random state of the training."""

    split: Any
    curve: list[dict[str, Any]] = field(default_factory=list)

    def on_start(self, training: Training) -> None:
        self.pair = training.pair

    def on_steps(self, num_steps: int, elbo: float) -> None:
        pass

    def on_epoch(self, record: EpochRecord) -> None:
        with torch.random.fork_rng(devices=[]):
            scores = evaluate(self.pair, self.split).scores
        self.curve.append(
            {
                "epoch": record.epoch,
                "accuracy": {label: values.round(4).tolist() for label, values in scores.accuracy.items()},
                "clusters_in_use": scores.clusters_in_use.tolist(),
            }
        )


def best(scores: FacetScores) -> dict[str, dict[str, float]]:
    """For each label: its facet and the scores of this facet, and the largest NMI of any other facet with the label."""
    result = {}
    for label, facet in scores.best_facets().items():
        others = np.delete(scores.nmi[label], facet)
        result[label] = {
            "facet": int(facet),
            "accuracy": float(scores.accuracy[label][facet]),
            "hungarian": float(scores.hungarian[label][facet]),
            "nmi": float(scores.nmi[label][facet]),
            "ari": float(scores.ari[label][facet]),
            "nmi_elsewhere": float(others.max()) if len(others) else 0.0,
        }
    return result


def over_seeds(runs: list[dict[str, Any]], of: str = "labels", score: str = "accuracy") -> dict[str, Any]:
    """For each label: mean and standard deviation of a score; the deviation is None for one seed."""
    result = {}
    for label in runs[0][of]:
        values = np.array([run[of][label][score] for run in runs])
        result[label] = {"mean": float(values.mean()), "std": float(values.std(ddof=1)) if len(values) > 1 else None}
    return result


def run_seed(config: Config, curve: bool, keep: Path | None) -> dict[str, Any]:
    """Train with the seed of the configuration; returns the entry for the record."""
    dataset = load_dataset(config.data.source, seed=config.seed)
    callback = CurveMonitor(dataset.test)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) if keep is None else keep / f"seed-{config.seed}")
        result = fit(config, run, data=dataset, callbacks=(callback,) if curve else ())
    scores = result.evaluation.scores
    record = {
        "seed": config.seed,
        "data_fingerprint": dataset.fingerprint(),
        "labels": best(scores),
        "groups": best(result.evaluation.group_scores),
        "num_groups": list(result.evaluation.grouping.num_groups),
        "clusters_in_use": scores.clusters_in_use.tolist(),
        "redundancy": float(np.max(scores.redundancy - np.eye(len(config.facets.num_clusters)))),
        "elbo": result.summary["elbo"],
        "seconds": result.summary["seconds"],
    }
    return record | ({"curve": callback.curve} if curve else {})


def tell(run: dict[str, Any]) -> str:
    text = ", ".join(
        f"{label} {r['accuracy']:.3f} in facet {r['facet']} (NMI {r['nmi']:.2f}, others {r['nmi_elsewhere']:.2f})"
        for label, r in run["labels"].items()
    )
    groups = ", ".join(f"{label} {r['ari']:.3f}" for label, r in run["groups"].items())
    return (
        f"seed {run['seed']}: {text}; clusters {run['clusters_in_use']}; groups {run['num_groups']}, ARI {groups}; "
        f"{run['seconds']:.0f} s"
    )


def main(
    preset: Annotated[str, tyro.conf.Positional],
    /,
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    data: str | None = None,
    set: tuple[str, ...] = (),
    curve: bool = False,
    workers: int = 1,
    keep: Path | None = None,
    name: str | None = None,
) -> None:
    """Train a preset with every seed.

    Args:
        preset: Name of the preset.
        seeds: The seeds.
        data: A data set other than the preset's.
        set: Settings to change.
        curve: Also score the test items after every epoch.
        workers: Number of seeds at a time, each on its share of the cores.
        keep: Folder in which the runs of the seeds are kept. Stopped runs and their curves are continued from there.
        name: Name of the result; by default the name of the preset, with that of the other data set.
    """
    base = override(load_preset(preset), set)
    base = replace(base, data=replace(base.data, source=data or base.data.source))
    name = name or "-".join([preset, *([data] if data else [])])
    num_threads = max(torch.get_num_threads() // workers, 1)
    runs: list[dict[str, Any]] = []
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (num_threads,)) as pool:
        for job in as_completed([pool.submit(run_seed, replace(base, seed=seed), curve, keep) for seed in seeds]):
            run = job.result()
            runs = sorted([*runs, run], key=lambda other: seeds.index(other["seed"]))
            print(tell(run), flush=True)
            record = {
                **provenance(),
                "preset": preset,
                "set": list(set),
                "configuration": asdict(replace(base, seed=0)),
                "workers": workers,
                "accuracy": over_seeds(runs),
                "groups_ari": over_seeds(runs, "groups", "ari"),
                "runs": runs,
            }
            write_text(RESULTS / f"{name}.json", json.dumps(record, indent=1) + "\n")
    for label, accuracy in over_seeds(runs).items():
        paper = PAPER.get(base.data.source, {}).get(label)
        beside = f"   (paper: {paper[0]:.4f} ± {paper[1]:.4f})" if paper else ""
        print(f"{label}: {accuracy['mean']:.4f} ± {accuracy['std'] or 0:.4f}{beside}")


if __name__ == "__main__":
    tyro.cli(main)
