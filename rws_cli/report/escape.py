"""Escapes text for Markdown, LaTeX and the cells of a spreadsheet."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rws_cli.errors import UNPRINTABLE


def markdown(text: str) -> str:
    """Escape text within a line of Markdown: no markup, HTML, link or end of a cell. Numbers in brackets stay
    unchanged."""
    text = " ".join(UNPRINTABLE.sub("", text).split())
    text = re.sub(r"[\\`*|~]|\](?=[(\[:])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|&(?=#?\w+;)", r"\\\g<0>", text)
    return text.replace("<", "&lt;").replace(">", "&gt;")


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[Any]], words: int | None = None) -> str:
    """A Markdown table. words: the number of leading text columns, left-aligned; numbers are right-aligned."""
    ruler = ["---" if words is None or n < words else "--:" for n in range(len(headers))]
    return "\n".join(f"| {' | '.join(markdown(str(cell)) for cell in row)} |" for row in (headers, ruler, *rows))


LATEX = {
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "–": "--", "−": "$-$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip


def latex(text: str) -> str:
    """Escape text in a paragraph or a cell of LaTeX. A hyphen before a number, with nothing in front, is a minus
    sign."""
    text = " ".join(UNPRINTABLE.sub("", text).split())
    text = re.sub(r"(?<![\w.)-])-(?=\.?\d)", "−", text)
    return "".join(LATEX.get(character, character) for character in text)


def spreadsheet(value: Any) -> Any:
    """A value for a CSV file. Text that a spreadsheet would take for a formula gets an apostrophe."""
    if not isinstance(value, str) or not re.match(r"\s*[=+\-@]|[\t\r\n]", value):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def bounds(name: str, interval: tuple[float, float] | None) -> dict[str, float | None]:
    """CSV columns for the ends of an interval."""
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def csv(rows: list[dict[str, Any]], drop_empty: bool = False) -> str:
    """Rows as CSV, with their keys as the header. drop_empty: leave out columns without a value."""
    import pandas as pd

    frame = pd.DataFrame([{spreadsheet(name): spreadsheet(value) for name, value in row.items()} for row in rows])
    return (frame.dropna(axis="columns", how="all") if drop_empty else frame).to_csv(index=False)


def as_yaml(value: Any, width: int = 80) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=width)
