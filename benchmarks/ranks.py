"""Seconds of training of one run, by the number of processes that train it together (DDP).

python benchmarks/ranks.py --preset mnist --ranks 1 2 --device cpu
python benchmarks/ranks.py --preset svhn --ranks 1 2 4 8 --device cuda

Every run is ``mfcvae fit`` with ``--devices N`` in a new folder; on a CPU every process has one thread. The batch is
divided among the processes, so all runs take the same steps. The start of the processes is not counted.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro
from provenance import machine, provenance
from reproduction import RESULTS

from pyro_mfcvae.atomic_io import write_text


def seconds_of(preset: str, ranks: int, device: str, settings: Sequence[str]) -> float:
    """Seconds of training of a run on a number of processes."""
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        command = [sys.executable, "-m", "pyro_mfcvae", "fit", preset, "--out", str(run)]
        command += ["--device", device, "--devices", str(ranks), "--set", *settings]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        return float(json.loads((run / "summary.json").read_text())["seconds"])


def main(
    preset: str = "stickfigures",
    ranks: Sequence[int] = (1, 2),
    device: Literal["cpu", "cuda"] = "cpu",
    settings: Sequence[str] = ("schedule.scale=0.1",),
    rounds: int = 2,
) -> None:
    """Measure each number of processes in turn; the minimum over the rounds is reported.

    Args:
        preset: The preset to train.
        ranks: Numbers of processes.
        device: The device.
        settings: Settings of every run.
        rounds: Number of runs for each number of processes.
    """
    taken: dict[int, list[float]] = {num: [] for num in ranks}
    for _ in range(rounds):
        for num in ranks:
            taken[num].append(seconds_of(preset, num, device, settings))
    seconds = {str(num): min(values) for num, values in taken.items()}
    case = {"preset": preset, "settings": list(settings), "device": device, "machine": machine()}
    load = round(os.getloadavg()[1], 1)
    record = {**provenance(), **case, "load_average": load, "seconds": seconds, "of_all_rounds": taken}
    write_text(RESULTS / f"ranks-{preset}-{device}.json", json.dumps(record, indent=1) + "\n")
    for num, value in seconds.items():
        print(f"{num:>3} processes {value:8.1f} s   {seconds[str(ranks[0])] / value:5.2f} × as fast")


if __name__ == "__main__":
    tyro.cli(main)
