"""The configuration of a run: what a preset holds, what ``--set`` changes, what ``config.toml`` records."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pyro_mfcvae.errors import InputError

Count = Annotated[int, Field(ge=1, strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
PerFacet = Annotated[tuple[Count, ...], Field(min_length=1)]

_strict = ConfigDict(extra="forbid")


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
        kind: of the components; Student's t has no closed form and needs assignment.rule = "monte_carlo" or "sample".
        covariance: shape of a Gaussian's; Student's t has full ones.
        learn_weights: whether the clusters' weights are parameters, or 1/K.
    """

    __pydantic_config__ = _strict
    kind: Literal["gaussian", "student_t"] = "gaussian"
    covariance: Literal["diagonal", "full", "spherical", "tied"] = "diagonal"
    learn_weights: bool = True


@dataclass(frozen=True, kw_only=True)
class LikelihoodConfig:
    """p(x | z).

    Attributes:
        kind: its distribution.
        scale: of a Gaussian or discretised logistic, in units of x; where learned, the initial value.
        learn_scale: make it a parameter.
        per_channel: give every channel a scale of its own.
        sigmoid_mean: squash the mean into (0, 1).
    """

    __pydantic_config__ = _strict
    kind: Literal["bernoulli", "continuous_bernoulli", "gaussian", "discretized_logistic"] = "bernoulli"
    scale: Positive = 1.0
    learn_scale: bool = False
    per_channel: bool = False
    sigmoid_mean: bool = False


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The ladder.

    Attributes:
        kind: of linear layers, or of convolutions.
        encoder_dims: widths of an MLP's rungs, shallowest first.
        decoder_dims: the same on the way down.
        hidden_dim: width of an MLP's last hidden layer.
        merge_weight: of a rung where it joins an MLP decoder.
        channels: of a convolutional ladder's maps, from the image inwards.
        num_residual_blocks: after every map of a convolutional ladder.
        joining_gain: of the starting values of all heads but the deepest; at 0 a facet joins without a word.
    """

    __pydantic_config__ = _strict
    kind: Literal["mlp", "conv"] = "mlp"
    encoder_dims: PerFacet | None = None
    decoder_dims: PerFacet | None = None
    hidden_dim: Count = 500
    merge_weight: Positive = 0.1
    channels: Annotated[tuple[Count, ...], Field(min_length=1)] = (64, 128, 256)
    num_residual_blocks: Annotated[int, Field(ge=0, strict=True)] = 0
    joining_gain: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


@dataclass(frozen=True, kw_only=True)
class AssignmentConfig:
    """The rule for q(c | x)."""

    __pydantic_config__ = _strict
    rule: Literal["analytic", "monte_carlo", "sample", "vade", "amortized"] = "analytic"
    num_samples: Count = 16


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the ladder is trained; steps are optimiser steps, stages run from the deepest facet to the shallowest.

    Attributes:
        epochs: of each stage, or one number for all stages alike.
        batch_size: items per step.
        learning_rate: of Adam at the first step.
        final_learning_rate: towards which it falls along a half cosine, to be there after the last step; no fall where
            None.
        fade_in_steps: over which alpha, and by default beta, of a facet rise from 0 to 1.
        kl_fade_in_steps: over which beta does, one number per stage; see `ProgressiveSchedule`.
        kl_delay_steps: after which beta starts to, one number per stage.
        fade: shape of both.
        warmup_steps: from the start of a facet's stage to the first fit of its mixture.
        refit_steps: after which, counted from the same start, the mixture is fitted again.
        fit_items: how many items a mixture is fitted to.
        fit_to: draws of their q(z | x), or its means.
        mixture_variance: starting variance of the components; the fitted covariances where None.
        data_dependent_init: standardise the hidden units on a first batch.
        free_nats: of each facet's mean KL that cost nothing (Kingma et al. 2016).
        precision: of the networks' matrix products and convolutions; densities, parameters and Adam keep float32.
        compile: the objective, see `CompiledObjective`; "auto" does where it pays, see `compilation_pays`.
    """

    __pydantic_config__ = _strict
    epochs: PerFacet | Count = 10
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    final_learning_rate: Positive | None = None
    fade_in_steps: Count = 1
    kl_fade_in_steps: PerFacet | None = None
    kl_delay_steps: tuple[Annotated[int, Field(ge=0, strict=True)], ...] | None = None
    fade: Literal["linear", "cosine"] = "linear"
    warmup_steps: Annotated[int, Field(ge=0, strict=True)] = 0
    refit_steps: tuple[Count, ...] = ()
    fit_items: Count = 10_000
    fit_to: Literal["draws", "means"] = "draws"
    mixture_variance: Positive | None = None
    data_dependent_init: bool = False
    free_nats: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    precision: Literal["float32", "bf16"] = "float32"
    compile: Literal["auto", True, False] = "auto"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a run, besides the machine.

    Attributes:
        data: a name from `pyro_mfcvae.datasets.DATASETS`, or a path.
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

    def __post_init__(self) -> None:
        num_facets = len(self.facets.num_clusters)
        per_facet = {
            "facets.latent_dim": self.facets.latent_dim,
            "networks.encoder_dims": self.networks.encoder_dims,
            "networks.decoder_dims": self.networks.decoder_dims,
            "training.epochs": self.training.epochs,
            "training.kl_fade_in_steps": self.training.kl_fade_in_steps,
            "training.kl_delay_steps": self.training.kl_delay_steps,
        }
        for name, value in per_facet.items():
            if isinstance(value, tuple) and len(value) != num_facets:
                raise InputError(
                    f"facets.num_clusters names {num_facets} facets but {name} = {list(value)} has {len(value)} "
                    "numbers: give one per facet"
                )

    @property
    def stage_epochs(self) -> tuple[int, ...]:
        """Epochs of every stage, deepest facet first."""
        epochs = self.training.epochs
        return epochs if isinstance(epochs, tuple) else (epochs,) * len(self.facets.num_clusters)


