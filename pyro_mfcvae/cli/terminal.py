"""Output of the command line: lines, tables of scores, and JSON. Nothing here imports torch."""

import logging
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pyro_mfcvae.atomic_io import as_json
from pyro_mfcvae.cli.streams import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pyro_mfcvae.checks.comparison import Comparison
    from pyro_mfcvae.checks.criticism import Criticism
    from pyro_mfcvae.runs.evaluation import Evaluation
    from pyro_mfcvae.runs.sweep import Sweep

# If standard output is not a terminal, the length of lines is not limited, so that a piped table is not cut.
_NO_LIMIT = 10_000

console = Console()
if not console.is_terminal and "COLUMNS" not in os.environ:
    console.width = _NO_LIMIT

_COLOURS = {"good": "green", "warn": "yellow", "bad": "red"}


def say(text: str) -> None:
    """Print a text unchanged, without markup (paths may contain brackets) and without line breaks."""
    console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


class _Said(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def say_trials() -> None:
    """Print the result of every trial of a seed, see `pyro_mfcvae.runs.trials`."""
    logger = logging.getLogger("pyro_mfcvae.runs.trials")
    logger.setLevel(logging.INFO)
    logger.handlers = [_Said()]


def print_json(record: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print one JSON document to standard output; NaN becomes null."""
    print(as_json(record), end="")


def table(*columns: str) -> Table:
    """An empty table without lines."""
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        rows.add_column(Text(printable(column)))
    return rows


def print_scores(result: "Evaluation") -> None:
    """Print a row per facet and label with the agreement of groups and clusters with the label.

    The best facet for each label is bold.

    Below the table is the redundancy of every two facets.
    """
    labels, best = list(result.group_scores.accuracy), result.group_scores.best_facets()
    scores = ("accuracy", "NMI", "ARI", "of clusters: accuracy", "NMI", "ARI") if labels else ()
    rows = table("facet", "groups", "clusters in use", *(("label", *scores) if labels else ()))
    for j, record in enumerate(result.facet_records()):
        head = [str(j), str(record["num_groups"]), f"{record['clusters_in_use']} of {record['num_clusters']}"]
        for label in labels:
            cells = [*_score_cells(record["groups"], label), *_score_cells(record, label)]
            style = "bold green" if best[label] == j else ""
            rows.add_row(*head, *(Text(printable(cell), style) for cell in (label, *cells)))
            head = ["", "", ""]
        if not labels:
            rows.add_row(*head)
    console.print()
    console.print(rows)
    _say_redundancy(result.group_scores.redundancy, "\nInformation that groups share")


def print_groups(facets: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """Print a row per group: number, name, share of the items, clusters, and the overlap of its next merge."""
    rows = table("facet", "group", "name", "items", "merges at overlap", "clusters")
    for j, groups in enumerate(facets):
        for g in groups:
            overlap = "–" if g["next_overlap"] is None else f"{g['next_overlap']:.4f}"
            clusters = " ".join(map(str, g["clusters"]))
            first = str(j) if g["group"] == 0 else ""
            rows.add_row(first, str(g["group"]), Text(printable(g["name"])), f"{g['share']:.1%}", overlap, clusters)
    console.print(rows)


def _say_redundancy(redundancy: "NDArray[np.float64]", what: str) -> None:
    """Print the adjusted mutual information of every two facets, unless there is only one facet."""
    pairs = combinations(range(len(redundancy)), 2)
    overlaps = [f"facets {i} and {j}: {redundancy[i, j]:z.2f}" for i, j in pairs]
    if overlaps:
        say(f"{what} (0: none, 1: the same groups): {', '.join(overlaps)}")


def _score_cells(record: dict[str, Any], label: str) -> list[str]:
    return [f"{record[score][label]:z.{digits}f}" for score, digits in (("accuracy", 3), ("nmi", 2), ("ari", 2))]


def print_sweep(result: "Sweep") -> None:
    """Print the facet × label table (mean ± standard deviation over seeds), the agreement of seeds, and the
    redundancy of facets.
    """
    metrics = [result.scores(name) for name in ("accuracy", "nmi", "ari")]
    labels = list(metrics[0])
    headings = ("ARI across seeds: groups", "clusters", "groups")
    rows = table("facet", *headings, *(f"{label}: accuracy, NMI, ARI of groups" for label in labels))
    for j, agreement in enumerate(zip(result.group_stability(), result.stability(), strict=True)):
        numbers = sorted({evaluation.grouping.num_groups[j] for evaluation in result.evaluations})
        cells = [", ".join(_spread(metric[label][:, j]) for metric in metrics) for label in labels]
        rows.add_row(str(j), *("–" if x != x else f"{x:z.2f}" for x in agreement), ", ".join(map(str, numbers)), *cells)
    console.print()
    console.print(rows)
    _say_redundancy(result.redundancy(), "\nInformation that groups share, mean of the seeds")


def print_criticism(criticism: "Criticism") -> None:
    """Print the table of verdicts, advice for rows that are not good, the sentences, and the settings to change
    next.
    """
    from pyro_mfcvae.checks.sentences import advise, is_set_aside, is_unlike

    rows = table("verdict", "facet", "check", "effect", "warn, bad", "p")
    unlike = is_unlike(criticism.checks)
    aside = {id(check) for check in criticism.checks if is_set_aside(check, unlike=unlike)}
    for check in criticism.checks:
        verdict = f"[{_COLOURS[check.verdict]}]{check.verdict}[/]"
        if id(check) in aside:
            verdict = f"[dim]({check.verdict})[/]"
        facet = "all" if check.facet is None else str(check.facet)
        threshold = check.question.threshold
        limits = f"{threshold.warn:g}, {threshold.bad:g}"
        rows.add_row(verdict, facet, check.name, f"{check.value:.3f}", limits, f"{check.table_p_value:.1g}")
    console.print()
    console.print(rows)
    console.print(
        "A check warns or is bad if its effect is above the threshold and significant (small p)."
        + (" Verdicts in brackets are set aside, as explained below." if aside else "")
        + "\nFor an item x, z has its coordinates in a facet and c is its cluster; q(z|x) and q(c|x) are the guide's "
        "distributions, and log p(x) is the log probability of the item under the model."
    )
    for (verdict, advice), names in advise(criticism.checks).items():
        colour = _COLOURS.get(verdict, "dim")
        console.print(f"\n[{colour}]{verdict}[/] {'; '.join(names)}", highlight=False)
        console.print(Padding(Text(advice), (0, 0, 0, 2), expand=False))
    console.print()
    for sentence in criticism.sentences:
        console.print(sentence, highlight=False, markup=False, style="bold")
    if criticism.suggestions:
        console.print("\nMost useful to change next:")
        for suggestion in criticism.suggestions:
            console.print(f"  --set {quote(suggestion.setting)}", highlight=False, markup=False)
            console.print(Padding(Text(suggestion.reason), (0, 0, 0, 4), expand=False))


def print_comparison(rows: Sequence["Comparison"]) -> None:
    """Print the runs, from the highest evidence to the lowest."""
    shown = table("rank", "run", "evidence ± items ± draws", "below the best", "untrusted")
    for row in rows:
        below = f"{row.difference:.3f} ± {row.difference_standard_error:.3f}" if row.rank > 1 else ""
        evidence = f"{row.evidence:.3f} ± {row.standard_error:.3f} ± {row.monte_carlo_error:.3f}"
        shown.add_row(str(row.rank), Text(printable(row.name)), evidence, below, f"{row.unreliable:.1%}")
    console.print()
    console.print(shown)


def _spread(values: "NDArray[np.float64]") -> str:
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")
