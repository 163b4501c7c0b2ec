"""The web application: its addresses and pages."""

import logging
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.explore import actions, pages, synthesis
from pyro_mfcvae.explore.desk import BusyError, Desk, StaleError
from pyro_mfcvae.explore.guard import BodyError, Guard
from pyro_mfcvae.explore.rendering import error_page
from pyro_mfcvae.explore.uploads import MAX_BYTES

_log = logging.getLogger(__name__)

_STATIC = {
    "htmx.min.js": "text/javascript",
    "explore.js": "text/javascript",
    "pico.min.css": "text/css",
    "explore.css": "text/css",
}
_UPLOAD = "/upload"
_FORM_OVERHEAD = 2**16

_ROUTES = [
    Route("/", pages.overview),
    Route("/facet/{facet:int}", pages.facet),
    Route("/facet/{facet:int}/cut", actions.cut, methods=["POST"]),
    Route("/facet/{facet:int}/merge", actions.merge, methods=["POST"]),
    Route("/facet/{facet:int}/group/{group:int}", pages.group),
    Route("/facet/{facet:int}/group/{group:int}/name", actions.rename, methods=["POST"]),
    Route("/facet/{facet:int}/group/{group:int}/split", actions.split, methods=["POST"]),
    Route("/facet/{facet:int}/map", pages.latent_map),
    Route("/facet/{facet:int}/map.png", pages.map_png),
    Route("/facet/{facet:int}/latent", synthesis.latent),
    Route("/item/{item:int}", pages.item),
    Route("/item/{item:int}.png", pages.item_png),
    Route("/samples", synthesis.samples),
    Route("/swap", synthesis.swap),
    Route(_UPLOAD, synthesis.upload_form),
    Route(_UPLOAD, synthesis.upload, methods=["POST"]),
    Route("/checks", pages.checks),
    Route("/undo", actions.undo, methods=["POST"]),
    Route("/assignments.csv", pages.export),
]


def build_app(
    desk: Desk,
    *,
    hosts: frozenset[str] = frozenset({"localhost"}),
    token: str | None = None,
    frame_ancestors: str = "'none'",
    body_seconds: float = 30.0,
) -> ASGIApp:
    """Build the ASGI application with the pages of one run, protected by `Guard`.

    Args:
        desk: the run, its items and groups.
        hosts: host names that are answered, in addition to numeric addresses.
        token: the secret that a visitor needs; if None, anybody who can connect sees the page.
        frame_ancestors: the sites that may show these pages in a frame, in the form of the content security policy.
        body_seconds: the longest time for the body of a request.
    """
    app = Starlette(
        routes=[*_ROUTES, *_static_routes()],
        exception_handlers={
            InputError: _answer_input_error,
            BodyError: _answer_body_error,
            OSError: _answer_os_error,
            HTTPException: _answer_http_error,
            Exception: _answer_bug,
        },
    )
    app.state.desk = desk
    return Guard(
        app,
        hosts=hosts,
        token=token,
        upload_path=_UPLOAD,
        upload_bytes=MAX_BYTES + _FORM_OVERHEAD,
        frame_ancestors=frame_ancestors,
        body_seconds=body_seconds,
        render_error=error_page,
    )


def _static_routes() -> list[Route]:
    """The static files. They are read once, so that no address is used as a path."""
    folder = files("pyro_mfcvae.explore") / "static"
    return [_static_route(name, (folder / name).read_bytes(), kind) for name, kind in _STATIC.items()]


def _static_route(name: str, content: bytes, kind: str) -> Route:
    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "max-age=3600"})

    return Route(f"/static/{name}", answer)


async def _answer_input_error(request: Request, error: Exception) -> Response:
    status = 409 if isinstance(error, StaleError) else 503 if isinstance(error, BusyError) else 400
    return _error(request, status, str(error))


async def _answer_body_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, BodyError)
    return _error(request, error.status, error.message)


async def _answer_os_error(request: Request, error: Exception) -> Response:
    """Answer an error of the system, such as a full disk. Nothing was changed."""
    assert isinstance(error, OSError)
    where, reason = error.filename or "the run's folder", (error.strerror or "it failed").lower()
    return _error(request, 507, f"cannot use {where}: {reason}")


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(request, error.status_code, "there is no such page" if error.status_code == 404 else error.detail)


async def _answer_bug(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _error(request, 500, "this page failed; the terminal of mfcvae explore shows why")


def _error(request: Request, status: int, message: str) -> Response:
    return error_page(status, message, part="HX-Request" in request.headers)
