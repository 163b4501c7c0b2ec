"""A captured training takes the same steps as the loop without capture. A recorder replaces CUDA's graphs."""

import gc
import logging
import weakref
from collections.abc import Callable
from functools import partial

import pyro
import pytest
import torch
from torch import Tensor, nn
from trainings import prepare

from pyro_mfcvae.train import captured
from pyro_mfcvae.train.captured import NUM_WARM_UP_STEPS, CapturedStep, HostWaits, capture
from pyro_mfcvae.train.known import KnownItems
from pyro_mfcvae.train.optimizer import make_adam
from pyro_mfcvae.train.training import Training

SETTINGS = (
    *(
        "training.batch_size=10",
        "training.epochs=[2, 2]",
        "training.learning_rate=0.0078125",
        "schedule.fade_in_steps=4",
    ),
    *("mixture_fit.warmup_steps=2", "mixture_fit.refit_steps=[4]", "schedule.kl_fade_in_steps=[3, 5]"),
)


class Recorder:
    """Records a step without taking it. A replay takes the step on the memory of the capture, and the host reads no
    value.

    Args:
        addresses: addresses of all tensors that the step reads or changes, which must not change.
        error: that every capture raises.
    """

    def __init__(self, addresses: Callable[[], list[int]] = list, error: Exception | None = None) -> None:
        self.addresses = addresses
        self.error = error
        self.calls: list[str] = []

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        self.calls.append("warm-up")
        return step()

    def capture(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        def replay() -> None:
            assert self.addresses() == fixed, "a tensor was replaced since the capture"
            self.calls.append("replay")
            with HostWaits() as waits:
                results = step()
            assert waits.found is None
            if held.numel() != results.numel():
                held.resize_(results.shape)
            held.copy_(results)

        self.calls.append("capture")
        if self.error is not None:
            raise self.error
        fixed, held = self.addresses(), torch.zeros(0)
        return replay, held


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setitem(captured.RECORDERS, "cpu", lambda device: recorder)
    return recorder


def tensors_of(training: Training) -> list[int]:
    states = [s for state in training.optimizer.state.values() for s in state.values()]
    rates = [group["lr"] for group in training.optimizer.param_groups]
    everything = [*training.pair.parameters(), *training.pair.buffers(), *states, *rates]
    return [tensor.data_ptr() for tensor in everything]


def add_up(total: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns the sum of all x so far, which is updated in place."""

    def step(x: Tensor) -> Tensor:
        return total.add_(x.sum()).clone()

    return step


def test_the_first_steps_run_without_capture_and_the_others_are_replayed() -> None:
    recorder, total = Recorder(), torch.zeros(())
    step = partial(CapturedStep(recorder), add_up(total))
    found = [step(torch.full((2,), float(i))).item() for i in range(1, 7)]
    assert found == [2.0, 6.0, 12.0, 20.0, 30.0, 42.0]
    assert recorder.calls == ["warm-up"] * NUM_WARM_UP_STEPS + ["capture"] + ["replay"] * 3


def test_a_batch_of_another_shape_is_computed_as_written() -> None:
    recorder, total = Recorder(), torch.zeros(())
    step = partial(CapturedStep(recorder), add_up(total))
    for _ in range(NUM_WARM_UP_STEPS + 1):
        step(torch.ones(4))
    calls = list(recorder.calls)
    assert step(torch.ones(3)).item() == 4 * (NUM_WARM_UP_STEPS + 1) + 3
    assert recorder.calls == calls
    assert step(torch.ones(4)).item() == 4 * (NUM_WARM_UP_STEPS + 2) + 3
    assert recorder.calls == [*calls, "replay"]


def test_it_captures_again_when_it_has_to_forget() -> None:
    recorder = Recorder()
    captured_step, step = CapturedStep(recorder), add_up(torch.zeros(()))
    captured_step.follow("a")
    for key in ("a", "a", "b"):
        captured_step.follow(key)
        for _ in range(NUM_WARM_UP_STEPS + 1):
            captured_step(step, torch.ones(2))
    assert recorder.calls.count("capture") == 2
    captured_step.forget()
    captured_step(step, torch.ones(2))
    assert recorder.calls[-1] == "warm-up"


def test_steps_that_cannot_be_captured_run_without_capture(caplog: pytest.LogCaptureFixture) -> None:
    recorder, total = Recorder(error=RuntimeError("operation not permitted\nand more")), torch.zeros(())
    step = partial(CapturedStep(recorder), add_up(total))
    with caplog.at_level(logging.WARNING):
        found = [step(torch.ones(2)).item() for _ in range(7)]
    assert found == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0]
    assert recorder.calls.count("capture") == 1
    assert caplog.messages == [
        "the training step is not captured; training is slower, but the results are the same: operation not permitted"
    ]


@pytest.mark.parametrize(
    ("wait", "operation"),
    [
        (lambda x: x.sum().item(), "aten::_local_scalar_dense"),
        (lambda x: x[x > 0], "aten::index.Tensor"),
        (lambda x: x.masked_fill(x > 0, 0).index_put_((x > 0,), torch.zeros(())), "aten::index_put_"),
        (lambda x: x.nonzero(), "aten::nonzero"),
        (lambda x: x.to("meta"), "aten::_to_copy"),
    ],
)
def test_a_step_that_waits_for_the_device_is_not_captured(
    caplog: pytest.LogCaptureFixture, wait: Callable[[Tensor], object], operation: str
) -> None:
    def step(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        y = x.sum()
        y.register_hook(lambda _: (wait(x.detach()), None)[1])  # in the backward pass
        y.backward()
        return y.detach()

    recorder = Recorder()
    captured_step = CapturedStep(recorder)
    assert [captured_step(step, torch.ones(2)).item() for _ in range(6)] == [2.0] * 6
    assert recorder.calls == ["warm-up"] * NUM_WARM_UP_STEPS
    assert caplog.messages == [
        "the training step is not captured; training is slower, but the results are the same: the host waits for the "
        f"device in {operation}"
    ]


def test_a_captured_training_is_freed_at_once() -> None:
    """Without a garbage collection, so that the memory of its device is free for the next one."""
    captured_step, step = CapturedStep(Recorder()), add_up(torch.zeros(()))
    captured_step(step, torch.ones(2))
    reference = weakref.ref(step)
    gc.disable()
    try:
        del step
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "settings",
    [
        (),
        pytest.param(("likelihood.kind=gaussian", "prior.covariance=full"), marks=pytest.mark.slow),
    ],
)
def test_a_captured_training_equals_the_training(monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]) -> None:
    """Through warm-up, fits, fades and a falling learning rate; all tensors but the inputs keep their addresses."""
    trainings, recorder = [], Recorder()
    for recorders in ({}, {"cpu": lambda device: recorder}):
        monkeypatch.setattr(captured, "RECORDERS", recorders)
        pyro.set_rng_seed(3)
        training = prepare(*SETTINGS, *settings, num=100)
        recorder.addresses = lambda training=training: tensors_of(training)  # type: ignore[misc]
        records = [training.run_epoch() for _ in range(4)]
        trainings.append((training, records))
    (eager, expected), (replayed, found) = trainings
    assert replayed.captures and not eager.captures
    # Four fits, at steps 2 and 4 of both stages, make it warm up again.
    assert recorder.calls.count("capture") == 2
    assert recorder.calls.count("replay") > 20
    for here, there in zip(found, expected, strict=True):
        assert here.elbo == pytest.approx(there.elbo, rel=1e-12)
        assert here.kl == pytest.approx(there.kl, rel=1e-10)
    for a, b in zip(eager.pair.parameters(), replayed.pair.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("recorder")
def test_the_learning_rate_is_changed_in_place() -> None:
    training = prepare(*SETTINGS, "training.final_learning_rate=0.001", num=100)
    (group,) = training.optimizer.param_groups
    rate = group["lr"]
    training.run_epoch()
    assert group["lr"] is rate and isinstance(rate, Tensor)
    assert rate.item() == pytest.approx(training._learning_rate(training.step - 1), rel=1e-6)
    training.prepare_step()
    assert rate.item() == pytest.approx(training.learning_rate, rel=1e-6)


def test_a_change_of_the_pair_between_epochs_is_captured(recorder: Recorder) -> None:
    training = prepare(*SETTINGS, "mixture_fit.refit_steps=[]", num=100)
    training.run_epoch()
    assert recorder.calls.count("capture") == 1
    layer = next(module for module in training.pair.guide.encoder.modules() if isinstance(module, nn.Linear))
    before = layer.weight.detach().clone()
    layer.weight.requires_grad_(False)
    training.run_epoch()
    assert recorder.calls.count("capture") == 2
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("value", ["auto", "false"])
def test_steps_on_a_cpu_are_not_captured(value: str) -> None:
    assert not prepare(f"training.compile={value}").captures


@pytest.mark.usefixtures("recorder")
def test_all_steps_are_captured_that_can_be_and_may_be() -> None:
    plain = prepare()
    assert plain.captures and not plain.compiles
    assert not prepare("training.compile=false").captures
    known = KnownItems(plain.images[:4], {0: torch.tensor([0, 1, 2, 0])}, batch_size=2)
    training = Training(plain.pair, plain.images, schedule=plain.schedule, settings=plain.settings, known_items=known)
    assert not training.captures


@pytest.mark.gpu
def test_a_replayed_step_on_a_gpu_equals_a_computed_one() -> None:
    device = torch.device("cuda")
    results = []
    for is_captured in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(8, 4, device=device)
        optimizer = make_adam(layer.parameters(), learning_rate=0.01, device=device, captured=True)

        def step(x: Tensor, layer: nn.Linear = layer, optimizer: torch.optim.Adam = optimizer) -> Tensor:
            loss = layer(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach()

        take = partial(capture(device), step) if is_captured else step
        xs = torch.rand(12, 16, 8, device=device, generator=torch.Generator(device).manual_seed(1))
        results.append(torch.stack([take(x).clone() for x in xs]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)
