"""Pages that do not change anything: facets, groups, members, items, the map."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.explore.dendrogram import draw_tree
from pyro_mfcvae.explore.desk import Desk, read_checks
from pyro_mfcvae.explore.items import csv_of
from pyro_mfcvae.explore.pictures import draw_map, is_inside, to_image, to_png
from pyro_mfcvae.explore.rendering import number, page, thumbs

PER_PAGE = 60
_EXAMPLES = 6
_MOST_CORNERS = 500
_RECTANGLE = {"left": "0", "right": "50", "bottom": "0", "top": "50"}  # the initial rectangle, in percent


def desk_of(request: Request) -> Desk:
    """The state that is shared by all requests."""
    desk: Desk = request.app.state.desk
    return desk


def facet_of(request: Request) -> tuple[Desk, int]:
    """The state, and the facet that the address names."""
    desk = desk_of(request)
    return desk, desk.check_facet(request.path_params["facet"])


def overview(request: Request) -> HTMLResponse:
    """All facets side by side, each with an example of its largest groups and the results of the checks."""
    desk = desk_of(request)
    findings = read_checks(desk.run)
    facets = []
    for j in range(desk.num_facets):
        view = desk.view(j)
        largest = [g for g in np.argsort(-view.sizes, kind="stable") if view.sizes[g]][:12]
        examples = thumbs(desk, [int(view.members(int(g))[0]) for g in largest])
        facets.append(
            {
                "facet": j,
                "num_groups": desk.grouping.num_groups[j],
                "num_clusters": desk.grouping.facets[j].tree.num_clusters,
                "examples": examples,
                "confidence": float(view.confidence.mean()),
                "sentence": findings.of(j),
            }
        )
    return page(request, desk, "overview.html", cards=facets, whole=findings.sentences[-1:])


def facet(request: Request) -> HTMLResponse:
    """The groups of a facet as tiles, its merge tree, and a slider for the number of groups."""
    desk, j = facet_of(request)
    sort = "confidence" if request.query_params.get("sort") == "confidence" else "size"
    return show_facet(request, desk, j, sort)


def show_facet(request: Request, desk: Desk, j: int, sort: str) -> HTMLResponse:
    """Render the page of `facet`, for a request of its address or after a change."""
    view, own = desk.view(j), desk.grouping.facets[j]
    by = view.mean_confidence if sort == "confidence" else view.sizes
    return page(
        request,
        desk,
        "facet.html",
        facet=j,
        sort=sort,
        groups=[group_record(desk, j, int(g), _EXAMPLES) for g in np.argsort(-by, kind="stable")],
        own=own,
        tree=draw_tree(own.tree),
        most_groups=len(own.tree.merges) + 1,
        findings=read_checks(desk.run),
    )


def group_record(desk: Desk, j: int, g: int, num_examples: int = 0) -> dict[str, Any]:
    """The contents of a group's tile."""
    view, own = desk.view(j), desk.grouping.facets[j]
    return {
        "group": g,
        "name": own.name(g),
        "size": int(view.sizes[g]),
        "share": float(view.sizes[g] / len(desk.items)),
        "confidence": float(view.mean_confidence[g]),
        "num_clusters": len(own.members(g)),
        "examples": thumbs(desk, view.members(g)[:num_examples].tolist()),
    }


