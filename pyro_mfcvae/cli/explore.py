"""The explorer on the command line: ``mfcvae explore``."""

from typing import Annotated

from pyro_mfcvae.cli.options import Data, Parts, Root, Run, option
from pyro_mfcvae.cli.terminal import console, say
from pyro_mfcvae.config.custom_parts import import_parts


def explore(
    run: Run,
    /,
    data: Data = None,
    host: Annotated[str, option("HOST")] = "127.0.0.1",
    port: Annotated[int | None, option("PORT")] = None,
    browser: Annotated[bool, option()] = True,
    parts: Parts = (),
    root: Root = None,
) -> None:
    """Open a run in the browser: look at groups, name them, merge and split them, compose and draw images.

    By default only this machine can open the page. Names and groups are saved in the run's folder, and every other
    command uses them. Ctrl-C ends the command.

    Args:
        data: Show the items of another data set; by default those that the run was trained on.
        host: Address of the server. If other machines can reach it, visitors need the token that is printed.
        port: Port of the server; by default 8765, or a free port if 8765 is in use.
        browser: Open the page in the browser.
    """
    import webbrowser

    from rich.progress import Progress

    from pyro_mfcvae.explore import check_installed

    check_installed()
    import_parts(parts)

    from pyro_mfcvae.explore.app import build_app
    from pyro_mfcvae.explore.server import address_of, build_server, hosts_for, listen, open_desk, token_for
    from pyro_mfcvae.runs.folder import RunFolder

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
