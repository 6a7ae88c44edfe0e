"""The form of a part: a dataclass of settings with a rule, marked `@part`, alone in a file of its role's folder.

Settings are the fields. What a part needs and what it does not go with are constants and `conflicts`, which the checks
of a configuration read before any weights load.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field
from typing import Any, ClassVar, TypeVar


def setting(meaning: str, default: Any = MISSING, default_factory: Any = MISSING, **allowed: Any) -> Any:
    """A field of settings: what it means, in one line that `rws list GROUP NAME` shows, its default, and what it may be:
    choices=(…), min=…, above=…, max=…; role="reward": a part of that role, or several by name.

    Arguments must be literals, for they are read off the source too.
    """
    return field(default=default, default_factory=default_factory, metadata={"meaning": meaning, **allowed})


Class = TypeVar("Class", bound=type)


def part(cls: Class) -> Class:
    """Mark the class of a file that is a part."""
    made: Any = dataclass(cls)
    made.marked = cls.__module__
    return made


@dataclass
class Part:
    """What all parts have. kind: the name of the part's file.

    needs: of "reward", "statistics" (of the reward), "gradients" (of a reward model), "weights" (of its own) and
    "hidden_states". draws: whether it draws random numbers. masks_again: whether it masks committed tokens again.
    caches: the kinds of runtime.cache that it works with.
    """

    kind: str

    role: ClassVar[str]
    needs: ClassVar[Any] = ()
    draws: ClassVar[Any] = False  # a property where it depends on settings
    masks_again: ClassVar[bool] = False
    caches: ClassVar[tuple[str, ...]] = ("prefix", "dual")
    source: ClassVar[dict[str, Any]] = {}
    """What pins the files that it read, for the manifest; set by loading."""

    def conflicts(self, config: Any) -> Iterator[str]:
        """A sentence for each setting of the whole configuration that this part does not go with."""
        return iter(())
