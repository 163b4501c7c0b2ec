"""Compile the objective and its gradient into one program. Pyro runs only while they are traced."""

import logging
import warnings
from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

_log = logging.getLogger(__name__)

Named = dict[str, Tensor]

Program = Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]]
"""Function from parameters, buffers and a batch to the results of the objective and the gradient of its first result.
"""


class CompiledObjective(nn.Module):
    """Maps x to the results of an objective, which one compiled program computes together with the gradient.

    The objective is called and differentiated once, on tensors that have shapes but no values. Its Python code
    (contexts, checks, entries in Pyro's parameter store) runs only then. This gives a list of tensor operations, which
    ``torch.compile`` compiles with ``fullgraph``, because they contain no Python code. So a custom part is compiled
    like a built-in one, unless its Python code depends on the values of tensors. An objective that cannot be compiled
    runs without compilation, and one line of the log says why.

    The program draws the same random numbers as the objective itself, and its results differ only by rounding. If
    gradients are off, the objective runs without compilation.

    Args:
        objective: a module that takes one batch. Its first result is a scalar to call ``backward`` on; its other
            results have no gradient. Its parameters and buffers may be changed in place at any time.
        graphs: replay the program as a CUDA graph on a CUDA device.
    """

    def __init__(self, objective: nn.Module, *, graphs: bool = True) -> None:
        super().__init__()
        self.objective = objective
        self._graphs = graphs
        self._programs: dict[tuple[Any, ...], Program | None] = {}

    def forward(self, x: Tensor) -> Any:
        if not torch.is_grad_enabled():
            return self.objective(x)
        # A program is valid only for the shapes, the precision and the modules that it was traced with.
        key = (x.shape, x.dtype, x.device, torch.is_autocast_enabled(x.device.type), structure(self.objective))
        if key not in self._programs:
            self._programs[key] = self._compile(x)
        program = self._programs[key]
        if program is None:
            return self.objective(x)
        parameters, buffers = self._state()
        return _Differentiated.apply(program, tuple(parameters), buffers, x, *parameters.values())

    def _state(self) -> tuple[Named, Named]:
        return dict(self.objective.named_parameters()), dict(self.objective.named_buffers())

    def _compile(self, x: Tensor) -> Program | None:
        parameters, buffers = self._state()
        try:
            traced = trace(self.objective, x)
        except Exception as error:  # any exception, because anything in the objective may fail to be traced
            _warn(error)
            return None
        return compile_whole(traced, parameters, buffers, x, graphs=self._graphs)


# Attributes of every module, and those of a PyroModule that do not affect its results.
_INTERNAL = frozenset(nn.Module().__dict__) | {"_pyro_name", "_pyro_context", "_pyro_params", "_is_in_store"}
_INTERNAL |= {"token", "num_guides", "_compiled"}


_FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType, partial)


def structure(module: nn.Module) -> tuple[Any, ...]:
    """A key of everything that determines the operations of a module, except its inputs: the classes, modes, hooks and
    plain attributes of its submodules, the shapes of its parameters, and which parameters are frozen.
    """
    modules = tuple(
        (
            type(m),
            m.training,
            *(tuple(hooks.values()) for hooks in (m._forward_hooks, m._forward_pre_hooks) if hooks),
            *((name, _by_value(value)) for name, value in vars(m).items() if name not in _INTERNAL),
        )
        for m in module.modules()
    )
    return modules, tuple((name, p.requires_grad, p.shape) for name, p in module.named_parameters())


def _by_value(value: Any, depth: int = 3) -> Any:
    """A hashable key that changes when a value changes."""
    match value:
        case None | bool() | int() | float() | str():
            return type(value), value
        case list() | tuple():
            return type(value), tuple(_by_value(item, depth) for item in value)
        case dict():
            return tuple((key, _by_value(item, depth)) for key, item in value.items())
        case Tensor():
            return id(value)
        case nn.Module() | type():
            return value
    if depth and hasattr(value, "__dict__") and not isinstance(value, _FUNCTIONS):
        items = vars(value).items()
        return type(value), tuple((key, _by_value(item, depth - 1)) for key, item in items if key not in _INTERNAL)
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value


