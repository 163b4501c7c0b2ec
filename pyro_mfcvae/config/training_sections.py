"""The sections of a configuration that say how a pair is trained. Nothing here imports torch."""

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

PerStage = tuple[NaturalNumber, ...]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, how fast and on what the parameters are optimised.

    Attributes:
        epochs: of each stage, deepest facet first, or one number for all stages alike.
        batch_size: items per step.
        learning_rate: of Adam at the first step.
        final_learning_rate: of Adam after the last step, reached along a half cosine; constant where None.
        data_dependent_init: standardise the hidden units on a first batch.
        objective: the ELBO with the assignment rule's q(c | x), or the importance-weighted bound with the clusters
            summed out (Burda et al. 2016).
        num_particles: draws per item of the importance-weighted bound.
        renyi_alpha: order of Rényi's divergence (Li and Turner 2016); 0 is the importance-weighted bound itself.
        free_nats: of each facet's mean KL that cost nothing (Kingma et al. 2016); of the ELBO only.
        on_divergence: stop, or retry once, from the last good checkpoint, with half the learning rate.
        precision: of the networks' matrix products and convolutions; densities, parameters and Adam keep float32.
            "tf32" has an effect on CUDA only.
        compile: compile the objective; "auto" does where it saves time.
        capture: replay the whole step (loss, gradient and Adam) as one CUDA graph; on one CUDA device only.
    """

    __pydantic_config__ = strict
    epochs: PerFacet | Count = 10
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    final_learning_rate: Positive | None = None
    data_dependent_init: bool = False
    objective: Literal["elbo", "importance_weighted"] = "elbo"
    num_particles: Count = 8
    renyi_alpha: Annotated[float, Field(lt=1, allow_inf_nan=False)] = 0.0
    free_nats: NonNegative = 0.0
    on_divergence: Literal["stop", "retry"] = "stop"
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    compile: Literal["auto", True, False] = "auto"
    capture: bool = False

    def __post_init__(self) -> None:
        if self.objective == "elbo":
            refuse_without_effect(self, ("num_particles", "renyi_alpha"), 'with training.objective = "elbo"')
        else:
            refuse_without_effect(self, ("free_nats",), f'with training.objective = "{self.objective}"')


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How facets join; steps are optimiser steps, and stages run from the deepest facet to the shallowest.

    Attributes:
        scale: factor on the whole schedule, its epochs and all its steps, the fits of mixtures included: 0.1 runs
            through it in a tenth of the time.
        fade_in_steps: over which alpha, and by default beta, of a facet rise from 0 to 1.
        kl_fade_in_steps: over which beta does, one number per stage.
        kl_delay_steps: after which beta starts to rise, one number per stage.
        fade: shape of both.
        kl_weights: that the betas rise to instead of 1: for each stage a row of one number per facet, shallowest first.
        kl_relax_steps: of the last stage, between which its kl_weights go to 1; they stay where None.
        repartition_step: after which, counted from the last stage's start, the axes of the joint z are shared out among
            the facets once more, so that these repeat each other less; never where None.
    """

    __pydantic_config__ = strict
    scale: Positive = 1.0
    fade_in_steps: Count = 1
    kl_fade_in_steps: PerFacet | None = None
    kl_delay_steps: PerStage | None = None
    fade: Literal["linear", "cosine"] = "linear"
    kl_weights: tuple[tuple[Positive, ...], ...] | None = None
    kl_relax_steps: tuple[NaturalNumber, Count] | None = None
    repartition_step: Count | None = None

    def __post_init__(self) -> None:
        if self.kl_weights is None:
            refuse_without_effect(self, ("kl_relax_steps",), "without schedule.kl_weights")


@dataclass(frozen=True, kw_only=True)
class MixtureFitConfig:
    """When and to what the mixtures are fitted during training; steps are optimiser steps.

    Attributes:
        warmup_steps: from the start of a facet's stage to the first fit of its mixture; for each stage, or for all.
        refit_steps: after which, counted from the same start, the mixture is fitted again.
        joint_refit_steps: after which, counted from the last stage's start, all mixtures are fitted again.
        items: how many items a mixture is fitted to.
        to: draws of their q(z | x), or its means.
        units: of z in the fit: as it is, or in each dimension the standard deviation of q(z | x).
        variance: starting variance of the components; the fitted covariances where None.
    """

    __pydantic_config__ = strict
    warmup_steps: PerStage | NaturalNumber = 0
    refit_steps: tuple[Count, ...] = ()
    joint_refit_steps: tuple[Count, ...] = ()
    items: Count = 10_000
    to: Literal["draws", "means"] = "draws"
    units: Literal["latent", "posterior"] = "latent"
    variance: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class SupervisionConfig:
    """A few labels that tie a facet's clusters to known categories: value number k of the label to cluster k.

    Attributes:
        label: name of a label set of the data; no supervision where None.
        facet: which facet; the deepest where None.
        items_per_value: how many items of each value are known.
        batch_size: how many of them join every batch.
    """

    __pydantic_config__ = strict
    label: str | None = None
    facet: NaturalNumber | None = None
    items_per_value: Count = 10
    batch_size: Count = 32

    def __post_init__(self) -> None:
        if self.label is None:
            refuse_without_effect(self, ("facet", "items_per_value", "batch_size"), "without supervision.label")
