"""Until all helpers have landed: rws_cli.config.schema."""

from typing import Any


def __getattr__(name: str) -> Any:
    from rws_cli.config import schema

    return getattr(schema, name)
