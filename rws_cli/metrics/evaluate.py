"""A module of the library evaluate: a script in a folder, or one on the Hugging Face hub."""

import re
import uuid
from collections.abc import Iterator
from copy import copy
from functools import cached_property
from typing import Any

from rws_cli import registry
from rws_cli.errors import UsageError
from rws_cli.files import user_path
from rws_cli.metrics.base import Metric
from rws_cli.part import part, setting


@part
class Evaluate(Metric):
    """It is given those of the inputs that its features name."""

    module: str = setting("a script's folder, or a name on the Hugging Face hub", "???")
    revision: str | None = setting("a full commit hash, which a module from the hub needs", None)
    arguments: dict[str, Any] = setting("arguments of the module's compute, besides texts", default_factory=dict)

    def conflicts(self, config: Any) -> Iterator[str]:
        trusted = config.trust_remote_code and re.fullmatch(r"[0-9a-f]{40}", self.revision or "")
        if trusted or user_path(self.module).exists():
            return
        at = next(f"metric.{name}" for name, metric in config.metric.items() if metric is self)
        ours = ", ".join(name for name in registry.available("metric") if name != self.kind)
        yield (
            f"{at}.module={self.module} is none of ours ({ours}) and no folder here. From the Hugging Face hub it is Python "
            f"that runs only if you say so: set trust_remote_code=true and +{at}.revision=<the full 40-digit commit hash "
            "that you trust>."
        )

    @cached_property
    def script(self) -> Any:
        import evaluate

        named = {"path": self.module, "revision": self.revision}
        return evaluate.load(**named, keep_in_memory=True, experiment_id=uuid.uuid4().hex)

    @property
    def inputs(self) -> list[str]:
        features = self.script.features
        return list(features[0] if isinstance(features, list) else features)

    def load(self, at: str) -> Metric:
        loaded = copy(self)
        try:
            check = getattr(loaded.script, "check", None)
        except Exception as error:  # evaluate has no common base for what a module, a name or the network can do
            reason = " ".join(str(error).split())[:300]
            raise UsageError(f"{at}.module={self.module} cannot be loaded: {reason}") from error
        if check:
            check(**self.arguments)
        return loaded

    def compute(self, **texts: Any) -> dict[str, Any]:
        return self.script.compute(**texts, **self.arguments) or {}
