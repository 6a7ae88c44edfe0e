"""The command line: arguments and messages, nothing else. Heavy imports stay inside the commands that need them."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from rws_cli import __version__
from rws_cli.errors import Interrupted, RunError, UsageError, printable

app = typer.Typer(
    name="rws",
    help="Run and compare decoding experiments on masked diffusion language models.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


DECODE, LOOK, COMPARE, RECORDS, THERE = "Decode", "Look", "Compare", "Records", "What there is"
"""The parts of the help."""
JUDGING = ("judge", "trust_remote_code", "pins.")
"""What a judge's settings start with."""


def complain(sentence: str) -> None:
    """Print an error in one line; what a user typed, or a file is called, may have line breaks."""
    typer.secho("rws: " + re.sub(r"\s*\n\s*", " ", printable(sentence)), fg="red", err=True)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Print what the user can mend as one sentence and exit with its code; no traceback."""
    try:
        yield
    except (UsageError, RunError) as error:
        complain(str(error))
        raise typer.Exit(error.exit_code) from error
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        complain(f"{error.filename or 'the system'}: {error.strerror or error}")
        raise typer.Exit(2 if error.errno in (errno.ENAMETOOLONG, errno.EINVAL) else 1) from error
    except UnicodeEncodeError as error:
        text = ascii(error.object[error.start : error.end])
        complain(f"{text} cannot be written in {error.encoding}: try LC_ALL=C.UTF-8")
        raise typer.Exit(2) from error
    except KeyboardInterrupt as stop:
        advice = f"; go on with: rws run --resume {stop.run}" if isinstance(stop, Interrupted) and stop.run else ""
        complain(f"interrupted{advice}")
        raise typer.Exit(getattr(stop, "exit_code", 130)) from None


class Command(TyperCommand):
    """A command whose arguments may be anything. Click would read -cd=/a/path as short options, -h among them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Options first and arguments behind `--`; an unknown option is one sentence."""
        from rws_cli.errors import nearest

        known = {name: option for option in self.get_params(ctx) for name in option.opts if name.startswith("-")}
        options: list[str] = []
        arguments: list[str] = []
        rest = iter(args)
        for argument in rest:
            name, equals, _ = argument.partition("=")
            if argument == "--":
                arguments += rest
            elif name in known:
                options.append(argument)
                if not equals and not getattr(known[name], "is_flag", True):
                    options += itertools.islice(rest, 1)
            elif re.fullmatch(r"--?[A-Za-z][\w-]*", name) and not ctx.resilient_parsing:
                with one_sentence():
                    raise UsageError(f"{name} is not an option of rws {self.name}{nearest(name, list(known)) or '.'}")
            else:
                arguments.append(argument)
        return super().parse_args(ctx, [*options, "--", *arguments])


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rws {__version__}")
        raise typer.Exit


def _complete(incomplete: str) -> list[str]:
    """Shell completion of an override: settings up to the equals sign, choices of a group behind it."""
    from rws_cli.config import GROUPS, choices, known_keys

    key, equals, _ = incomplete.partition("=")
    if not equals:
        return [f"{name}=" for name in dict.fromkeys([*GROUPS, *known_keys()]) if name.startswith(key)]
    return [full for name in choices(key) if (full := f"{key}={name}").startswith(incomplete)] if key in GROUPS else []


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="OVERRIDES",
        help="Hydra overrides: sampler=rws model=llada key=value +x=… ~x",
        autocompletion=_complete,
    ),
]
ConfigDir = Annotated[
    str | None, typer.Option("--config-dir", "-cd", metavar="DIR", help="A folder of configurations besides conf/.")
]


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Run and compare decoding experiments on masked diffusion language models."""


