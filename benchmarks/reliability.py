"""What runs survive and readers withstand: the figures of docs/reliability.md.

    python benchmarks/reliability.py [PART …]

Parts: ``kills`` (60 random and 60 chosen ones), ``fuzz`` (3,000 mutated and some 380 crafted inputs), ``memory`` (half
an hour of training, 2,000 calls of assign), ``disk`` (a full disk at every write). Each part that has ended is written
into results/reliability.json.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # forks of a process with threads would wait for them

from disk_full import measure_full_disks
from fuzz import fuzz, try_crafted
from fuzz_crafted import crafted
from fuzz_samples import data_samples, run_samples
from kills import measure_kills
from memory_slope import measure_memory
from provenance import provenance

RESULT = Path(__file__).parent / "results" / "reliability.json"


def measure_fuzz(folder: Path) -> dict[str, Any]:
    """Mutated inputs, the same number of each format, and crafted ones."""
    places = [folder / name for name in ("run", "mutated", "crafted")]
    for place in places:
        place.mkdir()
    mutated = fuzz(data_samples() | run_samples(places[0]), 3_000, places[1])
    tallies = {"mutated": mutated, "crafted": try_crafted(crafted(), places[2])}
    for tally in tallies.values():
        for name, result in tally.failures:
            print(f"{name}: {result.outcome}: {result.message[-300:]}", flush=True)
    return {name: tally.record() for name, tally in tallies.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["kills", "fuzz", "memory", "disk"], metavar="PART")
    for part in parser.parse_args().parts:
        with tempfile.TemporaryDirectory() as name:
            if part == "kills":
                figures = measure_kills(Path(name), random=60, chosen=60)
            elif part == "disk":
                figures = measure_full_disks(Path(name))
            else:
                figures = measure_fuzz(Path(name)) if part == "fuzz" else measure_memory()
        report = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
        report[part] = provenance() | figures
        RESULT.write_text(json.dumps(report, indent=2) + "\n")
        print(json.dumps({part: figures}, indent=2))


if __name__ == "__main__":
    main()
