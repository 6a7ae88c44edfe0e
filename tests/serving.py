"""An endpoint in this process, on a port of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rws_cli.serve.app import Server, listen
from rws_cli.serve.queue import Queue


@contextmanager
def served(*overrides: str) -> Iterator[tuple[str, Queue]]:
    """The address of an endpoint, and its queue."""
    queue = Queue(list(overrides))
    socket, server = listen(0), Server(queue)
    thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}/v1", queue
    finally:
        queue.stop()
        server.should_exit = True
        thread.join(10)
        queue.thread.join(10)
