"""Benchmarks: prompts, and how an answer is marked. One file each."""

from __future__ import annotations

from rws_cli.benchmarks.base import Benchmark, Generated
from rws_cli.config import BenchmarkConfig


def load_benchmark(settings: BenchmarkConfig) -> Benchmark:
    from rws_cli.benchmarks.arithmetic import Arithmetic
    from rws_cli.benchmarks.sudoku import Sudoku

    kinds: dict[str, type[Generated]] = {"sudoku": Sudoku, "arithmetic": Arithmetic}
    return kinds[settings.kind](limit=settings.limit, seed=settings.seed)
