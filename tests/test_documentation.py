"""The pages of the documentation: their examples are right, their links work, and nothing is loaded from the
network.
"""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *(DOCS / "howto").glob("*.md"), ROOT / "README.md"])


@pytest.mark.parametrize(
    "page", [page for page in PAGES if ">>>" in page.read_text()], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_worked_numbers_are_right(page: Path) -> None:
    tested = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert tested.attempted > 0
    assert tested.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", re.sub(r"\$\$?[^$]*\$\$?", "", text))
    for target in [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'src="([^"]+)"', text)]:
        if not target.startswith(("https://", "http://", "#", "api/")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"


def test_readme_names_the_two_commands_and_fits_a_screen() -> None:
    text = (ROOT / "README.md").read_text()
    assert "`make demo`" in text and "`make test`" in text
    unfolded = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    assert len(unfolded.splitlines()) <= 42  # so that a window of 900 pixels shows all of it


def test_the_index_for_language_models_names_pages_that_exist() -> None:
    for target in re.findall(r"\]\(([^)]+)\.html\)", (DOCS / "llms.txt").read_text()):
        assert target.startswith("api/") or (DOCS / f"{target}.md").exists()


def test_every_outcome_in_the_table_of_pyros_tools_has_a_test() -> None:
    tests = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    rows = [line for line in (ROOT / "docs" / "pyro_tools.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named and set(named) <= tests, row
