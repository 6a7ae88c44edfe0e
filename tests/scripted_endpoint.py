"""An OpenAI-compatible endpoint on this machine, whose replies a test scripts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Endpoint:
    """An OpenAI-compatible server; `reply` makes (status, body) of the request's text and how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.times: list[float] = []
        self.keys: set[str | None] = set()
        self.reply: Callable[[str, int], tuple[int, Any]] = lambda text, n: said("[[A]]")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = request["messages"][0]["content"]
                outer.asked.append(text)
                outer.times.append(time.monotonic())
                outer.keys.add(self.headers.get("Authorization"))
                status, body = outer.reply(text, outer.asked.count(text))
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that leaves prints nothing
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


def said(text: str, usage: bool = True) -> tuple[int, dict[str, Any]]:
    body: dict[str, Any] = {
        "id": "x", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
    }  # fmt: skip
    return 200, body | ({"usage": {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}} if usage else {})
