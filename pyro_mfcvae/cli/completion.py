"""Completion in a shell: ``mfcvae completion``."""

from typing import Annotated, Literal

import tyro

from pyro_mfcvae.cli.options import option, registry


def completion(
    shell: Annotated[Literal["bash", "zsh", "tcsh"], tyro.conf.Positional, option("SHELL")],
    /,
) -> None:
    """Print a script that completes commands and options.

    In bash: mfcvae completion bash > ~/.local/share/bash-completion/completions/mfcvae
    In zsh: mfcvae completion zsh > a file _mfcvae in a folder of $fpath

    Args:
        shell: bash, zsh or tcsh.
    """
    from pyro_mfcvae.cli.app import COMMANDS, find_command

    commands = tyro.extras.SubcommandApp()
    for name in COMMANDS:
        commands.command(find_command(name), name=name)
    commands.cli(prog="mfcvae", args=["--tyro-print-completion", shell], registry=registry)
