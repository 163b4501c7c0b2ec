"""Two processes train one model: losses and parameters are those of one process, and a run may continue with
another number of processes.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from child_processes import processes_of, wait_until
from command_line import TINY, make_images, save_data
from lightning_fabric.utilities.exceptions import MisconfigurationException

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.train.devices import RandomState, open_fabric

# Several ranks draw other z for the same items than a single process. So this program draws no z. Only the fits of the
# mixtures are random, and the first rank makes them. There is no batch norm, since each rank would normalise its own
# share.
PROGRAM = """
import json, sys
from pathlib import Path
import pyro, torch, torch.distributions.normal
from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.runs.checkpoints import load_training, save_training
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.train.devices import open_fabric
from pyro_mfcvae.train.training import Training, steps_per_epoch

world_size, num_epochs, checkpoint = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.compile = lambda traced, **_: traced  # the traced operations one by one: compiling takes a minute
torch.distributions.normal._standard_normal = lambda shape, **like: torch.zeros(shape, **like)
config = override(Config(data=DataConfig(source="none")), [
    "facets.num_clusters=[3, 4]", "facets.latent_dim=[2, 3]", "prior.covariance=full", "networks.head_init_scale=1.0",
    "networks.encoder_dims=[8, 9]", "networks.decoder_dims=[8, 9]", "networks.hidden_dim=8", "training.epochs=5",
    "training.batch_size=20", "mixture_fit.warmup_steps=3", "mixture_fit.refit_steps=[7]", "schedule.fade_in_steps=9",
    "training.learning_rate=0.003", "training.data_dependent_init=true",
    *sys.argv[4:],
])
fabric = open_fabric("cpu", devices=world_size)
pyro.set_rng_seed(0)
images = torch.rand(105, 1, 4, 4)
training = Training(
    build_pair(config, (1, 4, 4)), images, schedule=build_schedule(config, steps_per_epoch(105, 20)),
    settings=config.training, mixture_fit=config.mixture_fit, fabric=fabric,
)
if checkpoint.is_file():
    load_training(training, checkpoint)
fabric.barrier()
records = [training.run_epoch() for _ in range(num_epochs)]
if fabric.is_global_zero:
    save_training(training, checkpoint)
parameters = torch.cat([p.detach().flatten() for p in training.pair.parameters()])
ranks = fabric.all_gather(parameters).reshape(world_size, -1)
if fabric.is_global_zero:
    print(json.dumps({
        "steps": training.step, "elbo": [r.elbo for r in records], "kl": [r.kl for r in records],
        "parameters": parameters.tolist(), "apart": (ranks - ranks[0]).abs().max().item(),
    }))
