"""The form of a part: a dataclass of settings with a rule, marked `@part`, alone in a file of its role's folder.

Settings are the fields. What a part needs and what it does not go with are constants and `conflicts`, which the checks
of a configuration read before any weights load.
"""

import copy
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field
from typing import Any, ClassVar, TypeVar, dataclass_transform

from rws_cli.errors import RunError, UsageError, out_of_memory


def setting(meaning: str, default: Any = MISSING, default_factory: Any = MISSING, **allowed: Any) -> Any:
    """A field of settings: what it means, in one line that `rws list GROUP NAME` shows, its default, and what it may be:
    choices=(…), min=…, above=…, max=…; role="reward": a part of that role, or several by name.

    Arguments must be literals, for they are read off the source too.
    """
    return field(default=default, default_factory=default_factory, metadata={"meaning": meaning, **allowed})


Class = TypeVar("Class", bound=type)


@dataclass_transform(kw_only_default=True, field_specifiers=(setting,))
def settings(cls: Class) -> Class:
    """A class of settings that several parts share. They are given by name, so that one without a default may come last."""
    made: Any = dataclass(kw_only=True)(cls)
    return made


@dataclass_transform(kw_only_default=True, field_specifiers=(setting,))
def part(cls: Class) -> Class:
    """Mark the class of a file that is a part."""
    made: Any = settings(cls)
    made.part_module = cls.__module__
    return made


@settings
class Part:
    """What all parts have. kind: the name of the part's file.

    needs: of "reward", "statistics" (of the reward), "gradients" (of a reward model), "weights" (of its own) and
    "hidden_states". draws: whether it draws random numbers. remasks: whether it masks committed tokens again.
    caches: the kinds of runtime.cache that it works with.
    """

    kind: str = ""

    role: ClassVar[str]
    needs: ClassVar[Any] = ()
    draws: ClassVar[Any] = False  # a property where it depends on settings
    remasks: ClassVar[bool] = False
    caches: ClassVar[tuple[str, ...]] = ("prefix", "dual")
    source: ClassVar[dict[str, Any]] = {}
    """What pins the files that it read, for the manifest; set by loading."""

    def conflicts(self, config: Any) -> Iterator[str]:
        """A sentence for each setting of the whole configuration that this part does not go with."""
        return iter(())

    def mistakes(self, at: str) -> Iterator[str]:
        """A sentence for each mistake in its own settings; at: the key that they stand at."""
        return iter(())


Loadable = TypeVar("Loadable", bound=Part)


def loaded(part: Loadable, at: str, *given: Any) -> Loadable:
    """A copy of a part whose method `load` was called; settings stay as they are, what is loaded are plain attributes.

    at: the key of its settings. Raises UsageError or RunError if the part says so, or fails in any other way but for lack
    of memory.
    """
    made: Any = copy.copy(part)
    try:
        made.load(*given)
    except (UsageError, RunError):
        raise
    except Exception as error:  # whatever a file that is being written can do
        if out_of_memory(error):
            raise
        raise UsageError(f"{at}.kind={part.kind} cannot be made: {type(error).__name__}: {error}.") from error
    return made
