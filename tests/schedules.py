"""The effect of a schedule on a model: the weights at a step, and the steps of the fits."""

import torch

from pyro_mfcvae.infer.schedule import ProgressiveSchedule


class Model:
    """The parts of a model that a schedule changes."""

    def __init__(self, num_facets: int) -> None:
        self.alpha = torch.full((num_facets,), 7.0)
        self.beta = torch.full((num_facets,), 7.0)


def weights(schedule: ProgressiveSchedule, step: int) -> list[float]:
    """alpha of a new model at a step, which equals beta."""
    model = Model(schedule.num_facets)
    schedule.apply(model, step)
    assert torch.equal(model.alpha, model.beta)
    return model.alpha.tolist()


def fits(schedule: ProgressiveSchedule) -> dict[int, tuple[int, ...]]:
    """Maps each step of the training to the facets whose mixture must be fitted."""
    model = Model(schedule.num_facets)
    due = {step: schedule.apply(model, step) for step in range(schedule.num_steps)}
    return {step: facets for step, facets in due.items() if facets}
