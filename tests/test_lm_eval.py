"""lm-evaluation-harness both ways: benchmark=lm_eval, and the model `rws` that lm-eval calls. lm-eval is the reference."""

from __future__ import annotations

import functools
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from serving import served
from support import SHARED, samples_of

lm_eval = pytest.importorskip("lm_eval", exc_type=ImportError)

from lm_eval import simple_evaluate  # noqa: E402
from lm_eval.api.model import LM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

import rws_cli as rws_api  # noqa: E402
from rws_cli.benchmarks import harness  # noqa: E402
from rws_cli.benchmarks.arithmetic import Arithmetic  # noqa: E402
from rws_cli.benchmarks.base import Example  # noqa: E402
from rws_cli.benchmarks.harness import cut  # noqa: E402
from rws_cli.config.composing import compose  # noqa: E402
from rws_cli.decoding.record import Cost, RowTrace  # noqa: E402
from rws_cli.errors import RunError, UsageError  # noqa: E402
from rws_cli.runs.batch_decoder import Outcome  # noqa: E402
from rws_cli.runs.lm_eval import RwsModel, override  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval's, and those of what it imports
QUICK = [
    "sampler=confidence",
    "benchmark.gen_length=32",
    "sampler.tokens_per_step=8",
    "reward=none",
    "likelihood.draws=8",
    "model=tiny",
]
STRICT = {
    "name": "strict",
    "filter": [{"function": "regex", "regex_pattern": r"#### (\d+)"}, {"function": "take_first"}],
}
LAST = {
    "name": "last",
    "filter": [{"function": "regex", "regex_pattern": r"(\d+)", "group_select": -1}, {"function": "take_first"}],
}
ARITHMETIC = {
    "task": "sums", "output_type": "generate_until", "test_split": "test", "fewshot_split": "train",
    "dataset_path": "json", "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n\n", "="], "max_gen_toks": 16}, "filter_list": [STRICT, LAST],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True,
                     "regexes_to_ignore": ["(?s).*#### "]}],
}  # fmt: skip
CHOICE = {
    "task": "choices", "output_type": "multiple_choice", "test_split": "test", "dataset_path": "json",
    "doc_to_text": "{{question}} so {{start}}", "doc_to_target": "label", "doc_to_choice": "choices",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
}  # fmt: skip
GROUP = {
    "group": "both", "task": ["sums", "choices"],
    "aggregate_metric_list": [{"metric": "exact_match", "filter_list": "strict"}, {"metric": "acc"}],
}  # fmt: skip


