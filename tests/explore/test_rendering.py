import json

from starlette.testclient import TestClient

from pyro_mfcvae.explore.desk import Desk


def test_verdicts_that_are_set_aside_are_in_brackets(client: TestClient, desk: Desk) -> None:
    record = {"asks": "?", "value": 1, "unit": "", "verdict": "bad", "advice": "", "facet": None}
    checks = [record | {"name": "one", "set_aside": True}, record | {"name": "two", "set_aside": False}]
    (desk.run.path / "checks").mkdir()
    (desk.run.path / "checks" / "checks.json").write_text(json.dumps({"sentences": ["a", "b"], "checks": checks}))
    text = client.get("/checks").text
    assert '<span class="verdict aside">(bad)</span>' in text
    assert '<span class="verdict bad">bad</span>' in text