@app.command(
    cls=Command,
    epilog="Examples: rws run · rws run sampler=confidence benchmark=arithmetic · rws run -m sampler=rws,random seed=0,1",
    rich_help_panel=DECODE,
)
def run(
    overrides: Overrides = None,
    multirun: Annotated[bool, typer.Option("--multirun", "-m", help="Run every combination of a,b values.")] = False,
    cfg: Annotated[
        str | None, typer.Option("--cfg", "-c", help="Print a configuration and exit: job, hydra or all.")
    ] = None,
    resolve: Annotated[bool, typer.Option("--resolve", help="With --cfg: fill in the interpolations.")] = False,
    config_dir: ConfigDir = None,
    config_name: Annotated[
        str | None, typer.Option("--config-name", "-cn", help="Compose from this file instead of config.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Go on with a stopped run or sweep.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and show the plan and its cost; run nothing.")
    ] = False,
) -> None:
    """Decode a benchmark and write a run folder.

    `rws list` shows what can be chosen; `rws run --cfg job` shows every setting.
    """
    flags = {"--config-dir": config_dir, "--config-name": config_name, "--cfg": cfg}
    arguments = [*(["--multirun"] if multirun else []), *(["--resolve"] if resolve else [])]
    arguments += [f"{name}={value}" for name, value in flags.items() if value is not None]
    with one_sentence():
        from rws_cli import hydra_bridge

        hydra_bridge.run([*arguments, *(overrides or [])], resume, dry_run)


@app.command(cls=Command, rich_help_panel=DECODE)
def calibrate(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
) -> None:
    """Measure the statistics that normalize a reward's scores, on decodings that nothing steers."""
    arguments = [*([f"--config-dir={config_dir}"] if config_dir is not None else []), *(overrides or [])]
    with one_sentence():
        from rws_cli import hydra_bridge

        hydra_bridge.launch(hydra_bridge.calibrate_task, arguments)


@app.command(name="list", rich_help_panel=THERE)
def list_(
    group: Annotated[
        str | None,
        typer.Argument(help="A group, such as model or experiment; all of them if not given."),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(help="A choice of it: what it is, and every setting with its default and meaning.")
    ] = None,
) -> None:
    """What can be chosen, with a line on each; and all of one choice."""
    from rws_cli.config import GROUPS, choices
    from rws_cli.errors import nearest

    with one_sentence():
        if group is not None and group not in GROUPS:
            raise UsageError(
                f"{group} is not a group: choose from {', '.join(GROUPS)}{nearest(group, list(GROUPS)) or '.'}"
            )
        if group is not None and name is not None:
            from rws_cli.report.choices import print_choice

            print_choice(group, name)
            return
        for each in [group] if group else GROUPS:
            found = choices(each)
            width = max(map(len, found), default=0)
            if not group:
                typer.secho(each, bold=True)
            for choice, description in found.items():
                typer.echo(f"{'' if group else '  '}{choice:<{width}}  {description}")


@app.command(rich_help_panel=THERE)
def doctor(overrides: Overrides = None) -> None:
    """What this machine has, and whether the configured model fits; exit code 1 if something is amiss."""
    with one_sentence():
        from rws_cli.config import compose
        from rws_cli.doctor import examine
        from rws_cli.report.terminal import print_findings

        findings = examine(compose(*(overrides or [])))
        print_findings(findings)
        if any(finding.well is False for finding in findings):
            raise typer.Exit(1)


@app.command(rich_help_panel=LOOK)
def show(run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, finished or running.")]) -> None:
    """Summary of a run."""
    with one_sentence():
        from rws_cli.report.terminal import print_run
        from rws_cli.runs.folder import find_run

        print_run(find_run(run))


@app.command(rich_help_panel=LOOK)
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run folders, or a sweep's folder.")],
    out: Annotated[
        str | None, typer.Option(help="Where to write; report.html in the first folder if not given.")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Write single figures as PNG instead.")] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Write single figures as PDF instead.")] = False,
    figure: Annotated[
        list[str] | None, typer.Option(help="A figure to write: order, map, course, god, reversals; all if not given.")
    ] = None,
    example: Annotated[
        str | None, typer.Option(help="The example that the figure order shows: its id, or its number from 0.")
    ] = None,
) -> None:
    """Runs as one HTML file to look at: numbers, figures, and each example to replay; or figures for a paper."""
    with one_sentence():
        from rws_cli.report.terminal import shown
        from rws_cli.report.write import write_figures, write_reports

        formats = [form for form, wanted in (("png", png), ("pdf", pdf)) if wanted]
        if (figure or example) and not formats:
            raise UsageError("--figure and --example choose what --png and --pdf write: add one of these.")
        written = write_figures(runs, out, figure or [], formats, example) if formats else write_reports(runs, out)
        for path in written:
            typer.echo(shown(path))


