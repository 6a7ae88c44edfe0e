"""What a run has computed: a line an example in samples.jsonl, and a row an example in the trace.

Lines are appended whole and flushed to disk as examples finish, a batch's trace before its lines, so that an example
with a line has its trace. A run killed in the middle of a line loses that line alone, and the example is done again.
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
from rws_cli.files import open_regular, replacing, whole, write_whole
from rws_cli.runs.folder import read_json, schema_of, unreadable
from rws_cli.runs.forms import reader

SAMPLES, TRACE, TRACE_PARTS, FAILURES = "samples.jsonl", "trace.parquet", "trace", "failures.jsonl"


def read_samples(run: Path) -> list[dict[str, Any]]:
    """The finished examples, in the order in which they finished; a broken last line is not one.

    Raises RunError if any other line is broken, for then the file is not what a killed run leaves.
    """
    return read_lines(run / SAMPLES)


def read_whole(run: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The samples of a finished run, and its metrics. Raises RunError if there are not as many as the metrics count."""
    samples, metrics = read_samples(run), read_json(run / "metrics.json")
    if len(samples) != metrics["examples"]:
        raise RunError(
            f"{run / SAMPLES} has {len(samples)} examples and metrics.json counts {metrics['examples']}: "
            "one of the two was changed or damaged."
        )
    return samples, metrics


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that is appended to, as read_samples reads them; none if there is no file."""
    if not path.exists():
        return []
    read, found, number = reader(path.name, schema_of(path.parent)), [], 0
    try:
        with open_regular(path) as file:
            while line := whole(file, line=True):
                number += 1
                try:
                    if line.strip():
                        found.append(read(line))
                except ValueError:
                    if line.endswith(b"\n"):
                        raise
    except (OSError, ValueError) as error:
        raise unreadable(path, error, number) from error
    return found


def drop_broken_line(path: Path) -> None:
    """Cut what follows the last line break of a file that is appended to: the half-written line of a killed run."""
    if path.is_file():
        content = path.read_bytes()
        if len(content) != (whole := content.rfind(b"\n") + 1):
            os.truncate(path, whole)


def drop_untraced(run: Path) -> None:
    """Drop trace parts that cannot be read, as a machine that went down may leave them, and the samples that have no
    other trace: they are done again."""
    traced: set[str] = set()
    for part in trace_files(run):
        try:
            traced.update(row["id"] for row in read_part(part))
        except RunError as error:
            if getattr(error.__cause__, "errno", None) not in (None, errno.ENOENT):
                raise  # the disk refuses; the file may be whole
            part.unlink(missing_ok=True)
    samples = read_samples(run)
    if len(kept := [sample for sample in samples if sample["id"] in traced]) < len(samples):
        replace_samples(run, kept)


def append_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Append lines of JSON and see them to the disk. Raises RunError if the disk refuses."""
    text = as_lines(lines)
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}.") from error


def replace_samples(run: Path, samples: list[dict[str, Any]]) -> None:
    """Write all samples anew, in one move."""
    write_whole(run / SAMPLES, as_lines(samples))


def as_lines(values: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n" for value in values)


def write_failures(run: Path, failures: dict[str, str]) -> None:
    """Which examples failed and why, a line each; no file if none did."""
    if failures:
        write_whole(run / FAILURES, as_lines([{"id": i, "error": why} for i, why in failures.items()]))
    else:
        (run / FAILURES).unlink(missing_ok=True)


def write_trace_part(run: Path, rows: list[dict[str, Any]]) -> None:
    """The traces of a batch, as one Parquet file with list columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = run / TRACE_PARTS
    folder.mkdir(exist_ok=True)
    name = hashlib.sha256("\n".join(row["id"] for row in rows).encode()).hexdigest()[:16]
    with replacing(folder / f"{name}.parquet") as fresh:
        pq.write_table(pa.Table.from_pylist(rows, schema=trace_schema(set().union(*rows))), fresh)


def trace_schema(columns: Iterable[str] = ()) -> Any:
    """One row an example; lists have an entry for each committed token, in the order of commits: RowTrace's, and text,
    what the tokenizer writes for the token alone; and those of these columns that the guidance recorded."""
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
            ("text", pa.list_(pa.string())),
            *((name, pa.list_(pa.float64())) for name in sorted(columns) if name.startswith(RECORDED)),
        ]
    )


RECORDED = "guidance."
"""What the names of columns begin with that the guidance recorded, besides reward and scale."""


ADDED = ("remasked_at", "text", "near_tie")
"""Columns of the trace that runs made before them do not have."""


def trace_files(run: Path) -> list[Path]:
    """The whole trace, if there is one, and the parts that are not in it yet."""
    parts = sorted((run / TRACE_PARTS).glob("*.parquet"))
    return [run / TRACE, *parts] if (run / TRACE).exists() or not parts else parts


def read_trace(run: Path) -> list[dict[str, Any]]:
    """The trace of a run as far as it is done, a row an example. Raises RunError if it is missing or damaged."""
    return [row for file in trace_files(run) for row in read_part(file)]


def trace_table(run: Path) -> Any:
    """The trace as read_trace gives it, as a pyarrow table, which takes a tenth of the memory."""
    import pyarrow as pa

    return pa.concat_tables(map(part_table, trace_files(run)), promote_options="default").combine_chunks()


def read_part(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of the trace. Raises RunError as part_table does."""
    return part_table(file).to_pylist()


def part_table(file: Path) -> Any:
    """A file of the trace. Columns that came later (ADDED) may be missing, or empty for some rows.

    Raises RunError if it has not the form of trace_schema: lists of one length, without gaps where none may be.
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
                raise ValueError(f"the lists of column {name} are not as long as those of step")
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
    """Make trace.parquet of the parts, a row for each of `ids` in their order, and remove the parts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not any((run / TRACE_PARTS).glob("*.parquet")):
        return
    # An earlier join that was killed before it removed its parts has left the whole file; it counts as a part.
    rows = {row["id"]: row for row in read_trace(run)}
    schema = trace_schema(set().union(*rows.values()))
    with replacing(run / TRACE) as fresh:
        pq.write_table(pa.Table.from_pylist([rows[i] for i in ids if i in rows], schema=schema), fresh)
    shutil.rmtree(run / TRACE_PARTS)
