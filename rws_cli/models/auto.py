"""Any family: recognized by config.json while the configuration is checked, so that records hold the kind itself"""

import re
from dataclasses import fields
from typing import Any

from rws_cli import registry
from rws_cli.errors import UsageError
from rws_cli.models.base import Model
from rws_cli.models.checkpoint import locate, read_config
from rws_cli.models.families import recognize
from rws_cli.part import part, setting


@part
class Auto(Model):
    name: str = setting("what tables and run folders call it; auto: the last part of the path", "auto")
    block_size: int | None = setting("tokens per block of attention; null: as the family has it", None, min=1)

    def replacement(self) -> dict[str, Any]:
        """The settings of the model with the kind that the checkpoint has. Raises UsageError if no family fits, or if
        block_size is set for a family without it."""
        named = f"model.path={self.path}"
        family = recognize(read_config(locate(self.path, "model.path"), self.revision, "model.path"), named)
        available = registry.get("model", family.kind, "model.kind").settings
        if self.block_size is not None and "block_size" not in available:
            raise UsageError(
                f"model.block_size={self.block_size} is not a setting of {family.title}, which {named} holds."
            )
        values = {f.name: getattr(self, f.name) for f in fields(self)} | {"kind": family.kind}
        if self.name == "auto":
            values["name"] = name_of(self.path)
        if self.block_size is None:
            del values["block_size"]
        return values | {name: value for name, value in family.settings.items() if values[name] in (None, {})}


def name_of(path: str) -> str:
    """A name for tables and folders from the last part of a path."""
    last = re.split(r"[/:]", path.rstrip("/"))[-1]
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", last).lstrip(".+-") or "model"
