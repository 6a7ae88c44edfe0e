"""The endpoint itself: OpenAI's routes on this machine's own address."""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections import Counter
from typing import Any

from rws_cli.errors import RunError, UsageError
from rws_cli.serve.queue import Queue
from rws_cli.serve.requests import Request, RequestError, read_request

try:
    import fastapi
    import uvicorn
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise UsageError("rws serve needs the packages fastapi and uvicorn: pip install 'rws[serve]'.") from error

HOST = "127.0.0.1"
HOSTS = (HOST, "localhost")
"""Names by which a client may call the endpoint. A page in a browser that reaches it by another name is refused."""
MOST_BYTES = 1 << 22
"""The longest body."""
POLL_SECONDS = 0.1
"""How often to look whether a client has gone."""
TYPES = {404: "not_found_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}


def endpoint(queue: Queue) -> fastapi.FastAPI:
    """The application that answers requests from a queue."""
    app = fastapi.FastAPI(openapi_url=None)
    name, started = queue.config.model.name, int(time.time())
    model = {"id": name, "object": "model", "created": started, "owned_by": "rws"}

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{wanted:path}")
    async def one_model(wanted: str) -> Any:
        if wanted != name:
            raise RequestError(404, f"{wanted} is not served here: the model of this endpoint is {name}.", "model")
        return model

    @app.post("/v1/completions")
    async def completions(request: fastapi.Request) -> Any:
        return await answer(request, chat=False)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: fastapi.Request) -> Any:
        return await answer(request, chat=True)

    async def answer(request: fastapi.Request, chat: bool) -> Any:
        requested = read_request(await _body(request), queue.prepared.model, name, chat)
        job = queue.submit(requested)
        decoded = asyncio.wrap_future(job.future)
        while not (await asyncio.wait([decoded], timeout=POLL_SECONDS))[0]:
            if await request.is_disconnected():
                job.left = True
                raise RequestError(499, "The client has gone.")
        return _response(decoded.result(), requested, job.prompts, name, chat)

    _handle_errors(app)
    return app


def _handle_errors(app: fastapi.FastAPI) -> None:
    """Answer errors in OpenAI's form, with one sentence."""

    @app.exception_handler(RequestError)
    async def refused(request: fastapi.Request, error: RequestError) -> JSONResponse:
        return _error(error.status, str(error), error.param)

    @app.exception_handler(UsageError)
    async def unusable(request: fastapi.Request, error: UsageError) -> JSONResponse:
        return _error(400, str(error))

    @app.exception_handler(RunError)
    async def failed(request: fastapi.Request, error: RunError) -> JSONResponse:
        return _error(500, str(error))

    @app.exception_handler(HTTPException)
    async def not_there(request: fastapi.Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, f"{request.method} {request.url.path} is not part of this endpoint.")


async def _body(request: fastapi.Request) -> bytes:
    """The body of a request. Raises RequestError if it is too long, or comes from a page in a browser."""
    if (request.url.hostname or "") not in HOSTS:
        raise RequestError(403, f"The endpoint answers only to {' and '.join(HOSTS)}.")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, "The body must have the content type application/json.")
    content = bytearray()
    async for chunk in request.stream():
        content += chunk if len(content) <= MOST_BYTES else b""  # read to its end, so that the client reads the answer
    if len(content) > MOST_BYTES:
        raise RequestError(413, f"The body is longer than {MOST_BYTES:,} bytes.")
    return bytes(content)


def _error(status: int, message: str, param: str | None = None) -> JSONResponse:
    kind = TYPES.get(status, "invalid_request_error")
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": None}}, status)


def _response(
    samples: list[dict[str, Any]], request: Request, prompts: dict[str, list[int]], name: str, chat: bool
) -> dict[str, Any]:
    """The answer to a request. usage: besides OpenAI's counts, the cost of decoding as in samples.jsonl."""
    choices, cost, length = [], Counter[str](), 0
    for index, sample in enumerate(samples):
        text, ended = sample["completion"], sample["length"] < len(sample["tokens"])
        ends = [place for stop in request.stop if (place := text.find(stop)) >= 0]
        text = text[: min(ends)] if ends else text
        content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        finish = "stop" if ends or ended else "length"
        choices.append({"index": index, **content, "finish_reason": finish, "logprobs": None})
        cost.update(sample["cost"])
        length += sample["length"]
    prompt_tokens = sum(len(ids) for _, ids in request.prompts)
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": length, "total_tokens": prompt_tokens + length}
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": "chat.completion" if chat else "text_completion",
        "created": int(time.time()),
        "model": name,
        "choices": choices,
        "usage": usage | dict(cost),
    }


class Server(uvicorn.Server):
    """A server that refuses what is not answered yet when a signal stops it."""

    def __init__(self, queue: Queue) -> None:
        super().__init__(uvicorn.Config(endpoint(queue), log_level="warning", lifespan="off", ws="none"))
        self.queue = queue

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.queue.stop()
        super().handle_exit(sig, frame)


def listen(port: int) -> socket.socket:
    """A socket on this machine's own address. port: 0 for any that is free. Raises RunError if it is taken."""
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise RunError(f"--port={port} cannot be used: {os.strerror(error.errno or 0)}.") from error
