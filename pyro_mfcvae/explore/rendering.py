"""Templates, and the values that every page needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.explore.desk import Desk
from pyro_mfcvae.explore.pictures import colour_of, to_data_uri

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("pyro_mfcvae.explore"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["colour"] = colour_of
_ENVIRONMENT.filters["percent"] = lambda share: f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %"
_ENVIRONMENT.filters["count"] = lambda number: f"{number:,}"


@dataclass(frozen=True)
class Thumb:
    """An item as a page shows it."""

    item: int
    name: str
    uri: str
    confidence: float | None = None


def show(template: str, **values: Any) -> HTMLResponse:
    """A rendered template."""
    return HTMLResponse(_ENVIRONMENT.get_template(template).render(**values))


def page(request: Request, desk: Desk, template: str, **values: Any) -> HTMLResponse:
    """Render a whole page, or for a request of htmx only the part in the template ``_name.html``."""
    part = "HX-Request" in request.headers
    shared = {"desk": desk, "facets": range(desk.num_facets), "run": desk.run.path.resolve().name, "part": part}
    response = show(f"_{template}" if part else template, **shared, **values)
    response.headers["Vary"] = "HX-Request"
    return response


def error_page(status: int, message: str, *, part: bool = False) -> Response:
    """Render the page of an error, or for a request of htmx a part that replaces the requested part."""
    response = show("_error.html" if part else "error.html", status=status, message=message)
    response.status_code = status
    return response


def thumbs(desk: Desk, items: Sequence[int], confidence: Any = None) -> list[Thumb]:
    """Items as pictures inside the page, with their confidence if it is given for all items."""
    return [
        Thumb(
            item=int(n),
            name=desk.items.name(int(n)),
            uri=to_data_uri(desk.items.images[int(n)]),
            confidence=None if confidence is None else float(confidence[n]),
        )
        for n in items
    ]


def number(values: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """Read a whole number from the fields of a form or the parameters of an address."""
    text = values.get(name, "")
    if text == "" and default is not None:
        return default
    try:
        return int(str(text)[:20])
    except ValueError:
        raise InputError(f"expected a whole number for {name!r}, got {str(text)[:20]!r}: give one") from None


def decimal(values: Mapping[str, Any], name: str, default: float) -> float:
    """Read a finite number from the parameters of an address."""
    text = str(values.get(name, ""))[:40]
    if text == "":
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9:
        raise InputError(f"expected a number for {name!r}, got {text!r}: give one")
    return value
