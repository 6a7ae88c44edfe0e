"""The configuration of a run: its catalog and schema, composing, checking, and what identifies it."""

from typing import Any

MOVED = ("catalog", "identity", "keys", "check", "composing")


def __getattr__(name: str) -> Any:
    """Until all helpers have landed: names of the old module config.py."""
    from importlib import import_module

    for module in MOVED if name not in (*MOVED, "schema", "typed", "explain", "__path__") else ():
        found = import_module(f"rws_cli.config.{module}")
        if name in vars(found):
            return getattr(found, name)
    raise AttributeError(name)
