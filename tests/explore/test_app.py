"""Every page and every change through the whole application, and requests of attackers."""

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pyro_mfcvae.explore.app import build_app
from pyro_mfcvae.explore.desk import Desk
from pyro_mfcvae.runs.folder import RunFolder

PAGES = [
    "/",
    "/facet/0",
    "/facet/1?sort=confidence",
    "/facet/0/group/0",
    "/facet/0/group/0?order=least&page=99",
    "/facet/0/group/1?cluster=1",
    "/facet/0/map",
    "/facet/0/map?left=0&right=50&bottom=0&top=50",
    "/facet/0/map?points=0,0;1,0;0.5,1",
    "/facet/1/latent?item=3&dim=1&value=0.5",
    "/item/0",
    "/samples?facet0=1&facet1=-1&temperature=0.5",
    "/swap?a=0&b=5&facet1=on",
    "/upload",
    "/checks",
]
SCRIPT = "<script>alert(1)</script>"


def post(client: TestClient, desk: Desk, path: str, **fields: object) -> int:
    return client.post(path, data={"version": desk.version, **fields}).status_code


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height), 90).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("path", PAGES)
def test_pages_have_no_inline_script_or_style(client: TestClient, path: str) -> None:
    for headers in ({}, {"HX-Request": "true"}):
        response = client.get(path, headers=headers)
        assert response.status_code == 200
        assert not re.search(r"\sstyle=|\son\w+=|<style|<script(?! src=)", response.text)
        assert "://" not in re.sub(r"data:[^\"]*", "", response.text)
    assert "<html" not in response.text or path in ("/", "/item/0", "/checks")


def test_pictures_are_pngs(client: TestClient) -> None:
    for path, size in (("/item/3.png", (6, 6)), ("/facet/0/map.png", (720, 480))):
        response = client.get(path)
        assert response.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(response.content)).size == size


def test_groups_are_cut_named_merged_split_and_restored(client: TestClient, desk: Desk) -> None:
    assert post(client, desk, "/facet/0/cut", num_groups=4) == 303
    assert desk.grouping.num_groups == (4, 2)
    assert post(client, desk, "/facet/0/group/1/name", name="  round \n ones") == 303
    assert desk.grouping.facets[0].names[1] == "round ones"
    before = desk.grouping.facets[0].labels
    assert post(client, desk, "/facet/0/merge", groups=["1", "3"]) == 303
    assert desk.grouping.num_groups == (3, 2)
    assert desk.grouping.facets[0].names[1] == "round ones"
    members = desk.grouping.facets[0].members(1)
    assert members == sorted(np.flatnonzero((before == 1) | (before == 3)).tolist())
    assert post(client, desk, "/facet/0/group/1/split", clusters=members[:1]) == 303
    assert desk.grouping.num_groups == (4, 2)
    for num_groups in (3, 4):
        assert client.post("/undo", data={"facet": "0"}).headers["location"] == "/facet/0"
        assert desk.grouping.num_groups == (num_groups, 2)
    assert np.array_equal(desk.grouping.facets[0].labels, before)


def test_changes_are_kept_in_the_run(client: TestClient, desk: Desk) -> None:
    assert post(client, desk, "/facet/1/group/0/name", name="dark") == 303
    kept = RunFolder.open(desk.run.path).read_grouping()
    assert kept.names(1) == desk.grouping.names(1)
    assert "dark" in kept.names(1)
    client.post("/undo", data={"facet": "1"})
    assert "dark" not in RunFolder.open(desk.run.path).read_grouping().names(1)


def test_an_outdated_form_changes_nothing(client: TestClient, desk: Desk) -> None:
    fields = {"version": desk.version, "groups": ["0", "1"]}
    assert post(client, desk, "/facet/0/cut", num_groups=4) == 303
    response = client.post("/facet/0/merge", data=fields)
    assert response.status_code == 409
    assert "the groups changed in another window" in response.text
    assert desk.grouping.num_groups == (4, 2)


def test_the_slider_answers_with_the_tiles_alone(client: TestClient, desk: Desk) -> None:
    response = client.post(
        "/facet/0/cut", data={"version": desk.version, "num_groups": 2}, headers={"HX-Request": "true"}
    )
    assert response.status_code == 200
    assert response.text.count('<article class="tile">') == 2
    assert f'value="{desk.version}"' in response.text
    assert "<html" not in response.text


