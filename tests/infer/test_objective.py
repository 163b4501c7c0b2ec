"""The class FacetELBO; test_exactness.py shows that its numbers are right."""

from collections.abc import Callable

import pyro
import pytest
import torch
from pyro.infer import ELBO, SVI, TraceEnum_ELBO
from pyro.optim import Adam
from torch import Tensor

from pyro_mfcvae import ELBOTerms, Facet, FacetELBO, ImportanceWeightedELBO, InputError
from pyro_mfcvae.guides import (
    AmortizedAssignment,
    AnalyticAssignment,
    MLPLadderEncoder,
    MultiFacetGuide,
    SampleAssignment,
)
from pyro_mfcvae.infer.elbo import PairELBO
from pyro_mfcvae.models import BernoulliLikelihood, MixturePrior, MLPLadderDecoder, MultiFacetModel
from pyro_mfcvae.models.mixtures import _CLOSED_FORMS

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
MakeX = Callable[[int], Tensor]


def test_terms_add_up() -> None:
    terms = ELBOTerms(
        reconstruction=torch.tensor([-10.0, -20.0]),
        kl_z=torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        kl_c=torch.tensor([[0.5, 0.25], [0.0, 1.0]]),
        beta=torch.tensor([1.0, 0.5]),
        kl_globals=torch.tensor(7.0),
    )
    assert terms.kl.tolist() == [[1.5, 2.25], [3.0, 5.0]]
    assert terms.total.tolist() == [-10 - 1.5 - 1.125, -20 - 3 - 2.5]
    mean = terms.mean()
    assert mean.reconstruction.item() == -15
    assert mean.kl_z.tolist() == [2.0, 3.0]
    assert mean.kl_c.tolist() == [0.25, 0.625]
    assert mean.total.item() == terms.total.mean().item()


