import torch

from pyro_mfcvae.models.distributions import StickBreaking, SticksToWeights


def test_sticks_with_the_right_betas_are_a_dirichlet() -> None:
    """v_k ~ Beta(1, K - 1 - k) gives Dirichlet(1, …, 1): density and Jacobian at once (Connor and Mosimann 1969)."""
    w = torch.distributions.Dirichlet(torch.ones(5)).sample((6,))
    sticks = StickBreaking(torch.ones(4), torch.tensor([4.0, 3.0, 2.0, 1.0]))
    expected = torch.distributions.Dirichlet(torch.ones(5)).log_prob(w)
    torch.testing.assert_close(sticks.log_prob(w), expected, rtol=0.0, atol=1e-10)
    torch.testing.assert_close(sticks.mean, torch.full((5,), 0.2))
    general = StickBreaking(torch.tensor([2.0, 1.5, 0.7, 3.0]), torch.tensor([5.2, 3.7, 3.0, 0.0001]))
    assert general.expand((2, 3)).sample().shape == (2, 3, 5)


def test_sticks_to_weights() -> None:
    v = torch.tensor([0.5, 0.2, 0.9], requires_grad=True)
    w = SticksToWeights()(v)
    torch.testing.assert_close(w, torch.tensor([0.5, 0.1, 0.36, 0.04]))
    torch.testing.assert_close(SticksToWeights()._inverse(w), v)
    jacobian = torch.autograd.functional.jacobian(lambda v: SticksToWeights()(v)[:-1], v)
    torch.testing.assert_close(SticksToWeights().log_abs_det_jacobian(v, w), jacobian.det().abs().log())
    assert SticksToWeights().forward_shape((7, 3)) == (7, 4)
    assert SticksToWeights().inverse_shape((7, 4)) == (7, 3)


def test_the_mean_of_sticks_is_that_of_their_draws() -> None:
    """5 standard errors of 20,000 draws."""
    sticks = StickBreaking(torch.ones(5), torch.full((5,), 1.3))
    draws = sticks.sample((20_000,))
    torch.testing.assert_close(draws.sum(-1), torch.ones(20_000))
    assert ((draws.mean(0) - sticks.mean).abs() < 5 * draws.std(0) / 20_000**0.5).all()
