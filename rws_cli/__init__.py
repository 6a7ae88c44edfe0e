"""rws: run and compare decoding experiments on masked diffusion language models.

In Python, `import rws_cli as rws` gives rws.run, load, compare, generate, and decode; see rws_cli/api.py. Each is loaded
when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rws_cli.api import Decoded, Generated, Run, compare, decode, generate, load, run
    from rws_cli.decoding.statistics import Statistics
    from rws_cli.errors import RunError, UsageError
    from rws_cli.rewards.function import RewardFunction

__version__ = "0.1.0"
__all__ = [
    "Decoded",
    "Generated",
    "RewardFunction",
    "Run",
    "RunError",
    "Statistics",
    "UsageError",
    "compare",
    "decode",
    "generate",
    "load",
    "run",
]

if not TYPE_CHECKING:  # a type checker would take it for any attribute

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'rws_cli' has no attribute '{name}'")
        from rws_cli import api

        return getattr(api, name)

    def __dir__() -> list[str]:
        return [*globals(), *__all__]
