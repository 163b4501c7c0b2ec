"""Build the data, the model, the guide and the schedule of a configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from pyro.nn import PyroModule

from pyro_mfcvae.config.custom_parts import Base, find_part, make_part
from pyro_mfcvae.config.options import per_facet_names
from pyro_mfcvae.config.parts import ASSIGNMENTS, GLOBALS_GUIDES, LIKELIHOODS, NETWORKS, PRIORS, Part
from pyro_mfcvae.config.schema import Config, PriorConfig
from pyro_mfcvae.config.text import to_toml
from pyro_mfcvae.data.datasets import Dataset, load_dataset
from pyro_mfcvae.data.limits import SETTING, limit_bytes
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.guides.amortized import MultiFacetGuide, with_mask
from pyro_mfcvae.guides.assignments import AssignmentRule
from pyro_mfcvae.guides.encoders import LadderEncoder
from pyro_mfcvae.infer.schedule import ProgressiveSchedule, steps_per_epoch
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.models.decoders import LadderDecoder
from pyro_mfcvae.models.generative import MultiFacetModel
from pyro_mfcvae.models.likelihoods import Likelihood
from pyro_mfcvae.models.priors import FacetPrior, StandardNormalPrior
from pyro_mfcvae.safety.memory import limited_memory


def load_data(config: Config, source: str | None = None, *, root: Path | None = None) -> Dataset:
    """Load the data of a configuration, or other data in the same form; see `load_dataset`."""
    data = config.data
    return load_dataset(source or data.source, root=root, seed=config.seed, size=data.size, fit=data.fit)


def build_pair(config: Config, event_shape: Sequence[int], *, stored_bytes: int | None = None) -> MFCVAE:
    """Build the model and guide of a configuration, with random starting values, for data of an event shape.

    Every part is a class or a function that is called with

        prior        (facet, …)                  and, if its signature names them, encoder, j
        likelihood   (…)                         and event_shape
        networks     (facets, output_shape, …)   and in_shape; it makes an encoder and a decoder
        assignment   (…)                         and facets
        globals_guide (model)

    Its options are passed as further arguments.

    Args:
        config: the configuration.
        event_shape: shape of an item, without a batch dimension.
        stored_bytes: size of the pair's tensors in a file; a pair that needs much more memory is refused. With None,
            the limit is that of `limit_bytes`.

    Raises:
        InputError: a custom part is not imported, is of the wrong kind, or does not take its options; or the parts are
            too large.
    """
    most, advice = limit_bytes(), _SMALLER
    if stored_bytes is not None:  # starting values need memory as well, and files can be in half precision
        most, advice = 4 * stored_bytes + _SLACK, "the settings do not belong to the file: restore it from a copy"
    with limited_memory(most, source="a model and guide", advice=advice):
        pair = _build(config, event_shape)
    pair.recipe = to_toml(config)
    return pair


_SLACK = 64 << 20
_SMALLER = (
    "choose fewer clusters, smaller latent dimensions or smaller networks, or set the environment variable "
    f"{SETTING} to a number of GiB that the memory has room for"
)


def _build(config: Config, event_shape: Sequence[int]) -> MFCVAE:
    facets = tuple(
        Facet(num_clusters=num_clusters, latent_dim=latent_dim)
        for num_clusters, latent_dim in zip(config.facets.num_clusters, config.facets.latent_dim, strict=True)
    )
    missing = config.likelihood.missing
    in_shape = with_mask(event_shape) if missing else tuple(event_shape)
    likelihood: Likelihood = _make(
        LIKELIHOODS, config.likelihood.kind, config.likelihood.options, Likelihood, event_shape=tuple(event_shape)
    )
    ladder = (LadderEncoder, LadderDecoder)
    networks, output_shape = config.networks, likelihood.output_shape(event_shape)
    encoder, decoder = _make(NETWORKS, networks.kind, networks.options, ladder, facets, output_shape, in_shape=in_shape)
    priors = [_prior(config.prior, facet, j, encoder) for j, facet in enumerate(facets)]
    model = MultiFacetModel(priors, decoder=decoder, likelihood=likelihood, missing=missing)
    rule = _make(ASSIGNMENTS, config.assignment.kind, config.assignment.options, AssignmentRule, facets=facets)
    globals_guide = None
    if model.global_sites:
        globals_guide = _make(GLOBALS_GUIDES, config.prior.globals_guide, {}, PyroModule, model)
    return MFCVAE(model, MultiFacetGuide(model, encoder=encoder, assignment=rule, globals_guide=globals_guide))


def check_own_parts(config: Config) -> None:
    """Refuse a configuration with custom parts that are not imported, or that are of the wrong kind."""
    kinds: tuple[tuple[str, Mapping[str, Part], Base], ...] = (
        (config.prior.kind, PRIORS, FacetPrior),
        (config.prior.globals_guide, GLOBALS_GUIDES, PyroModule),
        (config.likelihood.kind, LIKELIHOODS, Likelihood),
        (config.networks.kind, NETWORKS, (LadderEncoder, LadderDecoder)),
        (config.assignment.kind, ASSIGNMENTS, AssignmentRule),
    )
    for kind, table, base in kinds:
        if kind not in table:
            find_part(kind, base)


def _make(
    table: Mapping[str, Part], kind: str, options: Mapping[str, Any], base: Base, *args: Any, **provided: Any
) -> Any:
    """Make a built-in or custom part."""
    path = kind
    if kind in table:
        path = table[kind].path
        import_module(path.rpartition(".")[0])
    return make_part(find_part(path, base), base, *args, provided=provided, options=options)


def _prior(config: PriorConfig, facet: Facet, j: int, encoder: LadderEncoder) -> FacetPrior:
    if facet.num_clusters == 1:
        return StandardNormalPrior(facet)
    part, options = PRIORS.get(config.kind), dict(config.options)
    for name in per_facet_names(part.options) if part is not None and part.options is not None else ():
        if isinstance(options[name], tuple):
            options[name] = options[name][j]
    prior: FacetPrior = _make(PRIORS, config.kind, options, FacetPrior, facet, encoder=encoder, j=j)
    return prior


def adapt_epochs(config: Config, *, made_for: int, num_items: int) -> Config:
    """Adapt a configuration to a data set of another size: every stage keeps its number of steps, rounded up to whole
    epochs.

    Warm-ups, fades and fits are counted in steps, so on a smaller data set the same number of epochs would be too short
    for them.

    Args:
        config: a configuration that was made for another data set.
        made_for: number of training items of that data set.
        num_items: number of training items of this one.
    """
    before, now = (steps_per_epoch(num, config.training.batch_size) for num in (made_for, num_items))
    epochs = tuple(-(-num * before // now) for num in config.stage_epochs)
    return replace(config, training=replace(config.training, epochs=epochs))


def build_schedule(config: Config, steps_per_epoch: int) -> ProgressiveSchedule:
    """Build the schedule of a configuration, for a given number of steps per epoch."""
    settings, fits = config.schedule, config.mixture_fit
    schedule = ProgressiveSchedule.from_epochs(
        config.stage_epochs,
        steps_per_epoch,
        fade_in_steps=settings.fade_in_steps,
        kl_fade_in_steps=settings.kl_fade_in_steps,
        kl_delay_steps=settings.kl_delay_steps,
        kl_weights=settings.kl_weights,
        kl_relax_steps=settings.kl_relax_steps,
        warmup_steps=fits.warmup_steps,
        refit_steps=fits.refit_steps,
        joint_refit_steps=fits.joint_refit_steps,
        linear_start_steps=settings.linear_start_steps,
    )
    return schedule if settings.scale == 1 else schedule.stretched(settings.scale, unit=steps_per_epoch)
