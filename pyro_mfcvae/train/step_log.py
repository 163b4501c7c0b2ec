"""The terms of the objective for every step, recorded without waiting for the device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.train.divergence import DivergedError

# Steps between two reads. A read waits until the device has finished all earlier steps; on a CPU it costs nothing.
READ_EVERY = {"cpu": 1, "cuda": 50}


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """A line of ``metrics.jsonl``: means over the items of an epoch, in nats, and values of the schedule at the end of
    the epoch.

    ``elbo`` is the training objective, with KLs weighted by ``beta``; ``kl`` is not weighted and includes z and c.
    """

    epoch: int
    step: int
    elbo: float
    reconstruction: float
    kl: list[float]
    active_clusters: list[int]
    alpha: list[float]
    beta: list[float]
    learning_rate: float


@torch.no_grad()
def count_active_clusters(pair: MFCVAE, x: Tensor) -> list[int]:
    """For each facet, the number of clusters that are the most probable one for at least one item of ``x`` (N,
    *event_shape).
    """
    return [len(probs.argmax(-1).unique()) for probs in pair.assign(x)]


class StepLog:
    """Keeps the values of the last steps on the device until they are read together.

    Args:
        shape: shape of the values of a step.
        device: the device that computes the steps.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self._rows = torch.zeros(READ_EVERY.get(device.type, 1), *shape, device=device)
        self._count = 0

    @property
    def is_full(self) -> bool:
        """Whether the log must be read before another step."""
        return self._count == len(self._rows)

    def add(self, terms: Tensor) -> None:
        """Keep the values of one step."""
        self._rows[self._count].copy_(terms)
        self._count += 1

    def read(self) -> Tensor:
        """All values since the last read, (steps, *shape), on the CPU; the log is empty afterwards."""
        values = self._rows[: self._count].cpu()
        self._count = 0
        return values


def check_finite(rows: Tensor, *, last_step: int) -> None:
    """Raise an error if a term of a step is not finite.

    Args:
        rows: mean ELBO, mean reconstruction and mean KL per facet of consecutive steps, (steps, 2 + J).
        last_step: number of the last of these steps.

    Raises:
        DivergedError: the message names the step and the term.
    """
    if rows.isfinite().all():
        return
    step, term = (int(i) for i in (~rows.isfinite()).nonzero()[0])
    names = ["ELBO", "reconstruction", *(f"KL of facet {j}" for j in range(rows.shape[1] - 2))]
    # The ELBO is the sum of the other terms, so the message also names the first other term that is not finite.
    terms = [i for i in range(1, len(names)) if not rows[step, i].isfinite()]
    because = f" (the {names[terms[0]]} became {rows[step, terms[0]]:g})" if term == 0 and terms else ""
    raise DivergedError(
        f"the {names[term]} became {rows[step, term]:g}{because} at step {last_step - len(rows) + step + 1}"
    )
