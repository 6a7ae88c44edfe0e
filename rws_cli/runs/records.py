"""A run's results: one line per example in samples.jsonl, and one row per example in the trace.

Lines are appended and synced to disk as examples finish, a batch's trace first, so that every example with a line has a
trace. A run killed in the middle of a line loses only that line, and its example is decoded again.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rws_cli.config.renamed import column_names
from rws_cli.errors import RunError
from rws_cli.files import open_regular, read_limited, replacing, write_whole
from rws_cli.runs.folder import read_json, schema_of, unreadable
from rws_cli.runs.forms import reader

SAMPLES, TRACE, TRACE_PARTS, FAILURES = "samples.jsonl", "trace.parquet", "trace", "failures.jsonl"


def read_samples(run: Path) -> list[dict[str, Any]]:
    """The finished examples, in the order in which they finished; an incomplete last line is skipped.

    Raises RunError if any other line is broken, which a killed run does not explain.
    """
    return read_lines(run / SAMPLES)


def read_finished(run: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The samples and metrics of a finished run. Raises RunError if their numbers of examples differ."""
    samples, metrics = read_samples(run), read_json(run / "metrics.json")
    if len(samples) != metrics["examples"]:
        raise RunError(
            f"{run / SAMPLES} has {len(samples)} examples and metrics.json counts {metrics['examples']}: "
            "one of them was changed or damaged."
        )
    return samples, metrics


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON Lines file, as in read_samples; none if the file does not exist."""
    if not path.exists():
        return []
    read, lines, number = reader(path.name, schema_of(path.parent)), [], 0
    try:
        with open_regular(path) as file:
            while line := read_limited(file, line=True):
                number += 1
                try:
                    if line.strip():
                        lines.append(read(line))
                except ValueError:
                    if line.endswith(b"\n"):
                        raise
    except (OSError, ValueError) as error:
        raise unreadable(path, error, number) from error
    return lines


def drop_broken_line(path: Path) -> None:
    """Remove what follows the last line break of a file: the half-written line of a killed run."""
    if path.is_file():
        content = path.read_bytes()
        if len(content) != (complete := content.rfind(b"\n") + 1):
            os.truncate(path, complete)


def drop_untraced(run: Path) -> None:
    """Remove trace parts that cannot be read, such as after a crash, and samples without a trace: they are decoded again."""
    traced: set[str] = set()
    for part in trace_files(run):
        try:
            traced.update(row["id"] for row in read_part(part))
        except RunError as error:
            if getattr(error.__cause__, "errno", None) not in (None, errno.ENOENT):
                raise  # a disk error: the file itself may be intact
            part.unlink(missing_ok=True)
    samples = read_samples(run)
    with_trace = [sample for sample in samples if sample["id"] in traced]
    if len(with_trace) < len(samples):
        replace_samples(run, with_trace)


def append_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Append lines of JSON and sync them to disk. Raises RunError if that fails."""
    text = as_lines(lines)
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}.") from error


def replace_samples(run: Path, samples: list[dict[str, Any]]) -> None:
    """Atomically replace all samples."""
    write_whole(run / SAMPLES, as_lines(samples))


