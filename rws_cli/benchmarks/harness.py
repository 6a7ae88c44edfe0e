"""Load tasks of lm-evaluation-harness and build their requests, in the steps of its `simple_evaluate`."""

import io
import json
import logging
import math
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rws_cli.benchmarks.base import Example
from rws_cli.benchmarks.rows import file_rows, local_file
from rws_cli.errors import UsageError, nearest
from rws_cli.files import user_path

NAMES = re.compile(r"^['\"]?(?:task|group|tag)['\"]?:[ \t]*['\"]?([^\s'\"\[]+)", re.MULTILINE)
TAGS = re.compile(r"^tag:[ \t]*\n((?:[ \t]*-.*\n)+)", re.MULTILINE)


@dataclass(frozen=True)
class Loaded:
    """tasks, groups: lm-eval's, by name. requests: example id → lm-eval's instances of its document, in order. scored: example
    id → the responses that were scored last, and what came of them."""

    tasks: dict[str, Any]
    groups: dict[str, Any]
    requests: dict[str, list[Any]]
    scored: dict[str, tuple[Any, Any, Any]] = field(default_factory=dict)

    def task_of(self, example: Example) -> Any:
        """The task of an example."""
        return self.tasks[self.requests[example.question or example.id][0].task_name]


def load_tasks(settings: Any) -> Loaded:
    """The tasks of a benchmark of lm-eval, with their data and requests. settings: the benchmark.

    Raises UsageError if lm-eval is missing, knows no such task or cannot load it.
    """
    try:
        import lm_eval.api.task  # noqa: F401
    except ImportError as error:
        raise UsageError("benchmark=lm_eval needs the package lm-eval: pip install 'rws[lm_eval]'.") from error
    names = settings.task.split("+")
    named = f"benchmark.task={settings.task}"
    with quiet(), _seeded(), _errors(named, settings):
        manager = _manager(tuple(names), settings.include_path and str(user_path(settings.include_path)))
        if unknown := next((name for name in names if name not in manager.task_index), None):
            raise UsageError(f"lm-eval has no task {unknown}{nearest(unknown, manager.all_tasks) or '.'}")
        if settings.path:
            tasks, groups = _with_local_data(manager, names, settings), {}
        else:
            loaded = manager.load(names)
            tasks, groups = loaded["tasks"], loaded["groups"]
        for name, task in tasks.items():
            _check(name, task, settings)
            _configure(task, settings)
            task.build_all_requests(
                limit=_limit(task, settings.limit),
                system_instruction=settings.system_instruction,
                apply_chat_template=settings.apply_chat_template,
                fewshot_as_multiturn=settings.apply_chat_template and settings.fewshot_as_multiturn,
                chat_template=_conversation if settings.apply_chat_template else None,
            )
        requests: dict[str, list[Any]] = {}
        for name, task in tasks.items():
            for instance in task.instances:
                requests.setdefault(f"{name}-{instance.doc_id}", []).append(instance)
    return Loaded(tasks, groups, requests)


