"""Averages over the committed tokens of all of a run's examples: where, when, and how sure the model was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rws_cli.analysis.run import Run

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MOST_CELLS = 128
"""Along a side of a heat map; longer answers share cells."""


def commits(run: Run) -> pd.DataFrame:
    """A row a token, in the order of commits: number of its example, step, position, confidence and reward."""
    import numpy as np
    import pandas as pd
    import pyarrow.compute as pc

    assert run.trace
    lengths = pc.list_value_length(run.trace["step"]).to_numpy()
    columns = {name: pc.list_flatten(run.trace[name]) for name in ("step", "position", "confidence", "reward")}
    example = np.repeat(np.arange(len(lengths)), lengths)
    return pd.DataFrame({"example": example} | {name: column.to_numpy() for name, column in columns.items()})


def extent(run: Run) -> tuple[int, int]:
    """The most steps and positions that an answer of a run has."""
    import pyarrow.compute as pc

    assert run.trace
    last = pc.max(pc.list_flatten(run.trace["step"])).as_py()
    return 1 + (last or 0), max(len(sample["tokens"]) for sample in run.samples.values())


def heat(run: Run) -> np.ndarray:
    """The share of examples (S, P) that commit position p at step s, for good; longer sides are summed into cells."""
    import numpy as np

    steps, positions = extent(run)
    high, wide = min(steps, MOST_CELLS), min(positions, MOST_CELLS)
    last = commits(run).drop_duplicates(["example", "position"], keep="last")
    cells = np.zeros((high, wide))
    step, position = (last[name].astype("int64") for name in ("step", "position"))
    np.add.at(cells, (step * high // steps, position * wide // positions), 1)
    return cells / len(run.samples)


def by_step(run: Run, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Steps (S,), and of what the tokens committed at each have as `name` the mean over examples, the 10th and the 90th
    percentile (S,); None where nothing has it."""
    known = commits(run).dropna(subset=[name])
    if known.empty:
        return None
    of_step = known.groupby(["step", "example"])[name].mean().groupby("step")
    means = of_step.mean()
    low, high = (of_step.quantile(share).to_numpy() for share in (0.1, 0.9))
    return means.index.to_numpy(), means.to_numpy(), low, high
