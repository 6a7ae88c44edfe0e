"""Decode one prompt without a run folder, for trying a method and for scripts."""

import locale
from dataclasses import asdict
from typing import Any

from rws_cli.config.composing import compose
from rws_cli.config.schema import Config
from rws_cli.decoding.loop import OnStep
from rws_cli.errors import RunError, UsageError
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


def configured(prompt: str, overrides: list[str]) -> Config:
    """The configuration for a prompt. Raises UsageError, also if the overrides name a benchmark."""
    if any(override.lstrip("+~").startswith("benchmark=") for override in overrides):
        raise UsageError("rws generate decodes a single prompt: leave out benchmark=…, or use rws run.")
    config = compose("benchmark=prompt", "benchmark.text='-'", *overrides)
    config.benchmark.text = prompt
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
