"""Which browsers and programs reach the admin port, by the headers they send."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.responses import PlainTextResponse

from bitroute.gateway.admin.guard import OriginGuardMiddleware


def get(path: str = "/", **headers: str) -> httpx.Response:
    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(OriginGuardMiddleware(PlainTextResponse("in"), frozenset({"localhost", "gateway.lan"})))
        async with httpx.AsyncClient(transport=transport, base_url="http://unused") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(main())


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8081", "localhost", "LOCALHOST:8081", "[::1]:8081", "10.0.0.7", "gateway.lan:8081", "Gateway.LAN"]
)
def test_addresses_and_names_of_ours_are_answered(host: str) -> None:
    assert get(host=host).text == "in"


@pytest.mark.parametrize(
    "host", ["evil.example:8081", "127.0.0.1.evil.example", "", "localhost.evil.example", "[::1", "0x7f.1", "a@b", "x" * 300]
)
def test_other_names_are_refused(host: str) -> None:
    response = get(host=host)
    assert response.status_code == 403
    assert "Host header" in response.json()["error"]


@pytest.mark.parametrize("path", ["/metrics", "/health"])
def test_scrapers_may_use_any_name(path: str) -> None:
    assert get(path, host="gateway:8081").text == "in"
    assert get(path, host="gateway:8081", origin="http://evil.example").status_code == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8081", 200),
        ("https://127.0.0.1:8081", 200),
        ("http://127.0.0.1", 403),
        ("http://127.0.0.1:8080", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://[", 403),
    ],
)
def test_pages_of_other_origins_are_refused(origin: str, status: int) -> None:
    assert get(host="127.0.0.1:8081", origin=origin).status_code == status


def test_every_answer_binds_the_browser() -> None:
    for response in (get(host="localhost"), get(host="evil.example")):
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in response.headers