@app.command(rich_help_panel=LOOK)
def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    example: Annotated[
        str | None,
        typer.Argument(metavar="EXAMPLE", help="An example's id, or its number from 0; the first if not given."),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="A line a step, as where there is no terminal.")] = False,
) -> None:
    """Watch how an answer came about: masks fill in, the reward ticks beside. Keys are shown below."""
    with one_sentence():
        from rws_cli.report.replay import play, print_plain, scenes
        from rws_cli.report.terminal import wide_console
        from rws_cli.runs.folder import find_run

        found, start = scenes(find_run(run), example)
        console = wide_console()
        if plain or not console.is_terminal:
            print_plain(found[start], console)
        else:
            play(found, start, console)


@app.command(cls=Command, rich_help_panel=DECODE)
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to answer; - reads it from standard input.")],
    overrides: Overrides = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The answer, its trace and the configuration as JSON.")
    ] = False,
) -> None:
    """Decode one prompt, live on a terminal; elsewhere the answer alone. Leaves no run folder.

    Example: rws generate "ben has 21 apples, gives 2 away, wins 10. how many now?" sampler=rws
    """
    with one_sentence():
        from rws_cli.generate import Generation, configured, decoded, watch

        piped = prompt == "-"
        text = decoded(sys.stdin.buffer.read().replace(b"\r\n", b"\n") if piped else os.fsencode(prompt))
        generation = Generation(configured(text.rstrip("\n") if piped else text, overrides or []))
        if as_json:
            typer.echo(json.dumps(generation(), ensure_ascii=False, allow_nan=False))
        elif sys.stdout.isatty():
            watch(generation)
        else:
            typer.echo(generation()["sample"]["answer"])


@app.command(rich_help_panel=RECORDS)
def mark(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="OVERRIDES", help="Settings of the benchmark: benchmark.key=value"),
    ] = None,
) -> None:
    """Mark a run's answers again, without decoding."""
    with one_sentence():
        from rws_cli import remark
        from rws_cli.report.terminal import print_run
        from rws_cli.runs.folder import find_run

        folder = find_run(run)
        changed = remark.mark(folder, overrides or [])
        print_run(folder)
        kept = "; samples.jsonl keeps the old ones as marks_before" if changed else ""
        typer.echo(f"{changed} marks changed{kept}")


@app.command(rich_help_panel=RECORDS)
def measure(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="OVERRIDES", help="Metrics and their settings: metric=[length,diversity]"),
    ] = None,
) -> None:
    """Measure a run's answers with more metrics, without decoding."""
    with one_sentence():
        from rws_cli import remark
        from rws_cli.report.terminal import print_run
        from rws_cli.runs.folder import find_run

        folder = find_run(run)
        remark.measure(folder, overrides or [])
        print_run(folder)


@app.command(rich_help_panel=RECORDS)
def push(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    to: Annotated[str, typer.Argument(metavar="TO", help="USER/NAME on the Hugging Face hub, or ./a/folder.")],
    public: Annotated[bool, typer.Option("--public", help="If it is new on the hub, for everyone to see.")] = False,
) -> None:
    """A run as a data set with a card, on the Hugging Face hub or in a folder."""
    with one_sentence():
        from rws_cli.runs.folder import find_run
        from rws_cli.runs.push import push as push_run

        typer.echo(push_run(find_run(run), to, public))


@app.command(rich_help_panel=COMPARE)
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run folders, or a sweep's folder.")],
) -> None:
    """Runs side by side, paired by example, with intervals of the difference to the first."""
    with one_sentence():
        from rws_cli.report.compare import print_comparisons
        from rws_cli.runs.folder import find_all

        folders = find_all(runs)
        if len(folders) < 2:
            raise UsageError("One run cannot be compared: give two or more run folders, or a sweep's folder.")
        print_comparisons(folders)


