"""All measurements on a GPU, the most important first, in a given number of minutes.

python benchmarks/gpu.py --minutes 12
python benchmarks/gpu.py --rehearse
python benchmarks/gpu.py --table

Every part runs in a separate process with its own time limit and writes each figure immediately, so a run that is
stopped keeps its figures. The result goes to benchmarks/results/gpu.json with card, driver, torch and commit.
``--rehearse`` runs all parts in miniature, on the CPU or (``--device cuda``) on a GPU: it shows that the parts work,
but its figures have no meaning.

The script needs no installation of the package: a source checkout and its dependencies on PYTHONPATH are enough.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "gpu.json"


@dataclass(frozen=True)
class Part:
    """One part of the run.

    Attributes:
        name: name of the function in `gpu_parts`.
        share: largest share of the minutes; unused time goes to later parts.
        title: description of the measurement.
    """

    name: str
    share: float
    title: str


PARTS = (
    Part("tests", 0.08, "the tests marked gpu"),
    Part("commands", 0.25, "every command, in short"),
    Part("auto", 0.30, "auto without other options"),
    Part("steps", 0.35, "a training step, in all variants"),
    Part("accuracy", 0.20, "presets until they reach their accuracy"),
    Part("together", 0.12, "ten seeds together against one"),
    Part("paper", 0.80, "mnist-paper, all 402 epochs, seeds stacked"),
    Part("images", 0.50, "memory and images per second of the convolutional ladder"),
    Part("items", 1.00, "check and assign of 60,000 items"),
)


def importable(folder: Path) -> Path:
    """Make a folder with the package as it would be installed, with models/ and guides/ inside pyro_mfcvae/."""
    package = folder / "pyro_mfcvae"
    package.mkdir(parents=True)
    for entry in (ROOT / "pyro_mfcvae").iterdir():
        (package / entry.name).symlink_to(entry)
    for name in ("models", "guides"):
        (package / name).symlink_to(ROOT / name)
    return folder


def environment() -> dict[str, Any]:
    """Card, driver, torch and commit."""
    import torch
    from provenance import provenance

    known: dict[str, Any] = {**provenance(), "torch": torch.__version__, "card": None, "driver": None}
    if torch.cuda.is_available():
        known["card"] = torch.cuda.get_device_name()
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            known["driver"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            known["driver"] = "unknown"
    return known


def run_part(part: Part, seconds: float, folder: Path, *, rehearse: bool, device: str) -> dict[str, Any]:
    """Run one part in a separate process, for a limited time; return its figures so far."""
    rows = folder / f"{part.name}.json"
    command = [sys.executable, __file__, "--part", part.name, "--rows", str(rows), "--seconds", f"{seconds:.0f}"]
    command += ["--device", device]
    start, why = time.monotonic(), None
    with (folder / f"{part.name}.log").open("wb") as log:
        process = subprocess.Popen(
            command + ["--rehearse"] * rehearse, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            why = f"stopped after {seconds:.0f} s"
            os.killpg(process.pid, signal.SIGKILL)  # also ends the processes that it has started
            process.wait()
        else:
            last = (folder / f"{part.name}.log").read_text(errors="replace").strip().splitlines()[-1:]
            why = f"exit code {code}: {' '.join(last)}" if code else None
    return {
        "title": part.title,
        "seconds": round(time.monotonic() - start, 1),
        "incomplete": why,
        "rows": json.loads(rows.read_text()) if rows.is_file() else [],
    }


def run_all(minutes: float, only: list[str], result: Path, *, rehearse: bool, device: str) -> bool:
    """Run the parts one after the other; return whether all of them finished."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("expected a CUDA device, got none: run on a machine with a GPU, or rehearse with --rehearse")
    end = time.monotonic() + 60 * minutes
    record: dict[str, Any] = {"rehearsal": rehearse, **environment(), "parts": {}}
    with tempfile.TemporaryDirectory() as name:
        for part in PARTS:
            if only and part.name not in only:
                continue
            left = end - time.monotonic()
            if left < 5:
                break
            limit = left if rehearse else min(left, 60 * minutes * part.share)
            found = run_part(part, limit, Path(name), rehearse=rehearse, device=device)
            record["parts"][part.name] = found
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_text(json.dumps(record, indent=1) + "\n")
            print(f"{part.title}: {len(found['rows'])} rows in {found['seconds']:.0f} s", found["incomplete"] or "")
            sys.stdout.flush()
    return all(found["incomplete"] is None for found in record["parts"].values())


def table(result: Path) -> str:
    """The figures of a run as Markdown, for docs/performance.md."""
    record = json.loads(result.read_text())
    lines = [f"{record['card']}, driver {record['driver']}, torch {record['torch']}, commit {record['commit']}."]
    for part in record["parts"].values():
        lines += ["", f"**{part['title']}**" + (f" ({part['incomplete']})" if part["incomplete"] else ""), ""]
        for row in part["rows"]:
            lines.append("- " + ", ".join(f"{key} {value}" for key, value in row.items()))
    return "\n".join(lines)


def main() -> None:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12.0, help="time limit of the whole run")
    parser.add_argument("--rehearse", action="store_true", help="run all parts in miniature")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="of a rehearsal; by default the CPU")
    parser.add_argument(
        "--only", nargs="*", default=[], choices=[part.name for part in PARTS], help="some of the parts"
    )
    parser.add_argument("--out", type=Path, help="where the result goes; by default benchmarks/results/gpu.json")
    parser.add_argument("--table", action="store_true", help="print a result as Markdown")
    parser.add_argument("--part", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = options.device if options.rehearse and options.device else "cpu" if options.rehearse else "cuda"
    result = options.out or (Path("gpu-rehearsal.json") if options.rehearse else RESULT)
    if options.table:
        print(table(result))
        return
    with tempfile.TemporaryDirectory() as name:
        path = [str(importable(Path(name))), str(ROOT / "benchmarks")]
        sys.path[:0] = path
        os.environ["PYTHONPATH"] = os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")])
        if options.part:
            import gpu_parts

            gpu_parts.run(options.part, options.rows, seconds=options.seconds, rehearse=options.rehearse, device=device)
            return
        if not run_all(options.minutes, options.only, result, rehearse=options.rehearse, device=device):
            sys.exit(1)


if __name__ == "__main__":
    main()
