"""The progressive schedule of Li et al. 2020 (pro-VLAE): when each facet joins the ladder."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.models.generative import MultiFacetModel

_ALIKE = "; to shorten a whole schedule that fits, set schedule.scale and leave the epochs"


@dataclass(frozen=True, kw_only=True)
class ProgressiveSchedule:
    """The deepest facet trains alone. Then each stage fades in the next shallower facet.

    Stage s = 0 … J-1 brings in facet j = J-1-s at step T_s = stage_steps[0] + … + stage_steps[s-1], and

        alpha_j = (step + 1 - T_s) / fade_in_steps,
        beta_j  = w_j (step + 1 - T_s - kl_delay_steps[s]) / kl_fade_in_steps[s].

    Both quotients are clamped to [0, 1]; alpha of a facet that joins at step 0 is 1. If the KL fades in later or more
    slowly than the decoder's contribution, the decoder learns to use a facet before the KL has its full weight. A
    weight w_j > 1 (Higgins et al. 2017, beta-VAE) limits a facet to the features that raise the likelihood most. In
    stage s this weight is kl_weights[s][j]. The weights of the last stage stay until its step ``kl_relax_steps[0]`` and
    then change linearly to 1 until its step ``kl_relax_steps[1]``, so that the final objective is the ELBO.

    A facet's mixture is fitted ``warmup_steps`` steps after T_s and again at each of ``refit_steps`` after T_s. The
    mixtures of all facets are fitted at each of ``joint_refit_steps`` after the start of the last stage.

    A schedule is a function of the step and has no state: to resume, continue with the next step.

    Args:
        stage_steps: number of steps of each stage, one per facet, deepest first, each ≥ 0 and the last ≥ 1. A facet
            whose stage has 0 steps joins together with the next one.
        fade_in_steps: number of steps over which a facet is faded in, ≥ 1.
        kl_fade_in_steps: number of steps over which the KL of each stage's facet is faded in, one per stage, deepest
            first, each ≥ 1. None means 1 for the deepest facet, so that its KL has full weight from the start, and
            fade_in_steps for the others.
        kl_delay_steps: steps of each stage before its KL starts to fade in, one number per stage, ≥ 0; None means 0.
        kl_weights: a row for each stage, first to last, with the weight w_j > 0 of every facet, shallowest first. None
            means 1.
        kl_relax_steps: two steps of the last stage, 0 ≤ first < second, between which its weights change to 1. With
            None the weights do not change.
        warmup_steps: number of steps of a stage before the mixture of its facet is fitted, ≥ 0 and below the length of
            the stage. One number per stage, deepest first, or one for all.
        refit_steps: numbers of steps after the start of a stage at which the mixture of its facet is fitted again, each
            > the smallest of warmup_steps. Steps before a facet's first fit, or after the end of its stage, are
            ignored.
        joint_refit_steps: numbers of steps after the start of the last stage, each > its warmup_steps, at which the
            mixtures of all facets are fitted again. Steps after its end are ignored.
        linear_start_steps: number of steps of `start_linearly`, ≥ 0. They come before the first step and are not
            counted as steps.
    """

    stage_steps: tuple[int, ...]
    fade_in_steps: int = 1
    kl_fade_in_steps: tuple[int, ...] | None = None
    kl_delay_steps: tuple[int, ...] | None = None
    kl_weights: tuple[tuple[float, ...], ...] | None = None
    kl_relax_steps: tuple[int, int] | None = None
    warmup_steps: int | tuple[int, ...] = 0
    refit_steps: tuple[int, ...] = ()
    joint_refit_steps: tuple[int, ...] = ()
    linear_start_steps: int = 0

    def __post_init__(self) -> None:
        if not self.stage_steps or min(self.stage_steps) < 0 or self.stage_steps[-1] < 1:
            raise InputError(f"expected stage_steps ≥ 0, the last one ≥ 1, got {self.stage_steps}: give one per facet")
        if self.linear_start_steps < 0:
            raise InputError(f"expected linear_start_steps ≥ 0, got {self.linear_start_steps}: choose 0 or more")
        if self.fade_in_steps < 1 or (isinstance(self.warmup_steps, int) and self.warmup_steps < 0):
            raise InputError(
                f"expected fade_in_steps ≥ 1 and warmup_steps ≥ 0, got {self.fade_in_steps} and {self.warmup_steps}"
            )
        for name, least in (("kl_fade_in_steps", 1), ("kl_delay_steps", 0), ("warmup_steps", 0)):
            given = getattr(self, name)
            if isinstance(given, tuple) and (
                len(given) != len(self.stage_steps) or any(steps < least for steps in given)
            ):
                raise InputError(
                    f"expected {name} ≥ {least}, one for each of {len(self.stage_steps)} stages, got {given}: change it"
                )
        weights, num = self.kl_weights, len(self.stage_steps)
        if weights is not None and (
            len(weights) != num or any(len(row) != num or any(w <= 0 for w in row) for row in weights)
        ):
            raise InputError(
                f"expected kl_weights > 0, a row of {num} for each of {num} stages, got {weights}: one per facet"
            )
        relax, last = self.kl_relax_steps, self.stage_steps[-1]
        if relax is not None and not 0 <= relax[0] < relax[1] <= last:
            raise InputError(
                f"expected two kl_relax_steps of the last stage, 0 ≤ first < second ≤ its length {last}, "
                f"got {relax}: lower them, or lengthen the stage (more epochs, or a smaller batch_size){_ALIKE}"
            )
        warmups = self._warmups
        for warmup, stage in zip(warmups, self._lengths, strict=True):
            if warmup >= stage:
                raise InputError(
                    f"expected warmup_steps below the {stage} steps of its stage, got {warmup}: lower it, or lengthen "
                    f"the stages (more epochs, or a smaller batch_size){_ALIKE}"
                )
        if any(steps <= min(warmups) for steps in self.refit_steps):
            raise InputError(f"expected refit_steps > warmup_steps={min(warmups)}, got {self.refit_steps}: raise them")
        if any(steps <= warmups[-1] for steps in self.joint_refit_steps):
            raise InputError(
                f"expected joint_refit_steps > the last stage's warmup_steps={warmups[-1]}, got "
                f"{self.joint_refit_steps}: raise them"
            )

    @classmethod
    def from_epochs(cls, stage_epochs: Sequence[int], steps_per_epoch: int, **arguments: Any) -> "ProgressiveSchedule":
        """A schedule with the lengths of its stages in epochs; all other arguments are those of the class."""
        return cls(stage_steps=tuple(epochs * steps_per_epoch for epochs in stage_epochs), **arguments)

    def stretched(self, factor: float, *, unit: int = 1) -> "ProgressiveSchedule":
        """The schedule with all numbers of steps multiplied by ``factor`` > 0: stages, fades, warm-ups and fits.

        The lengths of stages are rounded up to multiples of ``unit`` steps (an epoch), all other numbers are rounded
        down. Fits that fall on the same step become one.
        """

        def steps(num: int, least: int = 0) -> int:
            return max(math.floor(round(num * factor, 6)), least)

        def each(nums: tuple[int, ...] | None, least: int = 0) -> tuple[int, ...] | None:
            return None if nums is None else tuple(steps(num, least) for num in nums)

        def after(warmup: int, nums: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(sorted({num for num in map(steps, nums) if num > warmup}))

        warmups = tuple(map(steps, self._warmups))
        stages = tuple(math.ceil(round(num * factor / unit, 6)) * unit for num in self.stage_steps)
        relax = self.kl_relax_steps and (steps(self.kl_relax_steps[0]), steps(self.kl_relax_steps[1]))
        return replace(
            self,
            stage_steps=stages,
            fade_in_steps=steps(self.fade_in_steps, 1),
            kl_fade_in_steps=each(self.kl_fade_in_steps, 1),
            kl_delay_steps=each(self.kl_delay_steps),
            kl_relax_steps=relax and (relax[0], max(relax[1], relax[0] + 1)),
            warmup_steps=warmups,
            refit_steps=after(min(warmups), self.refit_steps),
            joint_refit_steps=after(warmups[-1], self.joint_refit_steps),
            linear_start_steps=steps(self.linear_start_steps),
        )

    @property
    def num_facets(self) -> int:
        """J, because there is one stage per facet."""
        return len(self.stage_steps)

    @property
    def num_steps(self) -> int:
        """Number of steps of all stages."""
        return sum(self.stage_steps)

    def start(self, j: int) -> int:
        """T_s, the step at which facet ``j`` joins."""
        return sum(self.stage_steps[: self.num_facets - 1 - j])

    def alpha(self, j: int, step: int) -> float:
        """Weight of facet j's decoder contribution at a step."""
        return _faded(step - self.start(j), self._stage_fade_in_steps(j))

    def beta(self, j: int, step: int) -> float:
        """Weight of facet j's KL at a step."""
        stage = self.num_facets - 1 - j
        num_steps = self._stage_fade_in_steps(j) if self.kl_fade_in_steps is None else self.kl_fade_in_steps[stage]
        delay = 0 if self.kl_delay_steps is None else self.kl_delay_steps[stage]
        return self._kl_weight(j, step) * _faded(step - self.start(j) - delay, num_steps)

    def _kl_weight(self, j: int, step: int) -> float:
        if self.kl_weights is None:
            return 1.0
        since = step - self.start(0)
        if self.kl_relax_steps is None or since < 0:
            ends = itertools.accumulate(self.stage_steps[:-1])
            return self.kl_weights[sum(step >= end for end in ends)][j]
        first, second = self.kl_relax_steps
        left = (second - since) / (second - first)
        return 1.0 + (self.kl_weights[-1][j] - 1.0) * min(max(left, 0.0), 1.0)

    def _stage_fade_in_steps(self, j: int) -> int:
        return 1 if self.start(j) == 0 else self.fade_in_steps

    def apply(self, model: MultiFacetModel, step: int) -> tuple[int, ...]:
        """Write alpha and beta of ``step`` into the model's buffers, in place.

        Returns:
            The facets whose mixture must be fitted before this step.
        """
        WrittenWeights(self).write(model.alpha, model.beta, step)
        return self.due(step)

    def due(self, step: int) -> tuple[int, ...]:
        """The facets whose mixture must be fitted before a step."""
        return tuple(j for j in range(self.num_facets) if self._fits(j, step))

    def is_settled(self, first: int, end: int) -> bool:
        """Whether all mixtures were fitted before the steps ``first`` ≤ step < ``end``, none is fitted in them, and
        alpha and beta have their final values.
        """
        last = self.num_steps - 1
        return not any(map(self.due, range(first, end))) and all(
            self.start(j) + self._warmups[self.num_facets - 1 - j] < first
            and self.alpha(j, first) == self.alpha(j, last)
            and self.beta(j, first) == self.beta(j, last)
            for j in range(self.num_facets)
        )

    def fit_steps(self) -> tuple[int, ...]:
        """All steps before which a mixture is fitted, in order."""
        return tuple(step for step in range(self.num_steps) if self.due(step))

    @property
    def _warmups(self) -> tuple[int, ...]:
        """The warm-up steps of every stage."""
        warmup = self.warmup_steps
        return warmup if isinstance(warmup, tuple) else (warmup,) * self.num_facets

    def _fits(self, j: int, step: int) -> bool:
        stage = self.num_facets - 1 - j
        since, warmup = step - self.start(j), self._warmups[stage]
        if step - self.start(0) in self.joint_refit_steps:
            return True
        due = since == warmup or (since > warmup and since in self.refit_steps)
        return since < self._lengths[stage] and due

    @property
    def _lengths(self) -> tuple[int, ...]:
        """Number of steps of each stage; for an empty stage, that of the next stage that is not empty."""
        return tuple(next(filter(None, self.stage_steps[stage:])) for stage in range(self.num_facets))