def write_lines(file: Path, rows: Iterable[dict]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks of one's own: problems that the bundled model knows, to be solved and to be chosen from."""
    folder = tmp_path_factory.mktemp("tasks")
    problems = [{"question": e.prompt, "answer": e.reference} for e in Arithmetic(limit=6).examples()]
    solved = [{"question": e.prompt, "answer": e.reference} for e in Arithmetic(limit=3, seed=9).examples()]
    choices = []
    for n, problem in enumerate(problems):
        start, rest = problem["answer"].removeprefix("so ").split(" ", 1)
        wrong = re.sub(r"\d+$", lambda match: str(int(match[0]) % 30 + 1), rest)
        choices.append(problem | {"start": start, "choices": [rest, wrong][:: 1 if n % 2 else -1], "label": 1 - n % 2})
    files = {"test": write_lines(folder / "test.jsonl", problems), "train": write_lines(folder / "train.jsonl", solved)}
    chosen = {"test": write_lines(folder / "choices.jsonl", choices)}
    write_task(folder, ARITHMETIC | {"dataset_kwargs": {"data_files": files}})
    write_task(folder, CHOICE | {"dataset_kwargs": {"data_files": chosen}})
    write_task(folder, GROUP)
    return folder


def write_task(folder: Path, task: dict[str, Any]) -> None:
    (folder / f"{task.get('task') if 'group' not in task else task['group']}.yaml").write_text(yaml.safe_dump(task))


@pytest.fixture(scope="module", autouse=True)
def _templates_are_compiled_once() -> Iterator[None]:
    """lm-eval compiles a task's templates again for each document, which takes most of the time of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_eval.utils.env, "from_string", functools.cache(lm_eval.utils.env.from_string))
        yield


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval's commands index the tasks of --include_path alone: reading its own 14,000 files takes half a minute."""
    with_all = TaskManager.__init__
    monkeypatch.setattr(TaskManager, "__init__", functools.partialmethod(with_all, include_defaults=False))


def of(tasks: Path, name: str, *overrides: str) -> list[str]:
    return ["benchmark=lm_eval", f"benchmark.task={name}", f"benchmark.include_path={tasks}", *QUICK, *overrides]


def measures(run: Path) -> list[dict[str, float]]:
    return [
        {name: value for name, value in sample["measures"].items() if name.startswith("lm_eval.")}
        for sample in samples_of(run)
    ]


def metrics_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def grades_by_lm_eval(results: dict[str, Any], task: str) -> list[dict[str, float]]:
    """What lm-eval's own evaluation gives each document, by the names of our measures."""
    of_document: dict[int, dict[str, float]] = {}
    for sample in results["samples"][task]:
        values = {f"lm_eval.{metric}.{sample['filter']}": float(sample[metric]) for metric in sample["metrics"]}
        of_document.setdefault(sample["doc_id"], {}).update(values)
    return [of_document[n] for n in sorted(of_document)]


class Scripted(LM):
    """A model of lm-eval's that has its completions from a list, cut at stop strings as lm-eval's models cut them."""

    def __init__(self, completions: list[str]) -> None:
        super().__init__()
        self.completions = completions

    def generate_until(self, requests: list[Any]) -> list[str]:
        texts = []
        for request in requests:
            text = self.completions[request.doc_id]
            for stop in request.args[1]["until"]:
                text = text.split(stop)[0]
            texts.append(text)
        return texts

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        raise NotImplementedError


def scripted_workers(completions: list[str]) -> Any:
    """In place of a model: workers that give each example its completion from a list, by the number that ends its id."""

    class Scribes:
        count, sources = 1, {"benchmark": {"version": 1, "examples": len(completions)}}

        def listen(self, *_: Any) -> None: ...

        def decode(self, batches: Iterable[list[Example]]) -> Iterator[Outcome]:
            for batch in batches:
                names = [example.id for example in batch]
                samples = [scripted(example, completions[number_of(example.id)]) for example in batch]
                yield Outcome(samples, [{"id": name, **asdict(RowTrace()), "text": []} for name in names])

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...

    return lambda config, prepared: Scribes()


def number_of(name: str) -> int:
    return int(name.rpartition("-")[2])


def scripted(example: Example, completion: str) -> dict[str, Any]:
    from rws_cli.analysis.order import order_statistics

    order = order_statistics([], [], 1)
    return {
        "id": example.id, "question": example.question or example.id, "history": example.history, "prompt": example.prompt,
        "completion": completion, "reference": example.reference, "grade": None, "reward": None, "measures": {},
        "order": order, "order_with_eos": order, "guidance": None, "tokens": [1], "length": 1, "committed": 1,
        "remasked": 0, "particles": [], "cost": asdict(Cost()),
    }  # fmt: skip


# --- 1,000 problems of GSM8K, three ways ------------------------------------------------------------------------------

KINDS: dict[str, Callable[[str, str], str]] = {
    "as asked": lambda worked, n: f"{worked}\n#### {n}",
    "wrong number": lambda worked, n: f"{worked}\n#### {n}1",
    "no ####": lambda worked, n: f"{worked}\nThe answer is {n}.",
    "no space after ####": lambda worked, n: f"{worked}\n####{n}",
    "currency sign": lambda worked, n: f"{worked}\n#### ${n}",
    "decimals": lambda worked, n: f"{worked}\n#### {n}.00",
    "unit, then a number": lambda worked, n: f"{worked}\n#### {n} in 3 days",
    "corrected answer": lambda worked, n: f"{worked}\n#### {n}1\nNo, wait.\n#### {n}",
    "goes on with another question": lambda worked, n: (
        f"{worked}\n#### {n}\n\nQuestion: What is 1 + 1?\nAnswer: #### 2"
    ),
    "range": lambda worked, n: f"{worked}\nBetween 0-{n}",
    "dots after the number": lambda worked, n: f"{worked}\nSo {n}...",
    "empty": lambda worked, n: "",
}
"""Kinds of completions, made from a worked answer without its last line and the right number."""


def worked(row: dict[str, str]) -> tuple[str, str]:
    text, _, number = row["answer"].partition("\n#### ")
    return text, number.replace(",", "")


@pytest.fixture(scope="module")
def gsm8k(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """1,000 problems, a completion of each, its kind, and lm-eval's own gsm8k on files."""
    files = {"test": SHARED / "data/gsm8k_test_1000.jsonl", "train": SHARED / "data/gsm8k_train_1000.jsonl"}
    if not files["test"].exists():
        pytest.skip("no GSM8K here")
    rows = [json.loads(line) for line in files["test"].read_text().splitlines()]
    kinds = [list(KINDS)[n % len(KINDS)] for n in range(len(rows))]
    completions = [KINDS[kind](*worked(row)) for kind, row in zip(kinds, rows, strict=True)]
    folder = tmp_path_factory.mktemp("gsm8k")
    theirs = Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml"
    mine = {
        "include": str(theirs),
        "task": "gsm8k_local",
        "dataset_path": "json",
        "dataset_name": None,
        "num_fewshot": 0,
    }
    write_task(folder, mine | {"dataset_kwargs": {"data_files": {name: str(file) for name, file in files.items()}}})
    return {"files": files, "rows": rows, "kinds": kinds, "completions": completions, "folder": folder}


def without_a_model(patch: pytest.MonkeyPatch, completions: list[str]) -> None:
    """Runs take scripted completions, and prompts may be as long as they are."""
    scribes = scripted_workers(completions)
    patch.setattr("rws_cli.runs.run.open_workers", contextmanager(lambda *args: (yield scribes(*args))))
    patch.setattr("rws_cli.models.base.PreparedModel.encode", lambda *_, **__: [1])


@pytest.fixture(scope="module")
def three_ways(gsm8k: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """lm-eval with a model that reads a list, lm-eval with the model `rws`, and benchmark=lm_eval, on the same texts."""
    manager = TaskManager(include_path=str(gsm8k["folder"]), include_defaults=False)
    asked: dict[str, Any] = {"tasks": ["gsm8k_local"], "task_manager": manager, "bootstrap_iters": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("runs"))
        without_a_model(patch, gsm8k["completions"])
        model = RwsModel([f"benchmark.include_path={gsm8k['folder']}", *QUICK])
        return {
            "list": simple_evaluate(model=Scripted(gsm8k["completions"]), **asked),
            "rws": simple_evaluate(model=model, **asked),
            "their run": model.folders[0].absolute(),
            "run": rws_api.run(*of(gsm8k["folder"], "gsm8k_local"), quiet=True).folder,
        }


def test_both_ways_give_1000_completions_lm_evals_grades(three_ways: dict[str, Any]) -> None:
    """Filter by filter."""
    expected, whole = grades_by_lm_eval(three_ways["list"], "gsm8k_local"), metrics_of(three_ways["run"])
    assert len(expected) == 1000
    assert expected[0].keys() == {"lm_eval.exact_match.strict-match", "lm_eval.exact_match.flexible-extract"}
    assert grades_by_lm_eval(three_ways["rws"], "gsm8k_local") == expected
    assert measures(three_ways["run"]) == expected
    assert measures(three_ways["their run"]) == expected
    results = three_ways["list"]["results"]["gsm8k_local"]
    assert whole["measures"] == {
        f"lm_eval.{key.replace(',', '.')}": value for key, value in results.items() if key.startswith("exact_match,")
    }
    assert whole["accuracy"] == results["exact_match,strict-match"]
    assert 0.2 < whole["accuracy"] < 0.5


GRADES = {
    "as asked": (84, 84, 84, 84),
    "wrong number": (84, 0, 0, 0),
    "no ####": (84, 84, 0, 84),
    "no space after ####": (84, 84, 0, 84),
    "currency sign": (83, 83, 0, 83),
    "decimals": (83, 83, 0, 0),
    "unit, then a number": (83, 83, 83, 2),
    "corrected answer": (83, 83, 0, 83),
    "goes on with another question": (83, 2, 83, 83),
    "range": (83, 83, 0, 1),
    "dots after the number": (83, 83, 0, 0),
    "empty": (83, 0, 0, 0),
}
"""Kind → completions, and how many of them are correct by benchmark=gsm8k, by strict-match and by flexible-extract."""


def test_where_our_gsm8k_grades_otherwise(gsm8k: dict[str, Any], three_ways: dict[str, Any]) -> None:
    """The table of METHODS.md."""
    ours = compose("benchmark=gsm8k").benchmark
    counts = {kind: [0, 0, 0, 0] for kind in KINDS}
    scripts = zip(gsm8k["rows"], gsm8k["kinds"], gsm8k["completions"], measures(three_ways["run"]), strict=True)
    for row, kind, completion, theirs in scripts:
        correct = [True, ours.grade(Example("q", row["question"], "", row), completion).correct]
        correct += [theirs[f"lm_eval.exact_match.{name}"] == 1 for name in ("strict-match", "flexible-extract")]
        counts[kind] = [n + value for n, value in zip(counts[kind], correct, strict=True)]
    assert {kind: tuple(numbers) for kind, numbers in counts.items()} == GRADES


# --- tasks of one's own -----------------------------------------------------------------------------------------------


def lm_evals_samples(folder: Path, task: str) -> list[dict[str, float]]:
    """The grades in what lm-eval's command wrote."""
    (file,) = folder.glob(f"**/samples_{task}_*.jsonl")
    return grades_by_lm_eval({"samples": {task: [json.loads(line) for line in file.read_text().splitlines()]}}, task)


def test_the_lines_of_the_readme_run(rws, local: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its task needs no download; and a problem gets the same sample either way."""
    root = Path(__file__).parents[1]
    lines = [
        line.partition("  #")[0]
        for line in (root / "README.md").read_text().splitlines()
        if re.match("rws .*scripts/tasks", line)
    ]
    ways = lines or [
        "rws run benchmark=lm_eval benchmark.task=sums benchmark.include_path=scripts/tasks benchmark.apply_chat_template=true",
        "rws lm-eval --model_args sampler=rws,model=tiny --tasks sums --include_path scripts/tasks --apply_chat_template",
    ]
    monkeypatch.chdir(root)
    found = []
    for line in ways:
        words = shlex.split(line)[1:]
        quick = [f"output={tmp_path}", "sampler.tokens_per_step=10"]
        few = ["benchmark.limit=1", *quick] if words[0] == "run" else ["--limit", "1"]
        words = [
            ",".join([word, *quick]) if word.startswith("sampler=") and words[0] == "lm-eval" else word
            for word in words
        ]
        result = rws(*words, *few)
        assert result.exit_code == 0, result.output
        (folder,) = {*tmp_path.glob("lm_eval.sums/*/v*")} - {*found}
        found.append(folder)
    assert len(found) > 1
    assert all(samples_of(folder) == samples_of(found[0]) for folder in found)


@pytest.mark.slow
@pytest.mark.parametrize("chat", [False, True])
def test_lm_evals_command_and_a_run_agree(rws, local: None, tasks: Path, chat: bool, tmp_path: Path) -> None:
    """The same tokens and log likelihoods, the same grades as lm-eval's, and metrics as lm-eval aggregates them."""
    options = ["--apply_chat_template"] * chat + [
        "--num_fewshot",
        "1",
        "--limit",
        "4",
        "--gen_kwargs",
        "max_gen_toks=12",
    ]
    arguments = ",".join(QUICK)
    result = rws(
        "lm-eval", "run", "--model", "rws", "--model_args", arguments, "--tasks", "both", "--include_path", str(tasks),
        "--output_path", "theirs", "--log_samples", *options,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    folders = [
        tmp_path / line.removeprefix("run folder: ") for line in result.output.splitlines() if "run folder: " in line
    ]
    settings = [f"benchmark.apply_chat_template={str(chat).lower()}", "benchmark.num_fewshot=1", "benchmark.limit=4"]
    run = rws_api.run(*of(tasks, "both", *settings, "benchmark.gen_kwargs={max_gen_toks: 12}"), quiet=True).folder
    assert samples_of(run) == sorted(
        (s for folder in folders for s in samples_of(folder)), key=lambda s: s["id"][1] != "u"
    )
    by_task = {task: measures(folder) for task, folder in zip(("sums", "choices"), sorted(folders)[::-1], strict=True)}
    for task, found in by_task.items():
        assert found == lm_evals_samples(tmp_path / "theirs", task)
    (file,) = (tmp_path / "theirs").glob("**/results_*.json")
    theirs = json.loads(file.read_text())["results"]
    assert metrics_of(run)["measures"] == {
        f"lm_eval.{task}.{key.replace(',', '.')}": value
        for task in ("sums", "choices", "both")
        for key, value in theirs[task].items()
        if "," in key and "stderr" not in key
    }
    sample = samples_of(run)[0]
    assert len(sample["tokens"]) == 12
    assert "choices" in samples_of(run)[-1]
    assert bool(sample["history"]) == chat


PROMPTS: dict[str, dict[str, Any]] = {
    "raw": {},
    "raw, with shots": {"num_fewshot": 2},
    "chat": {"apply_chat_template": True},
    "chat, with shots as turns": {"apply_chat_template": True, "num_fewshot": 2},
    "chat, with shots in one turn": {"apply_chat_template": True, "num_fewshot": 2, "fewshot_as_multiturn": False},
    "chat, with a system message": {"apply_chat_template": True, "system_instruction": 'Say "so": {a}, $b'},
    "raw, with an instruction": {"system_instruction": "Solve."},
    "other shots": {"num_fewshot": 2, "fewshot_random_seed": 5},
}


QUICK_PROMPTS = [("raw, with shots", ""), ("chat, with shots as turns", "so "), ("chat, with a system message", "")]


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        pytest.param(kind, prefix, marks=[] if (kind, prefix) in QUICK_PROMPTS else pytest.mark.slow)
        for kind in PROMPTS
        for prefix in ("", "so ")
    ],
)
def test_prompts_are_lm_evals(
    tasks: Path, tmp_path: Path, kind: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model refuses to answer if they differ; and what the model reads are the tokens of lm-eval's text."""
    asked = {"fewshot_as_multiturn": bool(PROMPTS[kind].get("apply_chat_template"))} | PROMPTS[kind]
    names = {"fewshot_random_seed": "fewshot_seed"}
    settings = [
        override(f"benchmark.{names.get(name, name)}", value)
        for name, value in asked.items()
        if not isinstance(value, str)
    ]
    settings += [
        f'benchmark.{name}="{value}"'.replace('"so"', '\\"so\\"')
        for name, value in asked.items()
        if isinstance(value, str)
    ]
    task = yaml.safe_load((tasks / "sums.yaml").read_text()) | ({"gen_prefix": prefix} if prefix else {})
    write_task(tmp_path, task)
    monkeypatch.chdir(tmp_path)
    model = RwsModel([f"benchmark.include_path={tmp_path}", *QUICK, *settings])
    contexts: list[str] = []
    read: list[list[int]] = []

    def answer(config: Any, request: Any) -> Path:
        for example in config.benchmark.examples():
            read.append(model.prepared.encode(example.prompt, example.history, **example.context))
        raise RunError("enough")

    monkeypatch.setattr("rws_cli.runs.lm_eval.run", answer)
    generate = model.generate_until
    monkeypatch.setattr(
        model, "generate_until", lambda requests: (contexts.extend(r.args[0] for r in requests), generate(requests))
    )
    with pytest.raises(RunError, match="enough"):
        evaluate(model, tmp_path, ["sums"], asked)
    chat = asked.get("apply_chat_template", False)
    assert read == [model.prepared.tokenizer(text, add_special_tokens=not chat).input_ids for text in contexts]
    assert len(contexts) == 6
    assert all(text.rstrip().endswith(prefix.strip()) for text in contexts)


def evaluate(model: Any, folder: Path, names: list[str], asked: dict[str, Any]) -> dict[str, Any]:
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return simple_evaluate(model=model, tasks=names, task_manager=manager, bootstrap_iters=0, **asked)


def test_a_model_that_was_set_otherwise_than_lm_eval_refuses(tasks: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = RwsModel([f"benchmark.include_path={tasks}", *QUICK])
    with pytest.raises(UsageError, match="differ in the prompt of sums-0: start it with rws lm-eval"):
        evaluate(model, tasks, ["sums"], {"num_fewshot": 1})
    with pytest.raises(UsageError, match="differ in the example sums-2"):
        evaluate(model, tasks, ["sums"], {"limit": 2})
    with pytest.raises(UsageError, match="differ in the prompt of sums-0"):
        evaluate(model, tasks, ["sums"], {"gen_kwargs": {"until": ["x"]}})


def test_completions_end_at_max_gen_toks_and_are_graded_up_to_a_stop_string(
    tasks: Path, tmp_path: Path, monkeypatch
) -> None:
    """The task stops at "=", after which come the later steps and the answer."""
    monkeypatch.chdir(tmp_path)
    stopped = rws_api.run(*of(tasks, "sums", "benchmark.apply_chat_template=true"), quiet=True)
    whole = rws_api.run(
        *of(tasks, "sums", "benchmark.apply_chat_template=true", "benchmark.gen_kwargs={until: [], max_gen_toks: 24}"),
        quiet=True,
    )
    assert {len(sample["tokens"]) for sample in samples_of(stopped.folder)} == {16}
    assert {len(sample["tokens"]) for sample in samples_of(whole.folder)} == {24}
    assert stopped.trace["position"].max() == 15
    for sample in samples_of(stopped.folder):
        assert "=" in sample["completion"]
        assert sample["grade"]["extracted"] == "[invalid]"
        assert sample["measures"]["lm_eval.exact_match.strict"] == 0
    assert metrics_of(whole.folder)["accuracy"] > 0
    assert cut("a b c", ["c", "", "b"]) == "a "


MAJORITY = {"function": "majority_vote"}
VOTES = [
    STRICT,
    {
        "name": "most",
        "filter": [STRICT["filter"][0], {"function": "take_first_k", "k": 3}, MAJORITY, {"function": "take_first"}],
    },
]


@pytest.mark.slow
def test_repeats_are_graded_together(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vote of three completions, as lm-eval counts it: the first is wrong in every other problem, the others are right."""
    monkeypatch.chdir(tmp_path)
    write_task(
        tmp_path,
        yaml.safe_load((tasks / "sums.yaml").read_text())
        | {"repeats": 3, "filter_list": VOTES, "generation_kwargs": {"until": ["!"]}},
    )
    right = [json.loads(line)["answer"] for line in (tasks / "test.jsonl").read_text().splitlines()]
    texts = [right[n // 3] if n % 3 or n % 2 else "#### 99" for n in range(18)]
    scribes = scripted_workers(texts)
    monkeypatch.setattr("rws_cli.runs.run.open_workers", contextmanager(lambda *args: (yield scribes(*args))))
    monkeypatch.setattr(
        f"{__name__}.number_of", lambda name: 3 * int(name.split("-")[1].split("/")[0]) + int(name.split("/")[1])
    )
    several = ["benchmark.completions=3", "sampler.temperature=1"]
    run = rws_api.run(*of(tmp_path, "sums", *several), quiet=True).folder
    model = RwsModel([f"benchmark.include_path={tmp_path}", *QUICK, *several])
    theirs = evaluate(model, tmp_path, ["sums"], {})["results"]["sums"]
    assert metrics_of(run)["measures"] == {
        "lm_eval.exact_match.strict": theirs["exact_match,strict"], "lm_eval.exact_match.most": theirs["exact_match,most"]
    }  # fmt: skip
    assert (theirs["exact_match,strict"], theirs["exact_match,most"]) == (0.5, 1.0)
    assert metrics_of(run)["accuracy"] == pytest.approx(15 / 18)
    assert all("lm_eval.exact_match.most" not in sample["measures"] for sample in samples_of(run))


@pytest.mark.slow
def test_choices_with_contexts_of_their_own(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Winogrande has them: rival contexts, one continuation. And log likelihoods less those without a context."""
    monkeypatch.chdir(tmp_path)
    choices = yaml.safe_load((tasks / "choices.yaml").read_text())
    rivals = {
        "doc_to_text": "label",
        "doc_to_target": "so {{start}}",
        "doc_to_choice": "{{[question, 'tom has 1 apples']}}",
    }
    write_task(tmp_path, choices | rivals | {"task": "rivals"})
    mutual = {"metric": "acc_mutual_info", "aggregation": "mean", "higher_is_better": True}
    write_task(tmp_path, choices | {"task": "mutual", "metric_list": [*choices["metric_list"], mutual]})
    run = rws_api.run(*of(tmp_path, "rivals+mutual", "benchmark.limit=3"), quiet=True).folder
    model = RwsModel([f"benchmark.include_path={tmp_path}", *QUICK, "benchmark.limit=3"])
    theirs = evaluate(model, tmp_path, ["rivals", "mutual"], {"limit": 3})
    assert measures(run) == [*grades_by_lm_eval(theirs, "rivals"), *grades_by_lm_eval(theirs, "mutual")]
    assert len({choice["log_likelihood"] for choice in samples_of(run)[0]["choices"]}) == 2
    assert samples_of(run) == samples_of(model.folders[0])
    assert [len(sample["choices"]) for sample in samples_of(run)] == [2, 2, 2, 4, 4, 4]


# --- our side ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_are_graded_again_resumed_swept_and_compared(rws, tasks: Path, tmp_path: Path) -> None:
    """Python of a folder that a run's records name is not run until the user types that folder again."""
    few = [
        "benchmark.limit=3",
        "benchmark.apply_chat_template=true",
        "benchmark.gen_kwargs={until: [], max_gen_toks: 24}",
    ]
    result = rws(
        "run",
        "-m",
        *of(tasks, "sums,choices", *few)[:1],
        "benchmark.task=sums,choices",
        *of(tasks, "", *few)[2:],
        "seed=0",
    )
    assert result.exit_code == 0, result.output
    sums, choices = (tmp_path / "outputs/multirun/latest" / str(n) for n in (0, 1))
    assert metrics_of(sums)["measures"].keys() == {"lm_eval.exact_match.strict", "lm_eval.exact_match.last"}
    assert metrics_of(choices)["measures"].keys() == {"lm_eval.acc.none", "lm_eval.acc_norm.none"}
    folder = f"benchmark.include_path={tasks}"
    for command in (["grade", str(sums)], ["measure", str(sums), "metric=[length]"]):
        assert f"type {folder}" in rws(*command).output
        assert rws(*command, folder).exit_code == 0
    assert "length.words" in samples_of(sums)[0]["measures"]
    assert rws("grade", str(choices), folder, "benchmark.metric=acc_norm").exit_code == 0
    assert metrics_of(choices)["accuracy"] == metrics_of(choices)["measures"]["lm_eval.acc_norm.none"]
    other = rws_api.run(*of(tasks, "sums", *few, "sampler=random", "sampler.tokens_per_step=8"), quiet=True)
    table = rws_api.compare(sums, other)
    assert "lm_eval.exact_match.last_difference" in table.columns
    before = samples_of(other.folder)
    manifest = json.loads((other.folder / "manifest.json").read_text())
    (other.folder / "manifest.json").write_text(json.dumps(manifest | {"status": "interrupted"}))
    lines = (other.folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (other.folder / "samples.jsonl").write_text(lines[0])
    with pytest.raises(UsageError, match="include_path"):
        rws_api.run(resume=other)
    assert samples_of(rws_api.run(folder, resume=other, quiet=True).folder) == before


def test_lm_evals_gsm8k_on_local_files(gsm8k: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own task, with its five solved examples, on files in place of its data set."""
    files = gsm8k["files"]
    settings = [f"benchmark.path={files['test']}", f"benchmark.shots_path={files['train']}", "benchmark.limit=3"]
    examples = compose("benchmark=lm_eval", "benchmark.task=gsm8k", *settings).benchmark.examples()
    task = TaskManager(include_path=str(gsm8k["folder"]), include_defaults=False).load(["gsm8k_local"])["tasks"][
        "gsm8k_local"
    ]
    task.set_config("num_fewshot", 5)
    task.set_fewshot_seed(1234)
    task.build_all_requests(limit=3)
    assert [example.prompt for example in examples] == [instance.args[0] for instance in task.instances]
    assert [example.reference for example in examples] == [row["answer"] for row in gsm8k["rows"][:3]]
    assert examples[0].prompt.count("Question:") == 6


def test_what_does_not_apply_is_said(tasks: Path, tmp_path: Path) -> None:
    sums, choices = (yaml.safe_load((tasks / f"{name}.yaml").read_text()) for name in ("sums", "choices"))
    draws = {"do_sample": True, "temperature": 0.7, "until": ["x"], "max_gen_toks": 999}
    write_task(tmp_path, sums | {"generation_kwargs": draws, "repeats": 4})
    exact = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    write_task(tmp_path, choices | {"metric_list": [*choices["metric_list"], exact]})
    benchmark = compose(
        "benchmark=lm_eval", "benchmark.task=sums+choices", f"benchmark.include_path={tmp_path}"
    ).benchmark
    assert benchmark.doubtful_references(benchmark.examples()) == (
        "warning: lm-eval's task sums asks for do_sample=True, temperature=0.7, which does not apply: sampler.temperature and "
        "others decide; sums allows 999 tokens: set benchmark.gen_length=999 to give it as many; sums takes 4 completions per "
        "question: here it gets one; choices has the metric exact_match, which is left out"
    )
    plain = compose("benchmark=lm_eval", "benchmark.task=both", f"benchmark.include_path={tasks}").benchmark
    assert plain.doubtful_references(plain.examples()) is None


ROLLING = {"task": "rolling", "output_type": "loglikelihood_rolling", "doc_to_target": "{{question}}", "doc_to_text": "",
           "metric_list": [{"metric": "word_perplexity"}]}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "settings", "sentence"),
    [
        ({}, ["benchmark.task=summs"], "lm-eval has no task summs; did you mean sums?"),
        ({}, ["benchmark.include_path=nowhere"], "benchmark.include_path=nowhere is not a folder."),
        ({}, ["benchmark.filter=strictest"], "benchmark.filter=strictest is not known: choose from strict, last; did you"),
        ({}, ["benchmark.path=d.txt"], "benchmark.path=d.txt has an unknown format"),
        ({}, ["benchmark.path=test.jsonl", "benchmark.num_fewshot=2"], "shows 2 solved examples: set benchmark.shots_path"),
        ({}, ["benchmark.path=test.jsonl", "benchmark.task=sums+more"], "benchmark.path is the data of one task"),
        ({"dataset_kwargs": {"data_files": "no.jsonl"}}, [], "benchmark.task=sums cannot be loaded: FileNotFoundError"),
        ({"doc_to_text": "{{nothing}}"}, [], "benchmark.task=sums cannot be loaded: UndefinedError"),
        ({"unsafe_code": True}, [], "lm-eval's task sums runs programs that the model writes, outside a sandbox"),
        ({"doc_to_image": "question"}, [], "lm-eval's task sums has images or sound"),
        (ROLLING | {"task": "sums"}, [], "lm-eval's task sums asks for loglikelihood_rolling, which rws does not compute"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(
    tasks: Path, tmp_path: Path, task: dict, settings: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_task(tmp_path, yaml.safe_load((tasks / "sums.yaml").read_text()) | task)
    write_task(tmp_path, yaml.safe_load((tasks / "sums.yaml").read_text()) | task | {"task": "more"})
    (tmp_path / "test.jsonl").write_text((tasks / "test.jsonl").read_text())
    monkeypatch.setattr(harness, "_whole_index", lambda path: TaskManager(include_path=path, include_defaults=False))
    benchmark = compose(
        "benchmark=lm_eval", "benchmark.task=sums", f"benchmark.include_path={tmp_path}", *settings
    ).benchmark
    with pytest.raises(UsageError, match=re.escape(sentence)) as error:
        benchmark.examples()
    assert "\n" not in str(error.value)


def test_without_lm_eval_its_extra_is_named(rws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.task", None)
    with pytest.raises(UsageError, match=r"needs the package lm-eval: pip install 'rws\[lm_eval\]'"):
        compose("benchmark=lm_eval", "benchmark.task=never").benchmark.examples()
    monkeypatch.delitem(sys.modules, "rws_cli.runs.lm_eval")
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.models", None)
    result = rws("lm-eval", "--tasks", "gsm8k")
    assert (result.exit_code, result.stderr) == (
        2,
        "rws: rws lm-eval needs the package lm-eval: pip install 'rws[lm_eval]'.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tasks", "nothing"], "lm-eval stopped: ValueError: Tasks not found: nothing"),
        (["--tasks", "sums", "--samples", '{"sums": [1]}'], "--samples does not work with --model rws: use --limit."),
        (["--tasks", "sums", "--model_args", "sampler=rwss"], "sampler=rwss is not known"),
        (
            ["--tasks", "sums", "--apply_chat_template", "other"],
            "--apply_chat_template other names a template, and a model of rws has one",
        ),
    ],
)
def test_mistakes_in_lm_evals_command(rws, local: None, tasks: Path, arguments: list[str], sentence: str) -> None:
    result = rws("lm-eval", "run", "--model", "rws", "--include_path", str(tasks), *arguments)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr
    assert "Traceback" not in result.output


def test_python_of_a_folder_must_be_typed(tasks: Path, tmp_path: Path) -> None:
    (tmp_path / "benchmark").mkdir()
    text = f"name: x\nkind: lm_eval\ntask: sums\ngen_length: 8\ninclude_path: {tasks}\n"
    (tmp_path / "benchmark/mine.yaml").write_text(text)
    with pytest.raises(UsageError, match="benchmark.include_path=.* must be given on the command line"):
        rws_api.run("benchmark=mine", config_dir=tmp_path)
    with pytest.raises(UsageError, match="needs a chat template"):
        compose(*of(tasks, "sums", "benchmark.apply_chat_template=true", "model.chat_template=false"))


@pytest.mark.parametrize("value", [1, 0.5, True, None, "a", {"until": ['a"b\\', "\n"], "n": 2}, {"a": None}])
def test_overrides_are_what_hydra_reads(value: Any) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(override("key", value)).value() == value


@pytest.mark.slow
def test_the_quick_index_is_that_of_lm_eval() -> None:
    """Of tasks, groups and tags, from their folders alone where that is enough."""
    whole = TaskManager()
    assert len(harness._files().keys() - {*whole.all_tasks}) < 5  # of files that lm-eval cannot read
    for names in (
        ("gsm8k",),
        ("gsm8k_cot", "hellaswag"),
        ("mmlu_abstract_algebra",),
        ("mmlu",),
        ("math_word_problems",),
    ):
        few = harness._manager(names, None)
        for name in names:
            assert few.task_index[name].cfg == whole.task_index[name].cfg
            assert few.task_index[name].yaml_path == whole.task_index[name].yaml_path
    for name in ("hellaswag", "arc_easy", "winogrande", "truthfulqa_mc1", "humaneval", "minerva_math", "ifeval"):
        assert name in harness._files()


def test_lm_evals_client_of_an_endpoint_agrees_with_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("tenacity")
    from lm_eval.models.openai_completions import LocalChatCompletion
    from lm_eval.tasks import TaskManager

    settings = ["model=tiny", "sampler=threshold", "sampler.schedule.threshold=0.8"]
    run = rws_api.run(*settings, "benchmark=arithmetic", "benchmark.limit=12", "seed=1234", quiet=True)
    rows = [
        {"question": prompt, "answer": reference.rpartition("#### ")[2]}
        for prompt, reference in zip(run.samples["prompt"], run.samples["reference"], strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task: dict[str, Any] = {
        "task": "local_arithmetic",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 32, "sampler.schedule.threshold": 0.8},
        "filter_list": [
            {"name": "last", "filter": [{"function": "regex", "regex_pattern": "#### (-?[0-9]+)"}, {"function": "take_first"}]}
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    with served("model=tiny", "sampler=threshold") as (url, _):
        client = LocalChatCompletion(model="tiny", base_url=f"{url}/chat/completions", num_concurrent=12, max_retries=1)
        results = lm_eval.simple_evaluate(
            model=client, tasks=[task], task_manager=TaskManager(include_defaults=False), apply_chat_template=True,
            log_samples=True, bootstrap_iters=0,
        )  # fmt: skip
    samples = sorted(results["samples"]["local_arithmetic"], key=lambda sample: sample["doc_id"])
    assert [sample["resps"][0][0] for sample in samples] == list(run.samples["completion"])
    accuracy = results["results"]["local_arithmetic"]["exact_match,last"]
    assert accuracy == pytest.approx(run.metrics["accuracy"][0])
    assert accuracy > 0
