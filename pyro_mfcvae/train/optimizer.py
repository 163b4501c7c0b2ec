"""Adam and its learning rate."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def make_adam(
    parameters: Iterable[nn.Parameter], *, learning_rate: float, device: torch.device, captured: bool
) -> torch.optim.Adam:
    """Make a fused Adam. For a captured step its learning rate is a tensor on the device."""
    if not captured:
        return torch.optim.Adam(parameters, lr=learning_rate, fused=True)
    rate = torch.tensor(learning_rate, dtype=torch.float32, device=device)  # Adam's kernel requires a float32
    return torch.optim.Adam(parameters, lr=rate, fused=True, capturable=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters, in place if it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)  # unlike a tensor, a number needs no copy
        else:
            group["lr"] = rate


def cosine(first: float, last: float, step: int, num_steps: int) -> float:
    """The learning rate of a step on half a cosine, from ``first`` at step 0 to ``last`` after ``num_steps``."""
    return last + (first - last) * (1 + math.cos(math.pi * step / num_steps)) / 2
