"""The configuration of a run: everything that decides it."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from pyro_mfcvae.errors import InputError

Count = Annotated[int, Field(ge=1, strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
Covariance = Literal["diagonal", "full", "spherical", "tied"]
PerFacet = Annotated[tuple[Count, ...], Field(min_length=1)]
PerStage = tuple[Annotated[int, Field(ge=0, strict=True)], ...]
Options = dict[str, Any]

_strict = ConfigDict(extra="forbid")


def _part(*names: str) -> AfterValidator:
    """A name out of ours, or the import path of a part of the user's own."""

    def check(value: str) -> str:
        if value not in names and not is_import_path(value):
            raise ValueError(
                f"expected {', '.join(names)}, or the import path of a part of your own, such as my_package.MyPart, "
                f"got {value!r}"
            )
        return value

    return AfterValidator(check)


def is_import_path(name: str) -> bool:
    """Whether a part's name is the import path of a user's own: only those have a dot."""
    return "." in name and all(part.isidentifier() for part in name.split("."))


@dataclass(frozen=True, kw_only=True)
class FacetsConfig:
    """One entry per facet, shallowest first."""

    __pydantic_config__ = _strict
    num_clusters: PerFacet = (25, 25)
    latent_dim: PerFacet = (5, 5)


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """p(c) and p(z | c) of every facet with more than one cluster; a facet with one has a standard normal.

    Attributes:
        kind: gaussian, student_t, bayesian or vamp, or the import path of a class that is called with the facet.
            Student's t has no closed form and needs assignment.rule = "monte_carlo" or "sample".
        covariance: shape of a Gaussian's, Bayesian or not, of all facets or of each, shallowest first; Student's t has
            full ones.
        learn_weights: whether the clusters' weights are parameters, or 1/K; the Bayesian one's are random or learned.
        random: which parameters of the Bayesian one have a hyperprior.
        stick_breaking: let the Bayesian one choose how many clusters have weight.
        concentration: of its weights' hyperprior.
        options: further arguments of a class of the user's own.
    """

    __pydantic_config__ = _strict
    kind: Annotated[str, _part("gaussian", "student_t", "bayesian", "vamp")] = "gaussian"
    covariance: Covariance | Annotated[tuple[Covariance, ...], Field(min_length=1)] = "diagonal"
    learn_weights: bool = True
    random: Annotated[tuple[Literal["probs", "loc", "scale"], ...], Field(min_length=1)] = ("probs", "loc", "scale")
    stick_breaking: bool = False
    concentration: Positive = 1.0
    options: Options = field(default_factory=dict)

    def covariance_of(self, j: int) -> Covariance:
        """That of facet j."""
        return self.covariance if isinstance(self.covariance, str) else self.covariance[j]


