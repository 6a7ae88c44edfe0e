"""A language model behind any OpenAI-compatible endpoint as a judge."""

from __future__ import annotations

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
from rws_cli.judges.base import Contest, Verdict, render
from rws_cli.paths import user_path
from rws_cli.runs.folder import alone, write_json
from rws_cli.schema import EndpointJudge as Settings

VERDICTS = {"A": 1.0, "B": 0.0, "C": 0.5}
CHARACTERS_PER_TOKEN = 4
"""Of English; only the estimate of cost before anything is asked rests on it."""


class EndpointJudge:
    """Asks for a verdict in double brackets, [[A]], [[B]] or [[C]] for a tie, and reads the last one.

    Replies are kept on disk by what was asked, so that no question is paid for twice: not within one call, where two
    equal answers make a pair and its swap the same request, nor by two processes at once. What may cost more than
    judge.max_dollars is refused before anything is asked.
    """

    def __init__(self, settings: Settings) -> None:
        try:
            import openai
        except ImportError as error:
            raise UsageError("judge=openai needs the package openai: pip install 'rws[openai]'.") from error
        key = os.environ.get(settings.key_env)
        if not key and not settings.base_url:
            raise UsageError(f"judge={settings.name} needs a key: set the environment variable {settings.key_env}.")
        self.settings, self.openai = settings, openai
        self.client = openai.OpenAI(
            api_key=key or "none",
            base_url=settings.base_url,
            max_retries=settings.retries,
            timeout=settings.timeout_seconds,
        )
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.cache = user_path(settings.cache) if settings.cache else home / "rws" / "judge"
        self.lock, self.next_start = threading.Lock(), 0.0
        self.tokens = {"in": 0, "out": 0}

    def ask(self, contests: list[Contest]) -> Iterator[Verdict]:
        asked = [self._request(contest) for contest in contests]
        files = [self._file(request) for request in asked]
        distinct = dict(zip(files, asked, strict=True))
        self._open_cache()
        self._show_cost(distinct)
        with ThreadPoolExecutor(self.settings.parallel) as pool:
            try:
                replies = {file: pool.submit(self._reply, file, request) for file, request in distinct.items()}
                for file in files:
                    reply = replies[file].result()
                    yield Verdict(read_verdict(reply), reply)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def dollars(self, tokens_in: int, tokens_out: int) -> float | None:
        """What so many tokens cost; None where the price is not set."""
        prices = (self.settings.dollars_per_million_in, self.settings.dollars_per_million_out)
        if prices[0] is None or prices[1] is None:
            return None
        return (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6

    def _request(self, contest: Contest) -> dict[str, Any]:
        return {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": render(self.settings.template, contest)}],
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
        }

    def _open_cache(self) -> None:
        """Make the folder of replies. Raises UsageError if it cannot be written, before a reply is paid for and lost."""
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.cache):
                pass
        except OSError as error:
            raise UsageError(
                f"{self.cache} cannot be written: {error.strerror}; set judge.cache=<a folder>."
            ) from error

    def _show_cost(self, distinct: dict[Path, dict[str, Any]]) -> None:
        new = [request for file, request in distinct.items() if kept_reply(file) is None]
        tokens_in = sum(len(request["messages"][0]["content"]) for request in new) // CHARACTERS_PER_TOKEN
        tokens_out = len(new) * self.settings.max_tokens
        dollars = self.dollars(tokens_in, tokens_out)
        price = "price not set (judge.dollars_per_million_in, …_out)" if dollars is None else f"at most ${dollars:,.2f}"
        Console(stderr=True, highlight=False).print(
            f"{self.settings.model}: {len(new)} requests, {len(distinct) - len(new)} in the cache; about {tokens_in:,} tokens "
            f"in, at most {tokens_out:,} out; {price}",
            soft_wrap=True,
        )
        if dollars is not None and dollars > self.settings.max_dollars:
            raise UsageError(
                f"Judging may cost ${dollars:,.2f}, more than judge.max_dollars={self.settings.max_dollars:g}: raise it, or "
                "judge fewer examples."
            )

    def _file(self, request: dict[str, Any]) -> Path:
        asked = json.dumps([self.settings.base_url, request], sort_keys=True)
        return self.cache / f"{hashlib.sha256(asked.encode()).hexdigest()}.json"

    def _reply(self, file: Path, request: dict[str, Any]) -> str:
        """The reply to a request, from its file if it is there. Raises UsageError or RunError as the endpoint fails."""
        if (kept := kept_reply(file)) is not None:
            return kept
        with alone(file.with_suffix(".lock")):  # another process may be asking the same
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
                f"judge={self.settings.name} was refused by the endpoint: check the key in {self.settings.key_env}."
            ) from error
        except (self.openai.OpenAIError, IndexError, AttributeError, TypeError, ValueError) as error:
            raise RunError(
                f"judge={self.settings.name} gave up after {self.settings.retries} retries: "
                f"{' '.join(str(error).split())[:200] or type(error).__name__} Verdicts so far are kept; judge again to go on."
            ) from error

    def _wait_for_turn(self) -> None:
        """Keep requests as far apart as judge.requests_per_minute says, over all threads."""
        if self.settings.requests_per_minute:
            with self.lock:
                start = max(self.next_start, time.monotonic())
                self.next_start = start + 60 / self.settings.requests_per_minute
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
