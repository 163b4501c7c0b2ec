import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from command_line import Run
from small_runs import replace_assignments

from pyro_mfcvae.report.page import render
from pyro_mfcvae.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("place", "fitted")


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def each(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)


def test_the_command_writes_one_page_without_requests(mfcvae: Run) -> None:
    code, out, err = mfcvae("report", "run")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"run/report\.html \(0\.\d\d MB\): open it in a browser, or print it\n", out)
    html = Path("run/report.html").read_text()
    page = Page(html)
    assert list(page.each("script")) == list(page.each("link")) == []
    assert {str(a["href"])[0] for a in page.each("a")} == {"#"}
    images = list(page.each("img"))
    assert images and all(str(image["src"]).startswith("data:") and image["alt"] for image in images)
    assert not re.search(r"url\(|@import|https?://", html)
    policy = next(meta for meta in page.each("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "80 train; 1 × 6 × 6 each" in page.text
    run = RunFolder(Path("run"))
    table = pd.read_parquet(run.assignments_path)
    for j, size in enumerate((4, 3)):
        used = run.read_summary()["facets"][j]["clusters_in_use"]
        groups = table[f"facet_{j}_group"].nunique()
        assert (
            f"It sorts 80 items into {groups} group{'s' * (groups > 1)}, by {used} of {size} clusters in 2 dimensions"
            in page.text
        )
    assert "This run has not been checked yet: mfcvae check run" in page.text
    assert "What the facet changes" in page.text and "@inproceedings{falck2021multifacet" in page.text


def test_names_checks_and_seeds_are_reported() -> None:
    run = RunFolder(Path("run"))
    run.write_grouping(run.read_grouping().cut(1, 1).rename(1, 0, "<b>tall</b> & thin"))
    pair = run.load_pair()
    assert pair.num_facets == 2
    check = {"verdict": "bad", "name": "twins", "facet": 1, "value": 0.5, "advice": "Ask for <fewer> clusters."}
    aside = {**check, "set_aside": True, "advice": "Leave this."}
    found = {"sentences": ["Facet 0 is fine.", "Facet 1 is not.", "Believe half of it."], "checks": [check, aside]}
    (run.path / "checks").mkdir()
    (run.path / "checks" / "checks.json").write_text(json.dumps(found))
    seeds = {"best_seed": 0, "stability": [0.5, None], "runs": [{"seed": 0, "elbo": -1.0, "facets": [{}, {}]}]}
    (run.path.resolve().parent / "sweep.json").write_text(json.dumps(seeds))
    page = Page(render(run))
    assert "<b>tall</b> & thin 80 items, 100.0 %" in page.text  # as text, and not as a tag
    for sentence in ("Facet 0 is fine.", "Facet 1 is not.", "Believe half of it.", "Ask for <fewer> clusters."):
        assert page.text.count(sentence) == 1
    assert "0 checks are good, 0 warn, 1 are bad, 1 in brackets are set aside." in page.text
    assert "(bad) twins, facet 1: 0.5 Leave this." in page.text
    assert "facet 0 0.50, facet 1 –" in page.text


def test_items_without_images_have_a_report_as_well() -> None:
    run = RunFolder(Path("run"))
    replace_assignments(run, pd.read_parquet(run.assignments_path).drop(columns="image"))
    page = Page(render(run))
    assert list(page.each("img")) == []
    assert "It sorts 80 items" in page.text
