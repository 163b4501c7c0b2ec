"""Where to compute: on one device, on several, on several machines."""

from collections.abc import Callable

import pyro
import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from pyro_mfcvae.errors import InputError


def open_fabric(device: str = "auto", *, devices: int = 1, num_nodes: int = 1, precision: str = "float32") -> Fabric:
    """Lightning Fabric on ``devices`` devices of each of ``num_nodes`` machines, which train as one (DDP).

    With more than one device this very command is started once more for each other device of the machine, unless
    torchrun or Slurm has done so, and all of them meet here before any goes on.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or whatever Fabric takes as an accelerator.
        devices: how many of each machine, ≥ 1; on a CPU as many processes.
        num_nodes: how many machines, ≥ 1.
        precision: of the networks, ``"float32"`` or ``"bf16"``.

    Raises:
        InputError: there is no such device, or there are not so many.
    """
    kind, _, index = device.partition(":")
    world_size = devices * num_nodes
    if world_size < 1 or (index and world_size > 1):
        raise InputError(
            f"cannot compute on {devices} devices of {num_nodes} machines called {device!r}: give numbers ≥ 1, and the "
            "number of a device only where there is one; for two say --device cuda --devices 2"
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
            fabric.launch()
    except (ValueError, RuntimeError, TypeError, ImportError, MisconfigurationException) as error:
        raise InputError(f"cannot compute on the device {device!r}: {' '.join(str(error).split())}") from None
    return fabric


def on_rank_zero_then_broadcast(fabric: Fabric, change: Callable[[], object], *modules: nn.Module) -> None:
    """Let the first device change modules in place, by chance or at length; the others take over what came out."""
    if fabric.is_global_zero:
        change()
    if fabric.world_size > 1:
        for module in modules:
            for tensor in module.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)


def set_seed(seed: int) -> None:
    """`pyro.set_rng_seed`, for a seed that a user gives."""
    if not 0 <= seed < 2**32:
        raise InputError(f"expected a seed from 0 to 2**32 - 1, got {seed}")
    pyro.set_rng_seed(seed)
