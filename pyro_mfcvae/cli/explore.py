"""The explorer on the command line: ``mfcvae explore``."""

import webbrowser
from pathlib import Path
from typing import Annotated

import tyro
from rich.progress import Progress

from pyro_mfcvae.cli.terminal import console, say
from pyro_mfcvae.explore import check_installed
from pyro_mfcvae.runs.folder import RunFolder


def explore(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    /,
    data: Annotated[str | None, tyro.conf.arg(metavar="NAME|PATH")] = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = True,
    root: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
) -> None:
    """Open a run in the browser: look at groups, name them, merge and split them, compose and draw images.

    The page is served to this machine alone. Names and groups are kept in the run's folder, and every other command
    uses them. Ctrl-C ends it.

    Args:
        run: The run's folder.
        data: Look at another data set's items; by default those that the run trained on.
        host: Address to serve at. With any but this machine's own, a visitor needs the token that is printed.
        port: By default 8765, or another one where that is taken.
        browser: Open the browser.
        root: Folder of the data sets' files; by default the environment variable MFCVAE_DATA.
    """
    check_installed()
    from pyro_mfcvae.explore.app import build_app
    from pyro_mfcvae.explore.server import address_of, build_server, hosts_for, listen, open_desk, token_for

    folder = RunFolder.open(run)
    listener = listen(host, port)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("encoding the items", total=None)
        desk = open_desk(
            folder,
            data=data,
            root=root,
            on_batch=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    token = token_for(host)
    address = address_of(listener, host, token)
    say(f"{len(desk.items)} items of {folder.path} at {address} (Ctrl-C ends it)")
    if browser:
        webbrowser.open(address)
    build_server(build_app(desk, hosts=hosts_for(host), token=token)).run(sockets=[listener])
