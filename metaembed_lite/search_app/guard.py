"""Which requests are answered: those of programs and of the own page on this machine."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
IMAGE_LIMIT = 20 * 2**20  # bytes of an uploaded image
BODY_LIMIT = IMAGE_LIMIT + 2**16  # with the other fields

SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def json_response(content: object, status: int = 200) -> Response:
    """JSON in ASCII, so that any text can be answered, also half of a surrogate pair.

    Example:
        >>> json_response({"error": "\\ud800"}, 400).body
        b'{"error": "\\\\ud800"}'
    """
    text = json.dumps(content, allow_nan=False)
    return Response(text, status, media_type="application/json")


def refusal(method: str, headers: Headers) -> str | None:
    """Why a request is refused, or None.

    A page of another site can make a browser send requests here. Its own name can even lead to
    this machine (DNS rebinding), so the name in ``Host`` counts.

    Example:
        >>> refusal("GET", Headers({"host": "127.0.0.1:8000"})) is None
        True
        >>> refusal("GET", Headers({"host": "evil.example:8000"}))
        "host 'evil.example:8000': open this page as 127.0.0.1 or localhost"
    """
    host = headers.get("host", "")
    if re.sub(r":\d+$", "", host).lower() not in HOSTS:
        return f"host {host!r}: open this page as 127.0.0.1 or localhost"
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return f"origin {origin!r}: only the page of this address may send requests"
    site = headers.get("sec-fetch-site", "none")
    is_link = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    if site not in ("none", "same-origin") and not is_link:
        return f"a request from another site ({site}): only the own page may send requests"
    return None


class Guard:
    """ASGI middleware: refuses other sites and large bodies, and restricts what the page may load.

    Args:
        app: gets the requests that are not refused.

    Example:
        >>> from starlette.applications import Starlette
        >>> from starlette.testclient import TestClient
        >>> client = TestClient(Guard(Starlette()), base_url="http://evil.example")
        >>> client.get("/").status_code
        403
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        problem, status = refusal(scope["method"], headers), 403
        length = headers.get("content-length", "0")
        if problem is None and length.isdigit() and int(length) > BODY_LIMIT:
            problem, status = too_large(), 413
        if problem is not None:
            await json_response({"error": problem}, status)(scope, receive, send)
            return
        n_bytes = 0

        async def counted() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > BODY_LIMIT:
                raise HTTPException(413, too_large())
            return message

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY)
            await send(message)

        await self._app(scope, counted, secured)


def too_large() -> str:
    """What is answered to a body above the limit.

    Example:
        >>> too_large()
        'the request is larger than the limit: an image may have 20,971,520 bytes'
    """
    return f"the request is larger than the limit: an image may have {IMAGE_LIMIT:,} bytes"
