"""The report on the command line: ``mfcvae report``."""

from pyro_mfcvae.cli.options import File, Json, Parts, Run
from pyro_mfcvae.cli.terminal import console, print_json, say
from pyro_mfcvae.config.custom_parts import import_parts


def report(run: Run, /, out: File = None, parts: Parts = (), json: Json = False) -> None:
    """Write one HTML page about a run: groups with their items, what each facet changes, checks, curves, settings.

    The page needs no network and no other file. If `mfcvae check` has run, it contains the verdicts as well.

    Args:
        out: The file to write; by default report.html in the run's folder.
    """
    import_parts(parts)

    from pyro_mfcvae.report.page import write_report
    from pyro_mfcvae.runs.folder import RunFolder

    console.quiet = json
    path = write_report(RunFolder.open(run), out)
    say(f"{path} ({path.stat().st_size / 1e6:.2f} MB): open it in a browser, or print it")
    if json:
        print_json({"file": str(path), "bytes": path.stat().st_size})
