from collections.abc import Callable

import pytest
import torch
from schedules import Model, weights

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.guides import MultiFacetGuide
from pyro_mfcvae.infer.schedule import ProgressiveSchedule, WrittenWeights
from pyro_mfcvae.models import MultiFacetModel


def test_a_single_facet_is_always_on() -> None:
    schedule = ProgressiveSchedule(stage_steps=(5,), fade_in_steps=4)
    assert [weights(schedule, step) for step in (0, 3, 4, 9)] == [[1.0]] * 4


def test_of_two_facets_only_the_shallow_one_is_faded_in() -> None:
    schedule = ProgressiveSchedule(stage_steps=(3, 10), fade_in_steps=4)
    shallow = [weights(schedule, step)[0] for step in range(9)]
    assert shallow == [0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert all(weights(schedule, step)[1] == 1.0 for step in range(13))


def test_three_facets_join_from_deep_to_shallow() -> None:
    schedule = ProgressiveSchedule(stage_steps=(2, 3, 4), fade_in_steps=2)
    assert [schedule.start(j) for j in range(3)] == [5, 2, 0]
    assert [weights(schedule, step) for step in (1, 2, 3, 4, 5, 6, 8)] == [
        [0.0, 0.0, 1.0],
        [0.0, 0.5, 1.0],
        [0.0, 1.0, 1.0],
        [0.0, 1.0, 1.0],
        [0.5, 1.0, 1.0],
        [1.0, 1.0, 1.0],
        [1.0, 1.0, 1.0],
    ]


def test_weights_are_written_only_where_they_change() -> None:
    schedule = ProgressiveSchedule(stage_steps=(1, 9), fade_in_steps=4)
    written, alpha, beta = WrittenWeights(schedule), torch.full((3, 2), 7.0), torch.full((3, 2), 7.0)
    written.write(alpha, beta, 2)
    assert alpha.tolist() == beta.tolist() == [[0.5, 1.0]] * 3
    alpha.fill_(7.0)
    written.write(alpha, beta, 2)
    assert alpha.tolist() == [[7.0, 7.0]] * 3
    written.write(alpha, beta, 3)
    assert alpha.tolist() == [[0.75, 7.0]] * 3
    written.forget()
    written.write(alpha, beta, 3)
    assert alpha.tolist() == [[0.75, 1.0]] * 3


def test_the_kl_may_be_faded_in_on_its_own() -> None:
    schedule = ProgressiveSchedule(stage_steps=(1, 9), fade_in_steps=2, kl_fade_in_steps=(2, 4))
    model = Model(2)
    seen = []
    for step in range(6):
        schedule.apply(model, step)
        seen.append((model.alpha.tolist(), model.beta.tolist()))
    assert [alpha for alpha, _ in seen] == [[w, 1.0] for w in (0.0, 0.5, 1.0, 1.0, 1.0, 1.0)]
    deepest = (0.5, 1.0, 1.0, 1.0, 1.0, 1.0)
    assert [beta for _, beta in seen] == [list(b) for b in zip((0.0, 0.25, 0.5, 0.75, 1.0, 1.0), deepest, strict=True)]


def test_the_kl_may_be_faded_in_later() -> None:
    schedule = ProgressiveSchedule(stage_steps=(3, 9), fade_in_steps=2, kl_fade_in_steps=(1, 2), kl_delay_steps=(1, 3))
    model = Model(2)
    seen = []
    for step in range(9):
        schedule.apply(model, step)
        seen.append((model.alpha.tolist(), model.beta.tolist()))
    assert [alpha[0] for alpha, _ in seen] == [0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert [beta[0] for _, beta in seen] == [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 1.0]
    assert [beta[1] for _, beta in seen] == [0.0, *[1.0] * 8]


def betas(schedule: ProgressiveSchedule) -> list[list[float]]:
    """The values of every facet, shallowest first, step by step."""
    return [[schedule.beta(j, step) for step in range(schedule.num_steps)] for j in range(schedule.num_facets)]


def test_the_kl_may_weigh_more_until_the_last_stage_relaxes_it() -> None:
    schedule = ProgressiveSchedule(
        stage_steps=(2, 6),
        fade_in_steps=2,
        kl_weights=((1.0, 20.0), (0.5, 9.0)),
        kl_relax_steps=(1, 5),
    )
    assert betas(schedule) == [
        [0.0, 0.0, 0.25, 0.5, 0.625, 0.75, 0.875, 1.0],
        [20.0, 20.0, 9.0, 9.0, 7.0, 5.0, 3.0, 1.0],
    ]


def test_kl_weights_do_not_change_without_relaxation() -> None:
    weights = ((1.0, 1.0, 4.0), (1.0, 3.0, 2.0), (5.0, 6.0, 7.0))
    assert betas(ProgressiveSchedule(stage_steps=(1, 2, 1), kl_weights=weights)) == [
        [0.0, 0.0, 0.0, 5.0],
        [0.0, 3.0, 3.0, 6.0],
        [4.0, 2.0, 2.0, 7.0],
    ]


def test_kl_weights_relax_in_the_last_of_three_stages() -> None:
    weights = ((1.0, 1.0, 5.0), (1.0, 0.5, 9.0), (3.0, 5.0, 1.0))
    schedule = ProgressiveSchedule(stage_steps=(1, 1, 3), kl_weights=weights, kl_relax_steps=(0, 2))
    assert betas(schedule) == [[0.0, 0.0, 3.0, 2.0, 1.0], [0.0, 0.5, 5.0, 3.0, 1.0], [5.0, 9.0, 1.0, 1.0, 1.0]]


def test_a_fade_may_outlast_its_stage() -> None:
    schedule = ProgressiveSchedule(stage_steps=(1, 2, 5), fade_in_steps=4)
    assert weights(schedule, 3) == [0.25, 0.75, 1.0]


def test_without_a_fade_a_facet_joins_at_once() -> None:
    schedule = ProgressiveSchedule(stage_steps=(2, 2))
    assert [weights(schedule, step)[0] for step in range(4)] == [0.0, 0.0, 1.0, 1.0]


def test_buffers_are_written_in_place() -> None:
    model = Model(2)
    alpha, beta = model.alpha, model.beta
    addresses = [alpha.data_ptr(), beta.data_ptr()]
    ProgressiveSchedule(stage_steps=(2, 2), fade_in_steps=2).apply(model, 2)
    assert model.alpha is alpha and model.beta is beta
    assert [alpha.data_ptr(), beta.data_ptr()] == addresses
    assert alpha.tolist() == beta.tolist() == [0.5, 1.0]


def test_buffers_keep_their_type() -> None:
    model = Model(2)
    model.alpha, model.beta = model.alpha.float(), model.beta.float()
    ProgressiveSchedule(stage_steps=(2, 9), fade_in_steps=3).apply(model, 2)
    assert model.alpha.dtype == torch.float32
    assert torch.equal(model.alpha, torch.tensor([1 / 3, 1.0], dtype=torch.float32))


def test_a_schedule_works_on_a_real_model(make_pair: Callable[[int], tuple[MultiFacetModel, MultiFacetGuide]]) -> None:
    model, _ = make_pair(2)
    alpha = model.alpha
    assert ProgressiveSchedule(stage_steps=(1, 4), fade_in_steps=4).apply(model, 1) == (0,)
    assert alpha.tolist() == model.beta.tolist() == [0.25, 1.0]


def test_a_schedule_has_no_state() -> None:
    schedule = ProgressiveSchedule(stage_steps=(3, 4, 5), fade_in_steps=3, warmup_steps=1, refit_steps=(2,))
    fresh = [(schedule.apply(model := Model(3), s), model.alpha.tolist()) for s in range(12)]
    model = Model(3)
    for step in [11, 4, 4, 0, 7, *reversed(range(12)), 4]:
        due = schedule.apply(model, step)
        assert (due, model.alpha.tolist()) == fresh[step]
        assert torch.equal(model.alpha, model.beta)


def test_stages_add_up() -> None:
    schedule = ProgressiveSchedule(stage_steps=(3, 4, 5))
    assert (schedule.num_facets, schedule.num_steps) == (3, 12)


def test_from_epochs_multiplies() -> None:
    schedule = ProgressiveSchedule.from_epochs(
        [2, 3],
        7,
        fade_in_steps=5,
        kl_fade_in_steps=(8, 9),
        kl_delay_steps=(0, 1),
        kl_weights=((1.0, 3.0), (2.0, 2.0)),
        kl_relax_steps=(2, 20),
        warmup_steps=4,
        refit_steps=(6,),
        joint_refit_steps=(7,),
    )
    assert schedule == ProgressiveSchedule(
        stage_steps=(14, 21),
        fade_in_steps=5,
        kl_fade_in_steps=(8, 9),
        kl_delay_steps=(0, 1),
        kl_weights=((1.0, 3.0), (2.0, 2.0)),
        kl_relax_steps=(2, 20),
        warmup_steps=4,
        refit_steps=(6,),
        joint_refit_steps=(7,),
    )
    assert ProgressiveSchedule.from_epochs([2], 3) == ProgressiveSchedule(stage_steps=(6,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stage_steps": ()}, r"expected stage_steps ≥ 0, the last one ≥ 1, got \(\)"),
        ({"stage_steps": (3, 0)}, r"expected stage_steps ≥ 0, the last one ≥ 1, got \(3, 0\)"),
        ({"stage_steps": (3,), "linear_start_steps": -1}, "expected linear_start_steps ≥ 0, got -1: choose 0 or more"),
        ({"stage_steps": (3,), "fade_in_steps": 0}, "expected fade_in_steps ≥ 1 and warmup_steps ≥ 0, got 0 and 0"),
        ({"stage_steps": (3,), "warmup_steps": -1}, "expected fade_in_steps ≥ 1 and warmup_steps ≥ 0, got 1 and -1"),
        (
            {"stage_steps": (3,), "kl_fade_in_steps": (0,)},
            r"expected kl_fade_in_steps ≥ 1, one for each of 1 stages, got \(0,\)",
        ),
        (
            {"stage_steps": (3, 3), "kl_fade_in_steps": (2,)},
            r"expected kl_fade_in_steps ≥ 1, one for each of 2 stages, got \(2,\)",
        ),
        (
            {"stage_steps": (3, 3), "kl_delay_steps": (0, -1)},
            r"expected kl_delay_steps ≥ 0, one for each of 2 stages, got \(0, -1\)",
        ),
        (
            {"stage_steps": (3, 3), "warmup_steps": (1,)},
            r"expected warmup_steps ≥ 0, one for each of 2 stages, got \(1,\)",
        ),
        (
            {"stage_steps": (3, 3), "warmup_steps": (1, -1)},
            r"expected warmup_steps ≥ 0, one for each of 2 stages, got \(1, -1\)",
        ),
        ({"stage_steps": (9, 3), "warmup_steps": 3}, "expected warmup_steps below the 3 steps of its stage, got 3"),
        (
            {"stage_steps": (3, 9), "warmup_steps": (4, 1)},
            "expected warmup_steps below the 3 steps of its stage, got 4",
        ),
        (
            {"stage_steps": (9,), "warmup_steps": 3, "refit_steps": (5, 3)},
            r"expected refit_steps > warmup_steps=3, got \(5, 3\)",
        ),
        (
            {"stage_steps": (9, 9), "warmup_steps": (5, 3), "refit_steps": (4, 3)},
            r"expected refit_steps > warmup_steps=3, got \(4, 3\)",
        ),
        (
            {"stage_steps": (9, 9), "warmup_steps": (3, 5), "joint_refit_steps": (5,)},
            r"expected joint_refit_steps > the last stage's warmup_steps=5, got \(5,\)",
        ),
        (
            {"stage_steps": (3, 3), "kl_weights": ((2.0, 1.0),)},
            r"expected kl_weights > 0, a row of 2 for each of 2 stages, got \(\(2.0, 1.0\),\)",
        ),
        ({"stage_steps": (3, 3), "kl_weights": ((2.0, 1.0), (2.0,))}, "expected kl_weights > 0, a row of 2"),
        ({"stage_steps": (3,), "kl_weights": ((0.0,),)}, "expected kl_weights > 0, a row of 1"),
        (
            {"stage_steps": (9, 4), "kl_relax_steps": (2, 2)},
            r"expected two kl_relax_steps of the last stage, 0 ≤ first < second ≤ its length 4, "
            r"got \(2, 2\)",
        ),
        (
            {"stage_steps": (9, 4), "kl_relax_steps": (2, 5)},
            r"length 4, got \(2, 5\): lower them, or lengthen the stage \(more epochs, or a smaller batch_size\); to "
            "shorten a whole schedule that fits, set schedule.scale and leave the epochs",
        ),
    ],
)
def test_errors(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ProgressiveSchedule(**arguments)


def test_a_model_with_other_facets_is_refused() -> None:
    schedule = ProgressiveSchedule(stage_steps=(3, 3))
    model = Model(3)
    with pytest.raises(InputError, match="expected one stage for each of 3 facets, got 2"):
        schedule.apply(model, 0)
    assert model.alpha.tolist() == [7.0] * 3
