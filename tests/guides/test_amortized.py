from collections.abc import Callable

import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_mfcvae import Facet, InputError
from pyro_mfcvae.guides import AnalyticAssignment, MLPLadderEncoder, MultiFacetGuide, with_mask
from pyro_mfcvae.models import MultiFacetModel

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
MakeX = Callable[[int], Tensor]


def test_its_density_is_the_encoders_times_the_rules(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair(3, num_data=40)
    model.beta.copy_(torch.tensor([0.0, 0.5, 1.0]))
    x = make_x(4)
    trace = poutine.trace(guide).get_trace(x)
    trace.compute_log_prob()
    for j, posterior in enumerate(guide.encoder(x)):
        weight = model.beta[j] * 40 / 4
        z, c = trace.nodes[f"z_{j}"], trace.nodes[f"c_{j}"]
        torch.testing.assert_close(z["log_prob_sum"], weight * posterior.log_prob(z["value"]).sum())
        logits = AnalyticAssignment()(j, model.priors[j](), posterior, z["value"])
        torch.testing.assert_close(c["log_prob_sum"], weight * logits[range(4), c["value"]].sum())
        assert c["infer"]["enumerate"] == "parallel"


def test_the_default_rule_is_the_analytic_one(make_pair: MakePair) -> None:
    model, guide = make_pair()
    assert type(MultiFacetGuide(model, encoder=guide.encoder).assignment) is AnalyticAssignment
    assert guide.model is model


def test_every_guide_has_a_name_of_its_own(make_pair: MakePair) -> None:
    model, guide = make_pair(name="mine")
    other = MultiFacetGuide(model, encoder=guide.encoder)
    assert (guide._pyro_name, other._pyro_name) == ("mine_guide", "mine_guide_2")
    assert MultiFacetGuide(model, encoder=guide.encoder, name="its")._pyro_name == "its"


def test_an_encoder_may_read_what_is_observed(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair()
    model.missing = True
    x = make_x(4)
    missing = torch.rand(x.shape) < 0.5
    holes, filled = x.masked_fill(missing, torch.nan), x.masked_fill(missing, 0.0)
    assert torch.equal(guide.encoder_input(holes), filled)
    encoder = MLPLadderEncoder(model.facets, with_mask(model.event_shape), rung_dims=(5, 6), head_init_scale=1.0)
    guide = MultiFacetGuide(model, encoder=encoder)
    read = guide.encoder_input(holes)
    assert torch.equal(read, torch.cat([filled, 1.0 - missing.to(x.dtype)], dim=1))
    for ours, expected in zip(guide.posteriors(holes), encoder(read), strict=True):
        torch.testing.assert_close(ours.mean, expected.mean)
    assert guide.encoder_input(x)[:, 1:].eq(1).all()
    shapes = r"\(1, 2, 3\), the data's, or \(2, 2, 3\), with the mask of observed elements, got \(3, 2, 3\)"
    with pytest.raises(InputError, match=shapes):
        MultiFacetGuide(model, encoder=MLPLadderEncoder(model.facets, (3, 2, 3), rung_dims=(5, 6)))


def test_errors(make_pair: MakePair, make_x: MakeX, make_facets: Callable[[int], tuple[Facet, ...]]) -> None:
    model, guide = make_pair()
    with pytest.raises(InputError, match=r"expected the data x, since the guide is q\(z, c \| x\), got none"):
        guide(num=4)
    with pytest.raises(InputError, match=r"expected x of shape \(N, 1, 2, 3\), got \(4, 1, 3, 2\)"):
        guide(make_x(4).mT)
    with pytest.raises(InputError, match="expected an encoder of the model's facets"):
        MultiFacetGuide(model, encoder=MLPLadderEncoder(make_facets(1), (1, 2, 3), rung_dims=(5,)))
    with pytest.raises(InputError, match=r"in_shape \(1, 2, 3\), the data's, got \(6,\)"):
        MultiFacetGuide(model, encoder=MLPLadderEncoder(make_facets(2), (6,), rung_dims=(5, 6)))
