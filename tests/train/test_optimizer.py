"""The number of epochs, the learning rate and the fits of a training that ends when the ELBO stops rising."""

import math
from pathlib import Path

import pyro
import pytest
import torch
from trainings import prepare

from pyro_mfcvae.config.training_sections import TrainingConfig
from pyro_mfcvae.infer.schedule import ProgressiveSchedule
from pyro_mfcvae.runs.checkpoints import load_training, save_training
from pyro_mfcvae.train.optimizer import Course

# 40 epochs of 10 steps: parts of 2 epochs are compared, and the last part has 4 epochs.
NUM_EPOCHS, PER_EPOCH = 40, 10


def course(tolerance: float, *, rises_until: int, first: int = 0, **arguments: object) -> Course:
    """A course of 40 epochs. The ELBO rises by 1 in each epoch until ``rises_until``, and then stays."""
    schedule = ProgressiveSchedule.from_epochs((first, NUM_EPOCHS - first), PER_EPOCH, **arguments)
    settings = TrainingConfig(learning_rate=0.1, final_learning_rate=0.01, tolerance=tolerance)
    found = Course(schedule, settings, steps_per_epoch=PER_EPOCH)
    for epoch in range(1, NUM_EPOCHS + 1):
        if epoch > found.num_epochs:
            break
        found.add(float(min(epoch, rises_until)))
    return found


@pytest.mark.parametrize(
    ("tolerance", "num_epochs"),
    # After epochs 10 to 13, two epochs have a mean ELBO that is 2, 1.5, 0.5 and 0 higher than that of the two before.
    [(0.0, 40), (0.4, 17), (0.5, 16), (1.4, 16), (1.5, 15)],
)
def test_a_training_takes_another_tenth_when_the_elbo_rises_by_less_than_the_tolerance(
    tolerance: float, num_epochs: int
) -> None:
    found = course(tolerance, rises_until=10)
    assert found.num_epochs == num_epochs
    assert len(found.elbos) == num_epochs


def test_a_training_does_not_end_before_its_first_epochs_can_be_compared() -> None:
    # The mixtures are fitted before step 0, which is in the first epoch, so the epochs 2 to 5 are the first.
    assert course(9.0, rises_until=99).num_epochs == 5 + 4


def test_a_training_that_reaches_its_last_tenth_is_trained_to_the_end() -> None:
    assert course(0.1, rises_until=32).num_epochs == 39
    assert course(0.1, rises_until=33).num_epochs == 40


def test_parts_with_a_fit_are_not_compared_and_the_last_part_has_none() -> None:
    # Step 115 belongs to epoch 12; the first epochs after it that can be compared are 13 to 16.
    found = course(0.1, rises_until=9, joint_refit_steps=(115, 165, 250))
    assert found.num_epochs == 20
    assert found.due_fits(115) == (0, 1)
    assert found.due_fits(165) == ()
    whole = course(0.0, rises_until=9, joint_refit_steps=(115, 165, 250))
    assert whole.due_fits(165) == whole.due_fits(250) == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "num_epochs"),
    [
        ({"first": 10}, 10 + 5 + 4),
        ({"first": 10, "fade_in_steps": 55}, 10 + 5 + 5 + 4),
        ({"first": 10, "kl_fade_in_steps": (1, 55)}, 10 + 5 + 5 + 4),
        ({"first": 10, "kl_delay_steps": (0, 55)}, 10 + 5 + 5 + 4),
        ({"first": 10, "warmup_steps": 55}, 10 + 6 + 4 + 4),
        ({"kl_weights": ((1.0, 2.0), (1.0, 2.0)), "kl_relax_steps": (10, 61)}, 6 + 1 + 4 + 4),
    ],
)
def test_a_training_does_not_end_while_its_schedule_changes(arguments: dict[str, object], num_epochs: int) -> None:
    assert course(0.1, rises_until=1, **arguments).num_epochs == num_epochs


def test_the_learning_rate_falls_to_its_final_value_in_the_last_part() -> None:
    found, whole = course(0.5, rises_until=10), course(0.0, rises_until=10)
    assert [found.learning_rate(step) for step in range(120)] == [whole.learning_rate(step) for step in range(120)]
    start = 0.01 + 0.09 * (1 + math.cos(math.pi * 120 / 400)) / 2
    for step in range(120, 160):
        rate = 0.01 + (start - 0.01) * (1 + math.cos(math.pi * (step - 120) / 40)) / 2
        assert found.learning_rate(step) == pytest.approx(rate, rel=1e-12)


def test_a_constant_learning_rate_stays() -> None:
    schedule = ProgressiveSchedule(stage_steps=(0, 400))
    found = Course(schedule, TrainingConfig(learning_rate=0.3, tolerance=1.0), steps_per_epoch=PER_EPOCH)
    for _ in range(8):
        found.add(0.0)
    assert found.num_epochs < 40
    assert {found.learning_rate(step) for step in range(100)} == {0.3}


@pytest.mark.parametrize("stop", [2, 4])
def test_a_training_that_ends_early_can_be_resumed_with_the_same_bits(tmp_path: Path, stop: int) -> None:
    """A part has one epoch and the last part two: it ends after epoch 5 of 20, which is known after epoch 3."""
    settings = ("training.epochs=[0, 20]", "training.tolerance=1e9", "training.final_learning_rate=1e-4")
    torch.set_default_dtype(torch.float32)
    pyro.set_rng_seed(0)
    whole = prepare(*settings)
    records = [whole.run_epoch() for _ in range(3)]
    assert whole.num_epochs == 5
    while not whole.is_finished:
        records.append(whole.run_epoch())
    assert [record.epoch for record in records] == [1, 2, 3, 4, 5]
    pyro.set_rng_seed(0)
    stopped = prepare(*settings)
    for _ in range(stop):
        stopped.run_epoch()
    save_training(stopped, tmp_path / "training.safetensors")
    pyro.set_rng_seed(0)
    resumed = prepare(*settings)
    load_training(resumed, tmp_path / "training.safetensors")
    rest = []
    while not resumed.is_finished:
        rest.append(resumed.run_epoch())
    assert rest == records[stop:]
    for name, tensor in whole.pair.state_dict().items():
        assert torch.equal(resumed.pair.state_dict()[name], tensor), name
