"""From a configuration to objects: the one table of names."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pyro_mfcvae.config import AssignmentConfig, Config, LikelihoodConfig, NetworkConfig, PriorConfig
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.guides import (
    AmortizedAssignment,
    AnalyticAssignment,
    AssignmentRule,
    ConvLadderEncoder,
    LadderEncoder,
    MLPLadderEncoder,
    MonteCarloAssignment,
    MultiFacetGuide,
    SampleAssignment,
    VaDEAssignment,
)
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.models import (
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
    StandardNormalPrior,
    StudentTMixturePrior,
)
from pyro_mfcvae.schedules import Fade, ProgressiveSchedule, cosine_fade, linear_fade

PRIORS: dict[str, Callable[[PriorConfig, Facet], FacetPrior]] = {
    "gaussian": lambda c, facet: MixturePrior(facet, covariance=c.covariance, learn_weights=c.learn_weights),
    "student_t": lambda c, facet: StudentTMixturePrior(facet, learn_weights=c.learn_weights),
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


def _mlp_ladder(
    config: NetworkConfig, facets: Sequence[Facet], event_shape: Sequence[int]
) -> tuple[LadderEncoder, LadderDecoder]:
    decoder = MLPLadderDecoder(
        facets,
        event_shape,
        rung_dims=config.decoder_dims,
        hidden_dim=config.hidden_dim,
        merge_weight=config.merge_weight,
    )
    encoder = MLPLadderEncoder(facets, event_shape, rung_dims=config.encoder_dims, joining_gain=config.joining_gain)
    return encoder, decoder


def _conv_ladder(
    config: NetworkConfig, facets: Sequence[Facet], event_shape: Sequence[int]
) -> tuple[LadderEncoder, LadderDecoder]:
    shared: dict[str, Any] = {"channels": config.channels, "num_residual_blocks": config.num_residual_blocks}
    encoder = ConvLadderEncoder(facets, event_shape, joining_gain=config.joining_gain, **shared)
    return encoder, ConvLadderDecoder(facets, event_shape, **shared)


LADDERS: dict[str, Callable[[NetworkConfig, Sequence[Facet], Sequence[int]], tuple[LadderEncoder, LadderDecoder]]] = {
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
    encoder, decoder = LADDERS[config.networks.kind](config.networks, facets, event_shape)
    model = MultiFacetModel(
        [
            PRIORS[config.prior.kind](config.prior, facet) if facet.num_clusters > 1 else StandardNormalPrior(facet)
            for facet in facets
        ],
        decoder=decoder,
        likelihood=LIKELIHOODS[config.likelihood.kind](config.likelihood, event_shape),
    )
    guide = MultiFacetGuide(
        model,
        encoder=encoder,
        assignment=ASSIGNMENT_RULES[config.assignment.rule](config.assignment, facets),
    )
    return MFCVAE(model, guide)


def build_schedule(config: Config, steps_per_epoch: int) -> ProgressiveSchedule:
    """The schedule of a configuration, for epochs of a number of steps."""
    training = config.training
    return ProgressiveSchedule.from_epochs(
        config.stage_epochs,
        steps_per_epoch,
        fade_in_steps=training.fade_in_steps,
        kl_fade_in_steps=training.kl_fade_in_steps,
        kl_delay_steps=training.kl_delay_steps,
        warmup_steps=training.warmup_steps,
        refit_steps=training.refit_steps,
        fade=FADES[training.fade],
    )