def test_all_members_are_shown_sorted_and_in_pages(client: TestClient, desk: Desk) -> None:
    view = desk.view(0)
    for order in ("most", "least"):
        listed: list[int] = []
        for page in range(1, 5):
            text = client.get(f"/facet/0/group/0?order={order}&page={page}", headers={"HX-Request": "true"}).text
            found = [int(n) for n in re.findall(r'href="/item/(\d+)"', text)]
            listed += found if found != listed[-len(found) :] else []
        confidence = view.confidence[listed]
        assert sorted(listed) == np.flatnonzero(view.groups == 0).tolist()
        assert np.all(np.diff(confidence) <= 0 if order == "most" else np.diff(confidence) >= 0)


def test_the_export_has_the_current_groups(client: TestClient, desk: Desk) -> None:
    assert post(client, desk, "/facet/0/group/0/name", name="=1+1") == 303
    rows = list(csv.DictReader(io.StringIO(client.get("/assignments.csv").text)))
    assert [int(row["item"]) for row in rows] == list(range(200))
    for j in (0, 1):
        assert [int(row[f"group_{j}"]) for row in rows] == desk.view(j).groups.tolist()
        assert [int(row[f"cluster_{j}"]) for row in rows] == desk.items.clusters[:, j].tolist()
    assert {row["name_0"] for row in rows if row["group_0"] == "0"} == {"'=1+1"}


def test_an_uploaded_image_is_assigned_to_groups(client: TestClient, desk: Desk) -> None:
    buffer = io.BytesIO()
    Image.fromarray(desk.items.images[7, 0].numpy()).save(buffer, "PNG")
    text = client.post("/upload", files={"image": (f"{SCRIPT}.png", buffer.getvalue())}).text
    assert "&lt;script&gt;" in text
    assert SCRIPT not in text
    assert text.count('href="/item/7"') == 2  # the closest item in both facets is the item itself
    for j in (0, 1):
        assert f'href="/facet/{j}/group/{desk.view(j).groups[7]}"' in text


def test_the_map_lists_the_items_inside(client: TestClient, desk: Desk) -> None:
    points = desk.items.maps[0]
    inside = int(((points[:, 0] < 0.5) & (points[:, 1] < 0.25)).sum())
    text = client.get("/facet/0/map?left=-1&right=50&bottom=-1&top=25", headers={"HX-Request": "true"}).text
    assert f"{inside:,} items inside" in text


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/nowhere", 404, "there is no such page"),
        ("/facet/2", 400, "expected a facet from 0 to 1, got 2"),
        ("/facet/-1", 404, "there is no such page"),
        ("/facet/0/group/77", 400, "expected a group from 0 to 2 of facet 0, got 77"),
        ("/item/200", 400, "expected an item from 0 to 199, got 200"),
        ("/item/99999999999999999999999999", 400, "expected an item from 0 to 199"),
        ("/facet/0/group/0?page=x", 400, "expected a whole number for &#39;page&#39;"),
        ("/facet/0/latent?dim=5", 400, "expected a dimension from 0 to 1, got 5"),
        ("/facet/0/latent?value=nan", 400, "expected a number for &#39;value&#39;"),
        ("/samples?facet0=9", 400, "expected a group from 0 to 2, got 9"),
        ("/samples?temperature=3", 400, "expected a temperature from 0 to 2, got 3"),
        ("/swap?a=-1", 400, "expected an item from 0 to 199, got -1"),
        ("/facet/0/map?points=0,0;1,1", 400, "expected 3 to 500 corners"),
        ("/facet/0/map?points=a", 400, "expected 3 to 500 corners"),
        ("/facet/0/map?points=" + ";".join(["nan,1"] * 3), 400, "expected 3 to 500 corners"),
    ],
)
def test_errors_are_pages(client: TestClient, path: str, status: int, message: str) -> None:
    for headers in ({}, {"HX-Request": "true"}):
        response = client.get(path, headers=headers)
        assert response.status_code == status
        assert message in response.text
        assert 'role="alert"' in response.text


