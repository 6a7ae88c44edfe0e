"""The model `rws` of lm-evaluation-harness: it answers lm-eval's requests by a run of benchmark=lm_eval."""

import argparse
import re
import shlex
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import lm_eval.models  # noqa: F401  # lm-eval registers its own models
from lm_eval._cli import HarnessCLI
from lm_eval.api.model import LM
from lm_eval.api.registry import model_registry
from lm_eval.config.evaluate_config import EvaluatorConfig

from rws_cli.benchmarks.base import Example
from rws_cli.benchmarks.lm_eval import response
from rws_cli.config.composing import compose_one
from rws_cli.config.schema import Config
from rws_cli.errors import RunError, UsageError
from rws_cli.models.base import PreparedModel
from rws_cli.runs.manifest import Request
from rws_cli.runs.records import read_samples
from rws_cli.runs.run import run

OPTIONS = {
    "include_path": "benchmark.include_path",
    "num_fewshot": "benchmark.num_fewshot",
    "limit": "benchmark.limit",
    "system_instruction": "benchmark.system_instruction",
    "apply_chat_template": "benchmark.apply_chat_template",
    "fewshot_as_multiturn": "benchmark.fewshot_as_multiturn",
    "gen_kwargs": "benchmark.gen_kwargs",
    "confirm_run_unsafe_code": "benchmark.confirm_run_unsafe_code",
    "batch_size": "runtime.batch_size",
    "device": "model.device",
}
"""lm-eval's options that change what rws does → its settings."""
UNSUPPORTED = {
    "samples": "use --limit",
    "cache_requests": "leave it out",
    "use_cache": "finish a stopped run with rws run --resume RUN",
}
"""lm-eval's options that rws does not support → what to do instead."""


class RwsModel(LM):
    """A language model for lm-eval. overrides: of `rws run`; those of the benchmark must be what lm-eval was asked for.

    command: the command line, for the run's manifest. folders: the run folders so far, one for each kind of request.
    """

    def __init__(self, overrides: Iterable[str], command: str = "lm_eval") -> None:
        super().__init__()
        self.overrides, self.command, self.folders = list(overrides), command, list[Path]()

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: Any = None) -> "RwsModel":
        """The model for --model_args. What lm-eval adds, the batch size and the device, are options that rws reads itself."""
        made = cls((override(key, value) for key, value in arg_dict.items()), shlex.join(["rws", *sys.argv]))
        created.append(made)
        return made

    def generate_until(self, requests: list[Any]) -> list[str]:
        return self._answer(requests)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return self._answer(requests)

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        raise UsageError(
            f"lm-eval's task {requests[0].task_name} asks for loglikelihood_rolling, which rws does not compute."
        )

    @cached_property
    def prepared(self) -> PreparedModel:
        return compose_one("benchmark=prompt", "benchmark.text='-'", *self._without_benchmark())[0].model.prepare()

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.prepared.rendered(chat_history)

    def chat_template(self, chat_template: bool | str = False) -> str:
        if isinstance(chat_template, str):
            raise UsageError(
                f"--apply_chat_template {chat_template} names a template, and a model of rws has one: leave it out."
            )
        return str(self.prepared.tokenizer.chat_template or "")

    @property
    def tokenizer_name(self) -> str:
        return self.prepared.path

    def _without_benchmark(self) -> list[str]:
        return [each for each in self.overrides if not each.lstrip("+").startswith("benchmark.")]

    def _answer(self, requests: list[Any]) -> list[Any]:
        """The responses to requests of one kind, by one run. Raises UsageError if its prompts would not be lm-eval's."""
        names = "+".join(dict.fromkeys(request.task_name for request in requests))
        task = f"benchmark.task={_written(names, quoted=True)}"
        first, _, others = names.partition("+")
        short = f"{first}+{others.count('+') + 1}" if len(names) > 100 else names
        name = "benchmark.name=lm_eval." + re.sub(r"[^\w.+-]", "_", short, flags=re.ASCII)
        config, overrides = compose_one("benchmark=lm_eval", task, name, *self.overrides, typed=self.overrides)
        ids = _ids(requests, config.benchmark.completions)
        self._check_same(config, dict(zip(ids, requests, strict=True)))
        self.folders.append(run(config, Request(overrides, self.command)))
        samples = {sample["id"]: sample for sample in read_samples(self.folders[-1])}
        if missing := next((i for i in ids if i not in samples), None):
            raise RunError(
                f"lm-eval needs all examples, and {missing} failed: see {self.folders[-1] / 'failures.jsonl'}"
            )
        return [response(request, samples[i]) for i, request in zip(ids, requests, strict=True)]

    def _check_same(self, config: Config, requests: dict[str, Any]) -> None:
        """Raises UsageError if the run's examples are not what lm-eval asks for."""
        examples = {example.id: example for example in config.benchmark.repeated()}
        if different := sorted(examples.keys() ^ requests.keys()):
            raise UsageError(f"lm-eval and benchmark=lm_eval differ in the example {different[0]}: {ADVICE}")
        for i, request in requests.items():
            ours = config.benchmark.requests(examples[i])[request.idx]
            if (self._context(examples[i], request.idx), ours.args[1]) != request.args[:2]:
                raise UsageError(f"lm-eval and benchmark=lm_eval differ in the prompt of {i}: {ADVICE}")

    def _context(self, example: Example, number: int) -> str:
        """The context that an example stands for; number: of the choice."""
        prompt = example.contexts[number] if example.contexts else example.prompt
        return self.prepared.conversation(prompt, example.history, **example.context)[0]


