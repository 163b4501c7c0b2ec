"""The time of ``auto`` compared with that of presets made by hand: whole trainings, from the choice of settings to the
summary.

    python benchmarks/auto_time.py shapes stickfigures nrletters --repeats 3

For each preset, the script trains in turn the preset, ``auto`` on the preset's data, and ``auto`` with
``training.n_init=3``, each with the same seed, and repeats this with the next seeds. It prints the medians' ratios to
the preset and writes results/auto_time.json, where results of presets that are not measured again are kept. Only ratios
are meaningful on a machine with other work.
"""

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import tyro
from auto import SAID
from provenance import provenance

from pyro_mfcvae.atomic_io import write_json
from pyro_mfcvae.config.auto import configure_auto
from pyro_mfcvae.config.text import load_preset
from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.runs.fit import fit
from pyro_mfcvae.runs.folder import RunFolder

RESULTS = Path(__file__).parent / "results"
WAYS = ("preset", "auto", "auto with n_init = 3")


def measure(preset: str, way: str, seed: int) -> dict[str, Any]:
    """Train once; returns the seconds, with those in which ``auto`` reads the data and chooses, and the epochs."""
    start = time.perf_counter()
    if way == WAYS[0]:
        config = replace(load_preset(preset), seed=seed)
        data = load_dataset(config.data.source, seed=seed)
    else:
        settings = [*SAID.get(preset, ()), f"seed={seed}", *(["training.n_init=3"] if way == WAYS[2] else [])]
        config, data, _ = configure_auto(load_preset(preset).data.source, settings, None)
    with tempfile.TemporaryDirectory() as folder:
        done = fit(config, RunFolder.new(Path(folder) / "run"), data=data, device="cpu")
    return {"seconds": time.perf_counter() - start, "epochs": done.summary["epochs"], "elbo": done.summary["elbo"]}


def main(presets: Annotated[tuple[str, ...], tyro.conf.Positional], repeats: int = 3) -> None:
    """Measure presets by name; ``repeats`` seeds each."""
    target = RESULTS / "auto_time.json"
    rows: dict[str, Any] = json.loads(target.read_text())["presets"] if target.is_file() else {}
    for preset in presets:
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for seed in range(repeats):
            for way in WAYS:
                runs[way].append(measure(preset, way, seed))
                print(f"{preset}, seed {seed}, {way}: {runs[way][-1]['seconds']:.0f} s", flush=True)
        seconds = {way: median(run["seconds"] for run in runs[way]) for way in WAYS}
        ratios = {way: seconds[way] / seconds[WAYS[0]] for way in WAYS[1:]}
        rows[preset] = {**provenance(), "ratios_to_preset": ratios, "seconds": seconds, "runs": runs}
        print(f"{preset}: " + ", ".join(f"{way} {ratio:.2f} times the preset" for way, ratio in ratios.items()))
        write_json(target, {"presets": rows})


if __name__ == "__main__":
    tyro.cli(main)
