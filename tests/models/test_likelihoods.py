import math
from collections.abc import Callable

import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from pyro_mfcvae import MFCVAE, Facet, FacetELBO, InputError
from pyro_mfcvae.guides import MLPLadderEncoder, MultiFacetGuide
from pyro_mfcvae.models import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    Likelihood,
    MixturePrior,
    MLPLadderDecoder,
    MultiFacetModel,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
    StandardizedGaussianLikelihood,
)
from pyro_mfcvae.models.distributions import DiscretizedLogistic

MakeFacets = Callable[[int], tuple[Facet, ...]]

OUTPUT = torch.tensor([[-2.0, 0.0, 0.5], [30.0, -30.0, 1.0]], dtype=torch.float64)
X = torch.tensor([[0.0, 1.0, 0.3], [1.0, 0.0, 0.7]], dtype=torch.float64)


def test_bernoulli_takes_grey_values_as_probabilities() -> None:
    likelihood = BernoulliLikelihood()
    mean = OUTPUT.sigmoid()
    log_prob = X * OUTPUT.sigmoid().log() + (1 - X) * (-OUTPUT).sigmoid().log()
    torch.testing.assert_close(likelihood(OUTPUT).log_prob(X), log_prob, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(likelihood.mean(OUTPUT), mean)
    torch.testing.assert_close(likelihood(OUTPUT).mean, mean)
    assert set(likelihood(OUTPUT).sample((50,)).unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("learn_scale", (False, True))
@pytest.mark.parametrize("sigmoid_mean", (False, True))
def test_gaussian(learn_scale: bool, sigmoid_mean: bool) -> None:
    likelihood = GaussianLikelihood(scale=0.3, learn_scale=learn_scale, sigmoid_mean=sigmoid_mean)
    mean = 1 / (1 + (-OUTPUT).exp()) if sigmoid_mean else OUTPUT
    log_prob = -0.5 * ((X - mean) / 0.3) ** 2 - math.log(0.3) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(likelihood.mean(OUTPUT), mean)
    torch.testing.assert_close(likelihood(OUTPUT).mean, mean)
    torch.testing.assert_close(likelihood(OUTPUT).log_prob(X).detach(), log_prob)
    assert [name for name, _ in likelihood.named_parameters()] == ["scale_unconstrained"] * learn_scale
    assert "scale" in dict(likelihood.named_buffers()) or learn_scale


def test_the_learned_scale_gets_the_right_gradient(
    make_pair: Callable[..., tuple[MultiFacetModel, MultiFacetGuide]], make_x: Callable[[int], Tensor]
) -> None:
    """d(-log p)/d log scale = 1 - ((x - mean) / scale)² per pixel, and log scale is what is optimised."""
    likelihood = GaussianLikelihood(scale=0.4, learn_scale=True)
    (likelihood(OUTPUT).log_prob(X).sum()).backward()
    expected = (((X - OUTPUT) / 0.4) ** 2 - 1).sum()
    torch.testing.assert_close(likelihood.scale_unconstrained.grad, expected)

    model, guide = make_pair(likelihood=GaussianLikelihood(learn_scale=True))
    FacetELBO().loss_and_grads(model, guide, make_x(4))
    assert model.likelihood.scale_unconstrained.grad.abs() > 0


@pytest.mark.parametrize("scale", (0.0, -1.0, math.nan))
def test_a_scale_must_be_positive(scale: float) -> None:
    with pytest.raises(InputError, match=rf"expected a scale > 0 for a Gaussian likelihood, got {scale}"):
        GaussianLikelihood(scale=scale)


def test_a_gaussian_may_have_a_scale_per_channel() -> None:
    scale = torch.tensor([0.1, 0.2, 0.4])[:, None, None]
    likelihood = GaussianLikelihood(scale=scale, learn_scale=True)
    x, output = torch.rand(5, 3, 2, 2), torch.rand(5, 3, 2, 2)
    for c in range(3):
        expected = GaussianLikelihood(scale=scale[c].item())(output[:, c]).log_prob(x[:, c])
        torch.testing.assert_close(likelihood(output).log_prob(x)[:, c].detach(), expected)
    with pytest.raises(InputError, match="expected a scale > 0 for a Gaussian likelihood"):
        GaussianLikelihood(scale=torch.tensor([0.1, 0.0]))


def test_continuous_bernoulli_is_normalised_by_its_integral() -> None:
    """log p = log C + x log m + (1 - x) log(1 - m) with m = sigmoid(output) and C such that it integrates to 1."""
    likelihood = ContinuousBernoulliLikelihood()
    output = torch.tensor([-2.0, 0.3, 3.0])
    grid = (torch.arange(200_000) + 0.5) / 200_000
    m = output.sigmoid()[:, None]
    unnormalised = m**grid * (1 - m) ** (1 - grid)
    constant = 1 / unnormalised.mean(-1)
    x = torch.tensor([0.2, 0.9, 0.5])
    m = m[:, 0]
    expected = constant.log() + x * m.log() + (1 - x) * (1 - m).log()
    torch.testing.assert_close(likelihood(output).log_prob(x), expected, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(likelihood.mean(output), (unnormalised * grid).mean(-1) * constant, rtol=0.0, atol=1e-9)


def test_discretised_logistic_adds_up_to_one_and_is_the_difference_of_sigmoids() -> None:
    likelihood = DiscretizedLogisticLikelihood(scale=0.07, num_levels=11)
    output = torch.tensor([-3.0, 0.0, 0.4, 8.0])[:, None]
    levels = torch.arange(11) / 10
    log_prob = likelihood(output).log_prob(levels).detach()
    torch.testing.assert_close(log_prob.exp().sum(-1), torch.ones(4), rtol=0.0, atol=1e-12)
    edges = torch.cat([torch.tensor([-math.inf]), (torch.arange(10) + 0.5) / 10, torch.tensor([math.inf])])
    cdf = ((edges - output.sigmoid()) / 0.07).sigmoid()
    torch.testing.assert_close(log_prob.exp(), cdf[:, 1:] - cdf[:, :-1], rtol=0.0, atol=1e-12)


def test_discretised_logistic_far_out_is_finite_and_has_gradients() -> None:
    output = torch.tensor([40.0], dtype=torch.float32, requires_grad=True)
    likelihood = DiscretizedLogisticLikelihood(scale=1e-3, sigmoid_mean=False).float()
    log_prob = likelihood(output).log_prob(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float32))
    assert log_prob.isfinite().all()
    (gradient,) = torch.autograd.grad(log_prob[1], output)
    assert gradient.isfinite().all()
    assert gradient < 0


def test_discretised_logistic_draws_its_probabilities() -> None:
    """4 standard errors for 5 levels: fails for 1 seed in 3,000."""
    distribution = DiscretizedLogistic(torch.tensor(0.3), torch.tensor(0.2), num_levels=5)
    draws = distribution.sample((20_000,))
    levels = torch.arange(5) / 4
    probs = distribution.log_prob(levels).exp()
    counts = torch.stack([(draws == level).double().mean() for level in levels])
    assert counts.sum().item() == pytest.approx(1)
    assert ((counts - probs).abs() < 4 * (probs * (1 - probs) / 20_000).sqrt()).all()


def test_poisson_equals_the_value_computed_by_hand() -> None:
    x, output = torch.tensor([0.0, 3.0, 7.0]), torch.tensor([-1.0, 0.5, 2.0])
    likelihood = PoissonLikelihood()
    expected = x * output - output.exp() - torch.lgamma(x + 1)
    torch.testing.assert_close(likelihood(output).log_prob(x), expected)
    torch.testing.assert_close(likelihood.mean(output), output.exp())


def test_negative_binomial_has_the_stated_mean_and_variance() -> None:
    likelihood = NegativeBinomialLikelihood(dispersion=1.7)
    output = torch.tensor([-1.0, 0.5, 2.0])
    counts = torch.arange(3000.0)[:, None]
    probs = likelihood(output).log_prob(counts).exp().detach()
    mean = (probs * counts).sum(0)
    torch.testing.assert_close(probs.sum(0), torch.ones(3), rtol=0.0, atol=1e-9)
    torch.testing.assert_close(mean, output.exp(), rtol=0.0, atol=1e-8)
    torch.testing.assert_close(likelihood.mean(output), mean, rtol=0.0, atol=1e-8)
    variance = (probs * counts.square()).sum(0) - mean.square()
    torch.testing.assert_close(variance, mean + mean.square() / 1.7, rtol=0.0, atol=1e-6)


def test_categorical_has_the_codes_in_the_outputs_last_dimension() -> None:
    likelihood = CategoricalLikelihood()
    output = torch.randn(4, 3, 5)
    x = torch.randint(5, (4, 3)).double()
    expected = output.log_softmax(-1).gather(-1, x.long()[..., None])[..., 0]
    torch.testing.assert_close(likelihood(output).log_prob(x), expected)
    assert torch.equal(likelihood.mean(output), output.argmax(-1).double())
    assert likelihood.event_shape((3, 5)) == (3,)
    with pytest.raises(InputError, match=r"shape \(\*event_shape, num_categories\), got \(5,\)"):
        likelihood.event_shape((5,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: DiscretizedLogisticLikelihood(scale=0.0),
            "expected a scale > 0 for a discretised logistic likelihood",
        ),
        (lambda: DiscretizedLogisticLikelihood(num_levels=1), "expected num_levels ≥ 2, got 1"),
        (
            lambda: NegativeBinomialLikelihood(dispersion=-1.0),
            "expected a dispersion > 0, got -1.0: pass",
        ),
    ],
)
def test_wrong_settings_are_reported(make: Callable[[], Likelihood], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


# --- tests of every likelihood: a new one is added by one line ------------------------------------------------------

LIKELIHOODS: dict[str, tuple[Callable[[], Likelihood], Callable[[Tensor], Tensor]]] = {
    # name: (the likelihood, data for it from numbers in [0, 1])
    "bernoulli": (BernoulliLikelihood, lambda u: u),
    "continuous_bernoulli": (ContinuousBernoulliLikelihood, lambda u: u),
    "gaussian": (lambda: GaussianLikelihood(scale=0.4, learn_scale=True), lambda u: u),
    "discretized_logistic": (DiscretizedLogisticLikelihood, lambda u: (255 * u).round() / 255),
    "poisson": (PoissonLikelihood, lambda u: (5 * u).round()),
    "negative_binomial": (NegativeBinomialLikelihood, lambda u: (9 * u).round()),
    "categorical": (CategoricalLikelihood, lambda u: (3 * u).round()),
}
SHAPE = (2, 3)


@pytest.fixture(params=LIKELIHOODS)
def case(request: pytest.FixtureRequest, make_facets: MakeFacets) -> tuple[MultiFacetModel, MultiFacetGuide, Tensor]:
    """A pair with missing data allowed, and items of which some elements are missing."""
    make, data = LIKELIHOODS[request.param]
    facets, likelihood = make_facets(2), make()
    out_shape = (*SHAPE, 4) if isinstance(likelihood, CategoricalLikelihood) else SHAPE
    model = MultiFacetModel(
        [MixturePrior(f) for f in facets],
        MLPLadderDecoder(facets, out_shape, rung_dims=(9, 10), hidden_dim=8),
        likelihood,
        missing=True,
    )
    guide = MultiFacetGuide(model, encoder=MLPLadderEncoder(facets, SHAPE, rung_dims=(9, 10), head_init_scale=1.0))
    x = data(torch.rand(6, *SHAPE))
    return model, guide, x.masked_fill(torch.rand(6, *SHAPE) < 0.4, math.nan)


Case = tuple[MultiFacetModel, MultiFacetGuide, Tensor]


def test_pyros_estimate_is_ours_with_missing_elements_too(case: Case) -> None:
    model, guide, x = case
    pyro.set_rng_seed(2)
    pyros = TraceEnum_ELBO(max_plate_nesting=1).loss_and_grads(model, guide, x)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    pyro.set_rng_seed(2)
    ours = FacetELBO(closed_form=False).loss_and_grads(model, guide, x)
    assert ours == pytest.approx(pyros, rel=0, abs=1e-10)
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(gradients)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=0.0, atol=1e-9)


def test_missing_elements_do_not_change_results(case: Case) -> None:
    model, guide, x = case
    zs = [q.sample() for q in guide.posteriors(x)]
    observed = ~x.isnan()
    elements = model.likelihood(model.decode(zs)).log_prob(x.nan_to_num(0.0))
    expected = (elements * observed).flatten(1).sum(-1)
    torch.testing.assert_close(model.log_likelihood(zs, x), expected)
    full = model.split_missing(x)[0]
    torch.testing.assert_close(model.log_likelihood(zs, full), elements.flatten(1).sum(-1))


def test_imputation_keeps_what_is_observed(case: Case) -> None:
    model, guide, x = case
    pair = MFCVAE(model, guide)
    filled = pair.impute(x)
    assert torch.equal(filled[~x.isnan()], x[~x.isnan()])
    assert torch.equal(filled[x.isnan()], pair.reconstruct(x)[x.isnan()])
    model.missing = False
    with pytest.raises(InputError, match="expected x without NaN, got some"):
        pair.impute(x)


def test_draws_have_the_stated_mean(case: Case) -> None:
    """5 standard errors for 6 elements: fails for 1 seed in 290,000. For codes, the most frequent code is compared."""
    model, _, _ = case
    if isinstance(model.likelihood, CategoricalLikelihood):
        output = 2 * torch.randn(*SHAPE, 4)
        most_frequent = model.likelihood(output).sample((40_000,)).mode(0).values
        assert torch.equal(most_frequent.to(output.dtype), model.likelihood.mean(output))
        return
    output = 0.5 * torch.randn(*SHAPE)
    draws = model.likelihood(output).sample((40_000,))
    error = draws.std(0) / 200
    # Rounding to 256 levels and cutting off at 0 and 1 moves the mean of the logistic.
    slack = 0.01 if isinstance(model.likelihood, DiscretizedLogisticLikelihood) else 0.0
    assert ((draws.mean(0) - model.likelihood.mean(output)).abs() < 5 * error + slack).all()


def test_a_likelihood_is_saved_with_its_scale(case: Case) -> None:
    model, _, _ = case
    likelihood = model.likelihood
    state = {name: tensor + 0.3 for name, tensor in likelihood.state_dict().items()}
    likelihood.load_state_dict(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in likelihood.state_dict().items())


def test_float32_stays_float32(case: Case) -> None:
    model, guide, x = (part.float() for part in case)
    zs = [q.sample() for q in guide.posteriors(x)]
    log_prob = model.log_likelihood(zs, x)
    assert log_prob.dtype == torch.float32 and log_prob.isfinite().all()


def test_a_likelihood_without_methods_is_refused() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Likelihood()  # type: ignore[abstract]


def test_a_standardised_gaussian_equals_the_value_computed_by_hand() -> None:
    likelihood = StandardizedGaussianLikelihood((2,))
    likelihood.measure(torch.tensor([[100.0, 10.0], [300.0, 10.0], [float("nan"), 10.0]]))
    assert likelihood(torch.tensor([0.5, -1.0])).mean.tolist() == [250.0, 9.0]
    assert likelihood.encoder_input(torch.tensor([300.0, 11.0])).tolist() == [1.0, 1.0]
