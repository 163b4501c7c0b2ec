from dataclasses import dataclass
from pathlib import Path

import pytest

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.safety.json_files import has_form, parse_object, parse_shape


@dataclass(frozen=True)
class Form:
    name: str
    values: list[float]


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"name": "a", "values": [1, 2.5], "more": {}}', True),
        ('{"name": "a", "values": []}', True),
        ('{"name": "a"}', False),
        ('{"name": 1, "values": []}', False),
        ('{"name": "a", "values": ["1"]}', False),
        ('{"name": "a", "values": null}', False),
        ('{"name": "\\ud800", "values": []}', False),
        ("[]", False),
        ("{", False),
        ("[" * 100_000, False),
        ('{"name": "a", "values": [], "more": ' + "9" * 5_000 + "}", False),
    ],
)
def test_the_form_of_an_object_is_that_of_a_dataclass(text: str, fits: bool) -> None:
    assert has_form(text, Form) == fits
    assert has_form(text.encode(), Form) == fits


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "[" * 100_000, '{"a": ' + "9" * 5_000 + "}"])
def test_texts_that_are_not_objects_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"expected a JSON object in a.json, as mfcvae writes it, got something else"):
        parse_object(text, Path("a.json"))
    assert parse_object('{"a": [1]}', Path("a.json")) == {"a": [1]}


@pytest.mark.parametrize(
    "text", ["", "3", "{}", "[]", "[", "[-1]", "[0]", "[1e9, 8]", "[true, 8]", "nan", "[" * 100_000, "9" * 5_000]
)
def test_texts_that_are_not_shapes_give_none(text: str) -> None:
    assert parse_shape(text) is None
    assert parse_shape("[3, 8, 9]") == (3, 8, 9)
