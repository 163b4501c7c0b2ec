"""Lists on the command line: ``mfcvae presets | datasets | completion``."""

import contextlib
import io
from dataclasses import asdict
from typing import Annotated, Literal

import tyro

from pyro_mfcvae.cli.options import Json, option, registry
from pyro_mfcvae.cli.terminal import console, print_json, say, table
from pyro_mfcvae.config.text import AUTO, AUTO_DESCRIPTION, load_preset, preset_names
from pyro_mfcvae.data.catalogue import DATASETS

# The script of tyro completes commands, options and their values. Any other word is an operand: a preset, or a file.
# Answers of the script that do not begin with the typed text are broken lines of help, and are dropped.
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
    """List the data sets that are known by name."""
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
    say("\nA path works as well: a .npz, .npy or .h5 file, or a folder of images.")


def completion(
    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional, option("SHELL")],
    /,
) -> None:
    """Print a script that completes commands, options, presets and files.

    In bash: mfcvae completion bash > ~/.local/share/bash-completion/completions/mfcvae

    In zsh: mfcvae completion zsh > DIR/_mfcvae, with DIR a folder of $fpath

    Args:
        shell: bash or zsh.
    """
    form, ending = (_BASH_OPERANDS, _BASH) if shell == "bash" else (_ZSH_OPERANDS, _ZSH)
    operands = (("fit|sweep", (AUTO, *preset_names())), ("completion", ("bash", "zsh")))
    cases = "\n".join(form.format(commands=commands, words=" ".join(words)) for commands, words in operands)
    print(_script_of_tyro(shell).rstrip().removesuffix(_ZSH_CALL) + ending.replace("OPERANDS", cases), end="")


def _script_of_tyro(shell: str) -> str:
    from pyro_mfcvae.cli.app import COMMANDS, find_command

    commands = tyro.extras.SubcommandApp()
    for name in COMMANDS:
        commands.command(name=name)(find_command(name))
    script = io.StringIO()
    with contextlib.redirect_stdout(script), contextlib.suppress(SystemExit):
        commands.cli(prog="mfcvae", args=["--tyro-print-completion", shell], registry=registry)
    return script.getvalue()