def as_lines(values: list[dict[str, Any]]) -> str:
    """JSON Lines."""
    return "".join(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n" for value in values)


def write_failures(run: Path, failures: dict[str, str]) -> None:
    """Write failures.jsonl, one line per failed example; no file if none failed."""
    if failures:
        write_whole(run / FAILURES, as_lines([{"id": i, "error": why} for i, why in failures.items()]))
    else:
        (run / FAILURES).unlink(missing_ok=True)


def write_trace_part(run: Path, rows: list[dict[str, Any]]) -> None:
    """Write the traces of a batch as one Parquet file with list columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = run / TRACE_PARTS
    folder.mkdir(exist_ok=True)
    name = hashlib.sha256("\n".join(row["id"] for row in rows).encode()).hexdigest()[:16]
    with replacing(folder / f"{name}.parquet") as fresh:
        pq.write_table(pa.Table.from_pylist(rows, schema=trace_schema(set().union(*rows))), fresh)


def trace_schema(columns: Iterable[str] = ()) -> Any:
    """The schema of the trace: one row per example; lists have one entry per committed token, in order of commits.

    The columns are those of RowTrace, text (the token's own text), and those of `columns` that guidance recorded.
    """
    import pyarrow as pa

    return pa.schema(
        [
            ("id", pa.string()),
            ("step", pa.list_(pa.int32())),
            ("position", pa.list_(pa.int32())),
            ("token", pa.list_(pa.int32())),
            ("confidence", pa.list_(pa.float64())),
            ("reward", pa.list_(pa.float64())),
            ("scale", pa.list_(pa.float64())),
            ("pairs", pa.list_(pa.int32())),
            ("reversals", pa.list_(pa.int32())),
            ("changed_selection", pa.list_(pa.bool_())),
            ("remasked_at", pa.list_(pa.int32())),
            ("near_tie", pa.list_(pa.bool_())),
            ("edited_from", pa.list_(pa.int32())),
            ("text", pa.list_(pa.string())),
            *((name, pa.list_(pa.float64())) for name in sorted(columns) if name.startswith(RECORDED)),
        ]
    )


RECORDED = "guidance."
"""Prefix of columns that guidance recorded, besides reward and scale."""
ADDED = ("remasked_at", "text", "near_tie", "edited_from")
"""Trace columns that older runs lack."""


def trace_files(run: Path) -> list[Path]:
    """The joined trace, if it exists, and the parts that are not in it yet."""
    parts = sorted((run / TRACE_PARTS).glob("*.parquet"))
    return [run / TRACE, *parts] if (run / TRACE).exists() or not parts else parts


def read_trace(run: Path) -> list[dict[str, Any]]:
    """The trace of a run so far, one row per example. Raises RunError if it is missing or damaged."""
    return [row for file in trace_files(run) for row in read_part(file)]


def trace_table(run: Path) -> Any:
    """The trace as a pyarrow table, which takes a tenth of the memory of read_trace."""
    import pyarrow as pa

    return pa.concat_tables(map(part_table, trace_files(run)), promote_options="default").combine_chunks()


def read_part(file: Path) -> list[dict[str, Any]]:
    """The rows of a trace file. Raises RunError as part_table does."""
    return part_table(file).to_pylist()


def part_table(file: Path) -> Any:
    """A trace file as a table. Columns in ADDED may be missing, or null in some rows.

    Raises RunError if it does not match trace_schema: lists of equal length, without nulls where none are allowed.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with open_regular(file) as source:
            table = pq.read_table(source)
        old_names = column_names(schema_of(file.parent))
        table = table.rename_columns([old_names.get(name, name) for name in table.column_names])
        schema = trace_schema(table.column_names)
        if missing := [name for name in schema.names if name not in (*table.column_names, *ADDED)]:
            raise ValueError(f"it has no column {missing[0]}")
        names = [name for name in schema.names if name in table.column_names]
        table = table.select(names).cast(pa.schema([schema.field(name) for name in names])).combine_chunks()
        lengths = pc.list_value_length(table["step"])
        for name in names:
            column = table[name]
            if column.null_count and name not in ADDED and not name.startswith(RECORDED):
                raise ValueError(f"column {name} has gaps")
            if name == "id":
                continue
            if pc.all(pc.equal(pc.list_value_length(column), lengths)).as_py() is False:
                raise ValueError(f"the lists of column {name} differ in length from those of step")
            values = pc.list_flatten(column)
            if name in ("step", "position", "token", "text") and values.null_count:
                raise ValueError(f"the lists of column {name} have gaps")
            if pa.types.is_integer(values.type) and pc.any(pc.less(values, 0)).as_py():
                raise ValueError(f"column {name} has a number below 0")
            if pa.types.is_floating(values.type) and pc.all(pc.is_finite(values)).as_py() is False:
                raise ValueError(f"column {name} has a number that is not finite")
        return table
    except (OSError, ValueError, KeyError, MemoryError, pa.ArrowException) as error:
        raise unreadable(file, error) from error


def join_trace(run: Path, ids: list[str]) -> None:
    """Join the trace parts into trace.parquet, one row per example in the order of `ids`, and remove the parts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not any((run / TRACE_PARTS).glob("*.parquet")):
        return
    # If an earlier join was killed before it removed the parts, its result counts as a part.
    rows = {row["id"]: row for row in read_trace(run)}
    schema = trace_schema(set().union(*rows.values()))
    with replacing(run / TRACE) as fresh:
        pq.write_table(pa.Table.from_pylist([rows[i] for i in ids if i in rows], schema=schema), fresh)
    shutil.rmtree(run / TRACE_PARTS)
