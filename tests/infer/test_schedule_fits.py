"""The steps at which a schedule asks for fits of the mixtures, also when it is stretched."""

import pytest
from schedules import fits

from pyro_mfcvae.infer.schedule import ProgressiveSchedule


def test_fits_are_due_at_the_start_of_each_stage() -> None:
    assert fits(ProgressiveSchedule(stage_steps=(2, 3, 4))) == {0: (2,), 2: (1,), 5: (0,)}


def test_fits_wait_for_the_warmup() -> None:
    assert fits(ProgressiveSchedule(stage_steps=(3, 5), warmup_steps=2)) == {2: (1,), 5: (0,)}


def test_refits_stay_in_their_facets_own_stage() -> None:
    schedule = ProgressiveSchedule(stage_steps=(4, 7), warmup_steps=1, refit_steps=(3, 4, 6, 7))
    assert fits(schedule) == {1: (1,), 3: (1,), 5: (0,), 7: (0,), 8: (0,), 10: (0,)}


def test_every_stage_may_have_a_warmup_of_its_own() -> None:
    schedule = ProgressiveSchedule(stage_steps=(4, 7), warmup_steps=(0, 3), refit_steps=(1, 3, 5))
    assert fits(schedule) == {0: (1,), 1: (1,), 3: (1,), 7: (0,), 9: (0,)}
    alike = ProgressiveSchedule(stage_steps=(4, 7), warmup_steps=(2, 2))
    assert fits(alike) == fits(ProgressiveSchedule(stage_steps=(4, 7), warmup_steps=2))


def test_joint_refits_are_of_all_facets_and_count_from_the_last_stage() -> None:
    schedule = ProgressiveSchedule(
        stage_steps=(2, 2, 5), warmup_steps=(1, 0, 1), refit_steps=(3,), joint_refit_steps=(2, 3, 5)
    )
    assert fits(schedule) == {1: (2,), 2: (1,), 5: (0,), 6: (0, 1, 2), 7: (0, 1, 2)}


def test_a_stretched_schedule_stretches_all_numbers_of_steps() -> None:
    schedule = ProgressiveSchedule(
        stage_steps=(20, 30),
        fade_in_steps=6,
        kl_fade_in_steps=(1, 9),
        kl_delay_steps=(0, 8),
        kl_weights=((1.0, 20.0), (2.0, 3.0)),
        kl_relax_steps=(10, 21),
        warmup_steps=4,
        refit_steps=(6, 7, 11),
        joint_refit_steps=(9, 20),
    )
    assert schedule.stretched(1.0) == ProgressiveSchedule(**(vars(schedule) | {"warmup_steps": (4, 4)}))
    assert schedule.stretched(0.5, unit=4) == ProgressiveSchedule(
        stage_steps=(12, 16),
        fade_in_steps=3,
        kl_fade_in_steps=(1, 4),
        kl_delay_steps=(0, 4),
        kl_weights=((1.0, 20.0), (2.0, 3.0)),
        kl_relax_steps=(5, 10),
        warmup_steps=(2, 2),
        refit_steps=(3, 5),
        joint_refit_steps=(4, 10),
    )
    assert schedule.stretched(3.0).stage_steps == (60, 90)


@pytest.mark.parametrize("factor", [1e-3, 0.07, 0.1, 0.3, 1.7])
def test_every_factor_leaves_a_schedule_that_fits_and_fades_all_facets(factor: float) -> None:
    schedule = ProgressiveSchedule(
        stage_steps=(300, 200),
        fade_in_steps=90,
        warmup_steps=(110, 100),
        refit_steps=(120, 130),
        joint_refit_steps=(150,),
        kl_delay_steps=(0, 80),
        kl_relax_steps=(120, 130),
        kl_weights=((1.0, 1.0), (1.0, 2.0)),
    ).stretched(factor, unit=10)
    assert all(steps % 10 == 0 for steps in schedule.stage_steps)
    assert {j for facets in fits(schedule).values() for j in facets} == {0, 1}
    last = schedule.num_steps - 1
    assert [schedule.alpha(j, last) for j in (0, 1)] == [1.0, 1.0]
    assert [schedule.beta(j, last) for j in (0, 1)] == [1.0, 1.0]


def test_facets_that_join_together_have_full_weight_and_are_fitted_together() -> None:
    schedule = ProgressiveSchedule(
        stage_steps=(0, 0, 6), fade_in_steps=4, warmup_steps=1, refit_steps=(3,), linear_start_steps=5
    )
    assert fits(schedule) == {1: (0, 1, 2), 3: (0, 1, 2)}
    assert [schedule.alpha(j, 0) for j in range(3)] == [1.0] * 3
    assert [schedule.beta(j, 0) for j in range(3)] == [1.0] * 3
    double = schedule.stretched(2.0, unit=4)
    assert (double.stage_steps, double.linear_start_steps) == ((0, 0, 12), 10)
