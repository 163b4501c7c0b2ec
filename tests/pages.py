"""The snippets of README and the pages of docs/: blocks of Python, and lines that are typed into a shell."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "howto").glob("*.md")])

_BLOCK = re.compile(r"^```(\S+)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"^\s+(?:[A-Z_]+=\S+ )*(mfcvae|pip|make|python|torchrun|srun|embedding-atlas)\b")


def python_blocks(page: Path) -> list[str]:
    """The blocks of Python of a page. Blocks with prompts are doctests, which another test runs."""
    blocks = (body for kind, body in _BLOCK.findall(page.read_text()) if kind in ("python", "{code-cell}"))
    return [body for body in blocks if not body.startswith(">>>")]


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command line of a page, without comments, variables and redirections."""
    text = _BLOCK.sub("", page.read_text()).replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith("    ") and _COMMAND.match(line):
            words = shlex.split(_COMMAND.sub(r"\1", line), comments=True)
            yield words[: words.index(">")] if ">" in words else words


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()