def _conversation(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """In place of a chat template: the conversation, for the model's own template later."""
    return json.dumps(messages)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide lm-eval's logs and progress bars."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _seeded() -> Iterator[None]:
    """The seeds that lm-eval's commands set before they load tasks, for tasks that draw; restored afterwards."""
    import numpy as np
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    states = random.getstate(), np.random.get_state()
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def _errors(named: str, settings: Any) -> Iterator[None]:
    """Turn whatever loading raises into one sentence."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # tasks are YAML and Python of anyone
        text = f"{named} cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())[:300]}."
        if isinstance(error, OSError) and not settings.path:
            text += " Offline, set benchmark.path to a file with the data set's fields."
        raise UsageError(text) from error


def _manager(names: tuple[str, ...], include_path: str | None) -> Any:
    """lm-eval's index of tasks. Reading all of its 14,000 files takes long, so only the folders of `names` are read if that
    is enough."""
    from lm_eval.tasks import TaskManager

    if include_path and not Path(include_path).is_dir():
        raise UsageError(f"benchmark.include_path={include_path} is not a folder.")
    folders = [include_path] if include_path else [str(_files()[name].parent) for name in names if name in _files()]
    if folders:
        few = TaskManager(include_path=list(dict.fromkeys(folders)), include_defaults=False)
        if all(_complete(few.task_index, name) for name in names):
            return few
    return _whole_index(include_path)


@lru_cache(maxsize=4)
def _whole_index(include_path: str | None) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)


@lru_cache
def _files() -> dict[str, Path]:
    """Most names of lm-eval's tasks, groups and tags, each with the first file that has it; others need the whole index."""
    import lm_eval.tasks

    files: dict[str, Path] = {}
    for file in sorted(Path(lm_eval.tasks.__file__).parent.glob("**/*.yaml")):
        text = file.read_text(encoding="utf-8", errors="replace")
        tags = [line.strip("- \t'\"") for lines in TAGS.findall(text) for line in lines.splitlines()]
        for name in (*NAMES.findall(text), *tags):
            files.setdefault(name, file)
    return files


def _complete(index: dict[str, Any], name: str) -> bool:
    """Whether an index has a name and all that it stands for. Tags are never complete: any folder can have more tasks."""
    entry = index.get(name)
    if entry is None or entry.kind.name not in ("TASK", "PY_TASK", "GROUP"):
        return False
    members = entry.cfg.get("task") if entry.kind.name == "GROUP" else []
    names = [member.get("task") if isinstance(member, dict) else member for member in members or []]
    return all(isinstance(each, str) and _complete(index, each) for each in names)


def _with_local_data(manager: Any, names: list[str], settings: Any) -> dict[str, Any]:
    """A single task, with the data of local files. Raises UsageError if there are several tasks."""
    if len(names) > 1 or manager.task_index[names[0]].kind.name != "TASK":
        raise UsageError(f"benchmark.path is the data of one task, and benchmark.task={settings.task} is not one.")
    from datasets import Dataset

    files = {"test": (settings.path, "benchmark.path"), "train": (settings.shots_path, "benchmark.shots_path")}
    splits = {
        split: Dataset.from_list([row for _, row in file_rows(local_file(path, key), f"{key}={path}")])
        for split, (path, key) in files.items()
        if path
    }
    shots = "train" if settings.shots_path else None
    changes = {
        "task": names[0], "custom_dataset": lambda **_: splits, "test_split": "test", "validation_split": None,
        "training_split": shots, "fewshot_split": shots,
    }  # fmt: skip
    # A group of one task is the way to change the settings of a task that lm-eval has.
    tasks = manager.load([{"group": "local", "task": [changes]}])["tasks"]
    (task,) = tasks.values()
    few = settings.num_fewshot if settings.num_fewshot is not None else task.config.num_fewshot
    if few and not shots and task.fewshot_cfg.samples is None:
        raise UsageError(
            f"benchmark.task={settings.task} shows {few} solved examples: set benchmark.shots_path to a file of them, or "
            "benchmark.num_fewshot=0."
        )
    return tasks


def _check(name: str, task: Any, settings: Any) -> None:
    """Raises UsageError for a task that rws cannot run, or only with consent."""
    if getattr(task, "MULTIMODAL", False):
        raise UsageError(f"lm-eval's task {name} has images or sound, which these models cannot read.")
    if task.OUTPUT_TYPE not in ("generate_until", "multiple_choice", "loglikelihood"):
        raise UsageError(
            f"lm-eval's task {name} asks for {task.OUTPUT_TYPE}, which rws does not compute: choose another."
        )
    if getattr(task, "UNSAFE_CODE", False) and not settings.confirm_run_unsafe_code:
        raise UsageError(
            f"lm-eval's task {name} runs programs that the model writes, outside a sandbox: choose a benchmark of rws "
            "that has one, or type benchmark.confirm_run_unsafe_code=true."
        )


def _configure(task: Any, settings: Any) -> None:
    """The settings that lm-eval's options change."""
    if task.OUTPUT_TYPE == "generate_until" and settings.gen_kwargs:
        task.set_config(key="generation_kwargs", value=settings.gen_kwargs, update=True)
    default = task.get_config("num_fewshot")
    if settings.num_fewshot is not None and default != 0:
        task.set_config(key="num_fewshot", value=settings.num_fewshot)
    elif default is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=settings.fewshot_seed)


def _limit(task: Any, limit: float | None) -> int | None:
    """The number of documents. limit: a number, or a share if below 1."""
    return None if limit is None else math.ceil(len(task.eval_docs) * limit) if limit < 1 else int(limit)


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string."""
    for stop in filter(None, stops):
        text = text.split(stop, 1)[0]
    return text
