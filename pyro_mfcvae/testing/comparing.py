"""Comparisons that the contracts use: of results, means of draws, copies, and a part before and after it is moved."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn


def check_gradients(loss: Callable[[], Tensor], part: nn.Module) -> None:
    """Check that every parameter that is not frozen gets a finite gradient."""
    part.zero_grad()
    value = loss()
    if value.requires_grad:
        value.backward()
    for name, parameter in part.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"expected a gradient of log p with respect to {name}, got none"
            assert parameter.grad.isfinite().all(), f"expected a finite gradient of {name}"


def check_copy(part: Any, ask: Callable[[Any], Tensor]) -> None:
    """Check that a copy gives the same result and is independent, and that a loaded state_dict restores the result."""
    before, state = ask(part).detach(), {name: value.clone() for name, value in part.state_dict().items()}
    other = copy.deepcopy(part)
    assert_close(ask(other), before, "a copy's answer", 1e-10)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if next(other.parameters(), None) is not None:
        unlike = (ask(other).detach() - before).abs().max() > 0
        assert unlike, "a copy whose parameters were changed answers as before: it does not read its own"
    assert_close(ask(part), before, "the answer after a copy was changed", 1e-10)
    other.load_state_dict(state)
    assert_close(ask(other), before, "the answer of a loaded state_dict", 1e-10)


def check_moves(part: Any, reads: Sequence[nn.Module], ask: Callable[[Any, Tensor], Tensor]) -> None:
    """Check that the part gives the same result after a move to float32, and to a CUDA device if there is one."""
    before = ask(part, torch.zeros((), dtype=torch.float64)).detach()
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        other, others = copy.deepcopy((part, tuple(reads)))
        for module in (other, *others):
            module.to(device=device, dtype=torch.float32)
        answer = ask(other, torch.zeros((), dtype=torch.float32, device=device))
        assert answer.dtype == torch.float32, f"moved to float32 it answers in {answer.dtype}: a constant did not move"
        assert answer.device.type == device, f"moved to {device} it answers on {answer.device}"
        torch.testing.assert_close(answer.detach().cpu().double(), before.cpu(), rtol=1e-3, atol=1e-3)


def assert_close(actual: Tensor, expected: Tensor, what: str, atol: float) -> None:
    """Check that two results are equal up to ``atol``, absolutely and relatively."""
    torch.testing.assert_close(
        actual.detach(), expected.detach(), rtol=atol, atol=atol, msg=lambda text: f"{what} differ: {text}"
    )


def assert_mean(draws: Tensor, expected: Tensor, what: str, slack: float = 0.0) -> None:
    """Check that the mean over the first dimension is the expected one within 5 standard errors."""
    off = (draws.mean(0) - expected).abs() - 5 * draws.std(0) / len(draws) ** 0.5 - slack
    assert not off.isnan().any() and (off <= 0).all(), (
        f"{what}: the mean of {len(draws)} draws is off by more than 5 standard errors, by up to {off.max():.3g} more"
    )


def seeded(compute: Callable[[], Tensor]) -> Tensor:
    """Compute a result with a fixed seed."""
    pyro.set_rng_seed(17)
    return compute()


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Context with a separate parameter store, random state and default precision."""
    dtype, state = torch.get_default_dtype(), pyro.util.get_rng_state()
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(seed)
    try:
        with pyro.get_param_store().scope():
            yield
    finally:
        torch.set_default_dtype(dtype)
        pyro.util.set_rng_state(state)
