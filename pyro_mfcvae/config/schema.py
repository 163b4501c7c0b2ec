"""The configuration of a run: everything that determines its result, except the machine. This module does not import
torch.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pyro_mfcvae.config.options import (
    Count,
    PerFacet,
    per_facet_names,
    refuse_without_effect,
    strict,
)
from pyro_mfcvae.config.parts import GLOBALS_GUIDES, PARTS, check_kind, complete_options, is_import_path
from pyro_mfcvae.config.training_sections import MixtureFitConfig, ScheduleConfig, SupervisionConfig, TrainingConfig
from pyro_mfcvae.errors import InputError

Options = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The items.

    Attributes:
        source: name of a data set that `mfcvae datasets` lists, or a path.
        size: height and width that images are resized to, one number for both; images keep their size if None.
        fit: how images of another shape are resized: crop the middle, pad the borders, or stretch.
    """

    __pydantic_config__ = strict
    source: str
    size: Count | tuple[Count, Count] | None = None
    fit: Literal["crop", "pad", "stretch"] = "crop"


@dataclass(frozen=True, kw_only=True)
class FacetsConfig:
    """One entry per facet, shallowest first.

    Attributes:
        num_clusters: number of clusters of each facet; a facet with one cluster has a standard normal prior.
        latent_dim: dimension of each facet's z.
    """

    __pydantic_config__ = strict
    num_clusters: PerFacet = (25, 25)
    latent_dim: PerFacet = (5, 5)


@dataclass(frozen=True, kw_only=True)
class PartConfig:
    """A part of the model or the guide, chosen by name or by import path; its options are checked and completed.

    Attributes:
        kind: name or import path of the part.
        options: options of the kind.
    """

    __pydantic_config__ = strict
    section: ClassVar[str]
    kind: str
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", complete_options(self.section, self.kind, self.options))


@dataclass(frozen=True, kw_only=True)
class PriorConfig(PartConfig):
    """p(c) and p(z | c) of every facet with more than one cluster; a facet with one cluster has a standard normal
    prior.

    Attributes:
        kind: prior of each facet: gaussian, student_t, bayesian or vamp, or the import path of a prior of your own.
        globals_guide: q(theta) over a prior's random parameters: conjugate, delta, normal or multivariate_normal, or
            the import path of a part of your own. Of the built-in priors only bayesian has such parameters.
    """

    section: ClassVar[str] = "prior"
    kind: str = "gaussian"
    globals_guide: str = "conjugate"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind("prior.globals_guide", self.globals_guide, GLOBALS_GUIDES)
        if self.kind != "bayesian" and not is_import_path(self.kind):
            refuse_without_effect(
                self, ("globals_guide",), f"with prior.kind = {self.kind!r}, whose parameters are not random"
            )


@dataclass(frozen=True, kw_only=True)
class LikelihoodConfig(PartConfig):
    """p(x | z).

    Attributes:
        kind: distribution of x: bernoulli, continuous_bernoulli, gaussian, discretized_logistic, poisson,
            negative_binomial or categorical, or the import path of a likelihood of your own.
        missing: whether elements may be missing (NaN). They are left out of p(x | z), and the built-in encoders read
            the mask of the observed elements.
    """

    section: ClassVar[str] = "likelihood"
    kind: str = "bernoulli"
    missing: bool = False


@dataclass(frozen=True, kw_only=True)
class NetworksConfig(PartConfig):
    """The ladder of encoder and decoder.

    Attributes:
        kind: architecture: mlp (linear layers) or conv (convolutions), or the import path of a function of your own.
    """

    section: ClassVar[str] = "networks"
    kind: str = "mlp"


@dataclass(frozen=True, kw_only=True)
class AssignmentConfig(PartConfig):
    """The rule for q(c | x).

    Attributes:
        kind: rule: analytic, monte_carlo, sample, vade or amortized, or the import path of a rule of your own.
    """

    section: ClassVar[str] = "assignment"
    kind: str = "analytic"


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run.

    Attributes:
        data: the items.
        description: a line that says what the configuration is for.
        seed: seed of the starting values, of the training, and of data that are drawn at random.
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
        if self.supervision.label is not None and self.training.objective != "elbo":
            raise InputError(
                f"expected training.objective=elbo with supervision.label, got {self.training.objective}: that bound "
                f"does not use known clusters, so leave one of the two out"
            )
        if self.prior.kind == "vamp":
            refuse_without_effect(
                self.mixture_fit,
                ("variance",),
                'in mixture_fit with prior.kind = "vamp", whose spreads are those of q(z | x)',
            )
        if self.training.compile is True and self.networks.options.get("recompute"):
            raise InputError(
                'expected training.compile = false or "auto" with networks.recompute, got true: a compiled '
                "program decides itself which maps are kept, so leave one of the two out"
            )
        num_facets = len(self.facets.num_clusters)
        if num_facets == 1:
            refuse_without_effect(self.training, ("independence",), "in training with one facet")
        for name, value in self._per_facet().items():
            if isinstance(value, tuple) and len(value) != num_facets:
                raise InputError(
                    f"expected {num_facets} values in {name}, as in facets.num_clusters, got {len(value)} in "
                    f"{list(value)}: give one per facet"
                )

    def _per_facet(self) -> dict[str, Any]:
        """Name → value of all settings that may have one value per facet or per stage."""
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
    def own_modules(self) -> tuple[str, ...]:
        """The modules of the custom parts."""
        kinds = [getattr(self, section).kind for section in PARTS] + [self.prior.globals_guide]
        return tuple(dict.fromkeys(kind.rpartition(".")[0] for kind in kinds if is_import_path(kind)))

    @property
    def stage_epochs(self) -> tuple[int, ...]:
        """Epochs of every stage, deepest facet first."""
        epochs = self.training.epochs
        return epochs if isinstance(epochs, tuple) else (epochs,) * len(self.facets.num_clusters)
