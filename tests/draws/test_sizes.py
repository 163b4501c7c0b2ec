import pytest
import torch
from linear_gaussian import draw, linear_pair

from pyro_mfcvae.draws.sizes import Pilot, plan_sizes, try_draws


def test_sizes_follow_the_available_time() -> None:
    pilot = Pilot(seconds=1e-4, error=10.0)
    assert plan_sizes(120, pilot, 2000, 2) == (2000, 256)
    assert plan_sizes(60, pilot, 2000, 2) == (2000, 142)
    assert plan_sizes(10, pilot, 2000, 2) == (1388, 32)
    assert plan_sizes(0.1, pilot, 2000, 2) == (200, 32)


@pytest.mark.parametrize(("error", "draws"), [(0.2, 32), (1.0, 100), (1.2, 144), (9.0, 256)])
def test_the_number_of_draws_gives_an_error_of_a_tenth_of_a_nat(error: float, draws: int) -> None:
    assert plan_sizes(600, Pilot(seconds=1e-5, error=error), 2000, 2) == (2000, draws)


def test_a_draw_takes_time_and_an_exact_guide_has_no_error() -> None:
    torch.manual_seed(0)
    pair = linear_pair()
    exact = try_draws(pair, draw(pair, 20))
    assert 0 < exact.seconds < 1
    assert exact.error == pytest.approx(0, abs=0.02)
    assert try_draws(linear_pair(spread=2.0), draw(pair, 20)).error > 0.5
