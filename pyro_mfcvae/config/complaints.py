"""The errors of pydantic in one line, named as a user knows the settings."""

from typing import Any

from pydantic import ValidationError


def describe_errors(error: ValidationError, *, under: str = "") -> str:
    """All errors, separated by semicolons: setting, what was expected, what came.

    Args:
        error: what pydantic found.
        under: the section that the names stand in.
    """
    return "; ".join(_describe(details, under) for details in error.errors())


def _describe(details: Any, under: str) -> str:
    # Unions put the name of the tried alternative into the path; the keys of the file are what a user knows.
    path = ".".join([*([under] if under else []), *(str(p) for p in details["loc"] if str(p).isidentifier())])
    if details["type"] == "value_error":  # ours, which names its setting where it can
        message = details["msg"].removeprefix("Value error, ")
        return message if not path or message.startswith(path.partition(".")[0]) else f"{path}: {message}"
    message = "expected a list such as [20, 10]" if details["type"] == "tuple_type" else details["msg"]
    got = "" if isinstance(details["input"], dict) else f", got {details['input']!r}"
    return f"{path}: {message[0].lower()}{message[1:]}{got}" if path else message