ADVICE = "start it with rws lm-eval, or set benchmark.… as lm-eval's options are."
created: list[RwsModel] = []
"""The models that lm-eval made, for their run folders."""


def _ids(requests: list[Any], completions: int) -> list[str]:
    """The example of each request; of repeated ones, successive completions."""
    ids, seen = [], dict[tuple[str, int], int]()
    for request in requests:
        name, key = f"{request.task_name}-{request.doc_id}", (f"{request.task_name}-{request.doc_id}", request.idx)
        seen[key] = seen.get(key, -1) + 1
        ids.append(f"{name}/{seen[key]}" if completions > 1 else name)
    return ids


def override(key: str, value: Any) -> str:
    """A Hydra override that sets a key to a value."""
    return f"{key}={_written(value)}"


def _written(value: Any, quoted: bool = False) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_written(each, True)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_written(each, True) for each in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str) and quoted:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


def evaluate(arguments: list[str]) -> list[Path]:
    """`rws lm-eval`: lm-eval's own command line, with the model `rws`; returns the run folders that it wrote.

    Raises UsageError for options that do not work with rws, and for what lm-eval refuses.
    """
    before, sys.argv = sys.argv, ["lm-eval", *arguments]
    if "rws" not in model_registry:
        model_registry.register("rws", target=RwsModel)
    created.clear()
    try:
        parser = HarnessCLI()
        parsed = parser.parse_args()
        if parsed.command == "run":
            _translate(parsed)
        parser.execute(parsed)
    except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
        raise UsageError(f"lm-eval stopped: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    finally:
        sys.argv = before
    return [folder for model in created for folder in model.folders]


def _translate(parsed: argparse.Namespace) -> None:
    """Add to --model_args what other options mean for rws. Without --model, the model is rws."""
    options = EvaluatorConfig.load_yaml_config(parsed.config) if parsed.config else {}
    options |= {key: value for key, value in vars(parsed).items() if value is not None}
    parsed.model = options.get("model") or "rws"
    if parsed.model != "rws":
        return
    for name, other in UNSUPPORTED.items():
        if options.get(name):
            raise UsageError(f"--{name} does not work with --model rws: {other}.")
    settings = {setting: options[name] for name, setting in OPTIONS.items() if options.get(name) not in (None, {})}
    if settings.get("runtime.batch_size") == "auto":
        del settings["runtime.batch_size"]
    if seed := options.get("seed"):
        settings["benchmark.fewshot_seed"] = seed[-1] if isinstance(seed, list) else seed
    parsed.model_args = settings | (options.get("model_args") or {})