_ADAPTER = TypeAdapter(Config)


def parse_config(table: Mapping[str, Any], *, source: str) -> Config:
    """Check a table as it comes from TOML.

    Raises:
        InputError: a key is unknown, or a value does not fit; the message names every one of them and ``source``.
    """
    try:
        return _ADAPTER.validate_python(table)
    except ValidationError as error:
        complaints = "; ".join(_complaint(details) for details in error.errors())
        raise InputError(f"{source}: {complaints}") from None


def read_config(text: str, *, source: str) -> Config:
    """Parse a TOML text."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{source} is not valid TOML: {error}") from None
    return parse_config(table, source=source)


def override(config: Config, settings: Iterable[str]) -> Config:
    """Apply settings of the form ``section.key=value``, the value written as in TOML (a bare word is a string)."""
    table: dict[str, Any] = asdict(config)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"a setting looks like training.epochs=5, got {setting!r}")
        *sections, name = key.strip().split(".")
        section = table
        for part in sections:
            section = section.get(part, {})
            if not isinstance(section, dict):
                raise InputError(f"setting {setting!r}: {part} is a value and has no keys")
        if not isinstance(section, dict) or name not in section:
            close = get_close_matches(key, setting_names(), n=3, cutoff=0.4) or setting_names()
            raise InputError(f"unknown setting {key!r}: did you mean {' or '.join(close)}?")
        section[name] = _parse_value(text.strip())
    return parse_config(table, source="--set")


def to_toml(config: Config) -> str:
    """The configuration as TOML; values that are None (for: decided by the code) are left out."""
    return tomli_w.dumps(_without_none(asdict(config)))


def setting_names() -> list[str]:
    """Every name that `override` knows."""
    names = []
    for name, value in asdict(Config(data="")).items():
        names += [f"{name}.{key}" for key in value] if isinstance(value, dict) else [name]
    return names


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None if text == "none" else text


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }


def _complaint(details: Any) -> str:
    # Unions put the name of the tried alternative into the path; the keys of the file are what a user knows.
    path = [str(part) for part in details["loc"] if str(part).isidentifier()]
    message = details["msg"].removeprefix("Value error, ")
    got = (
        "" if isinstance(details["input"], dict) or details["type"] == "value_error" else f", got {details['input']!r}"
    )
    return f"{'.'.join(path)}: {message[0].lower()}{message[1:]}{got}" if path else message
