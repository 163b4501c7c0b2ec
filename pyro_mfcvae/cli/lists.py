"""Lists on the command line: ``mfcvae presets | datasets | completion``."""

import contextlib
import io
from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Literal, get_args

import tyro

from pyro_mfcvae.cli.options import Json, option, registry
from pyro_mfcvae.cli.terminal import console, print_json, say, table
from pyro_mfcvae.config.text import AUTO, AUTO_DESCRIPTION, load_preset, preset_names
from pyro_mfcvae.data.catalogue import DATASETS
from pyro_mfcvae.errors import InputError

# The script of tyro completes commands, options and their values. Every other word is an operand, a preset or a file.
# Answers of the script that do not begin with the typed text come from help texts and are dropped.
_BASH = """

_mfcvae() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} word
  if [[ $COMP_CWORD -gt 1 && $current != -* && $previous != -* ]]; then
    COMPREPLY=()
    case ${COMP_WORDS[1]} in
OPERANDS
    esac
    return
  fi
  _tyro_mfcvae
  local -a answers=("${COMPREPLY[@]}")
  COMPREPLY=()
  for word in "${answers[@]}"; do
    if [[ $word == "$current"* ]]; then COMPREPLY+=("$word"); fi
  done
}
complete -o bashdefault -o default -F _mfcvae mfcvae
"""
_BASH_OPERANDS = '      {commands}) COMPREPLY=($(compgen -W "{words}" -- "$current")) ;;'

_ZSH = """if (( CURRENT > 2 )) && [[ $words[CURRENT] != -* && $words[CURRENT-1] != -* ]]; then
  case $words[2] in
OPERANDS
  esac
  _files
else
  _tyro_mfcvae "$@"
fi
"""
_ZSH_OPERANDS = "    {commands}) compadd -- {words} ;;"
_ZSH_CALL = '_tyro_mfcvae "$@"'

_FISH = """

function _mfcvae
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    if test (count $words) -gt 1; and not string match -q -- '-*' $current; and not string match -q -- '-*' $words[-1]
        switch $words[2]
OPERANDS
        end
        __fish_complete_path $current
        return
    end
    for line in (_tyro_mfcvae)
        if test (string sub -l (string length -- $current) -- $line) = "$current"
            echo $line
        end
    end
end
complete --erase --command mfcvae
complete --no-files --command mfcvae --arguments "(_mfcvae)"
"""
_FISH_OPERANDS = "            case {commands}\n                printf '%s\\n' {words}"


Shell = Literal["bash", "zsh", "fish"]
# For each shell: how a script lists several commands, the form of a line for them, and the text that replaces the end
# of tyro's script.
_FORMS = {"bash": ("|", _BASH_OPERANDS, _BASH), "zsh": ("|", _ZSH_OPERANDS, _ZSH), "fish": (" ", _FISH_OPERANDS, _FISH)}


def presets(json: Json = False) -> None:
    """List the presets that `mfcvae fit` knows."""
    configs = {name: load_preset(name) for name in preset_names()}
    if json:
        print_json([{"preset": name, **asdict(config)} for name, config in configs.items()])
        return
    rows = table("preset", "what it is")
    rows.add_row(AUTO, AUTO_DESCRIPTION)
    rows.add_row("", "any data; 20 clusters per facet at most", style="dim")
    for name, config in configs.items():
        clusters = ", ".join(map(str, config.facets.num_clusters))
        rows.add_row(name, config.description)
        rows.add_row("", f"data {config.data.source}; clusters per facet {clusters}", style="dim")
    console.print(rows)


def datasets(json: Json = False) -> None:
    """List the data sets that have a name."""
    if json:
        shown = ("name", "description", "event_shape", "likelihood", "label_names", "split", "num_items")
        print_json([{name: getattr(info, name) for name in shown} for info in DATASETS.values()])
        return
    rows = table("data set", "what it is")
    for info in DATASETS.values():
        shape = " × ".join(map(str, info.event_shape or ()))
        rows.add_row(info.name, info.description)
        details = f"{shape}, {info.likelihood}; labels {', '.join(info.label_names)}; {info.split}"
        rows.add_row("", details, style="dim")
    console.print(rows)
    say("\nYou can also give a path: a .npz, .npy, .h5, .csv or .parquet file, or a folder of images.")


def completion(
    shell: Annotated[Shell, tyro.conf.Positional, option("SHELL")],
    /,
) -> None:
    """Print a script that completes commands, options, presets and files.

    In bash: mfcvae completion bash > ~/.local/share/bash-completion/completions/mfcvae

    In zsh: mfcvae completion zsh > DIR/_mfcvae, with DIR a folder of $fpath

    In fish: mfcvae completion fish > ~/.config/fish/completions/mfcvae.fish

    Args:
        shell: bash, zsh or fish.
    """
    between, form, ending = _FORMS[shell]
    operands = ((("fit", "sweep"), (AUTO, *preset_names())), (("completion",), get_args(Shell)))
    cases = "\n".join(
        form.format(commands=between.join(commands), words=" ".join(words)) for commands, words in operands
    )
    print(_script_of_tyro(shell).rstrip().removesuffix(_ZSH_CALL) + ending.replace("OPERANDS", cases), end="")


def _script_of_tyro(shell: str) -> str:
    from pyro_mfcvae.cli.app import COMMANDS, find_command

    commands = tyro.extras.SubcommandApp()
    for name in COMMANDS:
        commands.command(name=name)(find_command(name))
    script, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(script), contextlib.redirect_stderr(errors), contextlib.suppress(SystemExit):
        commands.cli(prog="mfcvae", args=["--tyro-print-completion", shell], registry=registry)
    if "_tyro_mfcvae" not in script.getvalue():
        raise InputError(
            f"expected a tyro that writes scripts for {shell}, got tyro {version('tyro')}: run pip install --upgrade "
            "tyro"
        )
    return script.getvalue()
