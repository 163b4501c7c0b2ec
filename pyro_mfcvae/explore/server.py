"""Open a run's explorer, in the foreground for the command line or in the background for a notebook."""

import asyncio
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from pyro_mfcvae.data.datasets import Dataset, load_dataset
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.explore.app import build_app
from pyro_mfcvae.explore.desk import Desk
from pyro_mfcvae.explore.items import encode_items
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.runs.new_items import image_size, prepare_like

LOOPBACK = ("127.0.0.1", "::1", "localhost")
PORT = 8765
_NOTEBOOKS = "'self' http://localhost:* http://127.0.0.1:* vscode-webview:"
_START_SECONDS = 20.0


def open_desk(
    run: RunFolder,
    *,
    data: str | Dataset | None = None,
    root: Path | None = None,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Desk:
    """Load a run and its items, and assign all items.

    Args:
        run: the folder.
        data: other data, or their name or path; by default the data that the run was trained on.
        root: folder of the data sets' files, as for `load_dataset`.
        on_batch: called with the number of items that are ready, and the number of all items.
    """
    pair, config = run.load_pair(), run.read_config()
    if not isinstance(data, Dataset):
        size = image_size(pair.model.event_shape)
        data = load_dataset(data or config.data.source, root=root, seed=config.seed, size=size, fit=config.data.fit)
    split = prepare_like(data.train, pair.model.event_shape)
    items = encode_items(pair, split, on_batch=lambda done: on_batch(done, len(split)))
    return Desk(run=run, pair=pair, items=items, grouping=run.read_grouping(pair))


def listen(host: str, port: int | None) -> socket.socket:
    """A listening socket at the port. With None it is 8765, or a free port if 8765 is in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in (PORT, 0) if port is None else (port,):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
        except (OSError, OverflowError) as error:
            listener.close()
            failure = error
            continue
        listener.listen(128)
        return listener
    raise InputError(f"expected a free address, got {host} port {port}, which fails ({failure}): choose another --port")


def address_of(listener: socket.socket, host: str, token: str | None) -> str:
    """The address to type into a browser."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")


def token_for(host: str) -> str | None:
    """A random secret if other machines can connect, otherwise None."""
    return None if host in LOOPBACK else secrets.token_urlsafe(32)


def hosts_for(host: str) -> frozenset[str]:
    """Names of this machine that are accepted in the Host header."""
    own = () if host in LOOPBACK else (socket.gethostname().lower(), socket.getfqdn().lower())
    return frozenset({"localhost", host.lower(), *own})


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with three limits that uvicorn does not have.

    The first byte of a connection's first request must arrive within ``head_seconds``, and the request line and the
    headers within the same time after the first byte. The connection of a client that does not read its answer is
    closed after ``read_seconds``. Connections beyond ``most_connections`` are closed at once. `Guard` limits the body.
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
        """Stop the timer when the headers are complete; start it with the first bytes of the next request."""
        before = self.cycle
        between = before is None or before.response_complete
        super().data_received(data)
        if self.cycle is not before:
            _stop(self._head_timer)
            self._head_timer = None
        elif between and self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def pause_writing(self) -> None:
        """Called if the client does not read: start the timer."""
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(self.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Called when the client reads again."""
        _stop(self._read_timer)
        self._read_timer = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop both timers."""
        _stop(self._head_timer)
        _stop(self._read_timer)
        super().connection_lost(exc)


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def build_server(app: ASGIApp) -> uvicorn.Server:
    """A server that logs only errors, sends no Server header, and closes the connections of slow clients."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=TimedProtocol,
            log_level="error",
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=2**15,
        )
    )


class InlineExplorer:
    """The explorer of a run in a notebook: the page in a frame, served in the background until `close`.

    Attributes:
        url: the address to open in a browser of this machine.
    """

    def __init__(self, desk: Desk, *, height: int = 800) -> None:
        listener = listen("127.0.0.1", 0)
        self.url, self._height = address_of(listener, "127.0.0.1", None), height
        self._server = build_server(build_app(desk, frame_ancestors=_NOTEBOOKS))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.02)

    def close(self) -> None:
        """Stop the server."""
        self._server.should_exit = True
        self._thread.join(_START_SECONDS)

    def _repr_html_(self) -> str:
        return f'<iframe src="{self.url}" width="100%" height="{self._height}" title="Explorer"></iframe>'


def explore(run: str | Path | RunFolder, *, data: str | Dataset | None = None, height: int = 800) -> InlineExplorer:
    """Show a run's explorer inline in a notebook.

    Args:
        run: the run's folder.
        data: other data than the run's own, or their name or path.
        height: height of the frame, in pixels.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(Path(run))
    return InlineExplorer(open_desk(folder, data=data), height=height)
