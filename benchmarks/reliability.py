"""Measure what runs survive and what readers refuse: the figures of docs/reliability.md.

    python benchmarks/reliability.py [--missing] [PART | PART/STEP …]

Each finished step is written to results/reliability.json. With ``--missing`` steps that the file already has are left
out, so that a stopped command can be continued. MFCVAE_PYTHONS names the interpreters for the part ``interpreters``.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # forks of a process with threads could wait for these forever

from disk_full import WAYS_TO_FILL, measure_full_disks
from flips import measure_flips, measure_swaps
from fuzz import measure_crafted, measure_mutated
from interpreters import measure_interpreters
from kills import SCENARIOS, measure_kills
from memory_slope import measure_assigning, measure_memory, measure_training
from provenance import provenance

RESULT = Path(__file__).parent / "results" / "reliability.json"
Step = Callable[[Path], dict[str, Any]]


def _kills() -> dict[str, Step]:
    """60 random and 60 chosen kills; fewer for slower ways to train."""
    numbers = {"fit": 16, "resume": 16, "two ranks": 12, "sweep": 12, "sweep --together": 4}
    return {
        f"{scenario.name}, {kind}": partial(measure_kills, scenario, **{kind: numbers[scenario.name]})
        for scenario in SCENARIOS
        for kind in ("random", "chosen")
    }


# 60 random and 60 chosen kills, half an hour of training, and so on; each step gets an empty folder.
STEPS: dict[str, dict[str, Step]] = {
    "kills": _kills(),
    "flips": {"bits": partial(measure_flips, num=400), "swaps": measure_swaps},
    "fuzz": {"mutated": partial(measure_mutated, num=3_000), "crafted": measure_crafted},
    "interpreters": {"assign": measure_interpreters},
    "disk": {name: partial(measure_full_disks, name) for name in WAYS_TO_FILL},
    "memory": {
        "training": partial(measure_memory, measure_training, 30.0),
        "assign": partial(measure_memory, measure_assigning, 2_000),
    },
}


def chosen_steps(names: Sequence[str], steps: Mapping[str, Mapping[str, Step]]) -> list[tuple[str, str]]:
    """The steps that ``PART`` or ``PART/STEP`` names; all steps if no name is given."""
    everything = [(part, step) for part, those in steps.items() for step in those]
    known = {*steps, *(f"{part}/{step}" for part, step in everything)}
    if unknown := sorted(set(names) - known):
        sys.exit(f"expected parts or steps out of {', '.join(sorted(known))}, got {', '.join(unknown)}")
    return [(part, step) for part, step in everything if not names or part in names or f"{part}/{step}" in names]


def measure(
    names: Sequence[str],
    *,
    result: Path = RESULT,
    missing: bool = False,
    steps: Mapping[str, Mapping[str, Step]] = STEPS,
) -> None:
    """Run steps, and record each as soon as it has ended.

    Args:
        names: see `chosen_steps`.
        result: the file of the record; its figures of other steps are kept.
        missing: whether to leave out the steps that the file has.
        steps: the steps, by part and name.
    """
    for part, step in chosen_steps(names, steps):
        if missing and step in _read(result).get(part, {}):
            continue
        with tempfile.TemporaryDirectory() as folder:
            figures = provenance() | steps[part][step](Path(folder))
        record = _read(result)
        record.setdefault(part, {})[step] = figures
        result.write_text(json.dumps(record, indent=2) + "\n")
        print(json.dumps({part: {step: figures}}, indent=2), flush=True)


def _read(result: Path) -> dict[str, Any]:
    return json.loads(result.read_text()) if result.is_file() else {}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="PART")
    parser.add_argument("--missing", action="store_true", help="leave out the steps that the file has already")
    arguments = parser.parse_args()
    measure(arguments.names, missing=arguments.missing)
