"""Benchmarks: prompts, and how an answer is marked. One file each."""

from __future__ import annotations

from rws_cli.benchmarks.base import Benchmark, Generated
from rws_cli.config.schema import BENCHMARKS, DataBenchmark, GeneratedBenchmark, PromptBenchmark
from rws_cli.parts import says


def load_benchmark(settings: GeneratedBenchmark | DataBenchmark | PromptBenchmark) -> Benchmark:
    """The benchmark that the settings name, built in or in a file of its own. Raises UsageError if its data cannot be read."""
    from rws_cli.benchmarks.arithmetic import Arithmetic
    from rws_cli.benchmarks.sudoku import Sudoku

    if settings.kind not in BENCHMARKS:
        return says("benchmark", settings.kind, "make", None)(settings)
    if isinstance(settings, DataBenchmark):
        from rws_cli.benchmarks.data import FromData

        return FromData(settings)
    if isinstance(settings, PromptBenchmark):
        from rws_cli.benchmarks.prompt import Prompt

        return Prompt(settings.text)
    kinds: dict[str, type[Generated]] = {"sudoku": Sudoku, "arithmetic": Arithmetic}
    return kinds[settings.kind](limit=settings.limit, seed=settings.seed, turns=settings.turns)
