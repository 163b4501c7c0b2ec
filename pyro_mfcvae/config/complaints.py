"""Convert errors of pydantic to one line, with the names of the settings as the user writes them."""

from typing import Any

from pydantic import ValidationError


def describe_errors(error: ValidationError, *, under: str = "") -> str:
    """All errors, separated by semicolons: the setting, the expected value, and the given value.

    Args:
        error: the error of pydantic.
        under: the section of the settings.
    """
    return "; ".join(_describe(details, under) for details in error.errors())


def _describe(details: Any, under: str) -> str:
    # For unions, pydantic adds the name of the alternative to the path; the user knows only the keys of the file.
    path = ".".join([*([under] if under else []), *(str(p) for p in details["loc"] if str(p).isidentifier())])
    if details["type"] == "value_error":  # an error of this package, which usually names its setting
        message = details["msg"].removeprefix("Value error, ")
        return message if not path or message.startswith(path.partition(".")[0]) else f"{path}: {message}"
    message = "expected a list such as [20, 10]" if details["type"] == "tuple_type" else details["msg"]
    got = "" if isinstance(details["input"], dict) else f", got {details['input']!r}"
    return f"{path}: {message[0].lower()}{message[1:]}{got}" if path else message
