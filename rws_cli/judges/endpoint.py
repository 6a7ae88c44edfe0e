"""A language model behind any OpenAI-compatible endpoint as a judge."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

from rws_cli.errors import RunError, UsageError
from rws_cli.judges.base import Contest, Verdict, render
from rws_cli.runs.folder import write_json
from rws_cli.schema import EndpointJudge as Settings

VERDICTS = {"A": 1.0, "B": 0.0, "C": 0.5}
CHARACTERS_PER_TOKEN = 4
"""Of English; only the estimate of cost before anything is asked rests on it."""


class EndpointJudge:
    """Asks for a verdict in double brackets, [[A]], [[B]] or [[C]] for a tie, and reads the last one.

    Replies are kept on disk by what was asked, so that no question is paid for twice. What may cost more than
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
        self.cache = Path(settings.cache).expanduser() if settings.cache else home / "rws" / "judge"
        self.lock, self.next_start = threading.Lock(), 0.0
        self.tokens = {"in": 0, "out": 0}

    def ask(self, contests: list[Contest]) -> Iterator[Verdict]:
        asked = [self._request(contest) for contest in contests]
        self._show_cost(asked)
        with ThreadPoolExecutor(self.settings.parallel) as pool:
            try:
                for reply in pool.map(self._reply, asked):
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

    def _show_cost(self, asked: list[dict[str, Any]]) -> None:
        new = [request for request in asked if not self._file(request).exists()]
        tokens_in = sum(len(request["messages"][0]["content"]) for request in new) // CHARACTERS_PER_TOKEN
        tokens_out = len(new) * self.settings.max_tokens
        dollars = self.dollars(tokens_in, tokens_out)
        price = "price not set (judge.dollars_per_million_in, …_out)" if dollars is None else f"at most ${dollars:,.2f}"
        Console(stderr=True, highlight=False).print(
            f"{self.settings.model}: {len(new)} requests, {len(asked) - len(new)} in the cache; about {tokens_in:,} tokens "
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

    def _reply(self, request: dict[str, Any]) -> str:
        file = self._file(request)
        if file.exists():
            return json.loads(file.read_text(encoding="utf-8"))["reply"]
        self._wait_for_turn()
        try:
            answer = self.client.chat.completions.create(**request)
            reply = answer.choices[0].message.content or ""
        except (self.openai.AuthenticationError, self.openai.PermissionDeniedError) as error:
            raise UsageError(
                f"judge={self.settings.name} was refused by the endpoint: check the key in {self.settings.key_env}."
            ) from error
        except (self.openai.OpenAIError, IndexError, AttributeError, TypeError, ValueError) as error:
            raise RunError(
                f"judge={self.settings.name} gave up after {self.settings.retries} retries: "
                f"{' '.join(str(error).split())[:200] or type(error).__name__} Verdicts so far are kept; judge again to go on."
            ) from error
        if answer.usage:
            with self.lock:
                self.tokens["in"] += answer.usage.prompt_tokens
                self.tokens["out"] += answer.usage.completion_tokens
        self.cache.mkdir(parents=True, exist_ok=True)
        write_json(file, {"request": request, "reply": reply})
        return reply

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
