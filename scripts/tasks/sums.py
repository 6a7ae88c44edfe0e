"""The data of sums.yaml: problems that the bundled model knows."""

from typing import Any

from datasets import Dataset

from rws_cli.benchmarks.arithmetic import Arithmetic


def problems(**_: Any) -> dict[str, Dataset]:
    """The splits of the task: test, and train for solved examples."""
    splits = {"test": Arithmetic(limit=20).examples(), "train": Arithmetic(limit=5).examples("train")}
    return {
        name: Dataset.from_list([{"question": e.prompt, "answer": e.reference} for e in examples])
        for name, examples in splits.items()
    }
