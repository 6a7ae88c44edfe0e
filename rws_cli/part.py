"""What a part is: a dataclass of settings with behavior, marked `@part`, in its own file in its role's folder.

Settings are its fields. What it needs and what it conflicts with are constants and `conflicts`, which are checked before
any weights are loaded.
"""

import copy
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field
from typing import Any, ClassVar, TypeVar, dataclass_transform

from rws_cli.errors import RunError, UsageError, out_of_memory


def setting(meaning: str, default: Any = MISSING, default_factory: Any = MISSING, **allowed: Any) -> Any:
    """A setting, declared as a dataclass field. meaning: one line, shown by `rws list GROUP NAME`. allowed: choices=(…),
    min=…, above=…, max=…; role="reward": the value is a part of that role, or several by name.

    Arguments must be literals, because they are also read from the source without running it.
    """
    return field(default=default, default_factory=default_factory, metadata={"meaning": meaning, **allowed})


Class = TypeVar("Class", bound=type)


@dataclass_transform(kw_only_default=True, field_specifiers=(setting,))
def settings(cls: Class) -> Class:
    """Mark a class of settings that several parts share. Keyword-only, so that one without a default may come last."""
    made: Any = dataclass(kw_only=True)(cls)
    return made


@dataclass_transform(kw_only_default=True, field_specifiers=(setting,))
def part(cls: Class) -> Class:
    """Mark the class in a file that is the part."""
    made: Any = settings(cls)
    made.part_module = cls.__module__
    return made


@settings
class Part:
    """The base class of all parts. kind: the name of the part's file.

    needs: some of "reward", "statistics" (of the reward), "gradients" (of a reward model), "weights" (its own) and
    "hidden_states". draws: whether it draws random numbers. remasks: whether it masks committed tokens again.
    caches: the kinds of runtime.cache that it works with. not_drafted: why steps with it cannot be drafted
    (runtime.speculate), "" if they can. family: the family of samplers with it, "" if it follows from the rest
    (config/families.py).
    """

    kind: str = ""

    role: ClassVar[str]
    needs: ClassVar[Any] = ()
    draws: ClassVar[Any] = False  # a property where it depends on settings
    remasks: ClassVar[bool] = False
    caches: ClassVar[tuple[str, ...]] = ("prefix", "dual")
    not_drafted: ClassVar[str] = ""
    family: ClassVar[str] = ""
    source: ClassVar[dict[str, Any]] = {}
    """Identifies the files that it read, for the manifest; set by loading."""

    def conflicts(self, config: Any) -> Iterator[str]:
        """A message for each setting of the whole configuration that conflicts with this part."""
        return iter(())

    def mistakes(self, key: str) -> Iterator[str]:
        """A message for each mistake in its own settings. key: the key of these settings."""
        return iter(())


Loadable = TypeVar("Loadable", bound=Part)


def loaded(part: Loadable, key: str, *arguments: Any) -> Loadable:
    """A copy of a part with `load(*arguments)` called on it. Settings stay unchanged; what is loaded are plain attributes.

    key: the key of its settings. Raises what `load` raises if that is UsageError or RunError or means that memory ran out,
    else UsageError.
    """
    made: Any = copy.copy(part)
    try:
        made.load(*arguments)
    except (UsageError, RunError):
        raise
    except Exception as error:  # a part under development may raise anything
        if out_of_memory(error):
            raise
        raise UsageError(f"{key}.kind={part.kind} cannot be loaded: {type(error).__name__}: {error}.") from error
    return made
