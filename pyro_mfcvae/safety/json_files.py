"""JSON that this package wrote: objects of a known form, or one line that says what is wrong."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pyro_mfcvae.errors import InputError


def parse_object(text: str, path: Path) -> dict[str, Any]:
    """The JSON object of a file's text.

    Raises:
        InputError: it is something else.
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
    """The shape of an item, a JSON list of positive numbers; None if the text is something else."""
    try:
        shape = json.loads(text)
    except (ValueError, RecursionError):
        return None
    fits = isinstance(shape, list) and shape and all(type(size) is int and 0 < size < 1 << 20 for size in shape)
    return tuple(shape) if fits else None


def has_form(text: str | bytes, form: type) -> bool:
    """Whether a text of JSON has the fields of a dataclass with values of their types; it may have further fields."""
    try:
        _adapter(form).validate_json(text, strict=True)
        json.loads(text)  # refuses more than pydantic, such as a number of 5,000 digits in another field
    except (ValueError, RecursionError):  # pydantic's error is a ValueError
        return False
    return True


@cache
def _adapter(form: type) -> TypeAdapter[Any]:
    return TypeAdapter(form)