def trace(objective: nn.Module, x: Tensor) -> GraphModule:
    """Trace the tensor operations of an objective and of its gradient, for a batch like ``x``, as a `Program`.

    Nothing is computed and no random number is drawn, because the tensors have no values.
    """

    def run(parameters: Named, buffers: Named, x: Tensor) -> Any:
        results = functional_call(objective, (parameters, buffers), (x,))
        grads = torch.autograd.grad(results[0], [parameters[name] for name in trainable], allow_unused=True)
        by_name = dict(zip(trainable, grads, strict=True))
        return results, tuple(by_name.get(name) for name in parameters)

    trainable = [name for name, parameter in objective.named_parameters() if parameter.requires_grad]

    with warnings.catch_warnings(), torch.random.fork_rng([x.device] if x.is_cuda else []):
        warnings.simplefilter("ignore")  # warnings of torch about its own code
        return make_fx(run, tracing_mode="fake")(dict(objective.named_parameters()), dict(objective.named_buffers()), x)


def compile_whole(
    traced: Program, parameters: Named, buffers: Named, *inputs: Tensor, graphs: bool = True
) -> Program | None:
    """Compile traced operations and call them once with these tensors. If this fails, the result is None, and the log
    says why.

    With ``graphs`` they are replayed as a CUDA graph on a CUDA device.
    """
    x = inputs[0]
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    try:
        with warnings.catch_warnings(), torch.random.fork_rng([x.device] if x.is_cuda else []):
            warnings.simplefilter("ignore")  # warnings of torch about its own code
            options: dict[str, Any] = {"fallback_random": True, "triton.cudagraphs": graphs and x.is_cuda}
            program: Program = torch.compile(traced, fullgraph=True, options=options)
            if graphs and x.is_cuda:
                for tensor in (*parameters.values(), *buffers.values()):
                    torch._dynamo.mark_static_address(tensor)  # a CUDA graph then reads the tensor in place
            call(program, parameters, buffers, *inputs)  # torch compiles at this first call
    except Exception as error:  # any exception, since torch's compiler or the C++ compiler may fail
        _warn(error)
        return None
    finally:
        with torch.no_grad():
            for name, buffer in buffers.items():
                buffer.copy_(before[name])
    return program


def first_line(error: Exception) -> str:
    """The first line of an error's message, without the long text that torch appends."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _warn(error: Exception) -> None:
    _log.warning("not compiled; training is slower, but the results are the same: %s", first_line(error))


def call(program: Program, parameters: Named, buffers: Named, *inputs: Tensor) -> Any:
    """Run a program."""
    # Its operations already contain the gradients and the casts to low precision.
    with torch.no_grad(), torch.autocast(inputs[0].device.type, enabled=False):
        return program(parameters, buffers, *inputs)


class _Differentiated(torch.autograd.Function):
    """Passes the gradient that a program has computed to autograd, so that hooks, such as those of DDP, receive it."""

    @staticmethod
    def forward(
        ctx: Any, program: Program, names: tuple[str, ...], buffers: Named, x: Tensor, *parameters: Tensor
    ) -> Any:
        results, grads = call(program, dict(zip(names, parameters, strict=True)), buffers, x)
        ctx.mark_non_differentiable(*results[1:])
        ctx.grads = grads
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> Any:
        grads, ctx.grads = ctx.grads, None
        # On a CPU the product is skipped if the incoming gradient is 1; this is cheap to check. A CUDA graph overwrites
        # its results at the next replay, so on CUDA the product is also needed as a copy.
        if grad.is_cuda or grad != 1:
            grads = tuple(None if g is None else grad * g for g in grads)
        return None, None, None, None, *grads
