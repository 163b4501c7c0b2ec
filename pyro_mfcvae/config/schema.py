"""The configuration of a run: everything that decides it. Nothing here imports torch."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from pyro_mfcvae.config.options import (
    Count,
    NaturalNumber,
    NonNegative,
    PerFacet,
    Positive,
    per_facet_names,
    refuse_without_effect,
    strict,
)
from pyro_mfcvae.config.parts import GLOBALS_GUIDES, PARTS, check_kind, complete_options, is_import_path
from pyro_mfcvae.errors import InputError

PerStage = tuple[NaturalNumber, ...]
Options = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The items.

    Attributes:
        source: a name that `mfcvae datasets` lists, or a path.
        size: height and width that images are brought to, one number for both; as they are where None.
        fit: how images of another shape are brought there: crop the middle, pad the borders, or stretch.
    """

    __pydantic_config__ = strict
    source: str
    size: Count | tuple[Count, Count] | None = None
    fit: Literal["crop", "pad", "stretch"] = "crop"


@dataclass(frozen=True, kw_only=True)
class FacetsConfig:
    """One entry per facet, shallowest first.

    Attributes:
        num_clusters: of each facet; a facet with one cluster has a standard normal prior.
        latent_dim: dimension of each facet's z.
    """

    __pydantic_config__ = strict
    num_clusters: PerFacet = (25, 25)
    latent_dim: PerFacet = (5, 5)


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """p(c) and p(z | c) of every facet with more than one cluster; a facet with one has a standard normal.

    Attributes:
        kind: gaussian, student_t, bayesian or vamp, or the import path of a part of your own.
        options: of the kind.
        globals_guide: q(theta) over a prior's random parameters: conjugate, delta, normal or multivariate_normal, or
            the import path of a part of your own. Of the built-in priors only bayesian has such parameters.
    """

    __pydantic_config__ = strict
    kind: str = "gaussian"
    options: Options = field(default_factory=dict)
    globals_guide: str = "conjugate"

    def __post_init__(self) -> None:
        _complete("prior", self)
        check_kind("prior.globals_guide", self.globals_guide, GLOBALS_GUIDES)
        if self.kind != "bayesian" and not is_import_path(self.kind):
            refuse_without_effect(
                self, ("globals_guide",), f"with prior.kind = {self.kind!r}, whose parameters are not random"
            )


@dataclass(frozen=True, kw_only=True)
class LikelihoodConfig:
    """p(x | z).

    Attributes:
        kind: bernoulli, continuous_bernoulli, gaussian, discretized_logistic, poisson, negative_binomial or
            categorical, or the import path of a part of your own.
        options: of the kind.
        missing: elements may be NaN, for missing; these are left out of p(x | z), and the built-in encoders read which
            they are.
    """

    __pydantic_config__ = strict
    kind: str = "bernoulli"
    options: Options = field(default_factory=dict)
    missing: bool = False

    def __post_init__(self) -> None:
        _complete("likelihood", self)


@dataclass(frozen=True, kw_only=True)
class NetworksConfig:
    """The ladder of encoder and decoder.

    Attributes:
        kind: mlp (linear layers) or conv (convolutions), or the import path of a function of your own.
        options: of the kind.
    """

    __pydantic_config__ = strict
    kind: str = "mlp"
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        _complete("networks", self)


@dataclass(frozen=True, kw_only=True)
class AssignmentConfig:
    """The rule for q(c | x).

    Attributes:
        kind: analytic, monte_carlo, sample, vade or amortized, or the import path of a part of your own.
        options: of the kind.
    """

    __pydantic_config__ = strict
    kind: str = "analytic"
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        _complete("assignment", self)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, how fast and on what the parameters are optimised.

    Attributes:
        epochs: of each stage, deepest facet first, or one number for all stages alike.
        batch_size: items per step.
        learning_rate: of Adam at the first step.
        final_learning_rate: of Adam after the last step, reached along a half cosine; constant where None.
        data_dependent_init: standardise the hidden units on a first batch.
        free_nats: of each facet's mean KL that cost nothing (Kingma et al. 2016).
        on_divergence: stop, or retry once, from the last good checkpoint, with half the learning rate.
        precision: of the networks' matrix products and convolutions; densities, parameters and Adam keep float32.
        compile: compile the objective; "auto" does where it saves time.
    """

    __pydantic_config__ = strict
    epochs: PerFacet | Count = 10
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    final_learning_rate: Positive | None = None
    data_dependent_init: bool = False
    free_nats: NonNegative = 0.0
    on_divergence: Literal["stop", "retry"] = "stop"
    precision: Literal["float32", "bf16"] = "float32"
    compile: Literal["auto", True, False] = "auto"


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


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a run, besides the machine.

    Attributes:
        data: the items.
        description: one line for people.
        seed: of the data (where drawn), the starting values and the training.
    """

    __pydantic_config__ = strict
    data: DataConfig
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 0
    facets: FacetsConfig = field(default_factory=FacetsConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    networks: NetworksConfig = field(default_factory=NetworksConfig)
    assignment: AssignmentConfig = field(default_factory=AssignmentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    mixture_fit: MixtureFitConfig = field(default_factory=MixtureFitConfig)
    supervision: SupervisionConfig = field(default_factory=SupervisionConfig)

    def __post_init__(self) -> None:
        if self.prior.kind == "vamp":
            why = 'in mixture_fit with prior.kind = "vamp", whose spreads are q(z | x)\'s'
            refuse_without_effect(self.mixture_fit, ("variance",), why)
        num_facets = len(self.facets.num_clusters)
        for name, value in self._per_facet().items():
            if isinstance(value, tuple) and len(value) != num_facets:
                raise InputError(
                    f"facets.num_clusters names {num_facets} facets but {name} = {list(value)} has {len(value)} "
                    "values: give one per facet"
                )

    def _per_facet(self) -> dict[str, Any]:
        """Setting's name → value, of all settings that may have a value per facet or per stage."""
        found: dict[str, Any] = {"facets.latent_dim": self.facets.latent_dim, "training.epochs": self.training.epochs}
        for name in ("kl_fade_in_steps", "kl_delay_steps", "kl_weights"):
            found[f"schedule.{name}"] = getattr(self.schedule, name)
        found["mixture_fit.warmup_steps"] = self.mixture_fit.warmup_steps
        for section, table in PARTS.items():
            chosen = getattr(self, section)
            part = table.get(chosen.kind)
            if part is not None and part.options is not None:
                found |= {f"{section}.options.{name}": chosen.options[name] for name in per_facet_names(part.options)}
        return found

    @property
    def stage_epochs(self) -> tuple[int, ...]:
        """Epochs of every stage, deepest facet first."""
        epochs = self.training.epochs
        return epochs if isinstance(epochs, tuple) else (epochs,) * len(self.facets.num_clusters)


def _complete(section: str, chosen: Any) -> None:
    """Check the options of a part and add the defaults, in place."""
    object.__setattr__(chosen, "options", complete_options(section, chosen.kind, chosen.options))
