"""Which requests are answered: Host, Origin, token, limits on size and time; and the headers of answers."""

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from pyro_mfcvae.explore import guard
from pyro_mfcvae.explore.app import build_app
from pyro_mfcvae.explore.desk import Desk
from pyro_mfcvae.explore.uploads import MAX_BYTES

TOKEN = "a-token-of-a-test"
FOREIGN = [
    "evil.example",
    "localhost.evil.example",
    "localhost@evil.example",
    "evil.example@localhost",
    "localhost/x",
    "localhost?x",
    "",
    "a b",
    "localhost:x",
    "evil.example:80",
]


@pytest.mark.parametrize("host", FOREIGN)
def test_another_host_is_refused(client: TestClient, host: str) -> None:
    for path in ("/", "/static/htmx.min.js", "/assignments.csv"):
        response = client.get(path, headers={"host": host})
        assert response.status_code == 421
        assert "Facet" not in response.text


@pytest.mark.parametrize("host", ["localhost", "localhost:8765", "LOCALHOST", "127.0.0.1:1", "[::1]:8765", "192.0.2.7"])
def test_names_and_addresses_of_this_machine_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:81", "http://127.0.0.1", None])
def test_a_change_from_a_foreign_origin_is_refused(desk: Desk, visit: Callable[..., TestClient], origin: str) -> None:
    client = visit(build_app(desk))
    headers = {} if origin is None else {"origin": origin}
    before = desk.grouping
    for path, fields in (("/facet/0/cut", {"num_groups": "4", "version": "0"}), ("/undo", {}), ("/upload", {})):
        response = client.post(path, data=fields, headers=headers)
        assert response.status_code == 403
        assert "another Origin" in response.text
    assert desk.grouping is before


def test_pictures_are_not_for_pages_of_other_sites(client: TestClient) -> None:
    foreign = {"sec-fetch-site": "cross-site"}
    assert client.get("/item/0.png", headers={**foreign, "sec-fetch-dest": "image"}).status_code == 403
    assert client.get("/static/explore.js", headers={**foreign, "sec-fetch-dest": "script"}).status_code == 403
    assert client.get("/", headers={**foreign, "sec-fetch-dest": "document"}).status_code == 200


def test_every_answer_carries_the_headers(client: TestClient) -> None:
    for path in ("/", "/nowhere", "/static/pico.min.css", "/facet/9", "/item/0.png"):
        for host in ("localhost", "evil.example"):
            headers = client.get(path, headers={"host": host}).headers
            assert headers["content-security-policy"] == (
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
                "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
            )
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "same-origin"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert headers["cross-origin-opener-policy"] == "same-origin"
            assert headers["permissions-policy"] == "camera=(), microphone=(), geolocation=()"
            is_file = path.startswith("/static/") and host == "localhost"
            assert headers["cache-control"] == ("max-age=3600" if is_file else "no-store")
            assert "server" not in headers


def test_a_token_opens_the_page_once_and_a_cookie_from_then_on(desk: Desk, visit: Callable[..., TestClient]) -> None:
    client = visit(build_app(desk, token=TOKEN))
    assert client.get("/").status_code == 401
    assert client.get("/assignments.csv").status_code == 401
    response = client.get(f"/?token={TOKEN}")
    assert (response.status_code, response.headers["location"]) == (303, "/")
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert client.get("/").status_code == 200
    assert TOKEN not in client.get("/").text


def coming_from(app: ASGIApp, address: str) -> ASGIApp:
    """The application for a client of this address. The test client of Starlette 0.41 cannot choose its address."""

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "client": (address, 5)}, receive, send)

    return called


@pytest.mark.parametrize("way", ["address", "cookie"])
def test_an_address_with_many_wrong_tokens_is_refused(desk: Desk, way: str) -> None:
    app = build_app(desk, token=TOKEN)
    stranger, visitor = (
        TestClient(coming_from(app, address), base_url="http://localhost", follow_redirects=False)
        for address in ("192.0.2.1", "192.0.2.2")
    )
    visitor.get(f"/?token={TOKEN}")

    def guess(token: str) -> int:
        if way == "address":
            return stranger.get(f"/?token={token}").status_code
        return stranger.get("/", headers={"cookie": f"mfcvae-token-80={token}"}).status_code

    assert [guess(f"wrong-{n}") for n in range(25)] == [401] * 20 + [429] * 5
    assert guess(TOKEN) == 429
    assert "too many wrong tokens came from your address" in stranger.get("/").text
    assert visitor.get("/").status_code == 200
    assert visitor.get(f"/?token={TOKEN}").status_code == 200  # other addresses are not affected


def test_a_refused_address_is_answered_again_after_a_minute(
    desk: Desk, visit: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = visit(build_app(desk, token=TOKEN))
    for n in range(20):
        client.get(f"/?token=wrong-{n}")
    assert client.get(f"/?token={TOKEN}").status_code == 429
    assert guard._WINDOW == 60
    monkeypatch.setattr(guard, "_WINDOW", 0.0)  # a minute later
    assert client.get(f"/?token={TOKEN}").status_code == 303


def test_a_large_body_is_refused_by_its_header_and_by_its_bytes(client: TestClient) -> None:
    def drip(num: int) -> object:
        yield from (b"x" * 2**16 for _ in range(num))

    form = {"content-type": "multipart/form-data; boundary=b"}
    for path, most in (("/upload", MAX_BYTES + 2**16), ("/facet/0/cut", 2**16)):
        assert client.post(path, content=b"x", headers={**form, "content-length": str(most + 1)}).status_code == 413
        response = client.post(path, content=drip(most // 2**16 + 1), headers=form)
        assert response.status_code == 413
        assert f"expected at most {most:,} bytes" in response.text
    assert client.post("/upload", content=b"x", headers={**form, "content-length": "-1"}).status_code == 413
