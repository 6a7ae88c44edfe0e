"""Read the fields that a benchmark needs from a row. Each field has a kind: a function that converts its value.

A kind raises ValueError for a value that it does not accept, with a message that continues a sentence after the field's
name.
"""

import ast
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from rws_cli.benchmarks.base import Row
from rws_cli.benchmarks.text import as_written

Kinds = dict[str, Callable[[Any], Any]]
"""Field → kind. "turns|prompt": the first of the two that a row has, read as `turns`."""


def read_fields(row: Row, needed: Kinds, optional: Kinds) -> Row:
    """A row without its null fields, and with values converted by their kinds. Raises ValueError naming the field."""
    values = {name: value for name, value in row.items() if value is not None}
    for names, kind in (needed | optional).items():
        name = next((name for name in names.split("|") if name in values), None)
        if name is None and names in needed:
            present = f"it has {', '.join(values)}" if values else "it has none"
            raise ValueError(f"has no field {names.replace('|', ' or ')} ({present})")
        if name is not None:
            try:
                values[names.partition("|")[0]] = kind(values[name])
            except ValueError as error:
                raise ValueError(f"cannot be used: its field {name} {error}") from error
    return values


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is {_called(value)}, not text")
    return value


def answer(value: Any) -> str:
    """Text, or a number written without an exponent: 18 and 18.0 become "18"."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise ValueError(f"is {_called(value)}, not text or a number")
    if isinstance(value, str):
        return value
    number = Decimal(str(value))
    if not number.is_finite():
        raise ValueError(f"is {value}, not a finite number")
    return as_written(number)


def texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"is {_called(value)}, not a list of texts")
    return value


def some_texts(value: Any) -> list[str]:
    if not texts(value):
        raise ValueError("is an empty list")
    return value


def statements(value: Any) -> list[str]:
    """Lines of Python: a list of them, a single text, or a list written as text, as in CSV files."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return texts(ast.literal_eval(value.strip()))
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise ValueError("looks like a list but is not a list of texts") from error
    return [value] if isinstance(value, str) else texts(value)


def some_statements(value: Any) -> list[str]:
    return some_texts(statements(value))


def _called(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "missing" if value is None else type(value).__name__)