def group(request: Request) -> HTMLResponse:
    """One group: its clusters, its members page by page, its nearest group, and its most frequent labels."""
    desk, j, g = group_of(request)
    view, own = desk.view(j), desk.grouping.facets[j]
    least = request.query_params.get("order") == "least"
    cluster = number(request.query_params, "cluster", -1)
    members = view.members(g, least_certain=least)
    in_cluster = desk.items.clusters[:, j]
    clusters = [{"cluster": k, "size": int((in_cluster[members] == k).sum())} for k in own.members(g)]
    labels = _shares_of_labels(desk, members)
    if cluster >= 0:
        members = members[in_cluster[members] == cluster]
    num_pages = max(1, -(-len(members) // PER_PAGE))
    current = min(max(number(request.query_params, "page", 1), 1), num_pages)
    shown = members[(current - 1) * PER_PAGE : current * PER_PAGE].tolist()
    return page(
        request,
        desk,
        "group.html",
        facet=j,
        own=own,
        this=group_record(desk, j, g),
        nearest=group_record(desk, j, int(view.nearest[g]), _EXAMPLES),
        clusters=clusters,
        cluster=cluster,
        others=[h for h in range(own.num_groups) if h != g],
        members=thumbs(desk, shown, view.confidence),
        num_members=len(members),
        current=current,
        num_pages=num_pages,
        order="least" if least else "most",
        labels=labels,
    )


def group_of(request: Request) -> tuple[Desk, int, int]:
    """The state, the facet and the group that the address names."""
    desk, j = facet_of(request)
    g: int = request.path_params["group"]
    most = desk.grouping.num_groups[j] - 1
    if g > most:
        raise InputError(f"expected a group from 0 to {most} of facet {j}, got {g}: choose one of these")
    return desk, j, g


def item(request: Request) -> HTMLResponse:
    """One item: its group in every facet, and the closest items in this facet."""
    desk = desk_of(request)
    n = desk.check_item(request.path_params["item"])
    return page(
        request,
        desk,
        "item.html",
        item=n,
        picture=thumbs(desk, [n])[0],
        places=[place_of_item(desk, j, n) for j in range(desk.num_facets)],
        labels={name: int(values[n]) for name, values in desk.items.labels.items()},
    )


def place_of_item(desk: Desk, j: int, n: int) -> dict[str, Any]:
    """Group, cluster and neighbours of an item in one facet."""
    return place(desk, j, desk.items.probs[j][n], desk.items.means[j][n])


def place(desk: Desk, j: int, probs: NDArray[np.floating], mean: NDArray[np.floating]) -> dict[str, Any]:
    """The group, the second best group, the cluster and the nearest items for given q(c_j | x) and E[z_j | x]."""
    own = desk.grouping.facets[j]
    sums = np.bincount(own.labels, weights=probs, minlength=own.num_groups)
    first, *rest = np.argsort(-sums, kind="stable")
    second = int(rest[0]) if rest else None
    return {
        "facet": j,
        "group": int(first),
        "name": own.name(int(first)),
        "prob": float(sums[first]),
        "second": None if second is None else {"group": second, "name": own.name(second), "prob": float(sums[second])},
        "cluster": int(np.argmax(probs)),
        "neighbours": thumbs(desk, desk.items.nearest(j, mean, 8)),
    }


def item_png(request: Request) -> Response:
    """An item's picture in full size."""
    desk = desk_of(request)
    n = desk.check_item(request.path_params["item"])
    return Response(to_png(to_image(desk.items.images[n])), media_type="image/png")


def latent_map(request: Request) -> HTMLResponse:
    """The map of a facet's z, with the items inside a drawn line or a rectangle."""
    desk, j = facet_of(request)
    view = desk.view(j)
    corners = _corners(request)
    inside = is_inside(desk.items.maps[j], corners) if corners else np.zeros(len(desk.items), bool)
    chosen = view.order[inside[view.order]]
    own = desk.grouping.facets[j]
    counts = np.bincount(view.groups[chosen], minlength=own.num_groups)
    return page(
        request,
        desk,
        "map.html",
        facet=j,
        own=own,
        sizes=view.sizes.tolist(),
        corners=corners,
        rectangle=[(key, request.query_params.get(key, default)) for key, default in _RECTANGLE.items()],
        num_chosen=len(chosen),
        counts=[(int(g), int(counts[g])) for g in np.argsort(-counts) if counts[g]],
        chosen=thumbs(desk, chosen[:PER_PAGE].tolist(), view.confidence),
    )


def map_png(request: Request) -> Response:
    """The dots of the map."""
    desk, j = facet_of(request)
    return Response(draw_map(desk.items.maps[j], desk.view(j).groups), media_type="image/png")


def export(request: Request) -> Response:
    """A table of all items, as CSV: group, its name, cluster and probability in every facet."""
    desk = desk_of(request)
    views = [desk.view(j) for j in range(desk.num_facets)]
    return StreamingResponse(
        csv_of(desk.items, views, [desk.grouping.names(j) for j in range(desk.num_facets)]),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": "attachment; filename=assignments.csv"},
    )


def checks(request: Request) -> HTMLResponse:
    """The results of the posterior checks."""
    desk = desk_of(request)
    return page(request, desk, "checks.html", findings=read_checks(desk.run))


def _shares_of_labels(desk: Desk, members: NDArray[np.int64]) -> list[tuple[str, list[tuple[int, float]]]]:
    """For every label set, the three most frequent values among some items, with their shares."""
    shares = []
    for name, values in desk.items.labels.items():
        known = values[members]
        known = known[known >= 0]
        found, counts = np.unique(known, return_counts=True)
        best = np.argsort(-counts, kind="stable")[:3]
        shares.append((name, [(int(found[b]), float(counts[b] / len(known))) for b in best]))
    return shares


def _corners(request: Request) -> list[tuple[float, float]]:
    """Corners of the drawn line, ``points=x,y;x,y;…``, or of a rectangle in percent; an empty list if nothing was
    drawn.
    """
    query = request.query_params
    try:
        if points := query.get("points"):
            pairs = [pair.split(",") for pair in points.split(";")]
            corners = [(float(x), float(y)) for x, y in pairs]
        elif "left" in query:
            left, right, bottom, top = (float(query.get(key, "")) / 100 for key in _RECTANGLE)
            corners = [(left, bottom), (right, bottom), (right, top), (left, top)]
        else:
            return []
    except ValueError:
        corners = []
    if not 3 <= len(corners) <= _MOST_CORNERS or not np.isfinite(corners).all():
        raise InputError(f"expected 3 to {_MOST_CORNERS} corners as numbers, got other values: draw the line again")
    return corners
