"""Do the checks say what is known? Guides that are exact or off by design, and two rules for q(c | x) on one fit.

    python benchmarks/criticism.py --run runs/shapes-1

With 20 seeds: how often each check flags (its verdict is not good) the exact guide, and guides that are too wide, too
narrow or shifted, in all facets or in one, on a mixture whose posterior and evidence are known (linear_gaussian.py).
Then, on that mixture and on a run of `mfcvae fit`, the analytic rule against VaDE's.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
import tyro
from linear_gaussian import draw, exact_log_evidence, linear_pair
from provenance import machine
from reproduction import RESULTS

from pyro_mfcvae import MFCVAE
from pyro_mfcvae.atomic_io import write_text
from pyro_mfcvae.checks.criticism import criticise
from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.data.images import as_float
from pyro_mfcvae.draws.arviz_data import to_inference_data, values
from pyro_mfcvae.guides import AnalyticAssignment, AssignmentRule, MonteCarloAssignment, VaDEAssignment
from pyro_mfcvae.runs.folder import RunFolder

GUIDES: dict[str, dict[str, Any]] = {
    "exact": {},
    "a fifth too wide": {"spread": 1.2},
    "scale halved": {"spread": 0.5},
    "shifted by one standard deviation": {"shift": 1.0},
    "scale halved in facet 0": {"spread": 0.5, "off": (0,)},
    "scale halved in facet 1": {"spread": 0.5, "off": (1,)},
}
KNOWN = ("k-hat of the guide", "calibration of q(c|x)", "ranks of the true z")
NUM_ITEMS, NUM_SAMPLES, NUM_SIMULATED = 500, 100, 10_000


def one(seed: int, guide: dict[str, Any]) -> dict[str, Any]:
    """The worst number and the flag of every check, over facets, and the error of the evidence."""
    pyro.set_rng_seed(seed)
    pair = linear_pair(**guide)
    x = draw(pair, NUM_ITEMS)
    data = to_inference_data(
        pair, x, reference=draw(pair, NUM_ITEMS), num_samples=NUM_SAMPLES, num_simulated=NUM_SIMULATED
    )
    checks = criticise(data).checks
    error = values(data, "log_likelihood", "x") - exact_log_evidence(pair, x).numpy()
    names = list(dict.fromkeys(check.name for check in checks))
    return {
        "checks": {
            name: {
                "value": max(check.value for check in checks if check.name == name),
                "flagged": any(check.verdict != "good" for check in checks if check.name == name),
            }
            for name in names
        },
        "top_label_calibration": max(
            check.details["expected_calibration_error"] for check in checks if check.name == KNOWN[1]
        ),
        "flagged_facets": [check.verdict != "good" for check in checks if check.name == "k-hat of q(z_j|x)"],
        "evidence_error": float(error.mean()),
        "evidence_standard_error": float(error.std(ddof=1) / np.sqrt(len(error))),
    }


def rules(
    pair: MFCVAE, x: torch.Tensor, analytic: AssignmentRule, *, seed: int = 0, num_simulated: int = 4000
) -> dict[str, Any]:
    """Calibration, ELBO and evidence with each rule; the guide's q(z | x) is the same."""
    found = {}
    for name, rule in (("analytic", analytic), ("vade", VaDEAssignment(num_samples=100))):
        pyro.set_rng_seed(seed)
        pair.guide.assignment = rule
        data = to_inference_data(pair, x, num_samples=64, num_simulated=num_simulated, pixels=False)
        checks = criticise(data).checks
        found[name] = {
            "calibration": [check.value for check in checks if check.name == KNOWN[1]],
            "top_label_calibration": [
                check.details["expected_calibration_error"] for check in checks if check.name == KNOWN[1]
            ],
            "distance_to_p_c_given_x": [check.value for check in checks if check.name == "q(c|x) against p(c|x)"],
            "elbo": float(values(data, "sample_stats", "elbo").mean()),
            "evidence": float(values(data, "log_likelihood", "x").mean()),
        }
        print(f"  {name}: {found[name]}", flush=True)
    return found


def main(run: Path | None = None, seeds: int = 20, items: int = 1000) -> None:
    """Measure.

    Args:
        run: A run folder, for the comparison of rules on a fit; none without.
        seeds: How many.
        items: Of the run's test items.
    """
    guides = {}
    for name, guide in GUIDES.items():
        runs = [one(seed, guide) for seed in range(seeds)]
        flagged = {check: sum(r["checks"][check]["flagged"] for r in runs) for check in runs[0]["checks"]}
        within = sum(abs(r["evidence_error"]) <= 2 * r["evidence_standard_error"] + 1e-5 for r in runs)
        worst = {check: [round(r["checks"][check]["value"], 4) for r in runs] for check in KNOWN}
        guides[name] = {
            "flagged": flagged,
            "flagged_facets": np.sum([r["flagged_facets"] for r in runs], 0).tolist(),
            "evidence_within_two_standard_errors": within,
            "evidence_error": [r["evidence_error"] for r in runs],
            "top_label_calibration": [r["top_label_calibration"] for r in runs],
            "values": worst,
        }
        print(f"{name}: flagged of {seeds}: {flagged}; evidence within 2 standard errors {within}", flush=True)
        print(f"  facets flagged by their own k-hat: {guides[name]['flagged_facets']}", flush=True)
        print("  " + "; ".join(f"{check} {min(v):.3f} … {max(v):.3f}" for check, v in worst.items()), flush=True)
    result: dict[str, Any] = {"machine": machine(), "seeds": seeds, "guides": guides}
    result |= {"items": NUM_ITEMS, "draws": NUM_SAMPLES, "simulated": NUM_SIMULATED}
    pyro.set_rng_seed(0)
    pair = linear_pair()
    print("rules on the known mixture, exact q(z|x)")
    # q(z | x) is a mixture here, and the analytic rule's expectation has no closed form.
    result["rules_known"] = rules(pair, draw(pair, 2000), MonteCarloAssignment(num_samples=100), num_simulated=20_000)
    if run is not None:
        folder = RunFolder.open(run)
        config = folder.read_config()
        dataset = load_dataset(config.data.source, seed=config.seed)
        print(f"rules on a run of {config.data.source}, seed {config.seed}")
        result["rules_fit"] = {
            "data": config.data.source,
            "seed": config.seed,
            "data_fingerprint": dataset.fingerprint(),
        }
        result["rules_fit"] |= rules(folder.load_pair(), as_float(dataset.test.images[:items]), AnalyticAssignment())
    write_text(RESULTS / "criticism.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