@dataclass(frozen=True, kw_only=True)
class LikelihoodConfig:
    """p(x | z).

    Attributes:
        kind: its distribution: bernoulli, continuous_bernoulli, gaussian or discretized_logistic, or the import path of
            a class.
        scale: of a Gaussian or discretised logistic, in units of x; where learned, the initial value.
        learn_scale: make it a parameter.
        per_channel: give every channel a scale of its own.
        sigmoid_mean: squash the mean into (0, 1).
        missing: pixels may be NaN, for missing; these are left out of p(x | z), and our encoders read which they are.
        options: further arguments of a class of the user's own.
    """

    __pydantic_config__ = _strict
    kind: Annotated[str, _part("bernoulli", "continuous_bernoulli", "gaussian", "discretized_logistic")] = "bernoulli"
    scale: Positive = 1.0
    learn_scale: bool = False
    per_channel: bool = False
    sigmoid_mean: bool = False
    missing: bool = False
    options: Options = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The ladder.

    Attributes:
        kind: of linear layers (mlp), or of convolutions (conv), or the import path of a function of facets and event
            shape that returns an encoder and a decoder.
        encoder_dims: widths of an MLP's rungs, shallowest first.
        decoder_dims: the same on the way down.
        hidden_dim: width of an MLP's last hidden layer.
        merge_weight: of a rung where it joins an MLP decoder.
        channels: of a convolutional ladder's maps, from the image inwards.
        num_residual_blocks: after every map of a convolutional ladder.
        gated: let facets also scale the maps that they join in a convolutional decoder.
        head_init_scale: of the starting values of all heads but the deepest; at 0 a facet joins without a word.
        posterior: family of q(z | x): a Gaussian with a diagonal, full or low_rank (1) covariance, or a flow, spline or
            autoregressive, which needs assignment.rule = "monte_carlo" or "sample".
        separate: give every facet an encoder of its own.
        options: further arguments of a function of the user's own.
    """

    __pydantic_config__ = _strict
    kind: Annotated[str, _part("mlp", "conv")] = "mlp"
    encoder_dims: PerFacet | None = None
    decoder_dims: PerFacet | None = None
    hidden_dim: Count = 500
    merge_weight: Positive = 0.1
    channels: Annotated[tuple[Count, ...], Field(min_length=1)] = (64, 128, 256)
    num_residual_blocks: Annotated[int, Field(ge=0, strict=True)] = 0
    gated: bool = False
    head_init_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    posterior: Literal["diagonal", "full", "low_rank", "spline", "autoregressive"] = "diagonal"
    separate: bool = False
    options: Options = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AssignmentConfig:
    """The rule for q(c | x).

    Attributes:
        rule: analytic, monte_carlo, sample, vade or amortized, or the import path of a class.
        num_samples: of the rules that draw.
        options: further arguments of a class of the user's own.
    """

    __pydantic_config__ = _strict
    rule: Annotated[str, _part("analytic", "monte_carlo", "sample", "vade", "amortized")] = "analytic"
    num_samples: Count = 16
    options: Options = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the ladder is trained; steps are optimiser steps, stages run from the deepest facet to the shallowest.

    Attributes:
        epochs: of each stage, or one number for all stages alike.
        schedule_scale: of the whole schedule, its epochs and all its steps: 0.1 runs through it in a tenth of the time.
        batch_size: items per step.
        learning_rate: of Adam at the first step.
        final_learning_rate: towards which it falls along a half cosine, to be there after the last step; no fall where
            None.
        fade_in_steps: over which alpha, and by default beta, of a facet rise from 0 to 1.
        kl_fade_in_steps: over which beta does, one number per stage; see `ProgressiveSchedule`.
        kl_delay_steps: after which beta starts to, one number per stage.
        fade: shape of both.
        kl_weights: that the betas rise to instead of 1: for each stage a row of one number per facet, shallowest first.
        kl_relax_steps: of the last stage, between which its weights go to 1; they stay where None.
        warmup_steps: from the start of a facet's stage to the first fit of its mixture; for each stage, or for all.
        refit_steps: after which, counted from the same start, the mixture is fitted again.
        joint_refit_steps: after which, counted from the last stage's start, all mixtures are fitted again.
        repartition_step: after which, counted from the last stage's start, the axes of the joint z are shared out among
            the facets once more, so that these repeat each other less; never where None.
        fit_items: how many items a mixture is fitted to.
        fit_to: draws of their q(z | x), or its means.
        fit_units: what z is measured in meanwhile: as it is, or in each dimension q(z | x)'s standard deviation.
        mixture_variance: starting variance of the components; the fitted covariances where None.
        data_dependent_init: standardise the hidden units on a first batch.
        free_nats: of each facet's mean KL that cost nothing (Kingma et al. 2016).
        precision: of the networks' matrix products and convolutions; densities, parameters and Adam keep float32.
        compile: the objective, see `CompiledObjective`; "auto" does where it pays, see `compilation_pays`.
    """

    __pydantic_config__ = _strict
    epochs: PerFacet | Count = 10
    schedule_scale: Positive = 1.0
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    final_learning_rate: Positive | None = None
    fade_in_steps: Count = 1
    kl_fade_in_steps: PerFacet | None = None
    kl_delay_steps: PerStage | None = None
    fade: Literal["linear", "cosine"] = "linear"
    kl_weights: tuple[tuple[Positive, ...], ...] | None = None
    kl_relax_steps: tuple[Annotated[int, Field(ge=0, strict=True)], Count] | None = None
    warmup_steps: PerStage | Annotated[int, Field(ge=0, strict=True)] = 0
    refit_steps: tuple[Count, ...] = ()
    joint_refit_steps: tuple[Count, ...] = ()
    repartition_step: Count | None = None
    fit_items: Count = 10_000
    fit_to: Literal["draws", "means"] = "draws"
    fit_units: Literal["latent", "posterior"] = "latent"
    mixture_variance: Positive | None = None
    data_dependent_init: bool = False
    free_nats: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    precision: Literal["float32", "bf16"] = "float32"
    compile: Literal["auto", True, False] = "auto"


