"""The fields that a benchmark needs of a row, each with the kind of value it is: one function a kind.

A kind takes a value that is there and gives it as the benchmark reads it. It raises ValueError for another value, with
words that go on from the field's name.
"""

import ast
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from rws_cli.benchmarks.base import Row
from rws_cli.benchmarks.text import as_written

Kinds = dict[str, Callable[[Any], Any]]
"""Field → kind. "turns|prompt" is the first of the two that a row has, and becomes `turns`."""


def read_fields(row: Row, needed: Kinds, optional: Kinds) -> Row:
    """A row without its null fields, and with values as their kinds give them. Raises ValueError naming the field."""
    found = {name: value for name, value in row.items() if value is not None}
    for names, kind in (needed | optional).items():
        name = next((name for name in names.split("|") if name in found), None)
        if name is None and names in needed:
            there = f"it has {', '.join(found)}" if found else "it has none"
            raise ValueError(f"has no field {names.replace('|', ' or ')} ({there})")
        if name is not None:
            try:
                found[names.partition("|")[0]] = kind(found[name])
            except ValueError as error:
                raise ValueError(f"cannot be used: its field {name} {error}") from error
    return found


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is {_called(value)}, not text")
    return value


def answer(value: Any) -> str:
    """Text, or a number as it is written without an exponent: 18 and 18.0 are 18."""
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
    """Lines of Python: a list of them, one text, or a list as a CSV file holds it."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return texts(ast.literal_eval(value.strip()))
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise ValueError("starts like a list but is not a list of texts") from error
    return [value] if isinstance(value, str) else texts(value)


def some_statements(value: Any) -> list[str]:
    return some_texts(statements(value))


def _called(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "missing" if value is None else type(value).__name__)
