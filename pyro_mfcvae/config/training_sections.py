"""The sections of a configuration about the training of a pair. This module does not import torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from pyro_mfcvae.config.options import (
    Count,
    NaturalNumber,
    NonNegative,
    PerFacet,
    Positive,
    refuse_without_effect,
    strict,
)
from pyro_mfcvae.errors import InputError

PerStage = tuple[NaturalNumber, ...]
StageEpochs = Annotated[PerStage, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length, learning rate and objective of the optimisation.

    Attributes:
        epochs: number of epochs of each stage, deepest facet first; a single number is used for every stage. With 0
            epochs a facet joins together with the next one.
        batch_size: number of items per step.
        learning_rate: learning rate of Adam at the first step.
        final_learning_rate: learning rate of Adam after the last step, which is approached along a half cosine; the
            rate is constant if None.
        n_init: number of seeds (the run's seed and the next numbers) that are trained for a short time first; the seed
            with the highest ELBO on held-out items is used.
        tolerance: the training ends early if the mean ELBO of a twentieth of the epochs is at most this number of nats
            higher than that of the twentieth before; 0 means that all epochs are trained.
        data_dependent_init: whether the hidden units are standardised on a first batch before training.
        objective: bound that is maximised: elbo, with the assignment rule's q(c | x), or importance_weighted, with the
            clusters summed out (Burda et al. 2016).
        num_particles: number of draws per item; only for the importance-weighted bound.
        renyi_alpha: order of Rényi's divergence (Li and Turner 2016); 0 is the importance-weighted bound itself.
        free_nats: nats of each facet's mean KL that cost nothing (Kingma et al. 2016); only for the ELBO.
        independence: weight of a penalty on the information, in nats, of each facet's clusters about the other facets;
            only for the ELBO.
        on_divergence: what to do if the training diverges: stop, or retry once from the last good checkpoint with half
            of the learning rate.
        precision: number format of the networks' matrix products and convolutions: float32, tf32 (on CUDA only) or
            bf16; densities, parameters and Adam keep float32.
        compile: whether the objective is compiled: true, false, or auto, which compiles it if this saves time. Unless
            it is false, the whole step (loss, gradient, Adam) is also replayed as one CUDA graph on a CUDA device, if
            there are no known clusters.
    """

    __pydantic_config__ = strict
    epochs: StageEpochs | Count = 10
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    final_learning_rate: Positive | None = None
    n_init: Count = 1
    tolerance: NonNegative = 0.0
    data_dependent_init: bool = False
    objective: Literal["elbo", "importance_weighted"] = "elbo"
    num_particles: Count = 8
    renyi_alpha: Annotated[float, Field(lt=1, allow_inf_nan=False)] = 0.0
    free_nats: NonNegative = 0.0
    independence: NonNegative = 0.0
    on_divergence: Literal["stop", "retry"] = "stop"
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    compile: Literal["auto", True, False] = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.epochs, tuple) and self.epochs[-1] < 1:
            raise InputError("expected 1 epoch or more in the last stage, got 0: raise training.epochs")
        if self.objective == "elbo":
            refuse_without_effect(self, ("num_particles", "renyi_alpha"), 'with training.objective = "elbo"')
        else:
            refuse_without_effect(self, ("free_nats", "independence"), f'with training.objective = "{self.objective}"')


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How facets join. Steps are optimiser steps, and stages go from the deepest facet to the shallowest.

    Attributes:
        scale: factor on the number of epochs and on all numbers of steps, also in mixture_fit; 0.1 makes the training
            ten times shorter.
        fade_in_steps: number of steps over which alpha of a facet rises linearly from 0 to 1, and beta as well if
            kl_fade_in_steps is None.
        kl_fade_in_steps: number of steps over which beta rises, one number per stage.
        kl_delay_steps: number of steps before beta starts to rise, one number per stage; no delay if None.
        kl_weights: the final values of the betas: for each stage a row with one number per facet, shallowest first; 1
            if None.
        kl_relax_steps: two steps of the last stage between which its kl_weights change to 1; they do not change if
            None.
        linear_start_steps: number of steps before the first one, which train the networks to be a linear model with
            each facet in its own subspace of the principal components; 0 means no linear start.
    """

    __pydantic_config__ = strict
    scale: Positive = 1.0
    fade_in_steps: Count = 1
    kl_fade_in_steps: PerFacet | None = None
    kl_delay_steps: PerStage | None = None
    kl_weights: tuple[tuple[Positive, ...], ...] | None = None
    kl_relax_steps: tuple[NaturalNumber, Count] | None = None
    linear_start_steps: NaturalNumber = 0

    def __post_init__(self) -> None:
        if self.kl_weights is None:
            refuse_without_effect(self, ("kl_relax_steps",), "without schedule.kl_weights")


@dataclass(frozen=True, kw_only=True)
class MixtureFitConfig:
    """The times of the fits of mixtures during training, and the points that they use; steps are optimiser steps.

    Attributes:
        warmup_steps: number of steps from the start of a facet's stage to the first fit of its mixture; one number per
            stage, or one number for all.
        refit_steps: steps of the stage after which the mixture is fitted again.
        joint_refit_steps: steps of the last stage after which all mixtures are fitted again.
        items: number of items that a mixture is fitted to.
        variance: starting variance of the components, whose means are then fitted to the means of q(z | x), as in the
            paper's code; if None, the mixture is fitted to draws of q(z | x).
    """

    __pydantic_config__ = strict
    warmup_steps: PerStage | NaturalNumber = 0
    refit_steps: tuple[Count, ...] = ()
    joint_refit_steps: tuple[Count, ...] = ()
    items: Count = 10_000
    variance: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class SupervisionConfig:
    """A few labels that tie a facet's clusters to known categories: value number k of the label belongs to cluster k.

    Attributes:
        label: name of the label set with the known categories; no supervision if None.
        facet: index of the facet of these categories; the deepest if None.
        items_per_value: number of items of each value that are known.
        batch_size: number of known items that join every batch.
    """

    __pydantic_config__ = strict
    label: str | None = None
    facet: NaturalNumber | None = None
    items_per_value: Count = 10
    batch_size: Count = 32

    def __post_init__(self) -> None:
        if self.label is None:
            refuse_without_effect(self, ("facet", "items_per_value", "batch_size"), "without supervision.label")
