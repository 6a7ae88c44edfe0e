"""Decode one prompt without a run folder, for trying a method and for scripts."""

import locale
from dataclasses import asdict
from typing import Any

from rws_cli.config.composing import compose
from rws_cli.config.schema import Config
from rws_cli.decoding.loop import OnStep
from rws_cli.errors import RunError, UsageError
from rws_cli.models.canvas import canvas_tokens, read_canvas
from rws_cli.runs.batch_decoder import BatchDecoder, Outcome
from rws_cli.runs.manifest import versions
from rws_cli.runs.prepared import load, prepare, sources


def decoded(prompt: bytes) -> str:
    """A prompt decoded as UTF-8, or else in the locale's encoding. Raises UsageError if neither works."""
    try:
        return prompt.decode()
    except UnicodeDecodeError as error:
        try:
            return prompt.decode(locale.getencoding())
        except UnicodeDecodeError:
            raise UsageError(
                f"The prompt is not valid UTF-8: byte {error.start + 1} is 0x{prompt[error.start]:02x}."
            ) from error


ROUND = 8
"""With a canvas, gen_length is the next multiple of this, so that it divides into blocks; a shorter canvas costs no more."""


def configured(prompt: str, overrides: list[str], canvas: str | None = None) -> Config:
    """The configuration for a prompt. With a canvas, gen_length follows from it unless the overrides set it.

    Raises UsageError, also if the overrides name a benchmark.
    """
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    if "benchmark" in keys:
        raise UsageError("rws generate decodes a single prompt: leave out benchmark=…, or use rws run.")
    base = ["benchmark=prompt", "benchmark.text='-'"]
    if canvas is not None and "sampler.gen_length" not in keys:
        of_model = [override for override, key in zip(overrides, keys, strict=True) if key.partition(".")[0] == "model"]
        model = compose(*base, *of_model).model.prepare()
        try:
            length = len(canvas_tokens(read_canvas(canvas), "", model.tokenizer, model.mask_id))
        except ValueError as error:
            raise UsageError(f"The canvas {error}.") from error
        base.append(f"benchmark.gen_length={-(-length // ROUND) * ROUND}")
    config = compose(*base, *overrides)
    config.benchmark.text, config.benchmark.canvas = prompt, canvas
    return config


class Generation:
    """A prompt, and the loaded components that decode it. Raises UsageError as a run would."""

    def __init__(self, config: Config) -> None:
        self.config, self.prepared = config, prepare(config)
        self.components = load(config, self.prepared)

    def __call__(self, on_step: OnStep = lambda committed, traces: None) -> dict[str, Any]:
        """Decode; returns the first completion's sample and trace, as in a run folder, and their provenance.

        Raises RunError if decoding fails.
        """
        decoder = BatchDecoder(self.config, self.prepared, self.components, on_step=on_step)
        outcome = sum(decoder(self.prepared.examples), Outcome())
        if outcome.failures:
            raise RunError(next(iter(outcome.failures.values())))
        return {
            "sample": outcome.samples[0],
            "trace": outcome.traces[0],
            "config": asdict(self.config),
            "sources": sources(self.config, self.prepared, self.components),
            "versions": versions(),
        }
