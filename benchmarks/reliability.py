"""How many flipped bits, cuts and kills of a run's files are survived or found: the figures of docs/reliability.md.

    python benchmarks/reliability.py [--flips 400] [--kills 20]

It trains a tiny model on noise in a temporary folder. A kill is SIGKILL of `mfcvae fit` after a random time; the run is
then resumed, and its model compared bit for bit with that of a run that nothing stopped.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.safety.tensor_files import read_tensors

SETTINGS = ["networks.kind=mlp", "networks.options.encoder_dims=[64, 64]", "networks.options.decoder_dims=[64, 64]"]
SETTINGS += ["facets.num_clusters=[4, 3]", "facets.latent_dim=[2, 2]", "training.epochs=40", "training.batch_size=20"]
SETTINGS += ["mixture_fit.warmup_steps=2", "mixture_fit.refit_steps=[]", "schedule.fade_in_steps=4"]


def fit(folder: Path, *options: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "pyro_mfcvae", "fit", *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def start(folder: Path, out: str) -> "subprocess.Popen[bytes]":
    return fit(folder, "shapes", "--data", "data.npz", "--out", out, "--device", "cpu", "--set", *SETTINGS)


def count_flips(run: RunFolder, num: int, generator: np.random.Generator) -> dict[str, int]:
    """How many of as many single flipped bits are found, file by file."""
    found = {}
    for path, read in (
        (run.model_path, run.load_pair),
        (run.checkpoint_path, lambda: read_tensors(run.checkpoint_path, "epoch")),
        (run.summary_path, run.read_summary),
    ):
        content = path.read_bytes()
        found[path.name] = 0
        for place in generator.choice(8 * len(content), num, replace=False):
            spoiled = bytearray(content)
            spoiled[place // 8] ^= 1 << (place % 8)
            path.write_bytes(spoiled)
            try:
                read()
            except InputError:
                found[path.name] += 1
        path.write_bytes(content)
    return found


def count_kills(folder: Path, num: int, seconds: float, generator: np.random.Generator) -> dict[str, int]:
    """Kills at random times: how many runs then end with the same model, and how many leave a temporary file."""
    expected = (folder / "whole" / "model.safetensors").read_bytes()
    counts = {"kills": 0, "same bits": 0, "temporary files left": 0}
    for index in range(num):
        out = f"killed-{index}"
        process = start(folder, out)
        time.sleep(generator.uniform(0, seconds))
        process.kill()
        process.communicate()
        begun = (folder / out / "config.toml").is_file()
        again = fit(folder, "--resume", "--out", out, "--device", "cpu") if begun else start(folder, out)
        _, error = again.communicate()
        model = folder / out / "model.safetensors"
        counts["kills"] += 1
        counts["same bits"] += again.returncode == 0 and model.read_bytes() == expected
        counts["temporary files left"] += len(list((folder / out).rglob(".*")))
        if again.returncode:
            print(error.decode(), file=sys.stderr)
        shutil.rmtree(folder / out)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=400)
    parser.add_argument("--kills", type=int, default=20)
    args = parser.parse_args()
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = generator.integers(256, size=(80, 8, 8), dtype=np.uint8)
        np.savez(folder / "data.npz", images=images, y=np.arange(80) % 2)
        clock = time.perf_counter()
        _, error = start(folder, "whole").communicate()
        seconds = time.perf_counter() - clock
        if not (folder / "whole" / "summary.json").is_file():
            sys.exit(error.decode())
        report = {"seconds of a run": round(seconds, 1), "flips": args.flips}
        report["flips found"] = count_flips(RunFolder(folder / "whole"), args.flips, generator)
        report |= count_kills(folder, args.kills, seconds, generator)
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
