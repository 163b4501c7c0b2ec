"""The effect of each remedy against lost facets: progressive training on nrletters, with one remedy removed at a time.

    python benchmarks/stability.py --seeds 0 1 2

A label is lost if no facet of its own shows it with an accuracy of 0.9 or more. The preset `nrletters` starts linearly
and needs none of these remedies, so the settings are given here.
"""

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from provenance import provenance
from reproduction import RESULTS, best

from pyro_mfcvae.atomic_io import write_text
from pyro_mfcvae.config.text import override, read_config
from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.runs.fit import fit
from pyro_mfcvae.runs.folder import RunFolder

PROGRESSIVE = """
data = { source = "nrletters" }
facets = { num_clusters = [12, 12, 8], latent_dim = [2, 1, 2] }
prior = { kind = "gaussian", options = { covariance = "full" } }
likelihood = { kind = "gaussian", options = { scale = 0.1 } }

[networks]
kind = "mlp"

[networks.options]
encoder_dims = [256, 128, 64]
decoder_dims = [256, 128, 64]
hidden_dim = 256
merge_weight = 1.0
head_init_scale = 3.0

[training]
epochs = [5, 11, 10]
batch_size = 128
learning_rate = 3e-3
final_learning_rate = 2e-4

[schedule]
fade_in_steps = 100
kl_fade_in_steps = [100, 150, 200]
kl_delay_steps = [0, 150, 100]

[mixture_fit]
warmup_steps = 200
refit_steps = [300, 400, 600]
"""

VARIANTS: dict[str, tuple[str, ...]] = {
    "all remedies": (),
    "heads that join start at zero": ("networks.head_init_scale=0.0",),
    "the KL counts from the start of a stage": ("schedule.kl_delay_steps=[0, 0, 0]",),
    "mixtures fitted at the start of a stage only": ("mixture_fit.warmup_steps=0", "mixture_fit.refit_steps=[]"),
    "mixtures fitted once, after the warm-up": ("mixture_fit.refit_steps=[]",),
    "diagonal covariances": ("prior.covariance=diagonal",),
    "free nats (1.0) instead of a delayed KL": ("schedule.kl_delay_steps=[0, 0, 0]", "training.free_nats=1.0"),
}


def main(seeds: tuple[int, ...] = (0, 1, 2), variants: tuple[str, ...] = tuple(VARIANTS)) -> None:
    """Train every variant with every seed; results of variants that are not given are kept."""
    base, data = read_config(PROGRESSIVE, source="the settings"), load_dataset("nrletters")
    path = RESULTS / "stability.json"
    rows: dict[str, Any] = json.loads(path.read_text())["variants"] if path.is_file() else {}
    for name in variants:
        config = override(base, VARIANTS[name])
        runs: list[dict[str, Any]] = []
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                result = fit(replace(config, seed=seed), RunFolder(Path(folder)), data=data)
            runs.append(
                {
                    "seed": seed,
                    "data_fingerprint": data.fingerprint(),
                    "elbo": result.summary["elbo"],
                    "labels": best(result.evaluation.scores),
                }
            )
        lost = [sum(label["accuracy"] < 0.9 for label in run["labels"].values()) for run in runs]
        mean = {
            label: float(np.mean([run["labels"][label]["accuracy"] for run in runs])) for label in runs[0]["labels"]
        }
        rows[name] = {"set": VARIANTS[name], "lost": lost, "accuracy": mean, "runs": runs}
        scores = ", ".join(f"{label} {value:.3f}" for label, value in mean.items())
        print(f"{name}: {scores}; labels lost per seed {lost}", flush=True)
        result = {**provenance(), "configuration": asdict(base), "variants": rows}
        write_text(path, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
