"""Devices for a training (one, several, or those of several machines), and their random states."""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import pyro
import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.safety.ranks import announce_launcher, end_with_launcher, end_with_ranks, explain_lost_rank

T = TypeVar("T")


def open_fabric(device: str = "auto", *, devices: int = 1, num_nodes: int = 1, precision: str = "float32") -> Fabric:
    """Open Lightning Fabric on ``devices`` devices of each of ``num_nodes`` machines, which train one model (DDP).

    With more than one device the same command is started again for every other device of the machine, unless torchrun
    or Slurm has done this. All processes wait here for each other.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or another accelerator of Fabric's.
        devices: number of devices of each machine, ≥ 1; on a CPU, the number of processes.
        num_nodes: number of machines, ≥ 1.
        precision: precision of the networks, ``"float32"``, ``"tf32"`` or ``"bf16"``; Fabric handles only the last one.

    Raises:
        InputError: there is no such device, or there are not enough devices.
    """
    kind, _, index = device.partition(":")
    world_size = devices * num_nodes
    if world_size < 1 or (index and world_size > 1):
        raise InputError(
            f"expected numbers ≥ 1, and an index only for a single device, got {devices} devices of {num_nodes} "
            f"machines called {device!r}: for two devices write --device cuda --devices 2"
        )
    try:
        fabric = Fabric(
            accelerator=kind,
            devices=[int(index)] if index else devices,
            num_nodes=num_nodes,
            strategy="ddp" if world_size > 1 else "auto",
            precision="bf16-mixed" if precision == "bf16" else "32-true",
        )
        if world_size > 1:
            _launch(fabric)
    except (ValueError, RuntimeError, TypeError, ImportError, MisconfigurationException) as error:
        raise InputError(f"expected a device to compute on, got {device!r}: {' '.join(str(error).split())}") from None
    return fabric


def any_rank(fabric: Fabric, value: bool) -> bool:
    """Whether the value is true on at least one device; all devices must call this."""
    if fabric.world_size == 1:
        return value
    total = cast(Tensor, fabric.all_reduce(torch.tensor(float(value), device=fabric.device), reduce_op="sum"))
    return bool(total > 0)


@contextmanager
def naming_lost_ranks(fabric: Fabric) -> Iterator[None]:
    """Context that raises an `InputError` with the rank that was lost, because torch only reports a closed
    connection.
    """
    try:
        yield
    except RuntimeError as error:
        is_lost = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
        if fabric.world_size == 1 or not is_lost:
            raise
        launcher: Any = fabric.strategy.launcher
        raise InputError(explain_lost_rank(getattr(launcher, "procs", ()))) from None


def on_rank_zero_then_broadcast(fabric: Fabric, change: Callable[[], object], *modules: nn.Module) -> None:
    """Make a random or slow change of modules, in place, on the first device only; the other devices copy the
    result.
    """
    if fabric.is_global_zero:
        change()
    if fabric.world_size > 1:
        for module in modules:
            for tensor in module.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)


def _launch(fabric: Fabric) -> None:
    """Start the other processes of this machine. If one process ends, all end, even while they are connecting.

    Fabric's own monitor would kill all processes, this one too, without a message, so it is disabled.
    """
    strategy: Any = fabric.strategy  # only Fabric's classes for DDP have these attributes
    launcher = strategy.launcher
    if launcher is None or strategy.cluster_environment.creates_processes_externally:
        end_with_launcher()
        fabric.launch()
        return
    launch = launcher.launch

    def launch_watched(connect: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def watch_and_connect(*args: Any, **kwargs: Any) -> Any:
            for thread in threading.enumerate():
                if thread.name == "child-process-observer":
                    thread._child_processes = []  # type: ignore[attr-defined]
            end_with_ranks(launcher.procs)
            return connect(*args, **kwargs)

        return launch(watch_and_connect, *args, **kwargs)

    announce_launcher()
    launcher.launch = launch_watched
    fabric.launch()


def set_seed(seed: int) -> None:
    """Check a seed that the user gave, and seed all random states with it."""
    if not 0 <= seed < 2**32:
        raise InputError(f"expected a seed from 0 to 2**32 - 1, got {seed}")
    pyro.set_rng_seed(seed)


class RandomState:
    """A random state of torch for one of several trainings in a process; initially a copy of the current state.

    Args:
        device: the device whose state is stored, in addition to that of the CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._generators = {"cpu": torch.default_generator}
        if device.type == "cuda":
            torch.cuda.init()  # creates the generators
            index = torch.cuda.current_device() if device.index is None else device.index
            self._generators["cuda"] = torch.cuda.default_generators[index]
        self._state = self._read(self._generators)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Context in which draws use this state; afterwards the previous state is restored."""
        others = self._read(self._generators)
        self._write(self._state)
        try:
            yield
        finally:
            self._state = self._read(self._generators)
            self._write(others)

    def _read(self, kinds: Collection[str]) -> dict[str, Tensor]:
        return {kind: self._generators[kind].get_state() for kind in kinds}

    def _write(self, state: dict[str, Tensor]) -> None:
        for kind, tensor in state.items():
            self._generators[kind].set_state(tensor)

    @staticmethod
    def each_in_turn(states: "Sequence[RandomState]", act: Callable[[], T], *, kinds: Collection[str]) -> list[T]:
        """Call ``act`` once with each of the states, and return the results; afterwards the previous state is restored.

        Args:
            states: states of one device.
            act: the function. It may draw only on the device types in ``kinds``, because the other states are not
                exchanged.
            kinds: device types, "cpu" or "cuda".
        """
        others, results = states[0]._read(kinds), []
        try:
            for own in states:
                own._write({kind: own._state[kind] for kind in kinds})
                results.append(act())
                own._state.update(own._read(kinds))
        finally:
            states[0]._write(others)
        return results
