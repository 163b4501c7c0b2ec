"""A whole training step (loss, gradient and Adam) as one CUDA graph, which is captured once and then replayed."""

import logging
from collections.abc import Callable
from typing import Literal, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor

from pyro_mfcvae.infer.compilation import first_line

_log = logging.getLogger(__name__)

StepFunction = Callable[..., Tensor]
"""Function that maps the input tensors of a step to its terms. It changes parameters, buffers and the optimiser's
state in place.
"""

# In the first steps cuBLAS, cuDNN, the compiler and Adam allocate memory, which a capture does not allow.
NUM_WARM_UP_STEPS = 3


class Recorder(Protocol):
    """Protocol of an object that captures steps. `CUDAGraphs` is the only one outside of tests."""

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        """Take a step without capture, in a context that prepares captures."""

    def capture(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record a step without taking it. Returns a function that takes the step, and the tensor that has its
        terms afterwards.
        """


class CUDAGraphs:
    """The recorder for a CUDA device.

    Args:
        device: the device of all tensors of the step.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        stream, current = torch.cuda.Stream(self._device), torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            terms = step()
        current.wait_stream(stream)
        return terms

    def capture(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            terms = step()
        return graph.replay, terms


class CapturedStep:
    """A step function that is captured after some steps, and replayed from then on.

    A replay repeats the device's operations on the same memory. So inputs are copied to the memory that the captured
    step reads. Everything else that changes between steps must be a tensor that is changed in place: the schedule's
    buffers, the learning rate, the random state. Code that replaces a tensor instead, such as Adam's moments after a
    fit, must call `forget`. Steps with inputs of other shapes are taken without capture. If a step cannot be captured,
    all steps are taken without capture, and one line of the log says why.

    Args:
        step: the step function. It must not read the value of a tensor, and no shape may depend on a value.
        recorder: the object that captures the step.
    """

    def __init__(self, step: StepFunction, recorder: Recorder) -> None:
        self._step = step
        self._recorder = recorder
        self._fails = False
        self._key: object = None
        self.forget()

    def forget(self) -> None:
        """Capture again, after some steps."""
        self._num_warm = 0
        self._replay: Callable[[], None] | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._terms: Tensor | None = None

    def follow(self, key: object) -> None:
        """Capture again if the key, which identifies what the step does, has changed."""
        if key != self._key:
            self.forget()
        self._key = key

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Take a step. The returned terms are valid until the next step."""
        if self._fails:
            return self._step(*inputs)
        if self._num_warm < NUM_WARM_UP_STEPS:
            self._num_warm += 1
            return self._recorder.warm_up(lambda: self._step(*inputs))
        if self._replay is None and not self._capture(inputs):
            return self._step(*inputs)
        if any(x.shape != static.shape for x, static in zip(inputs, self._inputs, strict=True)):
            return self._step(*inputs)
        for x, static in zip(inputs, self._inputs, strict=True):
            static.copy_(x)
        assert self._replay is not None and self._terms is not None
        self._replay()
        return self._terms

    def _capture(self, inputs: tuple[Tensor, ...]) -> bool:
        self._inputs = tuple(x.clone() for x in inputs)
        try:
            self._replay, self._terms = self._recorder.capture(lambda: self._step(*self._inputs))
        except Exception as error:  # any exception, because anything in a step may fail to be captured
            _warn(first_line(error))
            self._fails = True
        return not self._fails


RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": CUDAGraphs}


def is_captured(setting: Literal["auto", True, False], fabric: Fabric, *, has_known: bool) -> bool:
    """Whether the steps of a training are captured. If they cannot be but the setting is true, the log says why.

    Args:
        setting: `training.capture`.
        fabric: the devices that compute the steps.
        has_known: whether items with known clusters join the batches. These are drawn on the host, which prevents a
            capture.
    """
    why = None
    if fabric.device.type not in RECORDERS:
        why = f"expected a device of {' or '.join(RECORDERS)}, got {fabric.device.type}: leave training.capture out"
    elif fabric.world_size > 1:
        why = f"expected one device, got {fabric.world_size}: leave training.capture out"
    elif has_known:
        why = "expected no items with known clusters, got some: leave training.capture or supervision out"
    if why and setting is True:
        _warn(why)
    return setting is not False and why is None


def capture(step: StepFunction, device: torch.device) -> CapturedStep:
    """The captured step, for a device on which `is_captured` can be true."""
    return CapturedStep(step, RECORDERS[device.type](device))


def _warn(why: str) -> None:
    _log.warning("the training step is not captured; training is slower, but the results are the same: %s", why)
