"""Behaviour of models and guides while ``torch.jit.trace`` records them."""

import torch
from torch import Tensor


def is_tracing() -> bool:
    """Whether ``torch.jit.trace`` records the calls at this moment."""
    # torch neither exports nor annotates the function, although it documents it.
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def unfolded(buffer: Tensor, like: Tensor, *, tag: int = 0) -> Tensor:
    """Return the buffer so that a program of ``torch.jit.trace`` reads it at every call.

    The result depends on an input, ``like``, so it is not folded into a constant. The tracer merges constants of equal
    shape and value, so buffers with different tags have different shapes while they are traced.
    """
    if not is_tracing():
        return buffer
    state = torch._C._get_tracing_state()
    set_state = torch._C._set_tracing_state  # type: ignore[attr-defined]
    set_state(None)
    constant = buffer.view([1] * tag + list(buffer.shape))
    set_state(state)
    zero = like.detach().flatten()[:0].sum().to(buffer.dtype)
    return (constant + zero).reshape(buffer.shape)
