"""`shapes` with half of the pixels missing at random: scores of the clusters, and the error of imputed pixels.

    python benchmarks/missing_pixels.py

A pixel is missing in all channels at once, in training and in test images alike. The imputation error is the root mean
squared error over the missing values. For comparison, the record has the error of the mean of every pixel over the
training images in which it is observed.
"""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
import tyro
from provenance import provenance
from reproduction import RESULTS, best
from torch import Tensor

from pyro_mfcvae.atomic_io import write_text
from pyro_mfcvae.config.text import load_preset, override
from pyro_mfcvae.data.datasets import Dataset, load_dataset
from pyro_mfcvae.data.images import Split, as_float
from pyro_mfcvae.runs.fit import fit
from pyro_mfcvae.runs.folder import RunFolder

# Half of the pixels have half of the information about a figure, so more clusters and steps are needed.
SETTINGS = (
    "facets.num_clusters=[50, 20]",
    "training.epochs=[3, 8]",
    "mixture_fit.refit_steps=[400, 600, 800, 1000, 1200]",
)


def hide(split: Split, share: float, seed: int) -> Split:
    """The split as floats, with NaN for a share of the pixels."""
    images = as_float(split.images)
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.rand(len(images), 1, *images.shape[2:], generator=generator) < share
    return Split(images.masked_fill(hidden, torch.nan), split.labels)


def root_mean_square(error: Tensor, where: Tensor) -> float:
    return error[where].square().mean().sqrt().item()


def main(seeds: tuple[int, ...] = (0, 1, 2, 3, 4), share: float = 0.5, set: tuple[str, ...] = SETTINGS) -> None:
    """Train `shapes` with missing pixels.

    Args:
        seeds: The seeds.
        share: Fraction of the pixels that are missing.
        set: Settings of the preset to change.
    """
    runs = []
    for seed in seeds:
        config = override(load_preset("shapes"), ["likelihood.missing=true", f"seed={seed}", *set])
        whole = load_dataset(config.data.source, seed=seed)
        data = Dataset(
            whole.name, hide(whole.train, share, 2 * seed), hide(whole.test, share, 2 * seed + 1), whole.info
        )
        with tempfile.TemporaryDirectory() as folder:
            run = RunFolder(Path(folder))
            result = fit(config, run, data=data)
            pair = run.load_pair()
        truth, missing = as_float(whole.test.images), data.test.images.isnan()
        with torch.no_grad():
            imputed = torch.cat([pair.impute(part) for part in data.test.images.split(500)])
        means = data.train.images.nanmean(0)
        record = {
            "seed": seed,
            "data_fingerprint": data.fingerprint(),
            "labels": best(result.evaluation.scores),
            "imputation_error": root_mean_square(imputed - truth, missing),
            "error_of_the_means": root_mean_square(means - truth, missing),
            "seconds": result.summary["seconds"],
        }
        runs.append(record)
        found = ", ".join(f"{label} {r['accuracy']:.3f}" for label, r in record["labels"].items())
        print(
            f"seed {seed}: {found}; imputation error {record['imputation_error']:.4f}, of the means "
            f"{record['error_of_the_means']:.4f}; {record['seconds']:.0f} s",
            flush=True,
        )
    configuration = asdict(override(load_preset("shapes"), ["likelihood.missing=true", *set]))
    record = {**provenance(), "configuration": configuration, "share": share, "runs": runs}
    write_text(RESULTS / "missing_pixels.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
