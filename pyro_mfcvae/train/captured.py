"""A whole training step (loss, gradient and Adam) as one CUDA graph, which is captured once and then replayed."""

import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_mfcvae.infer.compilation import first_line

_log = logging.getLogger(__name__)

StepFunction = Callable[..., Tensor]
"""Function that maps the input tensors of a step to its terms. It changes parameters, buffers and the optimiser's
state in place. It must not read the value of a tensor, and no shape may depend on a value.
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
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        generator = torch.cuda.default_generators[stream.device.index]
        state = generator.clone_state()
        try:
            with torch.cuda.graph(graph):
                terms = step()
        except BaseException:
            # torch leaves the generator in the mode of captures, in which it draws no numbers outside of them, and the
            # stream of the capture as the current one.
            generator.graphsafe_set_state(state)
            torch.cuda.set_stream(stream)
            raise
        return graph.replay, terms


class HostWaits(TorchDispatchMode):
    """Notes the first operation for which the host waits for the device; a graph cannot have such operations.

    These are reads of a tensor's value, masks as indices, whose number of elements is read, and copies from the host.

    Attributes:
        found: name of the operation, or None.
    """

    _READS = ("_local_scalar_dense", "equal", "is_nonzero", "item", "masked_select", "nonzero")
    _INDEXING = ("index", "index_put", "index_put_")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        if name in self._READS or (name in self._INDEXING and any(map(_is_mask, args[1]))):
            self.found = self.found or func.name()
        result = func(*args, **(kwargs or {}))
        if name in ("_to_copy", "copy_") and len({x.device.type for x in (result, *args) if isinstance(x, Tensor)}) > 1:
            self.found = self.found or func.name()
        return result


def _is_mask(index: object) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


class CapturedStep:
    """A step function that is captured after some steps, and replayed from then on.

    A replay repeats the device's operations on the same memory. So inputs are copied to the memory that the captured
    step reads. Everything else that changes between steps must be a tensor that is changed in place: the schedule's
    buffers, the learning rate, the random state. Code that replaces a tensor instead, such as Adam's moments after a
    fit, must call `forget`. Steps with inputs of other shapes are taken without capture. If a step cannot be captured,
    all steps are taken without capture, and one line of the log says why.

    The step function is given with its inputs, and not kept: a training that kept itself in this way would hold the
    device's memory until the next garbage collection.

    Args:
        recorder: the object that captures the step.
        watches: whether the last step before the first capture is watched for operations that a graph cannot have. A
            compiled step has none.
    """

    def __init__(self, recorder: Recorder, *, watches: bool = True) -> None:
        self._recorder = recorder
        self._watches = watches
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

    def __call__(self, step: StepFunction, *inputs: Tensor) -> Tensor:
        """Take a step. The returned terms are valid until the next step."""
        if self._fails:
            return step(*inputs)
        if self._num_warm < NUM_WARM_UP_STEPS:
            self._num_warm += 1
            return self._warm_up(step, inputs)
        if self._replay is None and not self._capture(step, inputs):
            return step(*inputs)
        if any(x.shape != static.shape for x, static in zip(inputs, self._inputs, strict=True)):
            return step(*inputs)
        for x, static in zip(inputs, self._inputs, strict=True):
            static.copy_(x)
        assert self._replay is not None and self._terms is not None
        self._replay()
        return self._terms

    def _warm_up(self, step: StepFunction, inputs: tuple[Tensor, ...]) -> Tensor:
        if not self._watches or self._num_warm < NUM_WARM_UP_STEPS:
            return self._recorder.warm_up(lambda: step(*inputs))
        self._watches = False
        with HostWaits() as waits:
            terms = self._recorder.warm_up(lambda: step(*inputs))
        if waits.found is not None:
            _warn(f"the host waits for the device in {waits.found}")
            self._fails = True
        return terms

    def _capture(self, step: StepFunction, inputs: tuple[Tensor, ...]) -> bool:
        self._inputs = static = tuple(x.clone() for x in inputs)
        try:
            self._replay, self._terms = self._recorder.capture(lambda: step(*static))
        except Exception as error:  # any exception, because anything in a step may fail to be captured
            _warn(first_line(error))
            self._fails = True
        return not self._fails


RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": CUDAGraphs}


def can_be_captured(fabric: Fabric, *, has_known: bool) -> bool:
    """Whether the steps of a training can be captured: on one CUDA device, without items with known clusters.

    Known items are drawn on the host, which prevents a capture.
    """
    return fabric.device.type in RECORDERS and fabric.world_size == 1 and not has_known


def capture(device: torch.device, *, watches: bool = True) -> CapturedStep:
    """The captured step, for a device on which `can_be_captured` is true."""
    return CapturedStep(RECORDERS[device.type](device), watches=watches)


def _warn(why: str) -> None:
    _log.warning("the training step is not captured; training is slower, but the results are the same: %s", why)
