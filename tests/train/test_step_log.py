from collections.abc import Callable
from typing import Any

import pytest
import torch
from trainings import prepare

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.train import step_log
from pyro_mfcvae.train.captured import HostWaits
from pyro_mfcvae.train.step_log import StepLog
from pyro_mfcvae.train.training import Training

BATCHES = "training.batch_size=10"


@pytest.fixture
def rare_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(step_log.READ_EVERY, "cpu", 4)


def spoil(training: Training, step: int, term: int) -> Callable[[], None]:
    """Make one term that the objective returns for a step infinite."""
    objective, taken = training._objective, [0]

    def forward(*batch: Any) -> Any:
        loss, terms = objective(*batch)
        taken[0] += 1
        if taken[0] == step:
            terms = terms.clone()
            terms[2 + term] = torch.inf
        return loss, terms

    training._objective = forward
    return lambda: None


def test_values_are_read_as_they_were_added() -> None:
    log = StepLog((2,), torch.device("cpu"))
    log.add(torch.tensor([1.0, 2.0]))
    assert log.is_full
    assert log.read().tolist() == [[1.0, 2.0]]
    assert log.read().shape == (0, 2)


@pytest.mark.usefixtures("rare_reads")
def test_steps_are_reported_together_with_their_mean() -> None:
    calls: list[tuple[int, float]] = []
    record = prepare(BATCHES).run_epoch(lambda num, elbo: calls.append((num, elbo)))
    assert [num for num, _ in calls] == [4, 2]
    assert record.elbo == pytest.approx((4 * calls[0][1] + 2 * calls[1][1]) / 6, rel=1e-12)


@pytest.mark.usefixtures("rare_reads")
def test_rare_reads_change_no_number() -> None:
    torch.manual_seed(0)
    rare = prepare(BATCHES)
    record = rare.run_epoch()
    step_log.READ_EVERY["cpu"] = 1
    torch.manual_seed(0)
    often = prepare(BATCHES)
    assert often.run_epoch().kl == pytest.approx(record.kl, rel=1e-12)
    for a, b in zip(rare.pair.parameters(), often.pair.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("rare_reads")
def test_the_step_and_the_term_that_diverged_are_named() -> None:
    training = prepare(BATCHES)
    spoil(training, step=3, term=1)
    with pytest.raises(InputError, match=r"^the KL of facet 1 became inf at step 3, training has diverged: lower "):
        training.run_epoch()


@pytest.mark.usefixtures("rare_reads")
@pytest.mark.parametrize("kind", ["gaussian", "bernoulli"])
def test_no_step_reads_a_value(kind: str) -> None:
    """Count reads in steps without fits, between two reads of the log. Such steps must not wait for the device."""
    training = prepare(BATCHES, f"likelihood.kind={kind}", "mixture_fit.warmup_steps=0")
    batches = training.start_epoch()
    x = next(iter(batches))
    training.prepare_step()  # fits the mixture of the deepest facet
    training.steps_taken = 1
    with HostWaits() as waits:
        for _ in range(3):
            training.prepare_step()
            loss, terms = training._objective(x)
            training._stepper.zero_grad()
            training.fabric.backward(loss)
            training._stepper.step()
            training.note_step(terms)
        assert waits.found is None
        loss.item()
    assert waits.found == "aten::_local_scalar_dense"


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_no_step_waits_for_the_gpu() -> None:
    from pyro_mfcvae.train.devices import open_fabric

    training = prepare(BATCHES, fabric=open_fabric("cuda"))
    batches = training.start_epoch()
    training.prepare_step()
    next(batches)  # the epoch's order is copied to the device
    training.steps_taken = 1
    try:
        torch.cuda.set_sync_debug_mode("error")
        for x in batches:
            training.prepare_step()
            loss, terms = training._objective(x)
            training._stepper.zero_grad()
            training.fabric.backward(loss)
            training._stepper.step()
            training._log.add(terms)
    finally:
        torch.cuda.set_sync_debug_mode("default")
