"""What all commands share: the application, argument parsing, and errors printed as one sentence."""

import functools
import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from rws_cli.errors import Interrupted, RunError, UsageError, nearest, printable, system_error

DECODE, INSPECT, COMPARE, POST_PROCESS, DISCOVER = "Decode", "Inspect", "Compare", "Post-process", "Discover"
"""The panels of the help."""


def print_error(sentence: str) -> None:
    """Print an error on one line; user input and file names may contain line breaks."""
    typer.secho("rws: " + re.sub(r"\s*\n\s*", " ", printable(sentence)), fg="red", err=True)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Print an error that the user can fix as one sentence, without a traceback, and exit with its code."""
    try:
        yield
    except (UsageError, RunError) as error:
        print_error(str(error))
        raise typer.Exit(error.exit_code) from error
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        print_error(str(system_error(error)))
        raise typer.Exit(system_error(error).exit_code) from error
    except UnicodeEncodeError as error:
        text = ascii(error.object[error.start : error.end])
        print_error(f"{text} cannot be written in {error.encoding}: try LC_ALL=C.UTF-8")
        raise typer.Exit(2) from error
    except KeyboardInterrupt as stop:
        advice = f"; resume with: rws run --resume {stop.run}" if isinstance(stop, Interrupted) and stop.run else ""
        print_error(f"interrupted{advice}")
        raise typer.Exit(getattr(stop, "exit_code", 130)) from None


class Commands(TyperGroup):
    """The commands, also by their old names; errors are printed as one sentence."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if (command := super().get_command(ctx, cmd_name)) is not None:
            return command
        from rws_cli.config.renamed import renamed

        return super().get_command(ctx, renamed("command", cmd_name))

    def invoke(self, ctx: Any) -> Any:
        with one_sentence():
            return super().invoke(ctx)


class Command(TyperCommand):
    """A command with free-form arguments. Click would read -cd=/a/path as several short options, -h among them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move options to the front and arguments behind `--`. Raises UsageError for an unknown option."""
        by_name = {name: option for option in self.get_params(ctx) for name in option.opts if name.startswith("-")}
        options: list[str] = []
        arguments: list[str] = []
        rest = iter(args)
        for argument in rest:
            name, equals, _ = argument.partition("=")
            if argument == "--":
                arguments += rest
            elif name in by_name:
                options.append(argument)
                if not equals and not getattr(by_name[name], "is_flag", True):
                    options += itertools.islice(rest, 1)
            elif re.fullmatch(r"--?[A-Za-z][\w-]*", name) and not ctx.resilient_parsing:
                raise UsageError(f"{name} is not an option of rws {self.name}{nearest(name, list(by_name)) or '.'}")
            else:
                arguments.append(argument)
        return super().parse_args(ctx, [*options, "--", *arguments])


app = typer.Typer(
    cls=Commands,
    name="rws",
    help="Run and compare decoding experiments on masked diffusion language models.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def command(panel: str, **more: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command. panel: the section of the help that lists it."""
    return app.command(cls=Command, rich_help_panel=panel, **more)


PartsOption = Annotated[
    list[str] | None,
    typer.Option("--parts", metavar="DIR", help="A folder with your own parts and their conf/; repeatable."),
]


def takes_parts(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option --parts."""

    @functools.wraps(function)
    def with_parts(parts: list[str] | None = None, **arguments: Any) -> None:
        from rws_cli import registry

        registry.set_folders(parts or [])
        function(**arguments)

    signature = inspect.signature(function, eval_str=True)
    option = inspect.Parameter("parts", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=PartsOption)
    with_parts.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    with_parts.__annotations__ = {**inspect.get_annotations(function, eval_str=True), "parts": PartsOption}
    return with_parts


def complete(incomplete: str) -> list[str]:
    """Shell completion of an override: settings before the equals sign, choices of a group after it."""
    from rws_cli.config.catalog import GROUPS, choices
    from rws_cli.config.keys import known_keys

    key, equals, _ = incomplete.partition("=")
    if not equals:
        return [f"{name}=" for name in dict.fromkeys([*GROUPS, *known_keys()]) if name.startswith(key)]
    return [full for name in choices(key) if (full := f"{key}={name}").startswith(incomplete)] if key in GROUPS else []


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="OVERRIDES", help="Hydra overrides: sampler=rws model=tiny key=value +x=… ~x", autocompletion=complete
    ),
]
ConfigDir = Annotated[
    str | None,
    typer.Option(
        "--config-dir",
        "-cd",
        metavar="DIR",
        help="A folder of your own YAML files, laid out like conf/ (e.g. reward/mine.yaml), searched first.",
    ),
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A finished run's folder.")]
