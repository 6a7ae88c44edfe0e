"""A language model behind an OpenAI-compatible endpoint as judge"""

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
from rws_cli.judges.base import Judge, Pair, Reply, Verdict, render
from rws_cli.part import part, setting

VERDICTS = {"A": 1.0, "B": 0.0, "C": 0.5}
CHARACTERS_PER_TOKEN = 4
"""A typical value for English, only used to estimate the cost in advance."""


@part
class EndpointJudge(Judge):
    """Asks for a verdict in double brackets, [[A]], [[B]] or [[C]] for a tie, and reads the last one; or for any answer.

    Replies are cached on disk by request, so that no request is paid for twice: neither within one call, where two equal
    completions make a pair and its swap the same request, nor by two processes at the same time. If the cost may exceed
    judge.max_dollars, nothing is requested.
    """

    model: str = setting("the model's name at the endpoint")
    base_url: str | None = setting("the endpoint, e.g. http://localhost:8000/v1; null: OpenAI's", None)
    key_env: str = setting("the environment variable with the API key", "OPENAI_API_KEY")
    temperature: float = setting("sampling temperature of its replies", 0.0, min=0.0)
    max_tokens: int = setting("most tokens per reply", 512, min=1)
    parallel: int = setting("requests at the same time", 4, min=1)
    requests_per_minute: float | None = setting("most requests started per minute; null: no limit", None, above=0.0)
    retries: int = setting("retries of each request, with increasing waits", 5, min=0)
    timeout_seconds: float = setting("time limit for a reply", 120.0, above=0.0)
    cache: str | None = setting("the folder of cached replies; null: rws/judge in the user's cache", None)
    dollars_per_million_in: float | None = setting("price per million prompt tokens; null: unknown", None, min=0.0)
    dollars_per_million_out: float | None = setting("price per million reply tokens; null: unknown", None, min=0.0)
    max_dollars: float = setting("refuse to judge if it may cost more", 10.0, min=0.0)
    template: str = setting("the judge's prompt, with {question}, {answer_a} and {answer_b}")

    answers = True

    def load(self, benchmark: Any) -> None:
        """Raises UsageError if the package openai is missing, or the key for OpenAI's own endpoint."""
        try:
            import openai
        except ImportError as error:
            raise UsageError(f"{self.key}={self.name} needs the package openai: pip install 'rws[openai]'.") from error
        key = os.environ.get(self.key_env)
        if not key and not self.base_url:
            raise UsageError(f"{self.key}={self.name} needs a key: set the environment variable {self.key_env}.")
        self.openai = openai
        self.client = openai.OpenAI(
            api_key=key or "none", base_url=self.base_url, max_retries=self.retries, timeout=self.timeout_seconds
        )
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = user_path(self.cache) if self.cache else home / "rws" / "judge"
        self.lock, self.next_start = threading.Lock(), 0.0
        self.tokens = {"in": 0, "out": 0}

    def ask(self, pairs: list[Pair]) -> Iterator[Verdict]:
        for reply in self._replies([render(self.template, pair) for pair in pairs], shows_cost=True):
            yield Verdict(read_verdict(reply.text), reply.text)

    def reply(self, prompts: list[str]) -> list[Reply]:
        return list(self._replies(prompts, shows_cost=False))

    def price(self, requests: int, characters: int) -> str:
        tokens_in, tokens_out = characters // CHARACTERS_PER_TOKEN, requests * self.max_tokens
        dollars = self.dollars(tokens_in, tokens_out)
        self._check_price(dollars)
        return f"{self.model}: {self._priced(tokens_in, tokens_out, dollars)}"

    def _replies(self, prompts: list[str], shows_cost: bool) -> Iterator[Reply]:
        """Replies in the order of the prompts, as they are ready. shows_cost: print an estimate first."""
        requests = [self._request(prompt) for prompt in prompts]
        files = [self._file(request) for request in requests]
        distinct = dict(zip(files, requests, strict=True))
        self._open_cache()
        self._check_cost(distinct, shows_cost)
        with ThreadPoolExecutor(self.parallel) as pool:
            try:
                replies = {file: pool.submit(self._reply, file, request) for file, request in distinct.items()}
                for file in files:
                    yield replies[file].result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def spent(self) -> dict[str, Any]:
        return {"spent": {"tokens": self.tokens, "dollars": self.dollars(self.tokens["in"], self.tokens["out"])}}

    def dollars(self, tokens_in: int, tokens_out: int) -> float | None:
        """The price of tokens; None if it is not set."""
        price_in, price_out = self.dollars_per_million_in, self.dollars_per_million_out
        return None if price_in is None or price_out is None else (tokens_in * price_in + tokens_out * price_out) / 1e6

    def _request(self, prompt: str) -> dict[str, Any]:
        message = {"role": "user", "content": prompt}
        settings = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return {"model": self.model, "messages": [message], **settings}

    def _open_cache(self) -> None:
        """Create the cache. Raises UsageError if it cannot be written, before a reply is paid for and lost."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise UsageError(
                f"{self.folder} cannot be written: {error.strerror}; set {self.key}.cache=<a folder>."
            ) from error

    def _check_cost(self, distinct: dict[Path, dict[str, Any]], shows_cost: bool) -> None:
        """Estimate the cost of requests. Raises UsageError if it exceeds max_dollars together with what is spent already."""
        new = [request for file, request in distinct.items() if cached_reply(file) is None]
        tokens_in = sum(len(request["messages"][0]["content"]) for request in new) // CHARACTERS_PER_TOKEN
        tokens_out = len(new) * self.max_tokens
        if shows_cost:
            Console(stderr=True, highlight=False).print(
                f"{self.model}: {len(new)} requests, {len(distinct) - len(new)} in the cache; "
                f"{self._priced(tokens_in, tokens_out, self.dollars(tokens_in, tokens_out))}",
                soft_wrap=True,
            )
        with self.lock:
            self._check_price(self.dollars(tokens_in + self.tokens["in"], tokens_out + self.tokens["out"]))

    def _priced(self, tokens_in: int, tokens_out: int, dollars: float | None) -> str:
        price = f"price not set ({self.key}.dollars_per_million_in, …_out)"
        price = price if dollars is None else f"at most ${dollars:,.2f}"
        return f"about {tokens_in:,} tokens in, at most {tokens_out:,} out; {price}"

    def _check_price(self, dollars: float | None) -> None:
        if dollars is not None and dollars > self.max_dollars:
            raise UsageError(
                f"Judging may cost ${dollars:,.2f}, more than {self.key}.max_dollars={self.max_dollars:g}: raise it, or "
                "judge fewer examples."
            )

    def _file(self, request: dict[str, Any]) -> Path:
        identity = json.dumps([self.base_url, request], sort_keys=True)
        return self.folder / f"{hashlib.sha256(identity.encode()).hexdigest()}.json"

    def _reply(self, file: Path, request: dict[str, Any]) -> Reply:
        """The reply to a request, from the cache if possible. Raises UsageError or RunError if the endpoint fails."""
        if (reply := cached_reply(file)) is not None:
            return reply
        with file_lock(file.with_suffix(".lock")):  # another process may be sending the same request
            if (reply := cached_reply(file)) is not None:
                return reply
            self._wait_for_turn()
            text, usage = self._send(request)
            write_json(file, {"request": request, "reply": text, "tokens": sum(usage)})
            file.with_suffix(".lock").unlink(missing_ok=True)
        with self.lock:
            self.tokens["in"] += usage[0]
            self.tokens["out"] += usage[1]
        return Reply(text, sum(usage))

    def _send(self, request: dict[str, Any]) -> tuple[str, tuple[int, int]]:
        """The endpoint's reply, and the number of prompt and reply tokens."""
        try:
            response = self.client.chat.completions.create(**request)
            reply = response.choices[0].message.content or ""
            usage = (response.usage.prompt_tokens, response.usage.completion_tokens) if response.usage else (0, 0)
            return reply.encode(errors="replace").decode(), (int(usage[0]), int(usage[1]))
        except (self.openai.AuthenticationError, self.openai.PermissionDeniedError) as error:
            raise UsageError(
                f"{self.key}={self.name} was refused by the endpoint: check the key in {self.key_env}."
            ) from error
        except (self.openai.OpenAIError, IndexError, AttributeError, TypeError, ValueError) as error:
            raise RunError(
                f"{self.key}={self.name} gave up after {self.retries} retries: "
                f"{' '.join(str(error).split())[:200] or type(error).__name__}. Replies so far are kept; run the command "
                "again to continue."
            ) from error

    def _wait_for_turn(self) -> None:
        """Wait so that all threads together respect judge.requests_per_minute."""
        if self.requests_per_minute:
            with self.lock:
                start = max(self.next_start, time.monotonic())
                self.next_start = start + 60 / self.requests_per_minute
            time.sleep(max(start - time.monotonic(), 0))


def read_verdict(reply: str) -> float | None:
    """The last verdict in a reply, as in Verdict.first; None if it has none."""
    letters = re.findall(r"\[\[([ABC])\]\]", reply)
    return VERDICTS[letters[-1]] if letters else None


def cached_reply(file: Path) -> Reply | None:
    """The reply in a file of the cache; None if the file does not exist or cannot be read, so the request is sent again."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        text, tokens = stored["reply"], stored.get("tokens", 0)  # older files lack it
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Reply(text, tokens) if isinstance(text, str) and isinstance(tokens, int) else None
