"""Paths as users type them."""

from __future__ import annotations

import os
from pathlib import Path


def user_path(text: str | Path) -> Path:
    """A path whose ~ is the user's home. Unlike Path.expanduser it leaves the home of a user who does not exist as it is, a
    name like any other."""
    return Path(os.path.expanduser(text))
