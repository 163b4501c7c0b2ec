"""TF32 for the matrix products of linear layers, forward and backward, while all other products keep full float32."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@contextmanager
def tf32_products() -> Iterator[None]:
    """Context in which CUDA computes float32 matrix products in TF32, whatever the setting of the process is.

    The setting applies to the whole process while the context is open, but not to a backward pass outside of the
    context.
    """
    matmul = torch.backends.cuda.matmul
    # In torch 2.9 and later a new flag replaces the old one; the old flag cannot be read while the new one is set.
    name, value = ("fp32_precision", "tf32") if hasattr(matmul, "fp32_precision") else ("allow_tf32", True)
    before = getattr(matmul, name)
    setattr(matmul, name, value)
    try:
        yield
    finally:
        setattr(matmul, name, before)


# A custom operator is a single operation for autograd, make_fx, torch.compile and vmap. A flag set around the layers
# would not hold in the backward pass or in a compiled program.
@torch.library.custom_op("pyro_mfcvae::tf32_product", mutates_args=())
def tf32_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in TF32 on CUDA, for matrices (n, k) and (k, m), or for stacks of s matrices, (s, n, k) and (s, k, m)."""
    with tf32_products():
        return torch.matmul(a, b)


@tf32_product.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


def _keep_inputs(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    a, b = ctx.saved_tensors
    of_a = tf32_product(grad, b.mT) if ctx.needs_input_grad[0] else None
    # b is a layer's transposed weight. Its gradient has the memory layout of the weight only if it is computed
    # transposed.
    of_b = tf32_product(grad.mT, a).mT if ctx.needs_input_grad[1] else None
    return of_a, of_b


tf32_product.register_autograd(_gradients, setup_context=_keep_inputs)


@tf32_product.register_vmap
def _(info: Any, in_dims: Sequence[int | None], a: Tensor, b: Tensor) -> tuple[Tensor, int]:
    """Batching rule for vmap: stacked models give a stack of matrices."""
    stacks = [
        tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip((a, b), in_dims, strict=True)
    ]
    return tf32_product(*stacks), 0


class TF32Layers(TorchFunctionMode):
    """Context in which every linear layer on float32 tensors uses `tf32_product`, in the forward and the backward pass.

    Densities do not call ``torch.nn.functional.linear``, so their products, Cholesky factors and triangular solves keep
    full float32. Convolutions are left to ``torch.backends.cudnn``, which by default computes them in TF32. Only CUDA
    has TF32; on other devices the result is that of the layer itself, except for rounding.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.linear and not torch.is_autocast_enabled(args[0].device.type):
            return _linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product = tf32_product(x.reshape(-1, x.shape[-1]), weight.mT)
    product = product.unflatten(0, x.shape[:-1])
    return product if bias is None else product + bias
