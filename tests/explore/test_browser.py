"""The page in a real browser: by mouse and by keyboard, with a checker of accessibility."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.types import Receive, Scope, Send

from pyro_mfcvae.explore.app import build_app
from pyro_mfcvae.explore.desk import Desk
from pyro_mfcvae.explore.server import InlineExplorer, address_of, build_server, listen

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="the system has no Chromium"),
]
ADDRESSES = ["/", "/facet/0", "/facet/0/group/0", "/facet/0/map?left=0&right=60&bottom=0&top=60", "/item/3"]
ADDRESSES += ["/samples", "/swap?facet0=on", "/facet/1/latent", "/upload", "/checks", "/nowhere"]


@pytest.fixture
def served(desk: Desk) -> Iterator[str]:
    """The address of a running explorer."""
    listener = listen("127.0.0.1", 0)
    server = build_server(build_app(desk))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield address_of(listener, "127.0.0.1", None).rstrip("/")
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def open_page(served: str) -> Iterator[Callable[..., Any]]:
    """Open pages in Chromium; the test fails if any of them writes an error to the console."""
    problems: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def make(path: str = "/", **options: Any) -> Any:
            page = browser.new_context(base_url=served, accept_downloads=True, **options).new_page()
            page.set_default_timeout(10_000)
            page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(path)
            return page

        yield make
        browser.close()
    assert [problem for problem in problems if "404" not in problem] == []


def test_a_facet_a_group_pages_names_merges_and_undo(open_page: Callable[..., Any], desk: Desk) -> None:
    page = open_page()
    page.get_by_role("button", name="Look at the groups").first.click()
    largest = int(desk.view(0).sizes.argmax())
    page.get_by_role("link", name=f"group {largest}", exact=True).click()
    if desk.view(0).sizes[largest] > 60:
        page.get_by_role("link", name="next page").click()
        page.get_by_text("page 2 of").wait_for()
        assert "page=2" in page.url
    page.get_by_role("link", name="least certain first").click()
    page.get_by_text("least certain first", exact=True).and_(page.locator("strong")).wait_for()
    page.get_by_label("Name of this group").fill("my <b>favourites</b>")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("heading", level=1, name="my <b>favourites</b>").wait_for()
    page.get_by_role("button", name="Merge", exact=True).click()
    page.get_by_role("heading", level=1, name="my <b>favourites</b>").wait_for()
    assert desk.grouping.num_groups == (2, 2)
    page.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Split the ticked clusters off").click()
    page.wait_for_url("**/group/2")
    assert desk.grouping.num_groups == (3, 2)
    page.get_by_role("button", name="undo").click()
    page.wait_for_url("**/facet/0")
    assert desk.grouping.num_groups == (2, 2)
    with page.expect_download() as download:
        page.get_by_role("link", name="export").click()
    assert "my <b>favourites</b>" in Path(download.value.path()).read_text()


def test_the_slider_cuts_the_tree_live(open_page: Callable[..., Any], desk: Desk) -> None:
    page = open_page("/facet/0")
    slider = page.get_by_label("Number of groups")
    for num_groups in (4, 3, 2):
        slider.fill(str(num_groups))
        page.get_by_text(f"{num_groups} groups of").wait_for()
        assert page.locator(".tile").count() == num_groups
        assert desk.grouping.num_groups[0] == num_groups
    page.get_by_role("button", name="undo").click()  # the button can be pressed immediately
    page.get_by_text("3 groups of").wait_for()
    assert slider.input_value() == "3"


def test_an_image_is_swapped_and_changed_along_a_dimension(open_page: Callable[..., Any], tmp_path: Path) -> None:
    page = open_page("/upload")
    Image.new("L", (40, 30), 120).save(tmp_path / "mine.png")
    page.get_by_label("Drop an image here").set_input_files(tmp_path / "mine.png")
    page.get_by_role("button", name="Find its groups").click()
    page.get_by_role("heading", name="mine.png").wait_for()
    page.goto("/swap?a=1&b=2")
    before = page.locator("#swapped").inner_html()
    page.get_by_role("switch", name="facet 0").check()
    page.get_by_text("with the other's facet 0").wait_for()
    assert page.locator("#swapped").inner_html() != before
    page.goto("/facet/0/latent?item=3")
    slider = page.get_by_label("Coordinate 0")
    lowest = slider.get_attribute("min")
    slider.fill(lowest)
    page.get_by_text(f"with coordinate 0 at {float(lowest):.4f}").wait_for()
    assert float(page.locator("#value-now").inner_text()) == float(lowest)
    page.goto("/samples")
    first = page.locator("#samples img").first.get_attribute("src")
    page.get_by_role("button", name="Draw again").click()
    page.wait_for_function("src => document.querySelector('#samples img').src !== src", arg=first)


def test_fresh_samples_of_a_group(open_page: Callable[..., Any]) -> None:
    page = open_page("/facet/0/group/1")
    page.get_by_role("button", name="Draw images of this group").click()
    page.locator("#fresh img").nth(23).wait_for()
    assert page.locator("#fresh img").count() == 24
    assert page.url.endswith("/facet/0/group/1")


def test_a_file_is_dropped_onto_the_page(open_page: Callable[..., Any], tmp_path: Path) -> None:
    Image.new("L", (6, 6), 200).save(tmp_path / "dropped.png")
    page = open_page("/upload")
    box = page.locator("#image").bounding_box()
    devtools = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(tmp_path / "dropped.png")], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        devtools.send("Input.dispatchDragEvent", {"type": kind, **at, "data": data})
    page.get_by_role("button", name="Find its groups").click()
    page.get_by_role("heading", name="dropped.png").wait_for()
    page.get_by_text("Closest in this facet:").nth(1).wait_for()


def test_a_notebook_shows_the_page_in_a_frame_without_errors(desk: Desk, open_page: Callable[..., Any]) -> None:
    shown = InlineExplorer(desk)
    page = open_page()
    listener = listen("127.0.0.1", 0)

    async def notebook(scope: Scope, receive: Receive, send: Send) -> None:
        body = f"<!doctype html><title>notebook</title>{shown._repr_html_()}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": body})

    server = build_server(notebook)
    threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
    page.goto(address_of(listener, "127.0.0.1", None))
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading", name="2 facets of 200 items").wait_for()
    frame.get_by_role("button", name="Look at the groups").first.click()
    frame.get_by_label("Number of groups").fill("2")
    frame.get_by_text("2 groups of").wait_for()
    assert desk.grouping.num_groups[0] == 2
    page.close()
    shown.close()
    server.should_exit = True


def test_a_line_around_dots_lists_them(open_page: Callable[..., Any]) -> None:
    page = open_page("/facet/0/map")
    box = page.locator("#map").bounding_box()
    corners = [(0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98)]
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    for x, y in corners:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=5)
    page.mouse.up()
    page.get_by_role("heading", name="items inside").wait_for()
    assert page.locator("#region img").count() > 10


def reach(page: Any, selector: str) -> None:
    """Press Tab until an element that the selector matches has the focus."""
    for _ in range(120):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab never reaches {selector}")


def test_groups_are_changed_by_keyboard(open_page: Callable[..., Any], desk: Desk) -> None:
    page = open_page("/facet/0")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    reach(page, "#num-groups")
    page.keyboard.press("ArrowRight")
    page.get_by_text("4 groups of").wait_for()
    assert page.evaluate("document.activeElement.id") == "num-groups"
    reach(page, "#tick-0")
    page.keyboard.press("Space")
    reach(page, "#tick-1, #tick-2, #tick-3")
    page.keyboard.press("Space")
    reach(page, "form[action$=merge] button")
    page.keyboard.press("Enter")
    page.wait_for_url("**/group/*")
    assert desk.grouping.num_groups == (3, 2)
    reach(page, "#name")
    page.keyboard.type("by keyboard")
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=1, name="by keyboard").wait_for()
    page.goto("/facet/0")
    reach(page, "#undo")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert "by keyboard" not in desk.grouping.names(0)


def test_pages_are_used_by_keyboard(open_page: Callable[..., Any]) -> None:
    page = open_page("/")
    reach(page, "a[href='/facet/0/map'][role=button]")
    page.keyboard.press("Enter")
    page.wait_for_url("**/facet/0/map")
    reach(page, "input[name=right]")
    page.keyboard.type("100")
    reach(page, "input[name=top]")
    page.keyboard.type("100")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="items inside").wait_for()
    page.goto("/swap?a=1&b=2")
    reach(page, "input[name=facet1]")
    page.keyboard.press("Space")
    page.get_by_text("with the other's facet 1").wait_for()
    page.goto("/facet/0/latent?item=3")
    before = page.locator("#value-now").inner_text()
    reach(page, "#value")
    page.keyboard.press("End")
    page.wait_for_function("before => document.getElementById('value-now').textContent !== before", arg=before)
    page.goto("/samples")
    first = page.locator("#samples img").first.get_attribute("src")
    reach(page, "main form button")
    page.keyboard.press("Enter")
    page.wait_for_function("src => document.querySelector('#samples img').src !== src", arg=first)
    page.goto("/facet/0/group/1")
    reach(page, "#least-certain-first")
    page.keyboard.press("Enter")
    page.locator("strong", has_text="least certain first").wait_for()
    reach(page, "a.thumb")
    page.keyboard.press("Enter")
    page.wait_for_url("**/item/*")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_have_no_serious_accessibility_errors(open_page: Callable[..., Any], scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    for width in (1280, 400):
        page = open_page(color_scheme=scheme, viewport={"width": width, "height": 900})
        page.context.set_default_timeout(10_000)
        for address in ADDRESSES:
            page.goto(address)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{address} is too wide for {width}"
            found = axe.Axe().run(page).response["violations"]
            serious = [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]
            assert serious == [], address


def test_no_request_leaves_the_page(open_page: Callable[..., Any], served: str) -> None:
    page = open_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    for address in ADDRESSES:
        page.goto(address)
    assert len(requests) > len(ADDRESSES)
    assert {url.partition(":")[0] for url in requests if not url.startswith(served)} <= {"data"}


def test_the_first_view_is_shown_within_two_seconds(open_page: Callable[..., Any]) -> None:
    page = open_page()
    start = time.monotonic()
    page.goto("/facet/0")
    page.locator(".tile").first.wait_for()
    assert time.monotonic() - start < 2
