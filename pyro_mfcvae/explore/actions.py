"""Requests that change the groups: cut, name, merge, split, undo. The answer is a page or a part of a page."""

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.explore.pages import desk_of, facet_of, group_of, show_facet
from pyro_mfcvae.explore.rendering import number
from pyro_mfcvae.runs.grouping import Grouping

_MOST_FIELDS = 2_000
_LONGEST_NAME = 60


async def cut(request: Request) -> Response:
    """Cut the merge tree of a facet at a number of groups. A group that existed before gets its name back."""
    desk, j = facet_of(request)
    form = await read_form(request)
    num_groups = number(form, "num_groups")
    desk.change(number(form, "version"), lambda grouping: grouping.cut(j, num_groups).recall(j, desk.history))
    if "HX-Request" in request.headers:
        return show_facet(request, desk, j, "confidence" if form.get("sort") == "confidence" else "size")
    return _to(f"/facet/{j}")


async def rename(request: Request) -> Response:
    """Give a group a name."""
    desk, j, g = group_of(request)
    form = await read_form(request)
    name = " ".join(str(form.get("name", "")).split())
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise InputError(
            f"expected a name of at most {_LONGEST_NAME} printable characters, got {len(name)}: choose a shorter one"
        )
    desk.change(number(form, "version"), lambda grouping: grouping.rename(j, g, name))
    return _to(f"/facet/{j}/group/{g}")


async def merge(request: Request) -> Response:
    """Merge the ticked groups into one."""
    desk, j = facet_of(request)
    form = await read_form(request)
    groups = _numbers(form, "groups")
    desk.change(number(form, "version"), lambda grouping: grouping.merge(j, groups))
    return _to(f"/facet/{j}/group/{min(groups)}")


async def split(request: Request) -> Response:
    """Move the ticked clusters of a group to a new group."""
    desk, j, g = group_of(request)
    form = await read_form(request)
    clusters = _numbers(form, "clusters")

    def edit(grouping: Grouping) -> Grouping:
        own = grouping.facets[j].members(g)
        if not clusters or not set(clusters) < set(own):
            raise InputError(
                f"expected some of the clusters {', '.join(map(str, own))}, but not all, got "
                f"{', '.join(map(str, clusters)) or 'none'}: tick others"
            )
        return grouping.split(j, clusters)

    desk.change(number(form, "version"), edit)
    return _to(f"/facet/{j}/group/{desk.grouping.num_groups[j] - 1}")


async def undo(request: Request) -> Response:
    """Undo the last change."""
    desk = desk_of(request)
    form = await read_form(request)
    desk.undo()
    back = number(form, "facet", 0)
    return _to(f"/facet/{desk.check_facet(back)}")


async def read_form(request: Request) -> FormData:
    """The fields of a form without files."""
    return await request.form(max_files=0, max_fields=_MOST_FIELDS)


def _numbers(form: FormData, name: str) -> list[int]:
    return [number({name: value}, name) for value in form.getlist(name)]


def _to(path: str) -> RedirectResponse:
    return RedirectResponse(path, status_code=303)
