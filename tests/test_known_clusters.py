"""Clusters that are known for some items: the result equals Pyro's own conditioning."""

from collections.abc import Callable

import pyro
import pytest
import torch
from identity_encoder import Identity, make_model
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.optim import Adam
from torch import Tensor

from pyro_mfcvae import Facet, FacetELBO, InputError
from pyro_mfcvae.guides import AnalyticAssignment, MonteCarloAssignment, MultiFacetGuide, SampleAssignment
from pyro_mfcvae.models import BayesianMixturePrior, MultiFacetModel

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
MakeX = Callable[[int], Tensor]
every_rule = pytest.mark.parametrize("rule", (AnalyticAssignment, MonteCarloAssignment, SampleAssignment))


def gradients(model: MultiFacetModel, guide: MultiFacetGuide) -> dict[str, Tensor]:
    named = dict([*model.named_parameters("model"), *guide.named_parameters("guide")])
    found = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
    for p in named.values():
        p.grad = None
    return found


@every_rule
@pytest.mark.parametrize("num_data", (None, 50))
def test_known_clusters_of_all_items_equal_pyros_condition(
    make_pair: MakePair, make_x: MakeX, rule: type, num_data: int | None
) -> None:
    model, guide = make_pair(1, rule=rule, covariance="full", num_data=num_data)
    x, c = make_x(6), torch.tensor([0, 2, 1, 1, 0, 2])
    pyro.set_rng_seed(1)
    conditioned = poutine.condition(model, data={"c_0": c})
    expected = Trace_ELBO().loss_and_grads(conditioned, poutine.block(guide, hide=["c_0"]), x)
    wanted = gradients(model, guide)
    for ours in (FacetELBO(closed_form=False), TraceEnum_ELBO(max_plate_nesting=1)):
        pyro.set_rng_seed(1)
        assert ours.loss_and_grads(model, guide, x, known={0: c}) == pytest.approx(expected, abs=1e-10)
        found = gradients(model, guide)
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=0.0, atol=1e-10)


def test_known_clusters_do_not_change_other_items(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair(2)
    x, c = make_x(5), torch.tensor([1, -1, 3, -1, -1])
    elbo = FacetELBO()
    pyro.set_rng_seed(1)
    mixed = elbo.terms(model, guide, x, known={1: c})
    pyro.set_rng_seed(1)
    free = elbo.terms(model, guide, x)
    pyro.set_rng_seed(1)
    fixed = elbo.terms(model, guide, x, known={1: torch.tensor([1, 0, 3, 0, 0])})
    known = c >= 0
    torch.testing.assert_close(mixed.total, torch.where(known, fixed.total, free.total), rtol=0.0, atol=1e-12)
    assert (mixed.total[known] < free.total[known]).all()  # the optimal q(c|x) gives a better bound than a certain one
    torch.testing.assert_close(mixed.kl[:, 0], free.kl[:, 0], rtol=0.0, atol=1e-12)


def test_known_clusters_decide_the_numbers_of_a_facet() -> None:
    """Two blobs: five labelled items of each decide the numbers of the clusters, whatever they were before."""
    prior = BayesianMixturePrior(Facet(num_clusters=2, latent_dim=1), random=("probs",))
    model = make_model(prior)
    guide = MultiFacetGuide(model, encoder=Identity(prior.facet))
    truth = torch.arange(40) % 2
    x = (6.0 * truth - 3 + 0.3 * torch.randn(40))[:, None]
    for flipped in (False, True):
        pyro.clear_param_store()
        prior.set_mixture(torch.tensor([[0.1], [-0.1]]), torch.ones(2, 1, 1), probs=torch.tensor([0.5, 0.5]))
        c = torch.where(torch.arange(40) < 10, (1 - truth) if flipped else truth, -1)
        svi = SVI(model, guide, Adam({"lr": 0.1}), FacetELBO())
        for _ in range(50):
            svi.step(x, known={0: c})
        found = guide.assignment(0, guide.typical_priors()[0], guide.posteriors(x)[0], x).argmax(-1)
        assert torch.equal(found, (1 - truth) if flipped else truth)


def test_errors(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair(2)
    x = make_x(3)
    for clusters, got in (
        (torch.zeros(4, dtype=torch.long), r"shape \(4,\)"),
        (torch.zeros(3), "float64"),
        (torch.tensor([0, 1, 4]), "up to 4"),
    ):
        with pytest.raises(InputError, match=f"facet 1 as 3 integers below 4, negative where unknown.*{got}"):
            FacetELBO().loss(model, guide, x, known={1: clusters})
        with pytest.raises(InputError, match="facet 1 as 3 integers below 4"):
            TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x, known={1: clusters})
    with pytest.raises(InputError, match=r"expected known clusters of facets 0 … 1, got facet 2"):
        model(x, known={2: torch.zeros(3, dtype=torch.long)})
    for labels in (torch.zeros(3, dtype=torch.long), [torch.zeros(3, dtype=torch.long)]):
        with pytest.raises(
            InputError, match=r"expected known clusters by facet, known=\{0: clusters\}, got (Tensor|list)"
        ):
            SVI(model, guide, Adam({"lr": 0.05}), FacetELBO()).step(x, labels)
    with pytest.raises(InputError, match="expected known clusters of facets 0 … 1, got facet 'c_0': leave it out"):
        model(x, known={"c_0": torch.zeros(3, dtype=torch.long)})
    with pytest.raises(InputError, match="expected data x with known clusters, got none"):
        model(num=3, known={0: torch.zeros(3, dtype=torch.long)})
