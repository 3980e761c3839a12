"""Listening: where, for whom, and until when."""

from __future__ import annotations

import secrets
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from astseg.errors import UserError
from astseg.inference.scene_segmenter import SceneSegmenter
from astseg.inference.segmenter import Segmenter
from astseg.serve.app import make_app
from astseg.serve.guard import is_local
from astseg.serve.limits import Limits
from astseg.serve.watch import WatchedRuns

__all__ = ["listening", "serve"]


def serve(
    run: Path | None,
    *,
    runs: WatchedRuns,
    host: str,
    port: int,
    token: str | None,
    tell: Callable[[str], object],
) -> None:
    """Serve until SIGINT or SIGTERM; what is under way then is finished.

    Args:
        run: The run folder whose model is used; None: no pictures are taken and no scenes drawn.
        runs: The run folders that are shown.
        host: Name or address to listen at.
        port: 0 to 65535, 0: any that is free.
        token: What clients must show. None: one is made up, unless this machine alone is served.
        tell: Called with each line for the person at the screen.

    Raises:
        UserError: A run without weights or without a renderer, or an address that cannot be listened at.
    """
    segmenter = None if run is None else Segmenter.from_pretrained(run)
    if isinstance(segmenter, SceneSegmenter):
        raise UserError(f"'{run}' has no network of layers, it knows one scene: use astseg segment")
    if token is None and not is_local(host):
        token = secrets.token_urlsafe(18)
    limits = Limits()
    app = make_app(segmenter, runs=runs, limits=limits, token=token)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=round(limits.seconds),
    )
    with listening(host, port) as door:
        address = f"http://{f'[{host}]' if ':' in host else host}:{door.getsockname()[1]}/"
        # Behind the # it stays in the browser and comes into no log.
        tell(f"open {address}{f'#token={token}' if token else ''}; Ctrl-C ends it")
        for number in (signal.SIGINT, signal.SIGTERM):  # the server raises them again once it has ended
            signal.signal(number, lambda *_: None)
        uvicorn.Server(config).run(sockets=[door])


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: It cannot be listened there.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        door = socket.socket(family, kind, protocol)  # by the protocol asyncio knows to send answers at once
        try:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind(address)
            door.listen(128)
        except BaseException:
            door.close()
            raise
    except OSError as error:
        raise UserError(f"cannot listen at {host}:{port} ({error.strerror}): choose another --host or --port") from None
    return door
