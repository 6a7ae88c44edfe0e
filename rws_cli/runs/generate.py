"""One prompt, decoded now: for a look at a method, and for scripts. It leaves no run folder."""

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
    """A prompt as UTF-8, or else in the locale's encoding. Raises UsageError if it is neither."""
    try:
        return prompt.decode()
    except UnicodeDecodeError as error:
        try:
            return prompt.decode(locale.getencoding())
        except UnicodeDecodeError:
            raise UsageError(
                f"The prompt is not text in UTF-8: byte {error.start + 1} is 0x{prompt[error.start]:02x}."
            ) from error


def configured(prompt: str, overrides: list[str]) -> Config:
    """The configuration that decodes a prompt. Raises UsageError, also if the overrides name a benchmark."""
    if any(override.lstrip("+~").startswith("benchmark=") for override in overrides):
        raise UsageError("rws generate decodes the prompt that it is given: leave benchmark=… away, or use rws run.")
    config = compose("benchmark=prompt", "benchmark.text='-'", *overrides)
    config.benchmark.text = prompt
    return config


class Generation:
    """A prompt with everything loaded that answers it. Raises UsageError as a run would."""

    def __init__(self, config: Config) -> None:
        self.config, self.prepared = config, prepare(config)
        self.components = load(config, self.prepared)

    def __call__(self, on_step: OnStep = lambda committed, traces: None) -> dict[str, Any]:
        """Decode; returns the first answer's line of samples.jsonl, its row of the trace, and what they come from.
        Raises RunError if it fails."""
        decoder = BatchDecoder(self.config, self.prepared, self.components, on_step=on_step)
        found = sum(decoder(self.prepared.examples), Outcome())
        if found.failures:
            raise RunError(next(iter(found.failures.values())))
        return {
            "sample": found.samples[0],
            "trace": found.traces[0],
            "config": asdict(self.config),
            "sources": sources(self.config, self.prepared, self.components),
            "versions": versions(),
        }
