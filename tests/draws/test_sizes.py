from linear_gaussian import draw, linear_pair

from pyro_mfcvae.draws.sizes import plan_sizes, seconds_per_draw


def test_sizes_follow_the_time_that_there_is() -> None:
    assert plan_sizes(120, 1e-4, 2000, 2) == (2000, 256)
    assert plan_sizes(60, 1e-4, 2000, 2) == (2000, 142)
    assert plan_sizes(10, 1e-4, 2000, 2) == (1388, 32)
    assert plan_sizes(0.1, 1e-4, 2000, 2) == (200, 32)


def test_a_draw_takes_time() -> None:
    pair = linear_pair()
    assert 0 < seconds_per_draw(pair, draw(pair, 20)) < 1
