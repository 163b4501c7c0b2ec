"""Connections that end in time: a client that sends or reads too slowly cannot hold one open."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with three limits that it lacks.

    The request line and the headers of a request must arrive within ``head_seconds`` of its first byte, and the first
    byte of a connection's first request within the same time. A client that does not read its answer is cut off after
    ``read_seconds``. One more connection than ``most_connections`` is closed at once. The body has a limit of its own,
    in `Guard`.
    """

    head_seconds = 10.0
    read_seconds = 30.0
    most_connections = 256

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.abort()
        else:
            self._head_timer = self.loop.call_later(self.head_seconds, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Stop the clock when the headers are complete; start it with the first bytes of the next request."""
        before = self.cycle
        between = before is None or before.response_complete
        super().data_received(data)
        if self.cycle is not before:
            self._head_timer = _stop(self._head_timer)
        elif between and self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def pause_writing(self) -> None:
        """The client does not read: wait, but not for ever."""
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(self.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._read_timer = _stop(self._read_timer)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop both clocks."""
        self._head_timer, self._read_timer = _stop(self._head_timer), _stop(self._read_timer)
        super().connection_lost(exc)


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
