"""The options of the built-in parts: the contents of a section's ``options`` for every kind.

Every class has the options of one kind, with the same defaults as the class that is built. This module does not import
torch, so that a mistake in a setting is reported at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from pyro_mfcvae.errors import InputError

Count = Annotated[int, Field(ge=1, strict=True)]
NaturalNumber = Annotated[int, Field(ge=0, strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Covariance = Literal["diagonal", "full", "spherical", "tied"]
Posterior = Literal["diagonal", "full", "low_rank", "spline", "autoregressive"]
PerFacet = Annotated[tuple[Count, ...], Field(min_length=1)]

strict = ConfigDict(extra="forbid")

PER_FACET: Mapping[str, bool] = {"per_facet": True}
"""Marks an option that may also be a list with one value per facet, shallowest first."""


def per_facet_names(options: type) -> tuple[str, ...]:
    """The options of a class that may have one value per facet."""
    return tuple(f.name for f in fields(options) if f.metadata.get("per_facet"))


def refuse_without_effect(part: Any, names: tuple[str, ...], reason: str) -> None:
    """Refuse options, or settings of a section, that differ from their defaults although they have no effect.

    Raises:
        InputError: one of them differs from its default.
    """
    for f in fields(part):
        value = getattr(part, f.name)
        if f.name in names and value != f.default:
            raise InputError(f"expected no {f.name} {reason}, got {value!r}: leave it out")


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """A part without options."""

    __pydantic_config__ = strict


@dataclass(frozen=True, kw_only=True)
class GaussianPriorOptions:
    """A mixture of Gaussians.

    Attributes:
        covariance: shape of the components' covariances (diagonal, full, spherical or tied), one for all facets or one
            per facet.
        learn_weights: whether the clusters' weights are parameters; 1/K otherwise.
    """

    __pydantic_config__ = strict
    covariance: Covariance | Annotated[tuple[Covariance, ...], Field(min_length=1)] = field(
        default="diagonal", metadata=PER_FACET
    )
    learn_weights: bool = True


@dataclass(frozen=True, kw_only=True)
class StudentTPriorOptions:
    """A mixture of Student-t with full scale matrices; needs assignment = monte_carlo or sample.

    Attributes:
        df: initial degrees of freedom.
        learn_weights: whether the clusters' weights are parameters; 1/K otherwise.
    """

    __pydantic_config__ = strict
    df: Annotated[float, Field(gt=2, strict=True, allow_inf_nan=False)] = 5.0
    learn_weights: bool = True


@dataclass(frozen=True, kw_only=True)
class BayesianPriorOptions:
    """A mixture of Gaussians with hyperpriors.

    Attributes:
        covariance: shape of the components' covariances (diagonal, full, spherical or tied), one for all facets or one
            per facet.
        random: parameters that have a hyperprior, out of probs, loc and scale; the others are learned.
        stick_breaking: whether the weights are those of a stick-breaking process, so that the data decide how many
            clusters have a weight clearly above 0.
        concentration: concentration of the weights' hyperprior; below 1 it favours few clusters.
        loc_scale: standard deviation of the means' hyperprior, in units of z.
        scale_scale: scale of the standard deviations' hyperprior, in units of z.
        correlation: concentration of the LKJ hyperprior of full and tied covariances; 1 is uniform.
    """

    __pydantic_config__ = strict
    covariance: Covariance | Annotated[tuple[Covariance, ...], Field(min_length=1)] = field(
        default="diagonal", metadata=PER_FACET
    )
    random: Annotated[tuple[Literal["probs", "loc", "scale"], ...], Field(min_length=1)] = ("probs", "loc", "scale")
    stick_breaking: bool = False
    concentration: Positive = 1.0
    loc_scale: Positive = 3.0
    scale_scale: Positive = 1.0
    correlation: Positive = 1.0

    def __post_init__(self) -> None:
        for parameter, names in (
            ("probs", ("stick_breaking", "concentration")),
            ("loc", ("loc_scale",)),
            ("scale", ("scale_scale", "correlation")),
        ):
            if parameter not in self.random:
                refuse_without_effect(self, names, f'where random does not name "{parameter}"')
        shapes = {self.covariance} if isinstance(self.covariance, str) else set(self.covariance)
        if not shapes & {"full", "tied"}:
            refuse_without_effect(self, ("correlation",), "where no covariance is full or tied")


@dataclass(frozen=True, kw_only=True)
class VampPriorOptions:
    """A mixture of the encoder's posteriors of learned pseudo-inputs.

    Attributes:
        learn_weights: whether the clusters' weights are parameters; 1/K otherwise.
    """

    __pydantic_config__ = strict
    learn_weights: bool = True


@dataclass(frozen=True, kw_only=True)
class ScaledLikelihoodOptions:
    """A likelihood with a location and a scale.

    Attributes:
        scale: scale of the likelihood in units of x; its initial value if the scale is learned.
        learn_scale: whether the scale is a parameter.
        per_channel: whether every channel has its own scale.
        sigmoid_mean: whether the location is squashed into (0, 1).
    """

    __pydantic_config__ = strict
    scale: Positive = 1.0
    learn_scale: bool = False
    per_channel: bool = False
    sigmoid_mean: bool = False

    def __post_init__(self) -> None:
        if not self.learn_scale:
            refuse_without_effect(self, ("per_channel",), "where the scale is not learned (learn_scale)")


@dataclass(frozen=True, kw_only=True)
class GaussianLikelihoodOptions(ScaledLikelihoodOptions):
    """A Gaussian for every element.

    Attributes:
        standardize: whether every element is standardised, with its mean and standard deviation over the training
            items; the scale is then in units of the standard deviation.
    """

    standardize: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.standardize:
            refuse_without_effect(self, ("sigmoid_mean",), "with standardize, whose means have no bounds")


@dataclass(frozen=True, kw_only=True)
class DiscretizedLogisticOptions(ScaledLikelihoodOptions):
    """A logistic distribution for every element, discretised to the values of bytes.

    Attributes:
        num_levels: number of values that an element can have, from 0 to 1.
    """

    scale: Positive = 0.1
    learn_scale: bool = True
    sigmoid_mean: bool = True
    num_levels: Annotated[int, Field(ge=2, strict=True)] = 256


@dataclass(frozen=True, kw_only=True)
class NegativeBinomialOptions:
    """Counts that vary more than Poisson's.

    Attributes:
        dispersion: initial value of r in variance = m + m² / r, which is learned.
    """

    __pydantic_config__ = strict
    dispersion: Positive = 1.0


@dataclass(frozen=True, kw_only=True)
class CategoricalOptions:
    """Codes 0 … V-1.

    Attributes:
        num_categories: V.
    """

    __pydantic_config__ = strict
    num_categories: Annotated[int, Field(ge=2, strict=True)]


@dataclass(frozen=True, kw_only=True)
class LadderOptions:
    """The options of every built-in ladder.

    Attributes:
        head_init_scale: factor on the initial weights of all heads except the deepest; with 0, q(z_j | x) is
            independent of x at the start.
        posterior: family of q(z | x): diagonal, full or low_rank (a Gaussian with such a covariance, of rank 1 for
            low_rank), or spline or autoregressive (a flow, which needs assignment = monte_carlo or sample).
        separate: whether every facet has its own encoder.
    """

    __pydantic_config__ = strict
    head_init_scale: NonNegative = 0.0
    posterior: Posterior = "diagonal"
    separate: bool = False


@dataclass(frozen=True, kw_only=True)
class MLPOptions(LadderOptions):
    """A ladder of linear layers.

    Attributes:
        encoder_dims: widths of the encoder's rungs, shallowest first.
        decoder_dims: widths of the decoder's rungs, shallowest first.
        hidden_dim: width of the decoder's last hidden layer.
        merge_weight: weight of a rung when it is added to the decoder's hidden layer.
    """

    encoder_dims: PerFacet | None = field(default=None, metadata=PER_FACET)
    decoder_dims: PerFacet | None = field(default=None, metadata=PER_FACET)
    hidden_dim: Count = 500
    merge_weight: Positive = 0.1


@dataclass(frozen=True, kw_only=True)
class ConvOptions(LadderOptions):
    """A ladder of convolutions.

    Attributes:
        channels: numbers of channels of the maps, from the image inwards; the last one also holds for all further maps.
        num_residual_blocks: number of residual blocks after every map.
        gated: whether facets also multiply the decoder's maps to which they are added.
        recompute: whether the backward pass keeps only one map per level and computes the others again, which saves
            memory and takes time.
        channels_last: whether convolutions keep their weights and maps in memory with the channels last.
    """

    channels: Annotated[tuple[Count, ...], Field(min_length=1)] = (64, 128, 256)
    num_residual_blocks: NaturalNumber = 0
    gated: bool = False
    recompute: bool = False
    channels_last: bool = False


@dataclass(frozen=True, kw_only=True)
class MonteCarloOptions:
    """q(c | x) from draws of z.

    Attributes:
        num_samples: number of draws.
    """

    __pydantic_config__ = strict
    num_samples: Count = 16


@dataclass(frozen=True, kw_only=True)
class VaDEOptions(MonteCarloOptions):
    """q(c | x) as the mean of p(c | z) over draws of z."""

    num_samples: Count = 1


@dataclass(frozen=True, kw_only=True)
class AmortizedOptions:
    """A learned q(c | x).

    Attributes:
        hidden_dim: width of the hidden layer of every facet's head.
    """

    __pydantic_config__ = strict
    hidden_dim: Count = 64
