"""Read JSON that this package wrote: objects of a known form, or an error of one line."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pyro_mfcvae.errors import InputError


def parse_object(text: str, path: Path) -> dict[str, Any]:
    """Parse the text of a file as a JSON object.

    Raises:
        InputError: the text is not a JSON object.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        record = str(error)
    if not isinstance(record, dict):
        raise InputError(
            f"expected a JSON object in {path}, as mfcvae writes it, got something else: bring a copy of the file back"
        )
    return record


def parse_shape(text: str) -> tuple[int, ...] | None:
    """Parse the shape of an item, a JSON list of positive numbers; None for any other text."""
    try:
        shape = json.loads(text)
    except (ValueError, RecursionError):
        return None
    fits = isinstance(shape, list) and shape and all(type(size) is int and 0 < size < 1 << 20 for size in shape)
    return tuple(shape) if fits else None


def has_form(text: str | bytes, form: type) -> bool:
    """Whether a JSON text has the fields of a dataclass, with values of the right types; further fields are allowed."""
    try:
        _adapter(form).validate_json(text, strict=True)
        json.loads(text)  # this refuses more than pydantic, such as a number of 5,000 digits in a further field
    except (ValueError, RecursionError):  # pydantic's error is a ValueError
        return False
    return True


@cache
def _adapter(form: type) -> TypeAdapter[Any]:
    return TypeAdapter(form)
