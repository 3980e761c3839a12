"""A server in this process, on a port of its own."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="pip install 'astseg[serve]'")

from astseg.inference.segmenter import Segmenter  # noqa: E402
from astseg.serve.app import make_app  # noqa: E402

Serving = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="session")
def serving() -> Serving:
    """Serves an application while it is entered; its address, without a slash at the end."""

    @contextmanager
    def serving(**settings: Any) -> Iterator[str]:
        config = uvicorn.Config(make_app(**settings), port=0, log_level="error", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()

    return serving


@pytest.fixture(scope="session")
def segmenter(spread_run: Path) -> Segmenter:
    return Segmenter.from_pretrained(spread_run, "cpu")


@pytest.fixture(scope="module")
def server(serving: Serving, segmenter: Segmenter) -> Iterator[str]:
    with serving(segmenter=segmenter) as address:
        yield address
