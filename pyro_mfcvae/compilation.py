"""The objective compiled whole: Pyro is at work while it is traced, and out of the way ever after."""

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

_log = logging.getLogger(__name__)

Program = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Tensor], tuple[Tensor, ...]]
"""From parameters, buffers and a batch to what the objective returns."""


class CompiledObjective(nn.Module):
    """x ↦ what an objective returns, its loss first, out of one compiled program for the way forward and one for the way
    back.

    The objective is called once on tensors that have shapes and no values. Whatever it does in Python happens then, and
    then only: contexts, checks, entries in Pyro's parameter store. What is left is the list of its tensor operations, and
    that is what ``torch.compile`` is given, with ``fullgraph``; nothing that it could stumble over is in there. So a part
    of the user's own is compiled like ours, as long as no value of a tensor decides what it does. One that cannot be
    compiled is computed as it is written, and the log says why, once.

    Random numbers are those that the objective itself would draw; the results differ in rounding alone. On a CUDA device
    both programs are replayed as CUDA graphs.

    Args:
        objective: a module of one batch, whose first result is a scalar to call ``backward`` on. Its parameters and
            buffers stay its own, and may be changed in place at any time.
    """

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective
        self._programs: dict[tuple[Any, ...], Program] = {}

    def forward(self, x: Tensor) -> Any:
        # A program holds for the shapes, and for the mode of batch norm, that it was traced with.
        key = (x.shape, x.dtype, x.device, self.training, torch.is_autocast_enabled(x.device.type))
        if key not in self._programs:
            self._programs[key] = self._compile(x)
        parameters, buffers = self._state()
        return self._programs[key](parameters, buffers, x)

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return dict(self.objective.named_parameters()), dict(self.objective.named_buffers())

    def _compile(self, x: Tensor) -> Program:
        state = parameters, buffers = self._state()

        def run(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Any:
            return functional_call(self.objective, (parameters, buffers), (x,))

        before = {name: buffer.clone() for name, buffer in buffers.items()}
        try:
            with warnings.catch_warnings(), torch.random.fork_rng([x.device] if x.is_cuda else []):
                warnings.simplefilter("ignore")  # torch's, of its own insides
                traced = make_fx(run, tracing_mode="fake", pre_dispatch=True)(*state, x)
                options = {"fallback_random": True, "triton.cudagraphs": x.is_cuda}
                program = torch.compile(traced, fullgraph=True, options=options)
                if x.is_cuda:
                    for tensor in (*parameters.values(), *buffers.values()):
                        torch._dynamo.mark_static_address(tensor)  # so that a CUDA graph reads it where it lies
                # torch compiles when it is called: the way back fails here, or not at all.
                if torch.is_grad_enabled():
                    torch.autograd.grad(program(*state, x)[0], tuple(parameters.values()), allow_unused=True)
                else:
                    program(*state, x)
        except Exception as error:  # of any kind: the tracer, the compiler or the machine's C++ compiler
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            _log.warning("not compiled, which costs time and nothing else: %s", reason)
            return lambda parameters, buffers, x: self.objective(x)
        finally:
            with torch.no_grad():
                for name, buffer in buffers.items():
                    buffer.copy_(before[name])
        return program
