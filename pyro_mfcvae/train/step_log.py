"""The terms of the objective, step by step, without a step that waits for the device."""

import torch
from torch import Tensor

# Steps between two reads. A read waits until the device has finished all steps before it; on a CPU it costs nothing.
READ_EVERY = {"cpu": 1, "cuda": 50}


class StepLog:
    """The values of the last steps, on the device, until they are read together.

    Args:
        num_terms: values per step.
        device: where the steps are computed.
    """

    def __init__(self, num_terms: int, device: torch.device) -> None:
        self._rows = torch.zeros(READ_EVERY.get(device.type, 1), num_terms, device=device)
        self._count = 0

    @property
    def is_full(self) -> bool:
        """Whether the log must be read before another step."""
        return self._count == len(self._rows)

    def add(self, terms: Tensor) -> None:
        """Keep the values of one step, (num_terms,)."""
        self._rows[self._count].copy_(terms)
        self._count += 1

    def read(self) -> Tensor:
        """All values since the last read, (steps, num_terms), on the CPU; the log is empty afterwards."""
        values = self._rows[: self._count].cpu()
        self._count = 0
        return values
