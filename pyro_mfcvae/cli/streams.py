"""Safe printing to standard output and error, for every encoding and every text."""

import codecs
import sys
from io import TextIOWrapper

_ERRORS = "mfcvae.plain"

# ASCII forms of the characters in texts and tables, for encodings without these characters.
_PLAIN = {"×": "x", "–": "-", "—": "-", "−": "-", "…": "...", "±": "+/-", "·": ".", "≥": ">=", "≤": "<=", "•": "*"}
_PLAIN |= {"’": "'", "“": '"', "”": '"', "²": "2", "→": "->", "█": "#", "━": "-", "─": "-", "│": "|"}
_PLAIN |= dict.fromkeys("╭╮╰╯╸╺", "+")


def print_anywhere() -> None:
    """Let standard output and error replace characters that they cannot encode, instead of failing."""
    codecs.register_error(_ERRORS, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def print_error(message: str) -> None:
    """Print one line on standard error, red on a terminal, with escaped control characters."""
    text = f"mfcvae: {printable(message)}"
    print(f"\033[31m{text}\033[0m" if sys.stderr.isatty() else text, file=sys.stderr)


def printable(text: str) -> str:
    r"""A text with escaped control characters, such as \x1b, so that a label cannot control the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" or "\udc80" <= c <= "\udcff" else repr(c)[1:-1] for c in text)


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a path that is not valid UTF-8
        return f"\\x{ord(character) & 0xFF:02x}"
    return _PLAIN.get(character, "?")
