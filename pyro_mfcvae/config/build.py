"""From a configuration to objects: the one table of names."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pyro.distributions.transforms import conditional_affine_autoregressive

from pyro_mfcvae.config.custom_parts import make_part
from pyro_mfcvae.config.schema import AssignmentConfig, Config, LikelihoodConfig, NetworkConfig, PriorConfig
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.guides import (
    AmortizedAssignment,
    AnalyticAssignment,
    AssignmentRule,
    ConvLadderEncoder,
    FlowHead,
    FullCovarianceHead,
    GaussianHead,
    LadderEncoder,
    LowRankHead,
    MLPLadderEncoder,
    MonteCarloAssignment,
    MultiFacetGuide,
    RotatedEncoder,
    SampleAssignment,
    SeparateEncoder,
    VaDEAssignment,
    with_mask,
)
from pyro_mfcvae.guides.encoders import MakeHead
from pyro_mfcvae.infer.schedule import Fade, ProgressiveSchedule, cosine_fade, linear_fade, steps_per_epoch
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.models import (
    BayesianMixturePrior,
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    ConvLadderDecoder,
    DiscretizedLogisticLikelihood,
    FacetPrior,
    GaussianLikelihood,
    LadderDecoder,
    Likelihood,
    MixturePrior,
    MLPLadderDecoder,
    MultiFacetModel,
    RotatedDecoder,
    StandardNormalPrior,
    StudentTMixturePrior,
    VampPrior,
)
from pyro_mfcvae.models.decoders import ladder_dims

PRIORS: dict[str, Callable[[PriorConfig, int, LadderEncoder], FacetPrior]] = {
    "gaussian": lambda c, j, encoder: MixturePrior(
        encoder.facets[j], covariance=c.covariance_of(j), learn_weights=c.learn_weights
    ),
    "student_t": lambda c, j, encoder: StudentTMixturePrior(encoder.facets[j], learn_weights=c.learn_weights),
    "bayesian": lambda c, j, encoder: BayesianMixturePrior(
        encoder.facets[j],
        covariance=c.covariance_of(j),
        random=c.random,
        stick_breaking=c.stick_breaking,
        concentration=c.concentration,
    ),
    "vamp": lambda c, j, encoder: VampPrior(
        encoder.facets[j],
        encoder=encoder,
        j=j,
        pseudo_inputs=torch.rand(encoder.facets[j].num_clusters, *encoder.in_shape),  # until items are taken
        learn_weights=c.learn_weights,
    ),
}


def _scaled(config: LikelihoodConfig, event_shape: Sequence[int]) -> dict[str, Any]:
    """The settings that likelihoods with a scale share."""
    scale = torch.full((event_shape[0], 1, 1) if config.per_channel else (), config.scale)
    return {"scale": scale, "learn_scale": config.learn_scale, "sigmoid_mean": config.sigmoid_mean}


LIKELIHOODS: dict[str, Callable[[LikelihoodConfig, Sequence[int]], Likelihood]] = {
    "bernoulli": lambda _, __: BernoulliLikelihood(),
    "continuous_bernoulli": lambda _, __: ContinuousBernoulliLikelihood(),
    "gaussian": lambda c, shape: GaussianLikelihood(**_scaled(c, shape)),
    "discretized_logistic": lambda c, shape: DiscretizedLogisticLikelihood(**_scaled(c, shape)),
}

ASSIGNMENT_RULES: dict[str, Callable[[AssignmentConfig, Sequence[Facet]], AssignmentRule]] = {
    "analytic": lambda _, __: AnalyticAssignment(),
    "monte_carlo": lambda c, _: MonteCarloAssignment(c.num_samples),
    "sample": lambda _, __: SampleAssignment(),
    "vade": lambda c, _: VaDEAssignment(c.num_samples),
    "amortized": lambda _, facets: AmortizedAssignment(facets),
}


POSTERIORS: dict[str, MakeHead] = {
    "diagonal": GaussianHead,
    "full": FullCovarianceHead,
    "low_rank": LowRankHead,
    "spline": FlowHead,
    "autoregressive": partial(FlowHead, transform=conditional_affine_autoregressive),
}


def _mlp_ladder(
    config: NetworkConfig, facets: Sequence[Facet], in_shape: Sequence[int], event_shape: Sequence[int]
) -> tuple[LadderEncoder, LadderDecoder]:
    decoder = MLPLadderDecoder(
        facets,
        event_shape,
        rung_dims=config.decoder_dims,
        hidden_dim=config.hidden_dim,
        merge_weight=config.merge_weight,
    )
    head = POSTERIORS[config.posterior]

    def encode(facets: Sequence[Facet], rung_dims: Sequence[int] | None) -> LadderEncoder:
        gain = config.head_init_scale
        return MLPLadderEncoder(facets, in_shape, rung_dims=rung_dims, head_init_scale=gain, head=head)

    if not config.separate:
        return encode(facets, config.encoder_dims), decoder
    dims = ladder_dims(facets, config.encoder_dims, "networks.encoder_dims")
    return SeparateEncoder([encode([facet], [dim]) for facet, dim in zip(facets, dims, strict=True)]), decoder


def _conv_ladder(
    config: NetworkConfig, facets: Sequence[Facet], in_shape: Sequence[int], event_shape: Sequence[int]
) -> tuple[LadderEncoder, LadderDecoder]:
    shared: dict[str, Any] = {"channels": config.channels, "num_residual_blocks": config.num_residual_blocks}
    decoder = ConvLadderDecoder(facets, event_shape, gated=config.gated, **shared)
    shared |= {"head_init_scale": config.head_init_scale, "head": POSTERIORS[config.posterior]}
    if not config.separate:
        return ConvLadderEncoder(facets, in_shape, **shared), decoder
    return SeparateEncoder([ConvLadderEncoder([facet], in_shape, **shared) for facet in facets]), decoder


# Called with the settings, the facets, the encoder's in_shape and the decoder's event shape.
LADDERS: dict[
    str,
    Callable[[NetworkConfig, Sequence[Facet], Sequence[int], Sequence[int]], tuple[LadderEncoder, LadderDecoder]],
] = {
    "mlp": _mlp_ladder,
    "conv": _conv_ladder,
}

FADES: dict[str, Fade] = {"linear": linear_fade, "cosine": cosine_fade}


def build_pair(config: Config, event_shape: Sequence[int]) -> MFCVAE:
    """The model and guide of a configuration, for data of an event shape, with their random starting values."""
    facets = tuple(
        Facet(num_clusters=num_clusters, latent_dim=latent_dim)
        for num_clusters, latent_dim in zip(config.facets.num_clusters, config.facets.latent_dim, strict=True)
    )
    in_shape = with_mask(event_shape) if config.likelihood.missing else event_shape
    encoder, decoder = _ladder(config.networks, facets, in_shape, event_shape)
    if config.training.repartition_step is not None:
        encoder, decoder = RotatedEncoder(encoder), RotatedDecoder(decoder)
    model = MultiFacetModel(
        [_prior(config.prior, j, encoder) for j in range(len(facets))],
        decoder=decoder,
        likelihood=_likelihood(config.likelihood, event_shape),
        missing=config.likelihood.missing,
    )
    return MFCVAE(model, MultiFacetGuide(model, encoder=encoder, assignment=_rule(config.assignment, facets)))


def _ladder(
    config: NetworkConfig, facets: Sequence[Facet], in_shape: Sequence[int], event_shape: Sequence[int]
) -> tuple[LadderEncoder, LadderDecoder]:
    if config.kind in LADDERS:
        return LADDERS[config.kind](config, facets, in_shape, event_shape)
    pair: tuple[LadderEncoder, LadderDecoder] = make_part(
        config.kind, (LadderEncoder, LadderDecoder), facets, tuple(event_shape), **config.options
    )
    return pair


def _prior(config: PriorConfig, j: int, encoder: LadderEncoder) -> FacetPrior:
    if config.kind in PRIORS:
        single = encoder.facets[j].num_clusters == 1
        return StandardNormalPrior(encoder.facets[j]) if single else PRIORS[config.kind](config, j, encoder)
    prior: FacetPrior = make_part(config.kind, FacetPrior, encoder.facets[j], **config.options)
    return prior


def _likelihood(config: LikelihoodConfig, event_shape: Sequence[int]) -> Likelihood:
    if config.kind in LIKELIHOODS:
        return LIKELIHOODS[config.kind](config, event_shape)
    likelihood: Likelihood = make_part(config.kind, Likelihood, **config.options)
    return likelihood


def _rule(config: AssignmentConfig, facets: Sequence[Facet]) -> AssignmentRule:
    if config.rule in ASSIGNMENT_RULES:
        return ASSIGNMENT_RULES[config.rule](config, facets)
    rule: AssignmentRule = make_part(config.rule, AssignmentRule, **config.options)
    return rule


def adapt_epochs(config: Config, *, made_for: int, num_items: int) -> Config:
    """The configuration of a data set of another size: as many steps in every stage, rounded up to whole epochs.

    Warm-ups, fades and fits are counted in steps, and would outlast stages of as many epochs of a smaller set.
    """
    before, now = (steps_per_epoch(num, config.training.batch_size) for num in (made_for, num_items))
    epochs = tuple(-(-num * before // now) for num in config.stage_epochs)
    return replace(config, training=replace(config.training, epochs=epochs))


def build_schedule(config: Config, steps_per_epoch: int) -> ProgressiveSchedule:
    """The schedule of a configuration, for epochs of a number of steps."""
    training = config.training
    schedule = ProgressiveSchedule.from_epochs(
        config.stage_epochs,
        steps_per_epoch,
        fade_in_steps=training.fade_in_steps,
        kl_fade_in_steps=training.kl_fade_in_steps,
        kl_delay_steps=training.kl_delay_steps,
        kl_weights=training.kl_weights,
        kl_relax_steps=training.kl_relax_steps,
        warmup_steps=training.warmup_steps,
        refit_steps=training.refit_steps,
        joint_refit_steps=training.joint_refit_steps,
        repartition_step=training.repartition_step,
        fade=FADES[training.fade],
    )
    if training.schedule_scale == 1:
        return schedule
    return schedule.stretched(training.schedule_scale, unit=steps_per_epoch)
