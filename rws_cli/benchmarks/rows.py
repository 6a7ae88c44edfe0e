"""Read the rows of a local data file, or of a data set on the Hugging Face Hub.

Local files are read directly, without a cache. Each row comes with its place, for messages.
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rws_cli.benchmarks.base import Row
from rws_cli.errors import UsageError
from rws_cli.files import user_path

Placed = tuple[str, Row]
"""A row's place, such as "row 3 (line 5)", and the row."""
BLANK = re.compile(r"\s*")


class BrokenError(ValueError):
    """A broken file; the message says where and how."""


def local_file(path: str, key: str) -> Path:
    """A local data file. Raises UsageError if it does not exist or has an unknown format."""
    file = user_path(path)
    if file.suffix not in FORMATS:
        raise UsageError(f"{key}={path} has an unknown format: give a file ending in {', '.join(FORMATS)}.")
    if not file.is_file():
        raise UsageError(f"{key}={path} does not exist: give the path of a data file.")
    return file


def file_rows(path: Path, named: str) -> Iterator[Placed]:
    """The rows of a local file. named: its name in messages. Raises UsageError if it is broken."""
    try:
        yield from FORMATS[path.suffix](path)
    except UnicodeDecodeError as error:
        line, column = undecodable(path)
        raise UsageError(f"{named} is not valid UTF-8 at line {line}, column {column}.") from error
    except BrokenError as error:
        raise UsageError(f"{named} cannot be read: {error}.") from error
    except OSError as error:
        raise UsageError(f"{named} cannot be read: {error.strerror or error}.") from error
    except (EOFError, zlib.error) as error:
        raise UsageError(f"{named} cannot be read: it is not a whole gzip file.") from error


def hub_rows(source: dict[str, Any], named: str, advice: str = "") -> Iterator[Placed]:
    """The rows of a data set. source: arguments of datasets.load_dataset; named: its name in messages. Raises UsageError if
    it cannot be read."""
    import datasets
    from datasets.exceptions import DatasetGenerationError

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        for n, row in enumerate(datasets.load_dataset(**source), start=1):  # nosec B615: revision is a setting
            yield f"row {n}", row
    except Exception as error:  # datasets has no common base class of errors
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) else None
        reason = " ".join(str(cause or error).split())[:300]
        raise UsageError(f"{named} cannot be read: {reason}.{advice}") from error


def undecodable(path: Path) -> tuple[int, int]:
    """The line and column, from 1, of the first byte that is not UTF-8."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return number, len(line[: error.start].decode()) + 1
    return 1, 1


def _place(row: int, line: int) -> str:
    return f"row {row}" if row == line else f"row {row} (line {line})"


def _json_rows(path: Path) -> Iterator[Placed]:
    """Rows of JSON Lines, of a JSON list of objects, or of objects over several lines; .gz: compressed."""
    row = 0
    with (
        gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as file
    ):
        for number, line in enumerate(file, start=1):
            if row == 0 and (line.lstrip().startswith("[") or line.strip() == "{"):
                yield from _json_document(line + file.read(), number)
                return
            if line.strip():
                row += 1
                with _located(number):
                    value = json.loads(line.rstrip(), object_pairs_hook=_unique_fields, parse_constant=_refuse)
                yield _place(row, number), _object(value, f"line {number}")


def _json_document(text: str, line: int) -> Iterator[Placed]:
    decoder, index, row = json.JSONDecoder(object_pairs_hook=_unique_fields, parse_constant=_refuse), 0, 0
    while (index := BLANK.match(text, index).end()) < len(text):  # type: ignore[union-attr]
        with _located(line):
            value, index = decoder.raw_decode(text, index)
        for each in value if isinstance(value, list) else [value]:
            row += 1
            yield f"row {row}", _object(each, f"row {row}")


@contextmanager
def _located(line: int) -> Iterator[None]:
    """Add the location to errors in JSON that starts at a line."""
    try:
        yield
    except json.JSONDecodeError as error:
        raise BrokenError(f"line {line + error.lineno - 1}, column {error.colno}: {error.msg}") from error
    except (RecursionError, ValueError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise BrokenError(f"line {line}: {why}") from error


def _unique_fields(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(n for n in names if names.count(n) > 1)} occurs twice")
    return row


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _object(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise BrokenError(f"{place} is not an object with fields")
    for name, content in value.items():
        try:
            json.dumps([name, content], ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])[1:-1]
            raise BrokenError(
                f"{place}: {half} in the field {ascii(name)[1:-1]} is half of a surrogate pair"
            ) from error
    return value


def _csv_rows(path: Path) -> Iterator[Placed]:
    """Cells are read as text; empty cells are missing fields."""
    csv.field_size_limit(2**31 - 1)
    row = line = 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            if twice := [name for name in header if name and header.count(name) > 1]:
                raise BrokenError(f"two columns have the name {twice[0]}")
            line = reader.line_num
            for cells in reader:
                line, before = reader.line_num, line
                if any(cells[len(header) :]):
                    raise BrokenError(f"line {before + 1} has {len(cells)} cells, and the header {len(header)}")
                if cells:
                    row += 1
                    cells += [""] * (len(header) - len(cells))
                    yield _place(row, before + 1), {n: c or None for n, c in zip(header, cells, strict=False)}
        except csv.Error as error:
            raise BrokenError(f"line {line + 1}: {error}") from error


def _parquet_rows(path: Path) -> Iterator[Placed]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    with path.open("rb") as file:  # an open file, so that pyarrow does not read partitions from its path
        try:
            for batch in pq.ParquetFile(file).iter_batches():
                for value in batch.to_pylist():
                    row += 1
                    yield f"row {row}", value
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise BrokenError(f"after row {row}: {' '.join(str(error).split())[:300]}") from error


Format = Callable[[Path], Iterator[Placed]]
FORMATS: dict[str, Format] = {
    ".jsonl": _json_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
    ".gz": _json_rows,
}
