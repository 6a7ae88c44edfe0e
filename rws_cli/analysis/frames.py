"""Runs as pandas frames: a row per run, per example, or per committed token. Columns of measures have the names that
`rws list measure` lists; steps and positions count from 0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rws_cli.analysis.measures import MEASURES, run_values
from rws_cli.analysis.run import Run
from rws_cli.analysis.summary import summarize
from rws_cli.config.identity import flat

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

MOST_CELLS = 128
"""The most cells along a side of a heat map; longer completions share cells."""
TEXTS = ("id", "question", "history", "prompt", "completion", "reference")
NULLABLE = {
    "pairs": "Int32",
    "reversals": "Int32",
    "remasked_at": "Int32",
    "edited_from": "Int32",
    "changed_selection": "boolean",
    "near_tie": "boolean",
}
"""Columns of the trace that can have gaps, and dtypes in which integers stay integers."""


def runs_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """A row per run: its folder and name, each setting under its dotted key, how it ended, and its measures; interval
    ends of 95 % as `accuracy_low` and `accuracy_high`.

    Costs are means over examples, and sums as `total_…`. An unfinished run has what its examples so far come to.
    """
    import pandas as pd

    runs = list(runs)
    about = pd.DataFrame([{"run": str(run.folder), "name": run.name, **_about(run)} for run in runs])
    measures = pd.DataFrame([run_measures(run) for run in runs], index=about.index)
    return about.join(measures.apply(pd.to_numeric))


def _about(run: Run) -> dict[str, Any]:
    ended = {key: run.manifest[key] for key in ("status", "error", "started", "finished", "config_hash")}
    return flat({key: value for key, value in run.config.items() if key != "table"}) | ended


def run_measures(run: Run) -> dict[str, float | None]:
    """The measures of a run by name; of an unfinished run those of its examples so far."""
    if run.manifest["status"] == "finished" and run.metrics:
        return run_values(run.metrics)
    return run_values(summarize(list(run.samples.values()))) if run.samples else {}


def swept_settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each job of a sweep, the settings that were typed and differ between jobs, by key as typed. A choice of a
    group is given by its name."""
    typed = [dict(map(_override, run.manifest["overrides"])) for run in runs]
    settings = [flat(run.config) for run in runs]
    keys = dict.fromkeys(key for of_run in typed for key in of_run)
    values = {key: [of.get(key, was.get(key)) for of, was in zip(settings, typed, strict=True)] for key in keys}
    differing = {key: each for key, each in values.items() if len(set(map(repr, each))) > 1}
    return [{key: each[n] for key, each in differing.items()} for n in range(len(runs))]


def _override(override: str) -> tuple[str, str | None]:
    """Key and value of an override; a deleted setting has no value."""
    key, equals, value = override.lstrip("+").partition("=")
    return key.lstrip("~"), value if equals and not key.startswith("~") else None


def samples_frame(run: Run) -> pd.DataFrame:
    """A row per example: texts, grade, and every measure of an example."""
    import pandas as pd

    samples = list(run.samples.values())
    columns: dict[str, list[Any]] = {key: [sample[key] for sample in samples] for key in TEXTS}
    grades = [sample["grade"] or {} for sample in samples]
    columns |= {key: [grade.get(key) for grade in grades] for key in ("correct", "extracted", "extractor")}
    measures = [measure for measure in MEASURES.values() if measure.sample]
    columns |= {measure.name: [measure.of_sample(sample) for sample in samples] for measure in measures}
    of_metrics = dict.fromkeys(name for sample in samples for name in sample["measures"])
    columns |= {name: [sample["measures"].get(name) for sample in samples] for name in of_metrics}
    frame = pd.DataFrame(columns)
    numbers = [*(measure.name for measure in measures), *of_metrics]
    return frame.astype({"correct": "boolean"} | dict.fromkeys(numbers, "float64"))


def tokens_frame(run: Run) -> pd.DataFrame:
    """A row per committed token, in the order of commits: id of its example and the columns of the trace. A position that
    was masked again has a row per commit; `remasked_at` is the step before which that happened. `edited_from` is the token
    that this one replaced."""
    import numpy as np
    import pandas as pd
    import pyarrow.compute as pc

    trace = _trace(run)
    lengths = pc.list_value_length(trace["step"]).to_numpy()
    codes = np.repeat(np.arange(len(lengths), dtype="int32"), lengths)
    columns: dict[str, Any] = {"id": pd.Categorical.from_codes(codes, trace["id"].to_pylist())}
    for name in trace.column_names[1:]:
        values = _flat(trace[name], lengths)
        if name == "text":
            columns[name] = values.dictionary_encode().to_pandas()
        elif name in NULLABLE:
            columns[name] = values.to_pandas(
                types_mapper=lambda _, name=name: pd.api.types.pandas_dtype(NULLABLE[name])
            )
        else:
            columns[name] = values.to_numpy()
    return pd.DataFrame(columns, copy=False)


def _trace(run: Run) -> pa.Table:
    if run.trace is None:
        raise ValueError(f"{run.folder} was read without its trace.")
    return run.trace


def _flat(lists: pa.ChunkedArray, lengths: np.ndarray) -> pa.ChunkedArray:
    """The concatenated elements of lists, with nulls for the elements of a missing list."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    elements = pc.list_flatten(lists)
    if not lists.null_count:
        return elements
    there = np.repeat(pc.is_valid(lists).to_numpy(), lengths)
    return elements.take(pa.array(np.cumsum(there) - 1, mask=~there))


def extent(run: Run) -> tuple[int, int]:
    """The largest number of steps and of positions in a run's completions."""
    import pyarrow.compute as pc

    last = pc.max(pc.list_flatten(_trace(run)["step"])).as_py()
    return 1 + (last or 0), max(len(sample["tokens"]) for sample in run.samples.values())


def heat(run: Run) -> np.ndarray:
    """The share of examples (S, P) whose final commit of position p is at step s; longer sides are summed into
    cells."""
    import numpy as np

    steps, positions = extent(run)
    high, wide = min(steps, MOST_CELLS), min(positions, MOST_CELLS)
    last = tokens_frame(run)[["id", "step", "position"]].drop_duplicates(["id", "position"], keep="last")
    cells = np.zeros((high, wide))
    step, position = (last[name].astype("int64") for name in ("step", "position"))
    np.add.at(cells, (step * high // steps, position * wide // positions), 1)
    return cells / len(run.samples)


def by_step(run: Run, name: str) -> pd.DataFrame | None:
    """Mean over examples, and 10th and 90th percentile ("low", "high"), of a column of the trace by step; None if no
    token has a value."""
    import pandas as pd

    values = tokens_frame(run)[["id", "step", name]].dropna()
    if values.empty:
        return None
    examples = values.groupby(["step", "id"], observed=True)[name].mean().groupby("step")
    return pd.DataFrame({"mean": examples.mean(), "low": examples.quantile(0.1), "high": examples.quantile(0.9)})
