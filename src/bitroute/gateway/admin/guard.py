"""Keeps other sites' pages, which run in a browser on the same machine, away from the admin port. It reads headers alone.

A request must name a host that such a page cannot have been loaded from (against DNS rebinding) and come from no other origin
(against forged requests). What programs send passes: who may reach the port is the matter of its address.
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN: Final = frozenset({"/health", "/metrics"})  # counts alone: a scraper may call us by any name
_BINDING: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class OriginGuardMiddleware:
    """Passes on what our own page, or a program, can have sent to `app`; answers the rest 403. `hosts` are names of ours."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on; either way with the headers that bind a browser."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def bound(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_BINDING)
            await send(message)

        reason = self._refused(scope["path"], Headers(scope=scope))
        answer = self.app if reason is None else Response(msgspec.json.encode({"error": reason}), 403, None, "application/json")
        await answer(scope, receive, bound)

    def _refused(self, path: str, headers: Headers) -> str | None:
        host = headers.get("host", "").lower()
        if path not in OPEN and not self._ours(host):
            return "This port answers to an address, to localhost and to server.admin_host; the Host header has another name"
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
            return "Pages of other sites may not use this port"
        return None

    def _ours(self, host: str) -> bool:
        """Whether no other site's page can have this host: it is an address, or a name that we go by."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name not in self.hosts:
                ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