@app.command(rich_help_panel=COMPARE)
def table(
    folders: Annotated[list[str], typer.Argument(metavar="FOLDER", help="A sweep's folder; or several run folders.")],
) -> None:
    """A sweep as a table, here and as table.md, table.csv and table.tex in the first folder; Markdown in a pipe."""
    with one_sentence():
        from rws_cli.report.table import print_tables

        print_tables(folders)


@app.command(rich_help_panel=COMPARE)
def pareto(
    folders: Annotated[list[str], typer.Argument(metavar="FOLDER", help="A sweep's folder; or several run folders.")],
    against: Annotated[
        str, typer.Option(help="The sampler that others are compared with at equal cost.")
    ] = "best_of_n",
) -> None:
    """A sweep as curves of accuracy and reward against cost: pareto.svg, .md and .csv in the first folder."""
    with one_sentence():
        from rws_cli.report.pareto import write_pareto

        typer.echo(write_pareto(folders, against))


@app.command(rich_help_panel=COMPARE)
def judge(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN... [OVERRIDES]...",
            help="Run folders, or a sweep's; then a judge and its settings: judge=local judge.path=…",
        ),
    ],
) -> None:
    """Ask a judge which answers are better, each run's against the first one's, in both orders."""
    with one_sentence():
        from rws_cli.config import compose
        from rws_cli.report.compare import judge_runs, print_comparisons
        from rws_cli.runs.folder import find_all
        from rws_cli.schema import NoJudge

        overrides = [argument for argument in arguments if "=" in argument]
        folders = find_all(argument for argument in arguments if "=" not in argument)
        if len(folders) < 2:
            raise UsageError("One run cannot be judged: give two or more run folders, or a sweep's folder.")
        if stray := [override for override in overrides if not override.lstrip("+").split("@")[-1].startswith(JUDGING)]:
            raise UsageError(f"{stray[0]} cannot be set when judging: write judge=… or judge.key=value.")
        settings = compose(*overrides).judge
        if isinstance(settings, NoJudge):
            raise UsageError("No judge is named: write judge=reward, local or openai; rws list judge shows all.")
        judge_runs(folders, settings)
        print_comparisons(folders)


@app.command(rich_help_panel=DECODE)
def corpus(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="[FILE]... [OVERRIDES]...", help="Text or data files; the model: model=llada"),
    ] = [],  # noqa: B006
    hub: Annotated[str | None, typer.Option(help="A data set on the Hugging Face hub.")] = None,
    subset: Annotated[str | None, typer.Option(help="Its subset.")] = None,
    split: Annotated[str, typer.Option(help="Its split.")] = "train",
    revision: Annotated[str | None, typer.Option(help="Its revision.")] = None,
    field: Annotated[str, typer.Option(help="The field of a row that holds the text.")] = "text",
    limit: Annotated[int | None, typer.Option(min=1, help="Documents to read; all of them if not given.")] = None,
) -> None:
    """Count a corpus' tokens for sampler=pc; keep what you evaluate on out of it."""
    with one_sentence():
        from rws_cli.config import compose
        from rws_cli.corpus import Corpus, count_corpus
        from rws_cli.report.terminal import shown

        overrides = [argument for argument in arguments if "=" in argument]
        files = [argument for argument in arguments if "=" not in argument]
        if not files and not hub:
            raise UsageError("There is nothing to count: give text files, data files, or --hub NAME.")
        written = count_corpus(compose(*overrides), Corpus(files, hub, subset, split, revision, field, limit))
        typer.echo(f"{shown(written)}\nUse it with sampler=pc sampler.pc.frequencies={shown(written)}")


def entry() -> None:
    """The installed `rws`. A character that the locale does not have is printed as its escape."""
    for stream in (sys.stdout, sys.stderr):
        if stream:
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app(prog_name="rws")
    except BrokenPipeError:  # `rws show … | head`
        sys.stderr.close()
        raise SystemExit(1) from None