def _faded(since: int, num_steps: int) -> float:
    return min(max((since + 1) / num_steps, 0.0), 1.0)


class WrittenWeights:
    """Writes a schedule's alpha and beta into the same buffers at every step, but only the values that changed.

    Code that changes these buffers, or passes other buffers, must call `forget`.
    """

    def __init__(self, schedule: ProgressiveSchedule) -> None:
        self._schedule = schedule
        self.forget()

    def forget(self) -> None:
        """Write all weights at the next step."""
        self._last: dict[tuple[int, int], float] = {}

    def write(self, alpha: Tensor, beta: Tensor, step: int) -> None:
        """Write the weights of a step into ``alpha`` and ``beta``, (…, J), in place."""
        schedule, num = self._schedule, alpha.shape[-1]
        if num != schedule.num_facets:
            wish = f"expected one stage for each of {num} facets"
            raise InputError(f"{wish}, got {schedule.num_facets}: give stage_steps one number per facet")
        for i, (buffer, weight) in enumerate(((alpha, schedule.alpha), (beta, schedule.beta))):
            for j in range(num):
                if self._last.get((i, j)) != (value := weight(j, step)):
                    buffer[..., j].fill_(value)  # unlike a tensor, a number needs no copy
                    self._last[i, j] = value


def steps_per_epoch(num_items: int, batch_size: int) -> int:
    """Number of full batches in an epoch, at least 1. The remaining items are left out; the order differs between
    epochs.
    """
    return max(num_items // batch_size, 1)
