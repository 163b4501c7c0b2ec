"""From a configuration to objects: the one table of names."""

from collections.abc import Callable, Sequence

from pyro_mfcvae.config import AssignmentConfig, Config, LikelihoodConfig
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.guides import (
    AmortizedAssignment,
    AnalyticAssignment,
    AssignmentRule,
    MLPLadderEncoder,
    MonteCarloAssignment,
    MultiFacetGuide,
    SampleAssignment,
    VaDEAssignment,
)
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.models import (
    BernoulliLikelihood,
    GaussianLikelihood,
    Likelihood,
    MixturePrior,
    MLPLadderDecoder,
    MultiFacetModel,
)
from pyro_mfcvae.schedules import Fade, ProgressiveSchedule, cosine_fade, linear_fade

LIKELIHOODS: dict[str, Callable[[LikelihoodConfig], Likelihood]] = {
    "bernoulli": lambda _: BernoulliLikelihood(),
    "gaussian": lambda c: GaussianLikelihood(scale=c.scale, learn_scale=c.learn_scale, sigmoid_mean=c.sigmoid_mean),
}

ASSIGNMENT_RULES: dict[str, Callable[[AssignmentConfig, Sequence[Facet]], AssignmentRule]] = {
    "analytic": lambda _, __: AnalyticAssignment(),
    "monte_carlo": lambda c, _: MonteCarloAssignment(c.num_samples),
    "sample": lambda _, __: SampleAssignment(),
    "vade": lambda c, _: VaDEAssignment(c.num_samples),
    "amortized": lambda _, facets: AmortizedAssignment(facets),
}

FADES: dict[str, Fade] = {"linear": linear_fade, "cosine": cosine_fade}


def build_pair(config: Config, event_shape: Sequence[int]) -> MFCVAE:
    """The model and guide of a configuration, for data of an event shape, with their random starting values."""
    facets = tuple(
        Facet(num_clusters=num_clusters, latent_dim=latent_dim)
        for num_clusters, latent_dim in zip(config.facets.num_clusters, config.facets.latent_dim, strict=True)
    )
    networks = config.networks
    model = MultiFacetModel(
        [MixturePrior(f, covariance=config.prior.covariance, learn_weights=config.prior.learn_weights) for f in facets],
        decoder=MLPLadderDecoder(
            facets,
            event_shape,
            rung_dims=networks.decoder_dims,
            hidden_dim=networks.hidden_dim,
            merge_weight=networks.merge_weight,
        ),
        likelihood=LIKELIHOODS[config.likelihood.kind](config.likelihood),
    )
    guide = MultiFacetGuide(
        model,
        encoder=MLPLadderEncoder(facets, event_shape, rung_dims=networks.encoder_dims),
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
        warmup_steps=training.warmup_steps,
        refit_steps=training.refit_steps,
        fade=FADES[training.fade],
    )
