"""What the page refuses before Gradio sees it, and what it tells browsers."""

from __future__ import annotations

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multicam.web.uploads import MAX_BYTES

MAX_BODY = MAX_BYTES + 1_000_000
"""Bytes of a request: a file, and what surrounds it."""

POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio needs both
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    ]
)
"""The content security policy: browsers load nothing from elsewhere."""

_FROM_ELSEWHERE = re.compile(r"/(file|proxy)=\s*\w+:", re.IGNORECASE)
"""Gradio would fetch these addresses for whoever asks."""


class Shield:
    """Lets requests of a known, bounded size through, and none that fetches from elsewhere.

    Args:
        app: what it protects.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = _refusal(scope)
        app = self.app if refusal is None else refusal

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await app(scope, receive, send_with_policy)


def _refusal(scope: Scope) -> PlainTextResponse | None:
    if _FROM_ELSEWHERE.search(scope["path"]):
        return PlainTextResponse("This page fetches nothing from elsewhere.", 403)
    if scope["method"] != "POST":
        return None
    length = Headers(scope=scope).get("content-length", "")
    if not length.isdecimal():
        return PlainTextResponse("This page takes requests of a known length only.", 411)
    if int(length) > MAX_BODY:
        limit = f"{MAX_BYTES // 2**20} MB"
        return PlainTextResponse(f"This file is too large: photos may have up to {limit}.", 413)
    return None
