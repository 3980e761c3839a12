"""What every request passes first: who asks, how much it sends, and how long it takes to send it."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from astseg.serve.limits import Limits, Refused

__all__ = ["COOKIE", "Guard", "is_local"]

COOKIE = "astseg_token"
"""The page keeps the token there, so that pictures can be shown by their address."""

OPEN = ("/healthz", "/page/")
"""Paths, beside ``/``, that hold nothing of the user's and need no token."""

_POLICY = "default-src 'self'; img-src 'self' data: blob:; media-src blob:; frame-ancestors 'none'"

_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def is_local(host: str) -> bool:
    """Whether a name of a host, or its address, is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Refuses requests of strangers, of other web pages, and those that are too large or too slow."""

    def __init__(self, app: ASGIApp, *, limits: Limits, token: str | None) -> None:
        """Stand before an application.

        Args:
            app: The application.
            limits: Of a request.
            token: What a client must show; None: only this machine is served.
        """
        self.app, self.limits, self.token = app, limits, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer that it is refused."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(receive, self.limits)
        begun = False

        async def send_whole(message: Message) -> None:
            """What the application answers, as long as its request is not refused meanwhile."""
            nonlocal begun
            if body.refused is not None and not begun:
                return
            begun = True
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, body.receive, send_whole)
        except Exception as error:
            if isinstance(error, Refused):
                body.refused = error
            elif body.refused is None:
                raise
        if body.refused is not None and not begun:
            refused = body.refused
            headers = {**_HEADERS, **(refused.headers or {})}
            await JSONResponse({"detail": refused.detail}, refused.status_code, headers)(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raise Refused for a request that must not be answered."""
        headers = Headers(scope=scope)
        host = urlsplit(f"//{headers.get('host', '')}")
        if self.token is None and not is_local(host.hostname or ""):
            # Else a page of any site could reach this server by a name that it has made point here.
            raise Refused(403, "this server answers to 127.0.0.1 and localhost alone")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host.netloc:
            raise Refused(403, "this is asked by a page of another site")
        path = scope["path"]
        if self.token is not None and path != "/" and not path.startswith(OPEN):
            shown = headers.get("authorization", "").removeprefix("Bearer ") or _cookie(headers.get("cookie", ""))
            if not hmac.compare_digest(shown.encode(), self.token.encode()):
                words = "the token is missing or wrong: astseg serve prints it as it starts"
                raise Refused(401, words, {"www-authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.limits.body_bytes:
            raise _too_large(self.limits)


class _Body:
    """The body of a request, as long as it is neither too large nor too late."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self.refused: Refused | None = None
        self._receive, self._limits = receive, limits
        self._left = limits.body_bytes
        self._end = time.monotonic() + limits.upload_seconds
        self._is_whole = False

    async def receive(self) -> Message:
        if self._is_whole:  # what still comes is that the client has gone
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0, self._end - time.monotonic()))
        except TimeoutError:
            words = f"the request had not come whole after {self._limits.upload_seconds:g} seconds"
            self.refused = Refused(408, words)
            raise self.refused from None
        self._left -= len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._left < 0:
            self.refused = _too_large(self._limits)
            raise self.refused
        return message


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"the request is larger than {limits.body_bytes} bytes: send fewer or smaller files")


def _cookie(text: str) -> str:
    """The token in a cookie header, or nothing."""
    try:
        return SimpleCookie(text)[COOKIE].value
    except (CookieError, KeyError):
        return ""