def test_the_loss_is_minus_the_total_scaled_to_the_data_set(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair()
    model.beta.copy_(torch.tensor([0.25, 1.0]))
    x, elbo = make_x(4), FacetELBO()

    def seeded(function: Callable[..., object]) -> object:
        pyro.set_rng_seed(1)
        return function(model, guide, x)

    total = seeded(elbo.terms).total.sum().item()
    assert seeded(elbo.loss) == pytest.approx(-total, abs=1e-12)
    assert seeded(elbo.differentiable_loss).item() == seeded(elbo.loss)
    model.num_data = 50
    assert seeded(elbo.loss) == pytest.approx(-total * 50 / 4, abs=1e-10)


def test_only_losses_with_gradients_compute_gradients(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair()
    x, elbo = make_x(4), FacetELBO()
    assert isinstance(elbo.loss(model, guide, x), float)
    assert all(p.grad is None for p in model.parameters())
    pyro.set_rng_seed(1)
    loss = elbo.loss_and_grads(model, guide, x)
    assert isinstance(loss, float)
    once = [p.grad.clone() for p in model.parameters()]
    pyro.set_rng_seed(1)
    assert elbo.loss_and_grads(model, guide, x) == loss
    for parameter, grad in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * grad)
    module = elbo(model, guide)
    module.zero_grad()
    pyro.set_rng_seed(1)
    module(x).backward()
    for parameter, grad in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


@pytest.mark.parametrize("closed_form", (True, False))
def test_particles_are_averaged(make_pair: MakePair, make_x: MakeX, closed_form: bool) -> None:
    """Five particles of one item give the same as five items with one particle."""
    model, guide = make_pair(1)
    x = make_x(1)
    pyro.set_rng_seed(1)
    averaged = FacetELBO(closed_form=closed_form, num_particles=5).terms(model, guide, x)
    pyro.set_rng_seed(1)
    each = FacetELBO(closed_form=closed_form).terms(model, guide, x.expand(5, -1, -1, -1))
    torch.testing.assert_close(averaged.total[0], each.total.mean())
    torch.testing.assert_close(averaged.kl_z[0], each.kl_z.mean(0))
    assert each.reconstruction.std() > 1e-3


def test_the_closed_form_has_less_noise(make_pair: MakePair, make_x: MakeX) -> None:
    """The KL in closed form does not depend on the draw."""
    model, guide = make_pair()
    x = make_x(1).expand(100, -1, -1, -1)
    assert FacetELBO().terms(model, guide, x).kl.std(0).max() < 1e-12
    assert FacetELBO(closed_form=False).terms(model, guide, x).kl.std(0).min() > 0.1


def test_shapes_are_right_and_the_cluster_kl_is_not_negative(make_pair: MakePair, make_x: MakeX) -> None:
    terms = FacetELBO().terms(*make_pair(3, rule=AmortizedAssignment), make_x(7))
    assert terms.reconstruction.shape == (7,)
    assert terms.kl_z.shape == terms.kl_c.shape == (7, 3)
    assert (terms.kl_c >= 0).all()
    assert (terms.kl >= 0).all()  # the divergence of q(z, c | x) from p(z, c)
    assert (terms.kl_z >= 0).all()  # a divergence as well, averaged over c


def test_errors(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair(rule=SampleAssignment)
    x = make_x(4)
    with pytest.raises(
        InputError, match=r"closed form of the KL, got SampleAssignment: use FacetELBO\(closed_form=False\)"
    ):
        FacetELBO(closed_form=True).loss(model, guide, x)
    with pytest.raises(InputError, match="expects a MultiFacetModel and a MultiFacetGuide as they are, got Linear"):
        FacetELBO().loss(torch.nn.Linear(1, 1), guide, x)
    with pytest.raises(InputError, match=r"expected x of shape \(N, 1, 2, 3\), got \(4, 6\)"):
        FacetELBO(closed_form=False).loss(model, guide, x.flatten(1))
    with pytest.raises(
        InputError,
        match=r"expected no call that needs a trace from FacetELBO, got one: use pyro\.infer\.TraceEnum_ELBO",
    ):
        next(FacetELBO()._get_traces(model, guide, (x,), {}))


@pytest.mark.parametrize(("elbo", "num_expectations"), [(FacetELBO(), 2), (ImportanceWeightedELBO(), 0)])
def test_a_step_evaluates_the_expectation_of_each_facet_and_the_mask_once(
    make_pair: MakePair, make_x: MakeX, monkeypatch: pytest.MonkeyPatch, elbo: PairELBO, num_expectations: int
) -> None:
    calls: list[str] = []

    def counted(function: Callable[..., object], name: str) -> Callable[..., object]:
        def call(*args: object) -> object:
            calls.append(name)
            return function(*args)

        return call

    for key, closed_form in _CLOSED_FORMS.items():
        monkeypatch.setitem(_CLOSED_FORMS, key, counted(closed_form, "expectation"))
    monkeypatch.setattr(MultiFacetModel, "split_missing", counted(MultiFacetModel.split_missing, "mask"))
    model, guide = make_pair(2)
    SVI(model, guide, Adam({"lr": 0.01}), elbo).step(make_x(4))
    assert calls.count("expectation") == num_expectations
    assert calls.count("mask") == 1


def last_cluster_off(num_clusters: int, rule: type, *, learn_weights: bool) -> tuple[MultiFacetModel, MultiFacetGuide]:
    """Three clusters have the same weights for every ``num_clusters``; further ones have weight 0."""
    pyro.set_rng_seed(0)
    facet = Facet(num_clusters=num_clusters, latent_dim=2)
    decoder = MLPLadderDecoder([facet], (1, 2, 3), rung_dims=(9,), hidden_dim=8)
    encoder = MLPLadderEncoder([facet], (1, 2, 3), rung_dims=(9,), head_init_scale=1.0)
    prior = MixturePrior(facet, learn_weights=learn_weights)
    prior.set_mixture(torch.arange(2.0 * num_clusters).reshape(-1, 2) / 4, torch.eye(2).repeat(num_clusters, 1, 1))
    with torch.no_grad():
        prior.logits[3:] = -torch.inf
    model = MultiFacetModel([prior], decoder, BernoulliLikelihood())
    return model, MultiFacetGuide(model, encoder=encoder, assignment=rule())


@pytest.mark.parametrize(
    ("rule", "elbo"),
    [
        (AnalyticAssignment, FacetELBO()),
        *((rule, FacetELBO(closed_form=False)) for rule in (AnalyticAssignment, SampleAssignment)),
        *((rule, TraceEnum_ELBO(max_plate_nesting=1)) for rule in (AnalyticAssignment, SampleAssignment)),
    ],
)
@pytest.mark.parametrize("learn_weights", (True, False))
def test_a_cluster_of_weight_zero_changes_no_result(make_x: MakeX, rule: type, elbo: ELBO, learn_weights: bool) -> None:
    """A cluster of weight 0 changes neither the loss nor the other gradients; minus infinity times a probability of
    0 would be NaN.
    """
    x, found = make_x(6), []
    for num_clusters in (4, 3):
        model, guide = last_cluster_off(num_clusters, rule, learn_weights=learn_weights)
        pyro.set_rng_seed(1)
        loss = elbo.loss_and_grads(model, guide, x)
        networks = [p.grad for part in (model.decoder, guide) for p in part.parameters()]
        found.append((torch.tensor(loss), [p.grad[:3] for p in model.priors.parameters()], networks))
    assert found[1][0].isfinite()
    torch.testing.assert_close(found[0], found[1], rtol=0.0, atol=1e-10)
