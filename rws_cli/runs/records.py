"""What a run has computed: a line an example in samples.jsonl, and a row an example in the trace.

Lines are appended whole and flushed to disk as examples finish, a batch's trace before its lines, so that an example
with a line has its trace. A run killed in the middle of a line loses that line alone, and the example is done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from rws_cli.errors import RunError
from rws_cli.runs.folder import write_whole

SAMPLES, TRACE, TRACE_PARTS, FAILURES = "samples.jsonl", "trace.parquet", "trace", "failures.jsonl"


def read_samples(run: Path) -> list[dict[str, Any]]:
    """The finished examples, in the order in which they finished; a broken last line is not one.

    Raises RunError if any other line is broken, for then the file is not what a killed run leaves.
    """
    return read_lines(run / SAMPLES)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that is appended to, as read_samples reads them; none if there is no file."""
    if not path.exists():
        return []
    samples = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line:
            try:
                samples.append(json.loads(line))
            except ValueError as error:
                if not path.read_bytes().endswith(b"\n") and path.read_bytes().endswith(line):
                    break
                raise RunError(
                    f"{path}, line {number} is not JSON: the file was changed by hand or damaged."
                ) from error
    return samples


def drop_broken_line(path: Path) -> None:
    """Cut what follows the last line break of a file that is appended to: the half-written line of a killed run."""
    if path.exists():
        content = path.read_bytes()
        if len(content) != (whole := content.rfind(b"\n") + 1):
            os.truncate(path, whole)


def drop_untraced(run: Path) -> None:
    """Drop trace parts that cannot be read, as a machine that went down may leave them, and the samples that have no
    other trace: they are done again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    traced: set[str] = set()
    for part in [run / TRACE, *(run / TRACE_PARTS).glob("*.parquet")]:
        try:
            traced.update(pq.read_table(part, columns=["id"])["id"].to_pylist())
        except (FileNotFoundError, pa.ArrowException):
            part.unlink(missing_ok=True)
    samples = read_samples(run)
    if len(kept := [sample for sample in samples if sample["id"] in traced]) < len(samples):
        replace_samples(run, kept)


def append_samples(run: Path, samples: list[dict[str, Any]]) -> None:
    """Append finished examples and see them to the disk. Raises RunError if the disk refuses."""
    text = as_lines(samples)
    try:
        with (run / SAMPLES).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunError(f"{run / SAMPLES} cannot be written: {error.strerror}.") from error


def replace_samples(run: Path, samples: list[dict[str, Any]]) -> None:
    """Write all samples anew, in one move."""
    write_whole(run / SAMPLES, as_lines(samples))


def as_lines(samples: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(sample, ensure_ascii=False, allow_nan=False) + "\n" for sample in samples)


def write_failures(run: Path, failures: dict[str, str]) -> None:
    """Which examples failed and why, a line each; no file if none did."""
    if failures:
        text = "".join(json.dumps({"id": i, "error": why}, ensure_ascii=False) + "\n" for i, why in failures.items())
        write_whole(run / FAILURES, text)
    else:
        (run / FAILURES).unlink(missing_ok=True)


def write_trace_part(run: Path, rows: list[dict[str, Any]]) -> None:
    """The traces of a batch, as one Parquet file with list columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = run / TRACE_PARTS
    folder.mkdir(exist_ok=True)
    name = hashlib.sha256("\n".join(row["id"] for row in rows).encode()).hexdigest()[:16]
    fresh = folder / f".{name}"
    pq.write_table(pa.Table.from_pylist(rows, schema=trace_schema()), fresh)
    os.replace(fresh, folder / f"{name}.parquet")


def trace_schema() -> Any:
    """One row an example; lists have an entry for each committed token, in the order of commits: RowTrace's, and text,
    what the tokenizer writes for the token alone."""
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
            ("other_set", pa.list_(pa.bool_())),
            ("masked", pa.list_(pa.int32())),
            ("near_tie", pa.list_(pa.bool_())),
            ("text", pa.list_(pa.string())),
        ]
    )


def read_trace(run: Path) -> list[dict[str, Any]]:
    """The trace of a run as far as it is done, a row an example. Raises RunError if it is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = sorted((run / TRACE_PARTS).glob("*.parquet"))
    files = [run / TRACE, *parts] if (run / TRACE).exists() or not parts else parts
    try:
        return [row for file in files for row in pq.read_table(file).to_pylist()]
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{run / TRACE} cannot be read: {error}.") from error


def join_trace(run: Path, ids: list[str]) -> None:
    """Make trace.parquet of the parts, a row for each of `ids` in their order, and remove the parts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = sorted((run / TRACE_PARTS).glob("*.parquet"))
    if not parts:
        return
    # An earlier join that was killed before it removed its parts has left the whole file; it counts as a part.
    sources = [run / TRACE, *parts] if (run / TRACE).exists() else parts
    rows = {row["id"]: row for part in sources for row in pq.read_table(part).to_pylist()}
    fresh = run / f".{TRACE}"
    pq.write_table(pa.Table.from_pylist([rows[i] for i in ids if i in rows], schema=trace_schema()), fresh)
    os.replace(fresh, run / TRACE)
    shutil.rmtree(run / TRACE_PARTS)
