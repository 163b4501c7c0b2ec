import copy

import pytest
import torch
from torch import nn

from pyro_mfcvae import MFCVAE, Facet, InputError
from pyro_mfcvae.guides import (
    ConvLadderEncoder,
    FlowHead,
    FullCovarianceHead,
    MLPLadderEncoder,
    MultiFacetGuide,
    with_mask,
)
from pyro_mfcvae.infer.mixture_fit import initialize_mixtures
from pyro_mfcvae.models import BernoulliLikelihood, MLPLadderDecoder, MultiFacetModel, VampPrior

FACETS = (Facet(num_clusters=3, latent_dim=2), Facet(num_clusters=4, latent_dim=3))
SHAPE = (1, 6, 6)


def test_components_are_the_posteriors_of_the_pseudo_inputs() -> None:
    for head in ({}, {"head": FullCovarianceHead}):
        encoder = MLPLadderEncoder(FACETS, SHAPE, rung_dims=(9, 10), head_init_scale=1.0, **head)
        items = torch.rand(4, *SHAPE)
        prior = VampPrior(FACETS[1], encoder=encoder, j=1, pseudo_inputs=items)
        z = torch.randn(5, 3)
        expected = torch.stack([encoder(item[None])[1].log_prob(z) for item in items], -1)
        torch.testing.assert_close(prior().log_prob(z), expected, rtol=0.0, atol=1e-10)
        assert dict(prior.named_parameters()).keys() == {"pseudo_inputs", "logits"}
        fixed = VampPrior(FACETS[1], encoder=encoder, j=1, pseudo_inputs=items, learn_weights=False)
        assert dict(fixed.named_parameters()).keys() == {"pseudo_inputs"}


def test_batch_norm_does_not_notice_the_pseudo_inputs() -> None:
    encoder = ConvLadderEncoder(FACETS, SHAPE, channels=(4,), head_init_scale=1.0).train()
    prior = VampPrior(FACETS[0], encoder=encoder, j=0, pseudo_inputs=torch.rand(3, *SHAPE))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    prior().log_prob(torch.randn(5, 2)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert encoder.training
    frozen = next(module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    prior().components()
    assert not frozen.training and encoder.training
    assert prior.pseudo_inputs.grad.abs().max() > 0


def test_fitting_takes_central_items_of_the_data() -> None:
    encoder = MLPLadderEncoder(FACETS, SHAPE, rung_dims=(9, 10), head_init_scale=1.0)
    priors = [
        VampPrior(f, encoder=encoder, j=j, pseudo_inputs=torch.zeros(f.num_clusters, *SHAPE))
        for j, f in enumerate(FACETS)
    ]
    model = MultiFacetModel(priors, MLPLadderDecoder(FACETS, SHAPE, rung_dims=(9, 10)), BernoulliLikelihood())
    guide = MultiFacetGuide(model, encoder=encoder)
    kinds = torch.rand(4, *SHAPE).round()
    x = kinds.repeat(10, 1, 1, 1)  # four kinds of items, ten of each
    initialize_mixtures(model, guide, x, facets=[1], variance=0.01)
    chosen = {tuple(item.flatten().tolist()) for item in priors[1].pseudo_inputs.detach()}
    assert chosen == {tuple(kind.flatten().tolist()) for kind in kinds}
    assert priors[0].pseudo_inputs.abs().max() == 0


def test_items_with_missing_elements_are_taken_as_the_encoder_reads_them() -> None:
    encoder = MLPLadderEncoder(FACETS, with_mask(SHAPE), rung_dims=(9, 10), head_init_scale=1.0)
    priors = [
        VampPrior(f, encoder=encoder, j=j, pseudo_inputs=torch.zeros(f.num_clusters, *encoder.in_shape))
        for j, f in enumerate(FACETS)
    ]
    decoder = MLPLadderDecoder(FACETS, SHAPE, rung_dims=(9, 10))
    model = MultiFacetModel(priors, decoder, BernoulliLikelihood(), missing=True)
    guide = MultiFacetGuide(model, encoder=encoder)
    x = torch.rand(40, *SHAPE)
    x = x.masked_fill(torch.rand(x.shape) < 0.5, torch.nan)
    initialize_mixtures(model, guide, x)
    read = {tuple(item.flatten().tolist()) for item in guide.encoder_input(x)}
    for prior in priors:
        assert {tuple(item.flatten().tolist()) for item in prior.pseudo_inputs.detach()} <= read


def test_errors() -> None:
    encoder = MLPLadderEncoder(FACETS, SHAPE, rung_dims=(9, 10))
    with pytest.raises(InputError, match="expected 3 pseudo-inputs, one per cluster, got 4"):
        VampPrior(FACETS[0], encoder=encoder, j=0, pseudo_inputs=torch.rand(4, *SHAPE))
    flow = MLPLadderEncoder(FACETS, SHAPE, rung_dims=(9, 10), head=FlowHead)
    with pytest.raises(InputError, match=r"expected an encoder with a Gaussian q\(z \| x\), got a flow"):
        VampPrior(FACETS[0], encoder=flow, j=0, pseudo_inputs=torch.rand(3, *SHAPE))


def test_the_guides_encoder_is_the_one_that_the_prior_reads() -> None:
    """With another encoder, the positions of the clusters would depend on untrained weights; a copy of the pair has
    its own encoder.
    """
    encoders = [MLPLadderEncoder(FACETS, SHAPE, rung_dims=(9, 10), head_init_scale=1.0) for _ in range(2)]
    priors = [
        VampPrior(f, encoder=encoders[0], j=j, pseudo_inputs=torch.rand(f.num_clusters, *SHAPE))
        for j, f in enumerate(FACETS)
    ]
    model = MultiFacetModel(priors, MLPLadderDecoder(FACETS, SHAPE, rung_dims=(9, 10)), BernoulliLikelihood())
    with pytest.raises(
        InputError, match="to be the one that the VampPrior of facet 0 reads, got another: pass one enco"
    ):
        MultiFacetGuide(model, encoder=encoders[1])
    pair = MFCVAE(model, MultiFacetGuide(model, encoder=encoders[0]))
    twin = copy.deepcopy(pair)
    z = torch.randn(5, 2)
    before = pair.priors[0].log_prob(z)
    with torch.no_grad():
        for parameter in twin.guide.encoder.parameters():
            parameter.mul_(2.0)
    assert torch.equal(pair.priors[0].log_prob(z), before)
    expected = torch.stack([twin.encode(item[None])[0].log_prob(z) for item in twin.model.priors[0].pseudo_inputs], -1)
    torch.testing.assert_close(twin.priors[0].log_prob(z), expected, rtol=0.0, atol=1e-10)
    assert not torch.allclose(expected, before)
