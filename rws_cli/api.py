"""The Python interface, `import rws_cli as rws`.

    run = rws.run("sampler=rws", "benchmark.limit=8")
    run.samples, run.trace, run.metrics      # pandas frames
    rws.compare(run, rws.run("sampler=confidence", "benchmark.limit=8"))

All functions raise UsageError for invalid requests, and RunError for runs that fail. They leave the process unchanged:
arguments, signal handlers, logging, warnings filters, environment variables, and the settings of torch and Hydra.
"""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch
from hydra.version import VersionBase

from rws_cli import registry
from rws_cli.analysis import frames
from rws_cli.analysis.compare import Line
from rws_cli.analysis.run import Run as RecordedRun
from rws_cli.config.composing import check_plain, compose_one
from rws_cli.config.renamed import renamed_override
from rws_cli.decoding.statistics import Statistics as Statistics  # for rws.Statistics
from rws_cli.errors import RunError, UsageError, display_path, system_error
from rws_cli.models.function import LogitsFunction, function_denoiser
from rws_cli.rewards.function import RewardFunction
from rws_cli.runs.folder import find_all, find_run, read_json
from rws_cli.runs.functions import decode_prompts, decoding_config, trace_row
from rws_cli.runs.manifest import Request, check_parts, resumable
from rws_cli.runs.reading import by_task, compare_runs, read_run
from rws_cli.runs.records import trace_schema

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """A run folder, as it was when it was read. Frames are made on first use.

    folder: the absolute path of the run folder.
    """

    folder: Path
    _recorded: RecordedRun = field(repr=False, compare=False)

    @property
    def config(self) -> dict[str, Any]:
        """All settings, nested: `run.config["sampler"]["temperature"]`."""
        return self._recorded.config

    @property
    def manifest(self) -> dict[str, Any]:
        """manifest.json: status, config_hash, versions, git state, machine, what identifies weights and examples."""
        return self._recorded.manifest

    @cached_property
    def samples(self) -> pd.DataFrame:
        """A row per example: id, question, prompt, completion, reference, correct, reward, order statistics, costs."""
        return frames.samples_frame(self._recorded)

    @cached_property
    def trace(self) -> pd.DataFrame:
        """A row per committed token: id of its example, step and position (from 0), token, text, confidence, reward,
        scale, rank reversals. Raises RunError if the trace is missing or damaged."""
        return frames.tokens_frame(read_run(self.folder, traced=True))

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row: the run's settings under their dotted keys, its status, and its measures with 95 % intervals as
        `accuracy_low` and `accuracy_high`. `pd.concat([a.metrics, b.metrics])` is a table of runs."""
        return frames.runs_frame([self._recorded])


@dataclass(frozen=True)
class Generated:
    """A prompt's completion. text: the completion. sample: as a line of samples.jsonl (reward, order, cost, tokens, …).
    trace: a row per committed token."""

    text: str
    sample: dict[str, Any] = field(repr=False)
    trace: pd.DataFrame = field(repr=False)


@dataclass(frozen=True)
class Decoded:
    """What `decode` returns, in the order of its prompts.

    completions: gen_length token ids per prompt, end tokens and what follows them included.
    trace: a row per committed token: `prompt` (number of the prompt), step and position (from 0), token, confidence,
    reward, scale, pairs, reversals, …; and `text`, if there is a tokenizer.
    costs: a row per prompt: passes of the model (mdm_passes), tokens put through it, reward calls, seconds.
    """

    completions: list[list[int]]
    trace: pd.DataFrame = field(repr=False)
    costs: pd.DataFrame = field(repr=False)


class SamplerSettings(TypedDict, total=False):
    """Settings of all samplers; `rws list sampler confidence` says what each means. None is null."""

    block_length: int
    steps: int | None
    tokens_per_step: int | None
    temperature: float
    top_p: float
    cfg_scale: float
    order_temperature: float
    confidence: str
    eos: str
    ties: str


@contextmanager
def _undisturbed(parts: str | Path | Iterable[str | Path] = ()) -> Iterator[None]:
    """Look for parts in these folders inside; afterwards the process is as it was. What a call sets for itself is set for
    the whole process while it lasts."""
    environment, folders, threads = dict(os.environ), registry.folders(), torch.get_num_threads()
    version_base = VersionBase.instance().getbase()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        if parts := list(map(str, [parts] if isinstance(parts, str | Path) else parts)):
            registry.set_folders(parts)
        with warnings.catch_warnings():
            yield
    finally:
        VersionBase.instance().version_base = version_base
        if parts:
            registry.set_folders(folders)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if torch.are_deterministic_algorithms_enabled() != deterministic:  # setting it loads torch's compiler
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


@contextmanager
def _sentences() -> Iterator[None]:
    """Turn errors of the operating system into ours."""
    try:
        yield
    except OSError as error:
        raise system_error(error) from error


@_sentences()
def run(
    *overrides: str,
    config_dir: str | Path | None = None,
    parts: str | Path | Iterable[str | Path] = (),
    resume: str | Path | Run | None = None,
    quiet: bool = False,
) -> Run:
    """Decode a benchmark and write a run folder, as `rws run` with these overrides does: the same samples, the same hash.

    overrides: Hydra overrides, "sampler=rws", "benchmark.limit=8", "+experiment=…". One run: for several values, write
    a loop. config_dir: a folder of configurations besides conf/. parts: a folder with parts of your own, or several.
    resume: an interrupted run to finish; its own overrides come first. quiet: progress goes to run.log alone, not to
    standard error.

    Raises UsageError before anything is decoded; RunError if the run fails, also if single examples did, which are then
    in failures.jsonl (`rws.load` has the others); KeyboardInterrupt if it is interrupted, with all finished examples
    kept.
    """
    from rws_cli.runs.run import run as run_benchmark

    with _undisturbed(parts):
        stopped, recorded = None, list[str]()
        if resume is not None:
            stopped = find_run(str(_folder(resume)))
            manifest = read_json(stopped / "manifest.json")
            recorded = [renamed_override(each, lambda old, new: None) for each in manifest["overrides"]]
            check_plain(recorded, stopped / "manifest.json")
            check_parts(stopped, manifest)
        options = [f"--config-dir={config_dir}"] if config_dir is not None else []
        options += [f"--parts={folder}" for folder in registry.folders()]
        config, composed = compose_one(
            *recorded, *overrides, config_dir=None if config_dir is None else str(config_dir), typed=overrides
        )
        if stopped and resumable(stopped, config)["status"] == "finished":
            return load(stopped)
        request = Request(composed, shlex.join(["rws", "run", *options, *composed]), None, stopped, quiet)
        folder = run_benchmark(config, request).resolve()
        if failed := read_json(folder / "manifest.json")["failed"]:
            raise RunError(
                f"{len(failed)} of the examples failed, see {display_path(folder / 'failures.jsonl')}; the others are kept. "
                f"To try them again: rws.run(resume={display_path(folder)!r})"
            )
        return load(folder)


@_sentences()
def load(folder: str | Path) -> Run:
    """A finished or unfinished run. folder: of the run, or of its versions, of which the newest is read.

    Raises UsageError if there is no run, and RunError if its files are damaged.
    """
    found = find_run(str(folder))
    return Run(found, read_run(found))


@_sentences()
def compare(*runs: Run | str | Path) -> pd.DataFrame:
    """The numbers of `rws compare`: runs side by side, paired by example.

    runs: runs, run folders, or sweeps' folders; two runs at least. Runs that differ in the seed alone make one row.

    Returns a row per line: `task` (benchmark, model), `label`, `seeds`, `examples`; for each measure its mean, and where
    there is a baseline, the first line, `…_difference` to it, with its 95 % interval in `…_difference_low` and
    `…_difference_high`; `p` of the difference in accuracy after Holm's correction; and for each judge that was asked,
    `win_rate JUDGE` with its interval.

    Raises UsageError for fewer than two runs, and for runs that cannot be paired.
    """
    import pandas as pd

    folders = find_all(_folder(each) for each in runs)
    if len(folders) < 2:
        raise UsageError("A single run cannot be compared: give two or more runs, or a sweep's folder.")
    several = [group for group in by_task(folders) if len(group) > 1] or [folders]
    return pd.DataFrame([_line_row(line) for group in several for line in compare_runs(group)])


def _line_row(line: Line) -> dict[str, Any]:
    row: dict[str, Any] = {"task": line.runs[0].task, "label": line.label, "seeds": ", ".join(map(str, line.seeds))}
    row["examples"] = line.examples
    for name, cell in line.cells.items():
        row[name] = cell.value
        low, high = (cell.interval if cell.difference is not None else None) or (None, None)
        row[f"{name}_difference"] = cell.difference
        row[f"{name}_difference_low"], row[f"{name}_difference_high"] = low, high
    row["p"] = line.p
    for judge, wins in line.wins.items():
        row[f"win_rate {judge}"] = wins.rate
        row[f"win_rate {judge}_low"], row[f"win_rate {judge}_high"] = wins.interval
    return row


@_sentences()
def generate(
    prompt: str, *overrides: str, canvas: str | None = None, parts: str | Path | Iterable[str | Path] = ()
) -> Generated:
    """Decode one prompt, as `rws generate` does. Leaves no run folder.

    canvas: the completion, of which only masks are decoded: "x =[MASK:2], so y" has two.

    Each call loads the model: for many prompts, put them into a file and run benchmark=instructions.

    Raises UsageError and RunError as `run` does.
    """
    from rws_cli.runs.generate import Generation, configured

    with _undisturbed(parts):
        generated = Generation(configured(prompt, list(overrides), canvas))()
        sample = generated["sample"]
        return Generated(sample["completion"], sample, _tokens([generated["trace"]]))


@_undisturbed()
def decode(
    logits_function: LogitsFunction,
    prompts: Sequence[Sequence[int] | torch.Tensor],
    sampler: str = "confidence",
    *overrides: str,
    mask_id: int,
    gen_length: int,
    eos_ids: Sequence[int] = (),
    seed: int = 0,
    reward: RewardFunction | Callable[[list[Any], list[Any]], Iterable[float]] | None = None,
    **settings: Unpack[SamplerSettings],
) -> Decoded:
    """Decode prompts with any model: no checkpoint, no configuration files, no run folder.

        f = lambda ids: model(ids.to("cuda")).logits
        rws.decode(f, [[5, 6, 7]], "rws", mask_id=126336, gen_length=64, reward=rws.RewardFunction(score, statistics))

    logits_function: takes token ids, an int64 tensor (B, L), prompt and completion with masks, and returns logits
    (B, L, V), at each position those of the token there. It is called without gradients.

    prompts: token ids. Prompts of equal length are decoded together, others separately, so nothing is padded, and no result depends
    on the batch. Decoding takes place on the CPU, or on the device of the prompts if they are tensors.

    sampler, overrides: a sampler by its name, and Hydra overrides of it: `"rws", "sampler.guidance.strength=2"`,
    `"threshold", "guidance=rws"`; `runtime.batch_size=…` limits the rows of a call. settings: those of all samplers as
    keywords: temperature=1.0, block_length=32, steps=64, ….

    eos_ids: tokens that end a completion, the one that fills the rest first. seed: of random numbers, which come from
    (seed, number of the prompt, step, position) alone. reward: for samplers that need one; a function alone stands for
    RewardFunction(function), which takes token ids and has no statistics.

    Raises UsageError for settings and functions that do not fit; RunError for logits or rewards that are not finite, and
    if the reward fails. What the logits function raises comes through.

    Decodes as METHODS.md, section 1, says.
    """
    import pandas as pd

    if not len(prompts):
        raise UsageError("prompts is empty: give at least one list of token ids.")
    if reward is not None and not isinstance(reward, RewardFunction):
        reward = RewardFunction(reward)
    keywords = [f"sampler.{name}={'null' if value is None else value}" for name, value in settings.items()]
    chosen = [f"sampler={sampler}", f"sampler.gen_length={gen_length}", *keywords, *overrides]
    config = replace(decoding_config(chosen, eos_ids, reward), seed=seed)
    device = prompts[0].device if isinstance(prompts[0], torch.Tensor) else torch.device("cpu")
    tokenizer = reward.tokenizer if reward else None
    denoiser = function_denoiser(logits_function, mask_id, eos_ids, tokenizer, device)
    completions = decode_prompts(config, denoiser, [list(map(int, prompt)) for prompt in prompts], reward)
    trace = _tokens([trace_row(number, each, tokenizer) for number, each in enumerate(completions)])
    trace = trace.rename(columns={"id": "prompt"}).drop(columns=[] if tokenizer else "text")
    trace["prompt"] = trace["prompt"].cat.codes.astype("int64")
    costs = pd.DataFrame([asdict(completion.cost) for completion in completions])
    return Decoded([completion.tokens for completion in completions], trace, costs)


def _tokens(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows of the trace as a frame with a row per committed token."""
    import pyarrow as pa

    trace = pa.Table.from_pylist(rows, schema=trace_schema(set().union(*rows)))
    return frames.tokens_frame(RecordedRun(Path(), {}, 0, {}, trace=trace))


def _folder(run: Run | str | Path) -> Path | str:
    return run.folder if isinstance(run, Run) else run
