"""The command line: the list of commands, and the entry point. A command is imported when it is called.

Neither this module nor the top of a command's module imports torch, so help and error messages appear at once.

Exit codes: 0 for success, 2 for a mistake of the user (one line on standard error), 1 for a bug in this package (a
traceback), and 128 plus the number of the signal for a stop: 130 for Ctrl-C, 143 for SIGTERM, 141 for a closed pipe.
"""

import inspect
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from typing import Any

from pyro_mfcvae.atomic_io import check_utf8
from pyro_mfcvae.errors import InputError

PURPOSE = "Several clusterings of your images at once."


@dataclass(frozen=True)
class Command:
    """A command and its module.

    Attributes:
        module: module below `pyro_mfcvae.cli`, with a function of the command's name (with `_` for `-`).
        summary: one line for the list of commands.
        group: heading of the command in the list of commands.
    """

    module: str
    summary: str
    group: str


COMMANDS: Mapping[str, Command] = {
    "fit": Command("fit", "train a model and show its clusters", "train"),
    "sweep": Command("fit", "train several seeds and compare them", "train"),
    "evaluate": Command("evaluate", "score a run: facet by label", "look at a run"),
    "groups": Command("evaluate", "list a run's groups; change their number, and name them", "look at a run"),
    "assign": Command("assign", "write which item is in which group", "look at a run"),
    "report": Command("report", "write one HTML page about a run", "look at a run"),
    "explore": Command("explore", "open a run in the browser: look, name, merge, split, compose", "look at a run"),
    "sample": Command("images", "draw new images, and swap facets between images", "look at a run"),
    "check": Command("checks", "check whether to believe a run's clusters", "check"),
    "compare": Command("checks", "rank runs by the evidence of the same items", "check"),
    "presets": Command("lists", "list the presets that fit knows", "what there is"),
    "datasets": Command("lists", "list the data sets that are known by name", "what there is"),
    "completion": Command("lists", "print a script that completes commands and options in a shell", "what there is"),
}


def find_command(name: str) -> Callable[..., Any]:
    """The function of a command."""
    module = import_module(f"pyro_mfcvae.cli.{COMMANDS[name].module}")
    command: Callable[..., Any] = getattr(module, name.replace("-", "_"))
    return command


def main(args: Sequence[str] | None = None) -> None:
    """Entry point. Exits with one of the codes above."""
    from pyro_mfcvae.cli.streams import print_anywhere, print_error
    from pyro_mfcvae.safety.locks import until_end
    from pyro_mfcvae.safety.stopping import end_if_stuck, stop_on_signals

    print_anywhere()
    args = sys.argv[1:] if args is None else args
    try:
        with stop_on_signals(), end_if_stuck(), until_end:
            _run(args)
    except InputError as error:
        print_error(str(error))
        sys.exit(2)
    except BrokenPipeError:  # the reader of a pipe has ended, as in `mfcvae presets | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        reason = (error.strerror or "it failed").lower()
        print_error(str(error) if error.filename is None else f"cannot use {error.filename}: {reason}")
        sys.exit(2)
    except KeyboardInterrupt as stop:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            trains = list(args[:1]) in (["fit"], ["sweep"])
            hint = "; resume a fit with --resume --out DIR, a sweep with --out DIR" if trains else ""
            print_error(f"stopped by {str(stop) or 'SIGINT'}{hint}")
        sys.exit(128 + getattr(stop, "signum", 2))


def _run(args: Sequence[str]) -> None:
    for argument in args:
        check_utf8(argument)
    name = args[0] if args else ""
    if name in ("-h", "--help", "help"):
        print(_help())
    elif name == "--version":
        print(f"mfcvae {version('pyro-mfcvae')}")
    elif name in COMMANDS:
        import tyro

        from pyro_mfcvae.cli.options import registry

        summary, details = _explain(find_command(name))
        try:
            tyro.cli(
                find_command(name),
                prog=f"mfcvae {name}",
                description=summary,
                args=args[1:],
                registry=registry,
                config=(
                    tyro.conf.HelptextFromCommentsOff,
                ),  # tyro would search comments for help texts, which takes time
            )
        except SystemExit as leave:
            if leave.code == 0 and details:  # the user asked for help
                print(f"\n{details}")
            raise
    else:
        close = get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else "mfcvae --help explains them"
        raise InputError(f"expected a command out of {', '.join(COMMANDS)}, got {name or 'none'}: {hint}")


def _explain(command: Callable[..., Any]) -> tuple[str, str]:
    """Print the docstring of a command at the width of the terminal: its first line, and the paragraphs before its
    arguments.
    """
    text = (inspect.getdoc(command) or "").partition("\nArgs:")[0]
    summary, *paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]
    # tyro does not wrap, and joins lines that begin with a letter.
    first = textwrap.fill(summary, _width(), initial_indent="  ", subsequent_indent="  ")
    return first, "\n\n".join(textwrap.fill(paragraph, _width(), break_on_hyphens=False) for paragraph in paragraphs)


def _width() -> int:
    return max(shutil.get_terminal_size().columns, 40)


def _help() -> str:
    """Print the list of commands at the width of the terminal."""
    width = _width()
    column = max(map(len, COMMANDS)) + 2
    lines = ["usage: mfcvae COMMAND [OPTIONS]", "", PURPOSE]
    group = ""
    for name, command in COMMANDS.items():
        if command.group != group:
            group = command.group
            lines += ["", f"{group}:"]
        lines += textwrap.wrap(
            command.summary, width, initial_indent=f"  {name:{column}}", subsequent_indent=" " * (column + 2)
        )
    lines += ["", *textwrap.wrap("Without a preset or data, mfcvae fit runs a demo of a few minutes.", width)]
    lines += textwrap.wrap("mfcvae COMMAND --help explains a command, mfcvae --version prints the version.", width)
    codes = "Exit codes: 0 a result, 2 a mistake in one line, 1 a bug, 130 Ctrl-C, 143 SIGTERM."
    lines += textwrap.wrap(codes, width)
    return "\n".join(lines)
