"""Sphinx: pages in Markdown, pages with code run in the build, the API from docstrings; no request to the network."""

import pkgutil
import re
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

project = "pyro-mfcvae"
author = "The pyro-mfcvae authors"
release = metadata.version("pyro-mfcvae")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "jupyter_execute", ".jupyter_cache", "**.ipynb_checkpoints"]
templates_path: list[str] = []
default_role = "code"

html_theme = "pydata_sphinx_theme"
html_title = "pyro-mfcvae"
html_static_path = ["_static"]
html_extra_path = ["llms.txt"]
html_theme_options = {"navigation_with_keys": False, "show_prev_next": True, "secondary_sidebar_items": ["page-toc"]}
html_sidebars = {"index": []}
html_show_sourcelink = False
mathjax_path = "tex-svg-full.js"

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = [
    "myst.xref_missing",  # links to files of the repository that are not pages
    "myst.header",
    "ref.python",  # a name that two modules share
]

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars of other packages warn about the build's machine

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_ivar = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

_LITERAL = re.compile(r"(``.+?``|`[^`]+`)")


def escape_formulas(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Docstrings hold formulas as plain text: bars, stars and trailing underscores are no markup there."""
    in_block = False
    for number, line in enumerate(lines):
        if in_block and line and not line.startswith(" "):
            in_block = False
        if line.rstrip().endswith("::"):
            in_block = True
        elif not in_block and not line.lstrip().startswith(">>>"):
            parts = _LITERAL.split(line)
            parts[1::2] = [
                part + "\\ " if after[:1].isalnum() else part
                for part, after in zip(parts[1::2], parts[2::2], strict=True)
            ]
            parts[::2] = [re.sub(r"([|*])|(?<=\w)_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
            lines[number] = "".join(parts)


def mark_formulas(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """An indented block after a paragraph is a formula, to be shown as it stands; so is a table."""
    marked: list[str] = []
    paragraph = ""
    in_table = False
    for line in lines:
        if not in_table and re.fullmatch(r"=+( +=+)+", line):
            in_table = True
            marked += ["::", ""]
        if in_table:
            in_table = bool(line)
            marked.append(f"    {line}" if line else "")
            continue
        starts = line.startswith("    ") and marked and not marked[-1].strip()
        is_text = bool(paragraph) and not paragraph.startswith((" ", "-", ":", ".", "|", "="))
        if starts and is_text and not paragraph.endswith("::"):
            marked += ["::", ""]
        marked.append(line)
        paragraph = line or paragraph
    lines[:] = marked


def write_api_pages() -> None:
    """A page per folder of the package, a section per module."""
    target = HERE / "api"
    target.mkdir(exist_ok=True)
    packages = ["pyro_mfcvae"]
    root = import_module("pyro_mfcvae")
    packages += [f"pyro_mfcvae.{m.name}" for m in pkgutil.iter_modules(root.__path__) if m.ispkg and m.name != "cli"]
    packages += [name for name in ("pyro_mfcvae.models", "pyro_mfcvae.guides") if name not in packages]
    for name in packages:
        package = import_module(name)
        modules = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg and m.name != "__main__"]
        first = "" if package is root or not package.__doc__ else " ".join(package.__doc__.split("\n\n")[0].split())
        text = f"# {name}\n\n{escape_markdown(first)}\n\n"
        for module in modules:
            text += f"## {module}\n\n```{{eval-rst}}\n.. automodule:: {name}.{module}\n   :members:\n```\n\n"
        page = target / f"{name}.md"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)
    entries = "\n".join(packages)
    intro = "Every module, with the shapes of what goes in and comes out. Facets count from 0, the shallowest."
    (target / "index.md").write_text(f"# API\n\n{intro}\n\n```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n")


def escape_markdown(text: str) -> str:
    """Text of a docstring as Markdown."""
    return re.sub(r"([|*_<])", r"\\\1", text)


def list_other_pages(_app: Any, name: str, source: list[str]) -> None:
    """The reference lists every page beside it that no other page lists."""
    if name == "reference":
        listed = {"index", "start", "concepts", "mathematics", "method", "reference", *source[0].split()}
        others = sorted({page.stem for page in HERE.glob("*.md")} - listed)
        source[0] = source[0].replace("ALL-OTHER-PAGES", "\n".join(others))


def setup(app: Any) -> None:
    """Connect to Sphinx."""
    app.connect("autodoc-process-docstring", mark_formulas, priority=100)  # napoleon comes between the two
    app.connect("autodoc-process-docstring", escape_formulas, priority=900)
    app.connect("source-read", list_other_pages)
    write_api_pages()
