"""The report on the command line: ``mfcvae report``."""

from pathlib import Path
from typing import Annotated

import tyro

from pyro_mfcvae.cli.terminal import say
from pyro_mfcvae.report.page import write_report
from pyro_mfcvae.runs.folder import RunFolder


def report(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    /,
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
) -> None:
    """Write one HTML page about a run: groups with their items, what each facet changes, checks, curves, settings.

    The page needs no network and no other file. After `mfcvae check`, it has the verdicts as well.

    Args:
        run: The run's folder.
        out: The file to write; by default report.html in the run's folder.
    """
    path = write_report(RunFolder.open(run), out)
    say(f"{path} ({path.stat().st_size / 1e6:.1f} MB): open it in a browser, or print it")
