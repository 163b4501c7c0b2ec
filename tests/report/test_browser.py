"""The report in a real browser: wide and narrow, light and dark, on paper, with a checker of accessibility."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import Run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("place", "fitted"),
    pytest.mark.skipif(CHROMIUM is None, reason="the system has no Chromium"),
]

# The number of lines of each verdict, because a word must not be broken.
LINES_OF_VERDICTS = """[...document.querySelectorAll('td.verdict')].map(cell => {
  const range = document.createRange(); range.selectNodeContents(cell); return range.getClientRects().length; })"""


def open_report(browser: Any, asked: list[str], **options: Any) -> Any:
    page = browser.new_context(**options).new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(Path("run/report.html").resolve().as_uri())
    page.wait_for_load_state("networkidle")
    return page


def test_every_width_and_scheme_is_readable_without_requests(mfcvae: Run) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the checker is not installed")
    check = {"verdict": "warn", "name": "a name of some length", "facet": 1, "value": 0.5, "advice": "Advice. " * 40}
    Path("run/checks").mkdir()
    checks = {"sentences": ["Facet 0.", "Facet 1.", "All."], "checks": [check, {**check, "set_aside": True}]}
    Path("run/checks/checks.json").write_text(json.dumps(checks))
    assert mfcvae("report", "run")[0] == 0
    asked: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            for width in (1280, 400):
                page = open_report(browser, asked, viewport={"width": width, "height": 900}, color_scheme=scheme)
                found = axe.Axe().run(page).response["violations"]
                assert [entry["id"] for entry in found if entry["impact"] in ("serious", "critical")] == []
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert page.evaluate(LINES_OF_VERDICTS) == [1, 1]
                page.close()
        page = open_report(browser, asked, color_scheme="dark")
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") in (
            "rgb(255, 255, 255)",
            "rgba(0, 0, 0, 0)",
        )
        assert page.pdf(format="A4").startswith(b"%PDF")
        browser.close()
    assert {address.partition(":")[0] for address in asked} <= {"file", "data"}
