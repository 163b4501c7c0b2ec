"""The training loop, based on Lightning Fabric, for one CPU or several GPUs."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyro
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pyro_mfcvae.config.training_sections import MixtureFitConfig, TrainingConfig
from pyro_mfcvae.data.images import fingerprint
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.compilation import CompiledObjective, structure
from pyro_mfcvae.infer.initialization import initialize_data_dependent
from pyro_mfcvae.infer.mixture_fit import (
    can_be_fitted,
    check_num_items,
    initialize_mixtures,
)
from pyro_mfcvae.infer.schedule import ProgressiveSchedule, WrittenWeights, steps_per_epoch
from pyro_mfcvae.interop.param_store import outside_store
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.subspaces import Progress, start_linearly
from pyro_mfcvae.train.batches import Batches, check_images
from pyro_mfcvae.train.captured import can_be_captured, capture
from pyro_mfcvae.train.devices import on_rank_zero_then_broadcast, open_fabric
from pyro_mfcvae.train.divergence import check_parameters, report_divergence
from pyro_mfcvae.train.known import KnownItems
from pyro_mfcvae.train.objective import build_objective, compilation_pays
from pyro_mfcvae.train.optimizer import Course, make_adam, set_learning_rate
from pyro_mfcvae.train.step_log import EpochRecord, StepLog, check_finite, count_active_clusters

_NUM_MONITORED = 500  # Number of training items that are used to count active clusters.


class Training:
    """The training of a pair: its optimiser, and the number of finished epochs.

    Args:
        pair: model and guide, which are moved to Fabric's device.
        images: (N, *event_shape), uint8 or floats in [0, 1]; in memory or memory-mapped, see `Batches`.
        schedule: schedule of the ladder; the training ends after its last step, or earlier (see `Course`).
        settings: batch size, learning rates and so on.
        mixture_fit: settings of the fits of mixtures; the defaults if None.
        seed: seed of the order of the items, which also depends on the epoch.
        fabric: devices and precision, launched; one CPU if None. With several devices, losses and gradients are means
            over the whole batch, but batch norm and free nats use each device's share of the batch.
        known_items: items whose clusters are known; some are added to every batch. With them nothing is compiled.
    """

    def __init__(
        self,
        pair: MFCVAE,
        images: Tensor,
        *,
        schedule: ProgressiveSchedule,
        settings: TrainingConfig,
        mixture_fit: MixtureFitConfig | None = None,
        seed: int = 0,
        fabric: Fabric | None = None,
        known_items: KnownItems | None = None,
    ) -> None:
        check_images(pair.model, images)
        if known_items is not None:
            known_items.check(pair.model)
        self.pair = pair
        self.images = images
        self.known_items = known_items
        self.schedule = schedule
        self.settings = settings
        self.mixture_fit = mixture_fit if mixture_fit is not None else MixtureFitConfig()
        self.seed = seed
        self.fabric = fabric if fabric is not None else open_fabric("cpu", precision=settings.precision)
        self.batches = Batches(images, batch_size=settings.batch_size, seed=seed, fabric=self.fabric)
        device, has_known = self.fabric.device, known_items is not None
        self.captures = settings.compile is not False and can_be_captured(self.fabric, has_known=has_known)
        self.optimizer = make_adam(
            pair.parameters(), learning_rate=settings.learning_rate, device=device, captured=self.captures
        )
        self.steps_per_epoch = steps_per_epoch(len(images), settings.batch_size)
        if schedule.num_steps % self.steps_per_epoch:
            raise InputError(
                f"expected epochs of {self.steps_per_epoch} steps, got {schedule.num_steps} steps in all: change them"
            )
        check_num_items(pair.model, min(len(images), self.mixture_fit.items))
        self.course = Course(schedule, settings, steps_per_epoch=self.steps_per_epoch)
        self.epoch = 0
        self.steps_taken = 0  # steps of this epoch
        self.learning_rate_factor = 1.0
        self.epoch_sums = torch.zeros(2 + pair.num_facets)  # sums of the terms of its steps
        self._log = StepLog((2 + pair.num_facets,), device)
        self._weights = WrittenWeights(schedule)
        self._on_steps: Callable[[int, float], None] | None = None
        self.on_linear_start: Progress | None = None  # called during the linear start
        self.objective = build_objective(pair, settings, num_items=len(images), has_known=has_known)
        self.compiles = not has_known and (
            compilation_pays(pair, device=device, num_steps=schedule.num_steps, captures=self.captures)
            if settings.compile == "auto"
            else settings.compile
        )
        # One graph of the whole step replaces the graph of the objective.
        objective = CompiledObjective(self.objective, graphs=not self.captures) if self.compiles else self.objective
        self._objective, self._stepper = self.fabric.setup(objective, self.optimizer)
        self._captured = capture(device, watches=not self.compiles) if self.captures else None

    @cached_property
    def data_fingerprint(self) -> str:
        """Fingerprint of the training items."""
        return fingerprint(self.images)

    @property
    def step(self) -> int:
        """Number of optimiser steps taken."""
        return self.epoch * self.steps_per_epoch + self.steps_taken

    def restore(
        self, epoch: int, steps_taken: int, learning_rate_factor: float, *, sums: Tensor, elbos: Tensor
    ) -> None:
        """Continue at the step of the schedule after which a training was stopped."""
        self.course = Course(self.schedule, self.settings, steps_per_epoch=self.steps_per_epoch, elbos=elbos.tolist())
        self.epoch = epoch
        self.steps_taken = steps_taken
        self.learning_rate_factor = learning_rate_factor
        self.epoch_sums = sums
        self.forget_capture()

    def forget_capture(self) -> None:
        """Capture the step again, because a tensor that it changes was replaced."""
        if self._captured is not None:
            self._captured.forget()

    def share_sums(self) -> None:
        """Set the sums of a stopped epoch to their mean over all devices."""
        mean = cast(Tensor, self.fabric.all_reduce(self.epoch_sums.to(self.fabric.device), reduce_op="mean"))
        self.epoch_sums = mean.cpu()

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self._learning_rate(self.step)

    @property
    def num_epochs(self) -> int:
        """The number of epochs, which becomes smaller if the training is found to end early."""
        return self.course.num_epochs

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are finished."""
        return self.epoch >= self.num_epochs

    def run_epoch(self, on_steps: Callable[[int, float], None] | None = None) -> EpochRecord:
        """Train one more epoch.

        No step waits for the device. ``on_steps`` is called every few steps, on a CPU after each, with the number of
        steps since its last call and their mean ELBO.
        """
        self._on_steps = on_steps
        with outside_store():  # the modules own their parameters
            for x in self.start_epoch():
                self.prepare_step()
                batch = (x,) if self.known_items is None else self.known_items.join(x)
                step = self._take_step
                self.note_step(step(*batch) if self._captured is None else self._captured(step, x))
            return self.finish_epoch()

    def _take_step(self, *batch: Any) -> Tensor:
        with report_divergence(self.pair, self.step):
            loss, terms = self._objective(*batch)
        self._stepper.zero_grad()
        self.fabric.backward(loss)
        self._stepper.step()
        return cast(Tensor, terms)

    def start_epoch(self) -> Iterator[Tensor]:
        """Prepare an epoch and return its batches. A stopped epoch is continued."""
        model, guide = self.pair.model, self.pair.guide
        if self.step == 0 and self.settings.data_dependent_init:
            on_rank_zero_then_broadcast(
                self.fabric,
                lambda: initialize_data_dependent(model, guide, self.batches.random(self.settings.batch_size)),
                self.pair,
            )
        if self.step == 0 and self.schedule.linear_start_steps:
            on_rank_zero_then_broadcast(self.fabric, self._start_linearly, self.pair)
        if self.steps_taken == 0:
            self.epoch_sums = torch.zeros_like(self.epoch_sums)
        self.pair.train()
        self._weights.forget()  # between epochs the pair may be changed
        if self._captured is not None:
            self._captured.follow(structure(self.objective))
        return self.batches.epoch(self.epoch, first=self.steps_taken)

    def due_fits(self) -> tuple[int, ...]:
        """The facets whose mixture is fitted before the next step."""
        return tuple(j for j in self.course.due_fits(self.step) if can_be_fitted(self.pair.model.priors[j]))

    def prepare_step(self) -> list[nn.Parameter]:
        """Prepare a step: set the schedule's buffers, fit mixtures, and set the learning rate.

        Returns:
            The fitted parameters. Adam's moments of these are reset, because they belong to the old mixtures.
        """
        if rank := self.fabric.global_rank:
            # Ranks draw different numbers. A resumed training draws the same numbers as one that was not stopped.
            pyro.set_rng_seed(int(np.random.SeedSequence((self.seed, self.step, rank)).generate_state(1)[0]))
        model, priors = self.pair.model, self.pair.model.priors
        self._weights.write(model.alpha, model.beta, self.step)
        fitted: list[nn.Parameter] = []
        if due := self.due_fits():
            self.forget_capture()  # Adam's state of fitted parameters is replaced
            self.read_steps()  # a fit fails on the output of a diverged encoder
            on_rank_zero_then_broadcast(self.fabric, lambda: self._fit_mixtures(due), self.pair)
            globals_guide = self.pair.guide.globals_guide
            for part in [priors[j] for j in due] + ([globals_guide] if isinstance(globals_guide, nn.Module) else []):
                fitted += part.parameters()
            for parameter in fitted:
                self.optimizer.state.pop(parameter, None)
        set_learning_rate(self.optimizer, self.learning_rate)
        return fitted

    def note_step(self, terms: Tensor) -> None:
        """Count a finished step.

        Args:
            terms: the batch's mean ELBO, mean reconstruction and mean KL per facet, (2 + J,), on the device.
        """
        self.steps_taken += 1
        self._log.add(terms)
        if self._log.is_full:
            self.read_steps()

    def read_steps(self) -> None:
        """Read the terms of the steps since the last read, and report them; errors as for `note_terms`."""
        self.note_terms(self._log.read())

    def note_terms(self, rows: Tensor) -> None:
        """Report the terms of the last steps, (steps, 2 + J), on the CPU; an `InputError` if one is not finite."""
        if not len(rows):
            return
        check_finite(rows, last_step=self.step)
        self.epoch_sums += rows.sum(0)
        if self._on_steps is not None:
            self._on_steps(len(rows), rows[:, 0].mean().item())

    def finish_epoch(self) -> EpochRecord:
        """Count a finished epoch, and report it."""
        self.read_steps()
        self.epoch += 1
        self.steps_taken = 0
        total = cast(Tensor, self.fabric.all_reduce(self.epoch_sums.to(self.fabric.device), reduce_op="mean"))
        mean_elbo, mean_reconstruction, *mean_kl = (total / self.steps_per_epoch).tolist()
        self.course.add(mean_elbo)
        monitored = self.batches.load(torch.arange(min(_NUM_MONITORED, len(self.images))))
        with report_divergence(self.pair, self.step):
            active_clusters = count_active_clusters(self.pair.eval(), monitored)
        return EpochRecord(
            epoch=self.epoch,
            step=self.step,
            elbo=mean_elbo,
            reconstruction=mean_reconstruction,
            kl=mean_kl,
            active_clusters=active_clusters,
            alpha=self.pair.model.alpha.tolist(),
            beta=self.pair.model.beta.tolist(),
            learning_rate=self._learning_rate(self.step - 1),
        )

    def _start_linearly(self) -> None:
        pair, rate = self.pair.train(), self.settings.learning_rate * self.learning_rate_factor
        sizes: Any = {"num_steps": self.schedule.linear_start_steps, "batch_size": self.settings.batch_size}
        others: Any = {"seed": self.seed, "on_progress": self.on_linear_start}
        with report_divergence(pair, 0):
            start_linearly(pair.model, pair.guide, self.batches.random, **sizes, learning_rate=rate, **others)
        check_parameters(pair, 0)

    def _fit_mixtures(self, facets: tuple[int, ...]) -> None:
        settings = self.mixture_fit
        initialize_mixtures(
            self.pair.model,
            self.pair.guide,
            self.batches.random(settings.items),
            facets=facets,
            variance=settings.variance,
            seed=self.seed,
            **({} if self.known_items is None else self.known_items.for_fit(self.fabric.device)),
        )

    def _learning_rate(self, step: int) -> float:
        return self.learning_rate_factor * self.course.learning_rate(step)
