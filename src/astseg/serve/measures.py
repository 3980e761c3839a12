"""Counts and times of a server, as Prometheus reads them."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Measured", "Measures"]


class Measures:
    """What one application counts."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        """Everything at zero."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "astseg_requests", "Requests that were answered", ("path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "astseg_request_seconds", "Seconds until the answer began", ("path",), registry=self._registry
        )
        sizes = (1, 2, 4, 8, 16, 32)
        self._batches = Histogram(
            "astseg_batch_pictures", "Pictures of a batch", buckets=sizes, registry=self._registry
        )
        self._waiting = Gauge("astseg_waiting_pictures", "Pictures that wait", registry=self._registry)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request by the pattern of its address."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, pictures: int) -> None:
        """Count a batch."""
        self._batches.observe(pictures)

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Ask for the length of the queue whenever somebody looks."""
        self._waiting.set_function(length)

    def text(self) -> bytes:
        """Everything, in the format of Prometheus."""
        return generate_latest(self._registry)


class Measured:
    """Counts and times what an application answers."""

    def __init__(self, app: ASGIApp, *, measures: Measures) -> None:
        """Stand before an application."""
        self.app, self.measures = app, measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and count its answer."""
        begun = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "other")
                self.measures.request(path, message["status"], time.perf_counter() - begun)
            await send(message)

        await self.app(scope, receive, counted)
