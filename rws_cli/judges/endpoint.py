"""A language model behind any OpenAI-compatible endpoint as a judge"""

import hashlib
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

from rws_cli.errors import RunError, UsageError
from rws_cli.files import file_lock, user_path, write_json
from rws_cli.judges.base import Judge, Pair, Verdict, render
from rws_cli.part import part, setting

VERDICTS = {"A": 1.0, "B": 0.0, "C": 0.5}
CHARACTERS_PER_TOKEN = 4
"""Of English; only the estimate of cost before anything is asked rests on it."""


@part
class EndpointJudge(Judge):
    """Asks for a verdict in double brackets, [[A]], [[B]] or [[C]] for a tie, and reads the last one.

    Replies are kept on disk by what was asked, so that no question is paid for twice: not within one call, where two
    equal answers make a pair and its swap the same request, nor by two processes at once. What may cost more than
    judge.max_dollars is refused before anything is asked.
    """

    model: str = setting("the model's name at the endpoint")
    base_url: str | None = setting("the endpoint, e.g. http://localhost:8000/v1; null: OpenAI's", None)
    key_env: str = setting("the environment variable that holds the key", "OPENAI_API_KEY")
    temperature: float = setting("of its replies", 0.0, min=0.0)
    max_tokens: int = setting("the longest reply", 512, min=1)
    parallel: int = setting("requests at a time", 4, min=1)
    requests_per_minute: float | None = setting(
        "requests started in a minute, at most; null: no limit of ours", None, above=0.0
    )
    retries: int = setting("of each request, waiting longer each time", 5, min=0)
    timeout_seconds: float = setting("how long a reply may take", 120.0, above=0.0)
    cache: str | None = setting("a folder of replies; null: rws/judge in the user's cache", None)
    dollars_per_million_in: float | None = setting("price of a million tokens asked; null: not known", None, min=0.0)
    dollars_per_million_out: float | None = setting("price of a million tokens replied; null: not known", None, min=0.0)
    max_dollars: float = setting("refuse what may cost more", 10.0, min=0.0)
    template: str = setting("what it is asked, with {question}, {answer_a} and {answer_b}")

    def load(self, benchmark: Any) -> None:
        """Raises UsageError without the package openai, and without a key where OpenAI is asked."""
        try:
            import openai
        except ImportError as error:
            raise UsageError("judge=openai needs the package openai: pip install 'rws[openai]'.") from error
        key = os.environ.get(self.key_env)
        if not key and not self.base_url:
            raise UsageError(f"judge={self.name} needs a key: set the environment variable {self.key_env}.")
        self.openai = openai
        self.client = openai.OpenAI(
            api_key=key or "none", base_url=self.base_url, max_retries=self.retries, timeout=self.timeout_seconds
        )
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.replies = user_path(self.cache) if self.cache else home / "rws" / "judge"
        self.lock, self.next_start = threading.Lock(), 0.0
        self.tokens = {"in": 0, "out": 0}

    def ask(self, pairs: list[Pair]) -> Iterator[Verdict]:
        asked = [self._request(pair) for pair in pairs]
        files = [self._file(request) for request in asked]
        distinct = dict(zip(files, asked, strict=True))
        self._open_cache()
        self._show_cost(distinct)
        with ThreadPoolExecutor(self.parallel) as pool:
            try:
                replies = {file: pool.submit(self._reply, file, request) for file, request in distinct.items()}
                for file in files:
                    reply = replies[file].result()
                    yield Verdict(read_verdict(reply), reply)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def spent(self) -> dict[str, Any]:
        return {"spent": {"tokens": self.tokens, "dollars": self.dollars(self.tokens["in"], self.tokens["out"])}}

    def dollars(self, tokens_in: int, tokens_out: int) -> float | None:
        """What so many tokens cost; None where the price is not set."""
        price_in, price_out = self.dollars_per_million_in, self.dollars_per_million_out
        return None if price_in is None or price_out is None else (tokens_in * price_in + tokens_out * price_out) / 1e6

    def _request(self, pair: Pair) -> dict[str, Any]:
        message = {"role": "user", "content": render(self.template, pair)}
        settings = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return {"model": self.model, "messages": [message], **settings}

    def _open_cache(self) -> None:
        """Make the folder of replies. Raises UsageError if it cannot be written, before a reply is paid for and lost."""
        try:
            self.replies.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.replies):
                pass
        except OSError as error:
            raise UsageError(
                f"{self.replies} cannot be written: {error.strerror}; set judge.cache=<a folder>."
            ) from error

    def _show_cost(self, distinct: dict[Path, dict[str, Any]]) -> None:
        new = [request for file, request in distinct.items() if kept_reply(file) is None]
        tokens_in = sum(len(request["messages"][0]["content"]) for request in new) // CHARACTERS_PER_TOKEN
        tokens_out = len(new) * self.max_tokens
        dollars = self.dollars(tokens_in, tokens_out)
        price = "price not set (judge.dollars_per_million_in, …_out)" if dollars is None else f"at most ${dollars:,.2f}"
        Console(stderr=True, highlight=False).print(
            f"{self.model}: {len(new)} requests, {len(distinct) - len(new)} in the cache; about {tokens_in:,} tokens "
            f"in, at most {tokens_out:,} out; {price}",
            soft_wrap=True,
        )
        if dollars is not None and dollars > self.max_dollars:
            raise UsageError(
                f"Judging may cost ${dollars:,.2f}, more than judge.max_dollars={self.max_dollars:g}: raise it, or "
                "judge fewer examples."
            )

    def _file(self, request: dict[str, Any]) -> Path:
        asked = json.dumps([self.base_url, request], sort_keys=True)
        return self.replies / f"{hashlib.sha256(asked.encode()).hexdigest()}.json"

    def _reply(self, file: Path, request: dict[str, Any]) -> str:
        """The reply to a request, from its file if it is there. Raises UsageError or RunError as the endpoint fails."""
        if (kept := kept_reply(file)) is not None:
            return kept
        with file_lock(file.with_suffix(".lock")):  # another process may be asking the same
            if (kept := kept_reply(file)) is not None:
                return kept
            self._wait_for_turn()
            reply, usage = self._send(request)
            write_json(file, {"request": request, "reply": reply})
            file.with_suffix(".lock").unlink(missing_ok=True)
        with self.lock:
            self.tokens["in"] += usage[0]
            self.tokens["out"] += usage[1]
        return reply

    def _send(self, request: dict[str, Any]) -> tuple[str, tuple[int, int]]:
        """The endpoint's reply, and the tokens that went in and came out."""
        try:
            answer = self.client.chat.completions.create(**request)
            reply = answer.choices[0].message.content or ""
            usage = (answer.usage.prompt_tokens, answer.usage.completion_tokens) if answer.usage else (0, 0)
            return reply.encode(errors="replace").decode(), (int(usage[0]), int(usage[1]))
        except (self.openai.AuthenticationError, self.openai.PermissionDeniedError) as error:
            raise UsageError(
                f"judge={self.name} was refused by the endpoint: check the key in {self.key_env}."
            ) from error
        except (self.openai.OpenAIError, IndexError, AttributeError, TypeError, ValueError) as error:
            raise RunError(
                f"judge={self.name} gave up after {self.retries} retries: "
                f"{' '.join(str(error).split())[:200] or type(error).__name__} Verdicts so far are kept; judge again to go on."
            ) from error

    def _wait_for_turn(self) -> None:
        """Keep requests as far apart as judge.requests_per_minute says, over all threads."""
        if self.requests_per_minute:
            with self.lock:
                start = max(self.next_start, time.monotonic())
                self.next_start = start + 60 / self.requests_per_minute
            time.sleep(max(start - time.monotonic(), 0))


def read_verdict(reply: str) -> float | None:
    found = re.findall(r"\[\[([ABC])\]\]", reply)
    return VERDICTS[found[-1]] if found else None


def kept_reply(file: Path) -> str | None:
    """The reply that a file of the cache holds; None if it holds none that can be read, and the request is sent again."""
    try:
        reply = json.loads(file.read_text(encoding="utf-8"))["reply"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return reply if isinstance(reply, str) else None
