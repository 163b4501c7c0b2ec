"""Addresses, tokens, slow clients, and the page in a notebook."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from torch import Tensor

from pyro_mfcvae.api.run import Run
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.explore.app import build_app
from pyro_mfcvae.explore.desk import Desk
from pyro_mfcvae.explore.server import (
    InlineExplorer,
    TimedProtocol,
    address_of,
    build_server,
    explore,
    hosts_for,
    listen,
    token_for,
)

Serve = Callable[[ASGIApp], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve an application until the end of the test; returns the address."""
    stops = []

    def start(app: ASGIApp) -> str:
        listener = listen("127.0.0.1", 0)
        server = build_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        stops.append((server, thread))
        return address_of(listener, "127.0.0.1", None)

    yield start
    for server, thread in stops:
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that are short enough for a test."""
    monkeypatch.setattr(TimedProtocol, "head_seconds", 0.5)
    monkeypatch.setattr(TimedProtocol, "read_seconds", 0.5)


def connect(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", httpx.URL(url).port or 80), timeout=10)


def seconds_until_closed(client: socket.socket, drip: bytes = b"") -> float:
    """Send a byte every 0.1 s; returns the time until the server closes the connection."""
    start = time.monotonic()
    client.settimeout(0.1)
    while time.monotonic() - start < 8:
        try:
            if drip:
                client.sendall(drip)
            if client.recv(2**16) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - start


def test_only_other_machines_need_a_token() -> None:
    assert token_for("127.0.0.1") is None
    assert token_for("localhost") is None
    tokens = {token_for("0.0.0.0") for _ in range(20)}
    assert len(tokens) == 20
    assert all(token and len(token) >= 43 for token in tokens)  # 256 bits


def test_host_names_are_checked_if_other_machines_can_connect() -> None:
    assert hosts_for("127.0.0.1") == {"localhost", "127.0.0.1"}
    assert socket.gethostname().lower() in hosts_for("0.0.0.0")


def test_a_port_in_use_is_refused_or_replaced_by_a_free_one() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(InputError, match=f"expected a free address, got 127.0.0.1 port {port}, which fails"):
            listen("127.0.0.1", port)
    with pytest.raises(InputError, match=r"expected a free address, got 127\.0\.0\.1 port 99999"):
        listen("127.0.0.1", 99_999)
    with listen("127.0.0.1", None) as first, listen("127.0.0.1", None) as second:
        assert first.getsockname() != second.getsockname()
        assert address_of(second, "127.0.0.1", "t") == f"http://127.0.0.1:{second.getsockname()[1]}/?token=t"


def test_a_notebook_shows_the_page_in_a_frame_until_it_is_closed(desk: Desk) -> None:
    page = InlineExplorer(desk, height=300)
    html = page._repr_html_()
    assert f'src="{page.url}"' in html
    assert 'height="300"' in html
    response = httpx.get(page.url)
    assert response.status_code == 200
    assert "frame-ancestors 'self' http://localhost:*" in response.headers["content-security-policy"]
    page.close()
    with pytest.raises(httpx.HTTPError):
        httpx.get(page.url)


def test_a_run_is_opened_by_its_folder(desk: Desk) -> None:
    for page in (explore(str(desk.run.path)), Run(desk.run.path).explore(height=500)):
        assert "2 facets of 200 items" in httpx.get(page.url).text
        page.close()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("first", "drip"), [(b"", b""), (b"GET", b""), (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"x")]
)
def test_headers_must_arrive_in_time(desk: Desk, serve: Serve, first: bytes, drip: bytes) -> None:
    url = serve(build_app(desk))
    with connect(url) as client:
        client.sendall(first)
        assert 0.3 < seconds_until_closed(client, drip) < 4
    assert httpx.get(url).status_code == 200


@pytest.mark.usefixtures("quick")
def test_the_headers_of_a_second_request_must_arrive_in_time(desk: Desk, serve: Serve) -> None:
    with connect(serve(build_app(desk))) as client:
        client.sendall(b"GET /static/explore.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(2**16).startswith(b"HTTP/1.1 200")
        assert 0.3 < seconds_until_closed(client, b"G") < 4


@pytest.mark.usefixtures("quick")
def test_an_answer_may_take_longer_than_the_limit_for_headers(serve: Serve) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(1.2)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"here"})

    assert httpx.get(serve(slow)).text == "here"


@pytest.mark.usefixtures("quick")
def test_a_client_that_does_not_read_is_disconnected(serve: Serve) -> None:
    ended = threading.Event()

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            for _ in range(64):
                await send({"type": "http.response.body", "body": b"x" * 2**20, "more_body": True})
        finally:
            ended.set()

    with connect(serve(large)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert ended.wait(6)


def test_the_limits_are_those_of_the_docs() -> None:
    protocol = TimedProtocol
    assert (protocol.head_seconds, protocol.read_seconds, protocol.most_connections) == (10.0, 30.0, 256)


def test_the_number_of_connections_is_limited(desk: Desk, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimedProtocol, "most_connections", 2)
    url = serve(build_app(desk))
    with connect(url), connect(url):
        time.sleep(0.2)
        with connect(url) as third:
            assert seconds_until_closed(third) < 2
    time.sleep(0.2)
    assert httpx.get(url).status_code == 200


def test_the_size_of_headers_is_limited(desk: Desk, serve: Serve) -> None:
    with connect(serve(build_app(desk))) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 2**16)
        assert client.recv(2**16).startswith(b"HTTP/1.1 4")


def test_answers_have_no_server_header_and_forwarded_headers_are_ignored(desk: Desk, serve: Serve) -> None:
    with httpx.Client(base_url=serve(build_app(desk, token="right"))) as client:
        answers = [
            client.get("/", params={"token": f"wrong-{n}"}, headers={"x-forwarded-for": f"192.0.2.{n}"})
            for n in range(21)
        ]
    assert [answer.status_code for answer in answers] == [401] * 20 + [429]
    assert all("server" not in answer.headers for answer in answers)


def test_a_slow_body_is_refused_and_delays_no_other_request(desk: Desk, serve: Serve) -> None:
    url = serve(build_app(desk, body_seconds=1.0))

    def drip() -> object:
        for _ in range(15):
            yield b"x"
            time.sleep(0.1)

    statuses = []

    def upload() -> None:
        headers = {"origin": url.rstrip("/"), "content-type": "application/x-www-form-urlencoded"}
        try:
            statuses.append(httpx.post(f"{url}facet/0/cut", content=drip(), headers=headers).status_code)
        except httpx.HTTPError:  # the answer came before the body was sent, and the connection was closed
            statuses.append(408)

    clients = [threading.Thread(target=upload) for _ in range(8)]
    for client in clients:
        client.start()
    time.sleep(0.3)
    start = time.monotonic()
    assert httpx.get(url).status_code == 200
    assert time.monotonic() - start < 2
    for client in clients:
        client.join(20)
    assert statuses == [408] * 8


def test_pages_are_answered_while_the_model_computes(desk: Desk, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, release, statuses = threading.Event(), threading.Event(), []
    render = desk.pair.render

    def slowly(zs: list[Tensor]) -> Tensor:
        begun.set()
        release.wait(20)
        return render(zs)

    monkeypatch.setattr(desk.pair, "render", slowly)
    url = serve(build_app(desk))
    slow = threading.Thread(target=lambda: statuses.append(httpx.get(f"{url}samples", timeout=30).status_code))
    slow.start()
    assert begun.wait(10)
    try:
        for path in ("", "facet/0", "facet/0/group/0", "facet/0/map.png", "item/3", "assignments.csv"):
            assert httpx.get(url + path, timeout=5).status_code == 200
        assert statuses == []
    finally:
        release.set()
        slow.join(20)
    assert statuses == [200]