@dataclass(frozen=True, kw_only=True)
class SupervisionConfig:
    """A few labels that tie a facet's clusters to known categories: value number k of the label to cluster k.

    Attributes:
        label: name of a label set of the data; no supervision where None.
        facet: which facet; the deepest where None.
        items_per_value: how many items of each value are known.
        batch_size: how many of them join every batch.
    """

    __pydantic_config__ = _strict
    label: str | None = None
    facet: Annotated[int, Field(ge=0, strict=True)] | None = None
    items_per_value: Count = 10
    batch_size: Count = 32


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a run, besides the machine.

    Attributes:
        data: a name from `pyro_mfcvae.data.datasets.DATASETS`, or a path.
        description: one line for people.
        seed: of the data (where drawn), the starting values and the training.
    """

    __pydantic_config__ = _strict
    data: str
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 0
    facets: FacetsConfig = field(default_factory=FacetsConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    networks: NetworkConfig = field(default_factory=NetworkConfig)
    assignment: AssignmentConfig = field(default_factory=AssignmentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    supervision: SupervisionConfig = field(default_factory=SupervisionConfig)

    def __post_init__(self) -> None:
        for name, kind, options in (
            ("prior", self.prior.kind, self.prior.options),
            ("likelihood", self.likelihood.kind, self.likelihood.options),
            ("networks", self.networks.kind, self.networks.options),
            ("assignment", self.assignment.rule, self.assignment.options),
        ):
            if options and not is_import_path(kind):
                raise InputError(f"{name}.options are for a part of your own, and {kind} is ours: leave them out")
        if self.supervision.label is None and self.supervision.facet is not None:
            raise InputError(
                f"supervision.facet = {self.supervision.facet} has no label to be tied to: give supervision.label too"
            )
        num_facets = len(self.facets.num_clusters)
        per_facet = {
            "facets.latent_dim": self.facets.latent_dim,
            "prior.covariance": self.prior.covariance,
            "networks.encoder_dims": self.networks.encoder_dims,
            "networks.decoder_dims": self.networks.decoder_dims,
            "training.epochs": self.training.epochs,
            "training.kl_fade_in_steps": self.training.kl_fade_in_steps,
            "training.kl_delay_steps": self.training.kl_delay_steps,
            "training.kl_weights": self.training.kl_weights,
            "training.warmup_steps": self.training.warmup_steps,
        }
        for name, value in per_facet.items():
            if isinstance(value, tuple) and len(value) != num_facets:
                raise InputError(
                    f"facets.num_clusters names {num_facets} facets but {name} = {list(value)} has {len(value)} "
                    "values: give one per facet"
                )

    @property
    def stage_epochs(self) -> tuple[int, ...]:
        """Epochs of every stage, deepest facet first."""
        epochs = self.training.epochs
        return epochs if isinstance(epochs, tuple) else (epochs,) * len(self.facets.num_clusters)
