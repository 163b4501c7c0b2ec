"""Fixtures of the tests of compiled objectives."""

from collections.abc import Iterator

import pytest
from compiled_pairs import complaints


@pytest.fixture
def as_traced(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Run traced operations one by one, because compiling them takes half a minute each time."""
    monkeypatch.setattr("torch.compile", lambda traced, **_: traced)
    yield
    assert complaints(caplog) == []
