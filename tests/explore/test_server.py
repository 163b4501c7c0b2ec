"""Addresses, tokens, and the page in a notebook."""

import socket

import httpx
import pytest

from pyro_mfcvae.api.run import Run
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.explore.desk import Desk
from pyro_mfcvae.explore.server import InlineExplorer, address_of, explore, hosts_for, listen, token_for


def test_only_other_machines_need_a_token() -> None:
    assert token_for("127.0.0.1") is None
    assert token_for("localhost") is None
    tokens = {token_for("0.0.0.0") for _ in range(20)}
    assert len(tokens) == 20
    assert all(token and len(token) >= 43 for token in tokens)  # 256 bits


def test_names_of_this_machine_count_only_where_others_connect() -> None:
    assert hosts_for("127.0.0.1") == {"localhost", "127.0.0.1"}
    assert socket.gethostname().lower() in hosts_for("0.0.0.0")


def test_a_port_that_is_taken_is_refused_or_passed_over() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(InputError, match=f"expected a free address, got 127.0.0.1 port {port}, which fails"):
            listen("127.0.0.1", port)
    with pytest.raises(InputError, match=r"expected a free address, got 127\.0\.0\.1 port 99999"):
        listen("127.0.0.1", 99_999)
    with listen("127.0.0.1", None) as first, listen("127.0.0.1", None) as second:
        assert first.getsockname() != second.getsockname()
        assert address_of(second, "127.0.0.1", "t") == f"http://127.0.0.1:{second.getsockname()[1]}/?token=t"


def test_a_notebook_shows_the_page_in_a_frame_until_it_is_closed(desk: Desk) -> None:
    page = InlineExplorer(desk, height=300)
    html = page._repr_html_()
    assert f'src="{page.url}"' in html
    assert 'height="300"' in html
    response = httpx.get(page.url)
    assert response.status_code == 200
    assert "frame-ancestors 'self' http://localhost:*" in response.headers["content-security-policy"]
    page.close()
    with pytest.raises(httpx.HTTPError):
        httpx.get(page.url)


def test_a_run_is_opened_by_its_folder(desk: Desk) -> None:
    for page in (explore(str(desk.run.path)), Run(desk.run.path).explore(height=500)):
        assert "2 facets of 200 items" in httpx.get(page.url).text
        page.close()
