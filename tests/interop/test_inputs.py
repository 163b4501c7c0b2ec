"""Every call refuses parts that were set later and do not fit, and invalid weights of facets."""

from collections.abc import Callable

import pytest
import torch
from pyro.infer import SVI, TraceEnum_ELBO
from pyro.optim import Adam
from torch import Tensor, nn

from pyro_mfcvae import MFCVAE, Facet, FacetELBO, InputError
from pyro_mfcvae.guides import ConjugateGuide, MLPLadderEncoder, MultiFacetGuide
from pyro_mfcvae.models import (
    BayesianMixturePrior,
    CategoricalLikelihood,
    GaussianLikelihood,
    MixturePrior,
    MLPLadderDecoder,
)
from pyro_mfcvae.models.generative import MultiFacetModel

Pair = tuple[MultiFacetModel, MultiFacetGuide]
MakePair = Callable[..., Pair]
MakeX = Callable[[int], Tensor]
FACET = Facet(num_clusters=3, latent_dim=2)

CHANGES: dict[str, tuple[Callable[[Pair], object], str]] = {
    "a prior more": (
        lambda pair: pair[0].priors.append(MixturePrior(FACET)),
        "expected priors and a decoder of the fac",
    ),
    "a prior less": (lambda pair: pair[0].priors.__delitem__(0), "expected priors and a decoder of the facets"),
    "decoder": (
        lambda pair: setattr(pair[0], "decoder", MLPLadderDecoder(pair[0].facets, (1, 5, 5))),
        r"a decoder and a likelihood of data of shape \(1, 2, 3\), got ones of \(1, 5, 5\): build a new model",
    ),
    "likelihood": (
        lambda pair: setattr(pair[0], "likelihood", CategoricalLikelihood()),
        r"data of shape \(1, 2, 3\), got ones of \(1, 2\)",
    ),
    "encoder of other facets": (
        lambda pair: setattr(pair[1], "encoder", MLPLadderEncoder([FACET], (1, 2, 3))),
        "expected an encoder of the model's facets",
    ),
    "encoder of other data": (
        lambda pair: setattr(pair[1], "encoder", MLPLadderEncoder(pair[0].facets, (1, 5, 5))),
        r"expected an encoder of in_shape \(1, 2, 3\)",
    ),
    "one weight for all": (
        lambda pair: setattr(pair[0], "beta", torch.tensor([0.5])),
        r"expected beta of shape \(2,\), one per facet, got \(1,\): overwrite it in place",
    ),
    "a scalar": (
        lambda pair: setattr(pair[0], "alpha", torch.tensor(0.5)),
        r"alpha of shape \(2,\), one per facet, got \(\)",
    ),
    "negative": (lambda pair: pair[0].beta.fill_(-1), r"expected beta ≥ 0, got \[-1\.0, -1\.0\]: set it to 0"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_parts_that_no_longer_fit_are_refused(make_pair: MakePair, make_x: MakeX, change: str) -> None:
    x, (model, guide) = make_x(4), make_pair()
    pair = MFCVAE(model, guide)
    act, message = CHANGES[change]
    act((model, guide))
    for loss in (FacetELBO(), TraceEnum_ELBO(max_plate_nesting=1)):
        with pytest.raises(InputError, match=message):
            loss.loss(model, guide, x)
    with pytest.raises(InputError, match=message):
        pair.assign(x)


@pytest.mark.parametrize("container", (list, nn.ModuleList))
def test_all_priors_are_replaced_at_once(make_pair: MakePair, make_x: MakeX, container: type) -> None:
    x, (model, guide) = make_x(8), make_pair()
    model.priors = container([MixturePrior(facet, covariance="full") for facet in model.facets])
    before = {name: value.clone() for name, value in model.priors.named_parameters()}
    SVI(model, guide, Adam({"lr": 0.02}), FacetELBO()).step(x)
    assert len(before) == 6
    assert not any(torch.equal(value, before[name]) for name, value in model.priors.named_parameters())


def test_a_guide_over_parameters_that_are_no_longer_random_is_refused(make_x: MakeX) -> None:
    """Otherwise their log q would be part of the loss without a log p."""
    decoder = MLPLadderDecoder([FACET], (1, 2, 3), rung_dims=(9,), hidden_dim=8)
    model = MultiFacetModel([BayesianMixturePrior(FACET)], decoder, GaussianLikelihood())
    guide = MultiFacetGuide(model, encoder=MLPLadderEncoder([FACET], (1, 2, 3), rung_dims=(9,)))
    model.priors[0] = BayesianMixturePrior(FACET, random=("loc",))
    x = make_x(4)
    with pytest.raises(
        InputError, match=r"over the sites \['loc_0'\], got one over 'probs_0' too: after another prior"
    ):
        FacetELBO().loss(model, guide, x)
    guide.globals_guide = ConjugateGuide(model)
    assert FacetELBO().loss(model, guide, x) > 0