"""


def train(folder: Path, name: str, *calls: tuple[int, int], settings: tuple[str, ...] = ()) -> dict[str, Any]:
    """Call the program several times, each time with numbers of processes and epochs; returns the report of the
    last call.
    """
    (folder / "program.py").write_text(PROGRAM)
    for world_size, num_epochs in calls:
        command = [sys.executable, folder / "program.py", str(world_size), str(num_epochs), folder / name, *settings]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0 and "not compiled" not in result.stderr, result.stderr
    report: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return report


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """The two processes are compiled, so that their gradients come from a compiled program; the one process is not."""
    one = train(tmp_path, "one", (1, 10))
    two = train(tmp_path, "two", (2, 10), settings=("training.compile=true",))
    assert one["steps"] == two["steps"] == 50
    assert two["apart"] == 0.0
    for key in ("elbo", "kl", "parameters"):
        assert np.allclose(one[key], two[key], rtol=0, atol=1e-9), key


@pytest.mark.slow
def test_a_training_continues_with_more_or_fewer_processes(tmp_path: Path) -> None:
    whole = train(tmp_path, "whole", (1, 10))
    for name, calls in {"fewer": [(2, 5), (1, 5)], "more": [(1, 5), (2, 5)]}.items():
        stopped = train(tmp_path, name, *calls)
        assert np.allclose(whole["parameters"], stopped["parameters"], rtol=0, atol=1e-9), name
        assert np.allclose(whole["elbo"][5:], stopped["elbo"], rtol=0, atol=1e-9), name


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["itself", "torchrun"])
def test_the_command_line_on_two_processes(tmp_path: Path, launcher: str) -> None:
    save_data(tmp_path / "data.npz", make_images())
    start = ["-m"] if launcher == "itself" else ["-m", "torch.distributed.run", "--nproc-per-node=2", "-m"]
    command = [sys.executable, *start, "pyro_mfcvae", "fit", "--data", "data.npz", "--out", "run", "--device", "cpu"]
    result = subprocess.run(
        [*command, "--devices", "2", "--set", *TINY], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("All files of this run are in run") == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["num_devices"], summary["epochs"]) == (2, 4)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="this system does not list its processes in /proc")
@pytest.mark.parametrize("killed", ["rank 0", "rank 1"])
@pytest.mark.parametrize("when", ["they connect", "they train"])
def test_no_rank_outlives_a_killed_one(tmp_path: Path, killed: str, when: str) -> None:
    save_data(tmp_path / "data.npz", make_images())
    args = ["fit", "--data", "data.npz", "--out", "run", "--device", "cpu", "--devices", "2"]
    log = tmp_path / "log"
    with log.open("w") as output:
        first = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pyro_mfcvae",
                *args,
                "--set",
                *TINY,
                "training.epochs=5000",
                "schedule.linear_start_steps=0",
            ],
            cwd=tmp_path,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        metrics = tmp_path / "run/metrics.jsonl"
        begun = (lambda: "Initializing" in log.read_text()) if when == "they connect" else metrics.is_file
        assert wait_until(begun, 120), log.read_text()
        (second,) = set(processes_of(first.pid)) - {first.pid}
        os.kill(first.pid if killed == "rank 0" else second, signal.SIGKILL)
        assert first.wait(20) == (-signal.SIGKILL if killed == "rank 0" else 2), log.read_text()
        assert wait_until(lambda: not processes_of(first.pid), 20)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
    messages = [line for line in log.read_text().splitlines() if line.startswith("mfcvae: ")]
    line = "mfcvae: expected all ranks to train, but rank 1 was killed by signal 9: resume with --resume"
    assert messages == ([line] if killed == "rank 1" else [])
    assert "Traceback" not in log.read_text()


def test_one_device() -> None:
    fabric = open_fabric("cpu")
    assert (fabric.world_size, fabric.global_rank, fabric.device.type) == (1, 0, "cpu")


@pytest.mark.parametrize("device", ("cpu:0", "auto:1", "tpu", "cpu:x", "abacus"))
def test_missing_devices_are_refused(device: str) -> None:
    with pytest.raises(InputError, match=f"expected a device to compute on, got '{device}': [^\n]+$"):
        open_fabric(device)


def test_a_number_beyond_the_gpus_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of Fabric if a second GPU is requested on a machine with one GPU."""

    def refuse(**_: object) -> None:
        raise MisconfigurationException("You requested gpu: [3]\n But your machine only has: [0]")

    monkeypatch.setattr("pyro_mfcvae.train.devices.Fabric", refuse)
    with pytest.raises(InputError, match=r"'cuda:3': You requested gpu: \[3\] But your machine only has: \[0\]$"):
        open_fabric("cuda:3")


@pytest.mark.parametrize(("device", "devices", "num_nodes"), [("cpu", 0, 1), ("cpu", 1, -1), ("cuda:1", 2, 1)])
def test_impossible_numbers_of_devices_are_refused(device: str, devices: int, num_nodes: int) -> None:
    with pytest.raises(InputError, match=r"got -?\d devices of -?\d machines called"):
        open_fabric(device, devices=devices, num_nodes=num_nodes)


def test_random_states_take_turns() -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    state = RandomState(torch.device("cpu"))
    torch.manual_seed(7)
    others = torch.rand(1), torch.rand(1)
    torch.manual_seed(7)
    with state.in_turn():
        first = torch.rand(2)
    assert torch.equal(torch.rand(1), others[0])
    with pytest.raises(ZeroDivisionError), state.in_turn():
        second = torch.rand(2)
        raise ZeroDivisionError
    assert torch.equal(torch.rand(1), others[1])
    assert torch.equal(torch.cat([first, second]), expected)


def test_each_state_draws_its_own_numbers() -> None:
    expected = []
    states = []
    for seed in (3, 8):
        torch.manual_seed(seed)
        states.append(RandomState(torch.device("cpu")))
        expected.append(torch.rand(4))
    torch.manual_seed(7)
    outside = torch.rand(2)
    torch.manual_seed(7)
    first, second = (RandomState.each_in_turn(states, lambda: torch.rand(2), kinds={"cpu"}) for _ in range(2))
    assert torch.equal(torch.rand(2), outside)
    assert all(torch.equal(torch.cat(parts), both) for *parts, both in zip(first, second, expected, strict=True))
