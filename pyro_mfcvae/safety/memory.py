"""A limit on the memory of new tensors, for example of parts that are built from settings of unknown origin."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_mfcvae.errors import InputError


@contextmanager
def limited_memory(max_bytes: int, *, source: str, advice: str) -> Iterator[None]:
    """Context that refuses to make tensors with more bytes in total, before memory is requested from the system.

    Tensors that are computed from other tensors do not count.

    Args:
        max_bytes: the limit, for all devices together.
        source: what makes the tensors, for the message.
        advice: what to do.

    Raises:
        InputError: a tensor would exceed the limit, or there is no memory for it.
    """
    try:
        with _Limit(max_bytes, source, advice):
            yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
            raise InputError(f"expected {source} that fit into memory, got larger ones: {advice}") from error
        raise


class _Limit(TorchDispatchMode):
    """Adds up the bytes of new tensors; their sizes are computed on PyTorch's meta device before memory is taken."""

    def __init__(self, max_bytes: int, source: str, advice: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._max_bytes, self._source, self._advice = max_bytes, source, advice
        self._num_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        is_factory = any(argument.name == "device" for argument in func._schema.arguments)
        if is_factory and not any(isinstance(argument, torch.Tensor) for argument in args):
            planned = func(*args, **{**kwargs, "device": torch.device("meta")})
            self._num_bytes += planned.numel() * planned.element_size()
            if self._num_bytes > self._max_bytes:
                raise InputError(
                    f"expected {self._source} of at most {self._max_bytes / 2**30:.3g} GiB in memory, got "
                    f"{self._num_bytes / 2**30:.4g} GiB: {self._advice}"
                )
        return func(*args, **kwargs)
