"""Adam, its learning rate, and the number of epochs."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from pyro_mfcvae.config.training_sections import TrainingConfig
from pyro_mfcvae.infer.schedule import ProgressiveSchedule

# With a tolerance, the mean ELBOs of two successive parts of a training are compared, each a twentieth of its epochs;
# if the training ends early, it takes another tenth.
_COMPARED_SHARE, _LAST_SHARE = 0.05, 0.1


class Course:
    """The number of epochs and the learning rate of a training.

    The learning rate falls along half a cosine over all steps of the schedule. With ``tolerance`` > 0 a training can
    end early. After each epoch, the mean ELBO of the last twentieth of all epochs is compared with that of the
    twentieth before, unless the schedule fits a mixture or changes a weight in one of them. If the gain is at most
    ``tolerance`` nats, the training takes another tenth of the epochs, in which no mixture is fitted and the learning
    rate falls along half a cosine to its final value.

    Args:
        schedule: schedule of the ladder.
        settings: learning rates and tolerance.
        steps_per_epoch: number of steps in an epoch.
        elbos: the mean ELBO of each finished epoch, in nats. Together with the settings they determine the course.
    """

    def __init__(
        self,
        schedule: ProgressiveSchedule,
        settings: TrainingConfig,
        *,
        steps_per_epoch: int,
        elbos: Iterable[float] = (),
    ) -> None:
        self._schedule, self._settings, self._steps_per_epoch = schedule, settings, steps_per_epoch
        self._most_epochs = schedule.num_steps // steps_per_epoch
        self._last_part = math.ceil(_LAST_SHARE * self._most_epochs)
        self._last_start: int | None = None  # the epoch after which the last part begins, if the training ends early
        self.elbos: list[float] = []
        for elbo in elbos:
            self.add(elbo)

    @property
    def num_epochs(self) -> int:
        """The number of epochs, as far as it is known after the finished epochs."""
        return self._most_epochs if self._last_start is None else self._last_start + self._last_part

    def add(self, elbo: float) -> None:
        """Note the mean ELBO of one more epoch."""
        self.elbos.append(elbo)
        epoch, part = len(self.elbos), math.ceil(_COMPARED_SHARE * self._most_epochs)
        compared = self._settings.tolerance and self._last_start is None and epoch + self._last_part < self._most_epochs
        if not compared or epoch < 2 * part:
            return
        gain = np.mean(self.elbos[-part:]) - np.mean(self.elbos[-2 * part : -part])
        first, end = (num * self._steps_per_epoch for num in (epoch - 2 * part, epoch))
        if gain <= self._settings.tolerance and self._schedule.is_settled(first, end):
            self._last_start = epoch

    def due_fits(self, step: int) -> tuple[int, ...]:
        """The facets whose mixture is fitted before a step."""
        return () if self._steps_of_last_part(step) >= 0 else self._schedule.due(step)

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step."""
        first, last = self._settings.learning_rate, self._settings.final_learning_rate
        num_steps = self._schedule.num_steps
        if last is None:
            return first
        if (taken := self._steps_of_last_part(step)) < 0:
            return cosine(first, last, step, num_steps)
        rate = cosine(first, last, step - taken, num_steps)
        return cosine(rate, last, taken, self._last_part * self._steps_per_epoch)

    def _steps_of_last_part(self, step: int) -> int:
        """The steps from the start of the last part of a training that ends early; negative before it."""
        return -1 if self._last_start is None else step - self._last_start * self._steps_per_epoch


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
