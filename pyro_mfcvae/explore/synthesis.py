"""Pages that use the model: new samples, swapped facets, a walk along a dimension, and an image of the user."""

from typing import Any

import numpy as np
import torch
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import HTMLResponse

from pyro_mfcvae.data.images import as_float
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.explore.desk import Desk
from pyro_mfcvae.explore.pages import desk_of, facet_of, group_record, place
from pyro_mfcvae.explore.pictures import to_data_uri
from pyro_mfcvae.explore.rendering import decimal, number, page, thumbs
from pyro_mfcvae.explore.uploads import read_upload
from pyro_mfcvae.runs.compositions import draw_groups

_NUM_SAMPLES = 24
_STEPS = 9
_LARGE = 256


async def samples(request: Request) -> HTMLResponse:
    """New images from the model. Each facet is in a chosen group, or drawn freely."""
    desk = desk_of(request)
    chosen = {}
    for j in range(desk.num_facets):
        g = number(request.query_params, f"facet{j}", -1)
        if g >= desk.grouping.num_groups[j]:
            raise InputError(f"expected a group from 0 to {desk.grouping.num_groups[j] - 1}, got {g}: choose another")
        if g >= 0:
            chosen[j] = g
    temperature = decimal(request.query_params, "temperature", 1.0)
    if not 0 <= temperature <= 2:
        raise InputError(f"expected a temperature from 0 to 2, got {temperature:g}: choose another")

    def draw() -> list[str]:
        drawn = draw_groups(desk.pair, desk.grouping, chosen, num=_NUM_SAMPLES, temperature=temperature)
        return [to_data_uri(image, _LARGE) for image in drawn]

    images = await desk.compute(draw)
    names = [list(desk.grouping.names(j)) for j in range(desk.num_facets)]
    return page(
        request, desk, "samples.html", images=images, chosen=chosen, names=names, temperature=f"{temperature:g}"
    )


async def swap(request: Request) -> HTMLResponse:
    """Two items side by side, and below them the same items with some facets exchanged."""
    desk = desk_of(request)
    query = request.query_params
    first = desk.check_item(number(query, "a", 0))
    second = desk.check_item(number(query, "b", min(1, len(desk.items) - 1)))
    taken = [j for j in range(desk.num_facets) if f"facet{j}" in query]

    def compose() -> list[str]:
        x = as_float(desk.items.images[[first, second]])
        composed = desk.pair.swap(x, x.flip(0), facets=taken)
        return [to_data_uri(image, _LARGE) for image in composed]

    composed = await desk.compute(compose)
    rows = [
        {"facet": j, "a": _group_name(desk, j, first), "b": _group_name(desk, j, second)}
        for j in range(desk.num_facets)
    ]
    own = [to_data_uri(desk.items.images[n], _LARGE) for n in (first, second)]
    return page(request, desk, "swap.html", a=first, b=second, taken=taken, own=own, composed=composed, rows=rows)


async def latent(request: Request) -> HTMLResponse:
    """An item with one changed coordinate of z in one facet, and the groups of the result."""
    desk, j = facet_of(request)
    n = desk.check_item(number(request.query_params, "item", 0))
    dim = number(request.query_params, "dim", 0)
    num_dims = desk.pair.model.facets[j].latent_dim
    if not 0 <= dim < num_dims:
        raise InputError(f"expected a dimension from 0 to {num_dims - 1}, got {dim}: choose one of these")
    column = desk.items.means[j][:, dim]
    low, high = (float(q) for q in np.quantile(column, (0.005, 0.995)))
    own = float(column[n])
    value = decimal(request.query_params, "value", own)

    def walk() -> tuple[list[str], dict[str, Any]]:
        values = torch.tensor([*np.linspace(low, high, _STEPS), value], dtype=torch.get_default_dtype())
        images = desk.pair.traverse(as_float(desk.items.images[n : n + 1]), facet=j, dim=dim, values=values)[:, 0]
        mean = desk.items.means[j][n].copy()
        mean[dim] = value
        prior = desk.pair.priors[j]
        z = torch.from_numpy(mean)[None].to(prior.log_weights())
        probs = (prior.log_prob(z) + prior.log_weights()).softmax(-1)[0].numpy()
        return [to_data_uri(image, _LARGE) for image in images], place(desk, j, probs, mean)

    (*strip, moved), where = await desk.compute(walk)
    return page(
        request,
        desk,
        "latent.html",
        facet=j,
        item=n,
        dim=dim,
        num_dims=num_dims,
        low=f"{low:.4f}",
        high=f"{high:.4f}",
        step=f"{max((high - low) / 200, 1e-4):.4f}",
        value=f"{value:.4f}",
        own=f"{own:.2f}",
        picture=to_data_uri(desk.items.images[n], _LARGE),
        strip=strip,
        moved=moved,
        where=where,
    )


async def upload_form(request: Request) -> HTMLResponse:
    """The page with the form for an image of the user."""
    return page(request, desk_of(request), "upload.html", result=None)


async def upload(request: Request) -> HTMLResponse:
    """The group of an image of the user in every facet, and how typical the image is."""
    desk = desk_of(request)
    async with request.form(max_files=1, max_fields=4) as form:
        file = form.get("image")
        if not isinstance(file, UploadFile) or not file.filename:
            raise InputError("expected an image file, got none: choose one")
        name, content = file.filename, await file.read()
    x = await run_in_threadpool(read_upload, content, desk.pair.model.event_shape)

    def ask() -> dict[str, Any]:
        probs, means = desk.pair.assign(x), [posterior.mean for posterior in desk.pair.encode(x)]
        facets = range(desk.num_facets)
        return {
            "name": name,
            "picture": to_data_uri(x[0], _LARGE),
            "reconstruction": to_data_uri(desk.pair.reconstruct(x)[0], _LARGE),
            "typicality": desk.typicality(x),
            "places": [place(desk, j, probs[j][0].numpy(), means[j][0].numpy()) for j in facets],
        }

    return page(request, desk, "upload.html", result=await desk.compute(ask))


def _group_name(desk: Desk, j: int, n: int) -> dict[str, Any]:
    record = group_record(desk, j, int(desk.view(j).groups[n]))
    return {"group": record["group"], "name": record["name"], "thumb": thumbs(desk, [n])[0]}
