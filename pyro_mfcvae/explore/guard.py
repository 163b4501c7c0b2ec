"""Access control: Host, Origin and token are checked before a request reaches a page."""

import asyncio
import hmac
import ipaddress
import time
from collections import deque
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "mfcvae-token"
_SMALL_BODY = 64 * 2**10
_WRONG_TOKENS, _WINDOW, _MOST_KEPT = 20, 60.0, 2_000

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # "no-referrer" would make the Origin of our own forms "null"
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


class BodyError(Exception):
    """Raised if the body of a request is too large or arrives too slowly."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Guard:
    """Middleware that checks every request.

    - The Host header must name this machine (one of ``hosts``, or a numeric address), against DNS rebinding.
    - A request that changes something must come from a page of this server (its Origin is its Host), against CSRF.
    - If there is a token, a request must carry it: first as ``?token=…``, then as a cookie. A client address that sends
      20 wrong tokens within a minute, in either form, is refused until the minute is over.
    - The body of a request is limited in bytes and in seconds.

    Args:
        app: the application with the pages.
        hosts: host names that are accepted, without port.
        token: the secret, or None if everybody on this machine may see the page.
        upload_path: the path at which a body may have ``upload_bytes``; at all other paths the limit is 64 KiB.
        upload_bytes: the largest body for that path.
        frame_ancestors: the sites that may show the pages in a frame.
        body_seconds: the longest time for a body to arrive.
        render_error: function that makes the page of an error from its status and message.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: frozenset[str],
        token: str | None,
        upload_path: str,
        upload_bytes: int,
        frame_ancestors: str,
        body_seconds: float,
        render_error: Callable[[int, str], Response],
    ) -> None:
        self.app, self.hosts, self.token = app, hosts, token
        self.upload_path, self.upload_bytes = upload_path, upload_bytes
        self.body_seconds, self.render_error = body_seconds, render_error
        self.policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
            f"form-action 'self'; base-uri 'none'; frame-ancestors {frame_ancestors}"
        )
        self._wrong: deque[tuple[float, str]] = deque(maxlen=_MOST_KEPT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"expected an HTTP request, got {scope['type']}: this server answers only HTTP")
        headers = Headers(scope=scope)

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    answer.setdefault(name, value)
                answer["Content-Security-Policy"] = self.policy
            await send(message)

        try:
            response = self._refuse(scope, headers) or self._ask_token(scope, headers)
            if response is None:
                await self.app(scope, self._bound(scope, headers, receive), send_safely)
                return
        except BodyError as error:
            response = self.render_error(error.status, error.message)
        await response(scope, receive, send_safely)

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        name = _name_of(host)
        if name is None or not (name in self.hosts or _is_address(name)):
            return self.render_error(421, "expected a request to this machine's own address, got another Host")
        if scope["method"] in ("GET", "HEAD"):
            embedded = headers.get("sec-fetch-dest", "document") not in ("document", "iframe", "empty")
            if headers.get("sec-fetch-site") == "cross-site" and embedded:
                return self.render_error(403, "expected a request of this page, got one of another site")
            return None
        if headers.get("origin") not in (f"http://{host}", f"https://{host}"):
            return self.render_error(403, "expected a change made on this page, got one from another Origin")
        return None

    def _ask_token(self, scope: Scope, headers: Headers) -> Response | None:
        name = f"{COOKIE}-{scope['server'][1]}"  # browsers share cookies between all ports of a host
        if self.token is None or scope["path"].startswith("/static/"):
            return None
        client = scope["client"][0] if scope.get("client") else ""
        if self._is_locked(client):
            return self.render_error(429, "too many wrong tokens came from your address: wait a minute")
        known = _cookie(headers, name)
        if _same(known, self.token):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if not _same(given, self.token):
            if given or known:
                self._wrong.append((time.monotonic(), client))
            return self.render_error(401, "expected the address with its token, as mfcvae explore printed it")
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(name, self.token, httponly=True, samesite="strict", path="/")
        return response

    def _is_locked(self, client: str) -> bool:
        """Whether this address has sent too many wrong tokens within the last minute."""
        now = time.monotonic()
        while self._wrong and self._wrong[0][0] < now - _WINDOW:
            self._wrong.popleft()
        return sum(address == client for _, address in self._wrong) >= _WRONG_TOKENS

    def _bound(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """Wrap ``receive`` so that it raises an error after too many bytes or seconds."""
        most = self.upload_bytes if scope["path"] == self.upload_path else _SMALL_BODY
        too_large = BodyError(413, f"expected at most {most:,} bytes, got more: send less")
        length = headers.get("content-length", "0")
        if not (length.isdecimal() and len(length) < 20) or int(length) > most:
            raise too_large
        deadline = time.monotonic() + self.body_seconds
        state: dict[str, Any] = {"bytes": 0, "done": False}

        async def bounded() -> Message:
            if state["done"]:  # after the body, the only further message is that the client has disconnected
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise BodyError(408, "expected the whole request in time, got a part of it: send it again") from None
            state["bytes"] += len(message.get("body", b""))
            state["done"] = not message.get("more_body", False)
            if state["bytes"] > most:
                raise too_large
            return message

        return bounded


def _name_of(host: str) -> str | None:
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises an error if the port is not a number
    except ValueError:
        return None
    return None if parts.username is not None or parts.path or parts.query else parts.hostname


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookie(headers: Headers, name: str) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())
