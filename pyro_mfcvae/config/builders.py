"""Functions that make built-in parts whose options are not the arguments of one class."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from pyro.distributions.transforms import conditional_affine_autoregressive
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal, init_to_value
from torch import Tensor

from pyro_mfcvae.config.options import (
    ConvOptions,
    DiscretizedLogisticOptions,
    GaussianLikelihoodOptions,
    MLPOptions,
    ScaledLikelihoodOptions,
)
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.guides.encoders import ConvLadderEncoder, LadderEncoder, MakeHead, MLPLadderEncoder, SeparateEncoder
from pyro_mfcvae.guides.posteriors import FlowHead, FullCovarianceHead, GaussianHead, LowRankHead
from pyro_mfcvae.models.decoders import ConvLadderDecoder, LadderDecoder, MLPLadderDecoder, ladder_dims
from pyro_mfcvae.models.generative import MultiFacetModel
from pyro_mfcvae.models.likelihoods import (
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    StandardizedGaussianLikelihood,
)
from pyro_mfcvae.models.vamp import VampPrior

POSTERIORS: dict[str, MakeHead] = {
    "diagonal": GaussianHead,
    "full": FullCovarianceHead,
    "low_rank": LowRankHead,
    "spline": FlowHead,
    "autoregressive": partial(FlowHead, transform=conditional_affine_autoregressive),
}


def vamp_prior(facet: Facet, *, encoder: LadderEncoder, j: int, learn_weights: bool = True) -> VampPrior:
    """A `VampPrior` over the guide's encoder. Its pseudo-inputs are noise until the prior is fitted to items."""
    noise = torch.rand(facet.num_clusters, *encoder.in_shape)
    return VampPrior(facet, encoder=encoder, j=j, pseudo_inputs=noise, learn_weights=learn_weights)


def gaussian_likelihood(*, event_shape: Sequence[int], **options: object) -> GaussianLikelihood:
    """Make a `GaussianLikelihood` from `GaussianLikelihoodOptions`."""
    chosen = GaussianLikelihoodOptions(**options)  # type: ignore[arg-type]
    scales = _scales(event_shape, chosen)
    if chosen.standardize:
        return StandardizedGaussianLikelihood(event_shape, scale=scales, learn_scale=chosen.learn_scale)
    return GaussianLikelihood(scale=scales, learn_scale=chosen.learn_scale, sigmoid_mean=chosen.sigmoid_mean)


def discretized_logistic_likelihood(*, event_shape: Sequence[int], **options: object) -> DiscretizedLogisticLikelihood:
    """Make a `DiscretizedLogisticLikelihood` from `DiscretizedLogisticOptions`."""
    chosen = DiscretizedLogisticOptions(**options)  # type: ignore[arg-type]
    return DiscretizedLogisticLikelihood(
        scale=_scales(event_shape, chosen),
        learn_scale=chosen.learn_scale,
        sigmoid_mean=chosen.sigmoid_mean,
        num_levels=chosen.num_levels,
    )


def _scales(event_shape: Sequence[int], options: ScaledLikelihoodOptions) -> Tensor:
    """One scale, or one per channel."""
    channels = (event_shape[0], *(1 for _ in event_shape[1:]))
    return torch.full(channels if options.per_channel else (), options.scale)


def mlp_ladder(
    facets: Sequence[Facet], event_shape: Sequence[int], *, in_shape: Sequence[int], **options: object
) -> tuple[LadderEncoder, LadderDecoder]:
    """Make a ladder of linear layers from `MLPOptions`."""
    chosen = MLPOptions(**options)  # type: ignore[arg-type]
    decoder = MLPLadderDecoder(
        facets,
        event_shape,
        rung_dims=chosen.decoder_dims,
        hidden_dim=chosen.hidden_dim,
        merge_weight=chosen.merge_weight,
    )

    def encode(facets: Sequence[Facet], rung_dims: Sequence[int] | None) -> LadderEncoder:
        head, scale = POSTERIORS[chosen.posterior], chosen.head_init_scale
        return MLPLadderEncoder(facets, in_shape, rung_dims=rung_dims, head_init_scale=scale, head=head)

    if not chosen.separate:
        return encode(facets, chosen.encoder_dims), decoder
    dims = ladder_dims(facets, chosen.encoder_dims, "networks.options.encoder_dims")
    return SeparateEncoder([encode([facet], [dim]) for facet, dim in zip(facets, dims, strict=True)]), decoder


def conv_ladder(
    facets: Sequence[Facet], event_shape: Sequence[int], *, in_shape: Sequence[int], **options: object
) -> tuple[LadderEncoder, LadderDecoder]:
    """Make a ladder of convolutions from `ConvOptions`."""
    chosen = ConvOptions(**options)  # type: ignore[arg-type]
    decoder = ConvLadderDecoder(
        facets,
        event_shape,
        channels=chosen.channels,
        num_residual_blocks=chosen.num_residual_blocks,
        gated=chosen.gated,
        recompute=chosen.recompute,
    )

    def encode(facets: Sequence[Facet]) -> LadderEncoder:
        return ConvLadderEncoder(
            facets,
            in_shape,
            channels=chosen.channels,
            num_residual_blocks=chosen.num_residual_blocks,
            head_init_scale=chosen.head_init_scale,
            head=POSTERIORS[chosen.posterior],
            recompute=chosen.recompute,
        )

    encoder = SeparateEncoder([encode([facet]) for facet in facets]) if chosen.separate else encode(facets)
    if chosen.channels_last:
        for part in (encoder, decoder):
            part.to(memory_format=torch.channels_last)
    return encoder, decoder


def auto_delta(model: MultiFacetModel) -> AutoDelta:
    """Pyro's point estimate of the priors' random parameters."""
    return AutoDelta(model.sample_globals, init_loc_fn=_at_start(model))


def auto_normal(model: MultiFacetModel) -> AutoNormal:
    """Pyro's independent Gaussians over the priors' random parameters."""
    return AutoNormal(model.sample_globals, init_loc_fn=_at_start(model))


def auto_multivariate_normal(model: MultiFacetModel) -> AutoMultivariateNormal:
    """Pyro's joint Gaussian over the priors' random parameters."""
    return AutoMultivariateNormal(model.sample_globals, init_loc_fn=_at_start(model))


def _at_start(model: MultiFacetModel) -> Callable[..., Tensor]:
    """The starting values of a guide: the priors' current values."""
    start: Callable[..., Tensor] = init_to_value(values=model.starting_point())
    return start
