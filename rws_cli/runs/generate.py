"""One prompt, decoded now: for a look at a method, and for scripts. It leaves no run folder."""

from __future__ import annotations

import locale
from dataclasses import asdict
from typing import Any

from rws_cli.analysis.story import tell
from rws_cli.answering import Answerer, Outcome
from rws_cli.config.composing import compose
from rws_cli.config.schema import Config
from rws_cli.decoding.loop import OnStep
from rws_cli.decoding.record import RowTrace
from rws_cli.errors import RunError, UsageError
from rws_cli.report.replay import Scene, outcome
from rws_cli.runs.manifest import versions
from rws_cli.task import load, prepare, sources


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
        self.config, self.task = config, prepare(config)
        self.parts = load(config, self.task)
        self.title = f"{config.model.name} · {config.sampler.name}"

    def __call__(self, on_step: OnStep = lambda committed, traces: None) -> dict[str, Any]:
        """Decode; returns the first answer's line of samples.jsonl, its row of the trace, and what they come from.
        Raises RunError if it fails."""
        answerer = Answerer(self.config, self.task, self.parts, on_step=on_step)
        found = sum(answerer(self.task.examples), Outcome())
        if found.failures:
            raise RunError(next(iter(found.failures.values())))
        return {
            "sample": found.samples[0],
            "trace": found.traces[0],
            "config": asdict(self.config),
            "sources": sources(self.config, self.task, self.parts),
            "versions": versions(),
        }

    def so_far(self, trace: RowTrace) -> Scene:
        """The decoding as far as a trace goes."""
        row = {"id": self.title, **asdict(trace), "text": [self.parts.piece(token) for token in trace.token]}
        blank = {"tokens": [self.parts.denoiser.mask_id] * self.config.sampler.gen_length}
        return Scene(tell(row, blank, finished=False), self.title, self.task.examples[0].prompt)

    def ended(self, generated: dict[str, Any]) -> Scene:
        sample = generated["sample"]
        return Scene(tell(generated["trace"], sample), self.title, sample["prompt"], outcome(sample))


def watch(generation: Generation) -> dict[str, Any]:
    """Decode as the user looks on; of several particles the first is shown until one is chosen."""
    from rich.console import Console
    from rich.live import Live

    from rws_cli.report.replay import Picture

    with Live(console=Console(highlight=False), auto_refresh=False, vertical_overflow="visible") as live:

        def look(committed: int, traces: list[RowTrace]) -> None:
            scene = generation.so_far(traces[0])
            live.update(Picture(scene, len(scene.story.steps)), refresh=True)

        generated = generation(look)
        scene = generation.ended(generated)
        live.update(Picture(scene, len(scene.story.steps), whole=True), refresh=True)
    return generated