def test_a_bug_gives_a_page_without_a_traceback(
    client: TestClient, desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(Desk, "view", fail)
    response = client.get("/facet/0")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    assert "GET /facet/0 failed" in caplog.text


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("/facet/0/cut", {"num_groups": "9"}, "expected a number of groups between 1 and"),
        ("/facet/0/cut", {"num_groups": ""}, "expected a whole number"),
        ("/facet/0/merge", {"groups": ["0"]}, "expected two groups or more to merge"),
        ("/facet/0/merge", {"groups": ["0", "9"]}, "expected a group from 0 to 2, got 9"),
        ("/facet/0/group/0/split", {}, "but not all, got none"),
        ("/facet/0/group/0/split", {"clusters": ["99"]}, "but not all, got 99"),
        ("/facet/0/group/0/name", {"name": "x" * 61}, "expected a name of at most 60 printable characters"),
        ("/facet/0/group/0/name", {"name": "a\x1b[31m"}, "expected a name of at most 60 printable characters"),
    ],
)
def test_changes_that_do_not_fit_are_refused(
    client: TestClient, desk: Desk, path: str, fields: dict[str, object], message: str
) -> None:
    before = desk.grouping
    response = client.post(path, data={"version": desk.version, **fields})
    assert response.status_code == 400
    assert message in response.text
    assert desk.grouping is before
    assert not desk.run.groups_path.exists()


def test_script_in_names_and_labels_is_text(client: TestClient, desk: Desk) -> None:
    labels, names = {SCRIPT: desk.items.labels["side"]}, [f"{SCRIPT}{n}.png" for n in range(200)]
    desk.items = replace(desk.items, labels=labels, names=names)
    assert post(client, desk, "/facet/0/group/0/name", name=SCRIPT) == 303
    for path in PAGES:
        assert SCRIPT not in client.get(path).text
    assert "&lt;script&gt;" in client.get("/facet/0").text


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/%252e%252e/app.py",
        "/static//etc/passwd",
        "/static/....//app.py",
        "/../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/item/..%2f..%2fconfig.toml",
        "/config.toml",
        "/item/0.png/../../../config.toml",
        "/static/explore.css%00.html",
    ],
)
def test_no_address_is_a_path(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code in (404, 400)
    assert "root:" not in response.text
    assert "import" not in response.text


def test_a_link_out_of_the_run_is_not_followed(client: TestClient, desk: Desk) -> None:
    record = {"name": "leak", "asks": "?", "value": 1, "unit": "", "verdict": "bad", "advice": "", "facet": None}
    outside = desk.run.path.parent / "outside.json"
    outside.write_text(json.dumps({"sentences": ["facet 0: fine", "facet 1: fine", "use it"], "checks": [record]}))
    inside = desk.run.path / "checks"
    inside.mkdir()
    (inside / "checks.json").symlink_to(outside)
    assert "leak" not in client.get("/checks").text
    (inside / "checks.json").unlink()
    (inside / "checks.json").write_text(outside.read_text())
    assert "leak" in client.get("/checks").text
    assert "facet 1: fine" in client.get("/facet/1").text
    assert "use it" in client.get("/").text


@pytest.mark.parametrize("content", ["{", "[1]", '{"sentences": 1}', '{"checks": []}', "null", "\ud800"])
def test_damaged_checks_are_passed_over(client: TestClient, desk: Desk, content: str) -> None:
    (desk.run.path / "checks").mkdir()
    (desk.run.path / "checks" / "checks.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    assert client.get("/").status_code == 200
    assert "This run has not been checked yet" in client.get("/checks").text


def test_a_large_picture_is_refused_before_it_is_decoded(client: TestClient) -> None:
    response = client.post("/upload", files={"image": ("bomb.png", png(6000, 6000))})
    assert response.status_code == 400
    assert "expected at most 32,000,000 pixels, got 6000 × 6000" in response.text


def test_an_upload_needs_one_file(client: TestClient) -> None:
    assert client.post("/upload", data={"image": "text"}).status_code == 400
    two = [("image", ("a.png", png(3, 3))), ("image", ("b.png", png(3, 3)))]
    assert client.post("/upload", files=two).status_code == 400


def test_static_files_are_served(client: TestClient) -> None:
    for name, kind in (("htmx.min.js", "text/javascript"), ("pico.min.css", "text/css"), ("explore.js", "text")):
        response = client.get(f"/static/{name}")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith(kind)


def test_no_page_of_another_kind_is_answered(desk: Desk, visit: Callable[..., TestClient]) -> None:
    client = visit(build_app(desk))
    assert client.get("/facet/0/cut").status_code == 405
    assert client.delete("/facet/0", headers={"origin": "http://localhost"}).status_code == 405
