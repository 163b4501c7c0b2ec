"""What the command line shows: lines, and the tables of scores."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pyro_mfcvae.checks.check import Check
from pyro_mfcvae.checks.comparison import Comparison
from pyro_mfcvae.metrics import FacetScores
from pyro_mfcvae.runs.sweep import Sweep

console = Console()

_COLOURS = {"good": "green", "warn": "yellow", "bad": "red"}


def say(text: str) -> None:
    """Print as it stands: no markup, since paths may hold brackets, and no breaks, since people copy paths."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def table(*columns: str) -> Table:
    """An empty table without lines."""
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        rows.add_column(column)
    return rows


def print_scores(scores: FacetScores) -> None:
    """The facet × label table: accuracy, with NMI and ARI; the best facet of every label in bold."""
    best = scores.best_facets()
    rows = table("facet", "clusters in use", *(f"{label}: accuracy (NMI, ARI)" for label in scores.accuracy))
    for j, record in enumerate(scores.facet_records()):
        cells = []
        for label in scores.accuracy:
            cell = f"{record['accuracy'][label]:.3f} ({record['nmi'][label]:.2f}, {record['ari'][label]:z.2f})"
            cells.append(f"[bold green]{cell}[/]" if best[label] == j else cell)
        rows.add_row(str(j), f"{record['clusters_in_use']} of {record['num_clusters']}", *cells)
    console.print()
    console.print(rows)


def print_sweep(result: Sweep) -> None:
    """The facet × label table over seeds: accuracy and NMI, mean ± standard deviation; and the agreement of seeds."""
    accuracy, nmi = result.scores("accuracy"), result.scores("nmi")
    rows = table("facet", "ARI across seeds", *(f"{label}: accuracy, NMI" for label in accuracy))
    for j, stability in enumerate(result.stability()):
        cells = [f"{_spread(accuracy[label][:, j])}, {_spread(nmi[label][:, j])}" for label in accuracy]
        rows.add_row(str(j), "–" if np.isnan(stability) else f"{stability:.2f}", *cells)
    console.print()
    console.print(rows)


def print_checks(checks: Sequence[Check]) -> None:
    """The table of verdicts; below a number that is not good, what to do."""
    rows = table("verdict", "check", "facet", "number", "of what")
    for check in checks:
        verdict = f"[{_COLOURS[check.verdict]}]{check.verdict}[/]"
        facet = "" if check.facet is None else str(check.facet)
        rows.add_row(verdict, check.name, facet, f"{check.value:.3f}", check.unit)
    console.print()
    console.print(rows)
    for verdict in ("bad", "warn"):
        told: dict[str, list[str]] = {}
        for check in checks:
            if check.verdict == verdict:
                where = check.name if check.facet is None else f"{check.name}, facet {check.facet}"
                told.setdefault(check.advice, []).append(where)
        for advice, places in told.items():
            console.print(f"\n[{_COLOURS[verdict]}]{verdict}[/] {'; '.join(places)}", highlight=False)
            console.print(f"  {advice}", highlight=False, markup=False)


def print_comparison(rows: Sequence[Comparison]) -> None:
    """The runs, from the highest evidence to the lowest."""
    shown = table("rank", "run", "evidence per item", "below the best", "k-hat > 0.7")
    for row in rows:
        below = f"{row.difference:.3f} ± {row.difference_standard_error:.3f}" if row.rank else ""
        evidence = f"{row.evidence:.3f} ± {row.standard_error:.3f}"
        shown.add_row(str(row.rank), escape(row.name), evidence, below, f"{row.unreliable:.1%}")
    console.print()
    console.print(shown)


def _spread(values: NDArray[np.float64]) -> str:
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")
