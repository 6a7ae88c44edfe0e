"""Tasks of lm-evaluation-harness: its prompts, few-shot examples, stop strings, filters and metrics."""

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from rws_cli.benchmarks.base import Benchmark, Example, Grade
from rws_cli.benchmarks.harness import Loaded, cut, load_tasks, quiet
from rws_cli.errors import UsageError, choose_from
from rws_cli.metrics.measure import number
from rws_cli.part import part, setting

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What tasks call the most tokens of a completion; the first that is set counts."""
GREEDY = {"do_sample": False, "temperature": 0}
"""Settings of tasks that ask for what rws does without being generation."""
UNSCORED = {("multiple_choice", "exact_match")}
"""Kinds of tasks and metrics that are left out: rws does not ask whether greedy decoding gives one of several choices."""
Scores = dict[str, dict[str, Any]]
"""Filter → metric → value of one document. Values are numbers, or what the metric's aggregation takes."""


@part
class LmEval(Benchmark):
    """Prompts and grades are lm-eval's. A completion is correct if the value of one metric after one filter is 1; both can be
    chosen. All others are measures, lm_eval.METRIC.FILTER. Completions are recorded whole, and graded up to a stop string.
    """

    version = 1
    chooses = True

    task: str = setting("a task, group or tag of lm-eval, or several joined by +; lm-eval ls tasks lists them", "???")
    include_path: str | None = setting("a folder with YAML files of your own tasks, which may run its Python", None)
    path: str | None = setting("a local data file with the fields of the task's data set, used instead of it", None)
    shots_path: str | None = setting("with path: a file whose rows are solved examples", None)
    limit: float | None = setting(
        "examples per task, from the first; below 1: a share of them; null: all", None, above=0, asks=False
    )
    num_fewshot: int | None = setting("solved examples in each prompt; null: the task's number", None, min=0)
    fewshot_seed: int = setting("seed with which lm-eval chooses solved examples", 1234)
    apply_chat_template: bool = setting("prompts are chat turns; false: raw text, as in lm-eval", False)
    fewshot_as_multiturn: bool = setting("with a chat template: solved examples are earlier turns", True)
    system_instruction: str | None = setting("text before the first prompt, the system message in a chat", None)
    gen_kwargs: dict[str, Any] = setting(
        "changes of the task's generation_kwargs, e.g. {max_gen_toks: 64}", default_factory=dict
    )
    filter: str | None = setting("the filter whose result decides what is correct; null: the task's first", None)
    metric: str | None = setting("the metric that decides what is correct; null: the first in [0, 1]", None)
    confirm_run_unsafe_code: bool = setting("allow tasks that run what the model writes, without a sandbox", False)

    def conflicts(self, config: Any) -> Iterator[str]:
        if self.apply_chat_template and not config.model.chat_template:
            yield (
                "benchmark.apply_chat_template=true needs a chat template, and model.chat_template=false: set one of them "
                "to the other's value."
            )

    def examples(self) -> list[Example]:
        loaded = self._loaded()
        filters = list(dict.fromkeys(each.name for task in loaded.tasks.values() for each in task._filters))
        if self.filter is not None and self.filter not in filters:
            raise UsageError(f"benchmark.filter={self.filter} is not known: {choose_from(self.filter, filters)}")
        return [self._example(i, loaded) for i in loaded.requests]

    def requests(self, example: Example) -> list[Any]:
        """lm-eval's requests about an example: one, or one for each choice."""
        return self._loaded().requests[example.question or example.id]

    def grade(self, example: Example, completion: str) -> Grade | None:
        return self.grade_sample(example, {"completion": completion})

    def grade_sample(self, example: Example, sample: dict[str, Any]) -> Grade | None:
        scores, results = self._scores(example, [sample])
        chosen = self.filter if self.filter in scores else next(iter(scores))
        names = [self.metric] if self.metric else list(scores[chosen])
        values = [number(scores[chosen].get(name)) for name in names]
        share = next((value for value in values if value is not None and 0 <= value <= 1), None)
        if share is None:
            return None
        extracted = sample["completion"] if example.choices else str(results[chosen][0])
        return Grade(share == 1, share, extracted, chosen)

    def measure(
        self, examples: list[Example], samples: list[dict[str, Any]]
    ) -> tuple[list[dict[str, float]], dict[str, float | None]]:
        """By lm-eval's filters and aggregations: lm_eval.METRIC.FILTER of each sample and, if there is one task, of all; of
        each task and group if there are several, lm_eval.TASK.METRIC.FILTER."""
        loaded = self._loaded()
        each = [_named("", self._scores(*pair)[0]) for pair in zip(examples, ([s] for s in samples), strict=True)]
        items: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
        for example, responses in self._by_document(examples, samples):
            for name, values in self._scores(example, responses)[0].items():
                for metric, value in values.items():
                    items[loaded.task_of(example).task_name][f"{metric},{name}"].append(value)
        results = {name: _aggregated(loaded.tasks[name], of_task) for name, of_task in items.items()}
        with quiet():
            results |= {name: group.aggregate(results) for name, group in loaded.groups.items()}
        whole: dict[str, float | None] = {}
        for name, of_task in results.items():
            by_filter: Scores = defaultdict(dict)
            for key, value in of_task.items():
                metric, comma, chosen = key.partition(",")
                if comma and not metric.endswith("_stderr"):
                    by_filter[chosen][metric] = value
            whole |= _named(f"{name}." if len(results) > 1 else "", by_filter)
        return each, whole

    def _by_document(
        self, examples: list[Example], samples: list[dict[str, Any]]
    ) -> Iterator[tuple[Example, list[dict[str, Any]]]]:
        """The samples that lm-eval grades together: each alone, or all of a document if the task takes that many."""
        documents: dict[str, tuple[Example, list[dict[str, Any]]]] = {}
        for example, sample in zip(examples, samples, strict=True):
            together = self._loaded().task_of(example).config.repeats == self.completions
            key = example.question if together and example.question else example.id
            documents.setdefault(key, (example, []))[1].append(sample)
        yield from documents.values()

    def doubtful_references(self, examples: list[Example]) -> str | None:
        """What of a task's settings does not apply."""
        loaded, ignored = self._loaded(), []
        for name, task in loaded.tasks.items():
            ignored += [f"{name} has the metric {metric}, which is left out" for metric in _left_out(task)]
            generation = task.config.generation_kwargs or {}
            rest = {
                k: v for k, v in generation.items() if k not in (*LENGTHS, "until") and v != GREEDY.get(k, v is None)
            }
            if rest:
                listed = ", ".join(f"{key}={value}" for key, value in rest.items())
                ignored.append(f"{name} asks for {listed}, which does not apply: sampler.temperature and others decide")
            if (most := _most_tokens(generation)) and most > self.gen_length:
                ignored.append(f"{name} allows {most} tokens: set benchmark.gen_length={most} to give it as many")
            if task.config.repeats > 1 and self.completions == 1:
                ignored.append(f"{name} takes {task.config.repeats} completions per question: here it gets one")
        return f"warning: lm-eval's task {'; '.join(ignored)}" if ignored else None

    def _loaded(self) -> Loaded:
        key = repr(replace(self, name="", completions=1, gen_length=1, filter=None, metric=None))
        if key not in _tasks:
            _tasks[key] = load_tasks(self)
        return _tasks[key]

    def _example(self, name: str, loaded: Loaded) -> Example:
        """The example of a document, from lm-eval's requests: a prompt to continue, or a continuation for each choice."""
        requests = loaded.requests[name]
        instance, contexts = requests[0], [request.args[0] for request in requests]
        task = loaded.tasks[instance.task_name]
        example = Example(name, contexts[0], _reference(task, instance.doc), dict(instance.doc), raw=True)
        if task.OUTPUT_TYPE == "generate_until":
            example = replace(example, length=_most_tokens(instance.args[1]))
        else:
            example = replace(example, choices=tuple(request.args[1] for request in requests))
        if self.apply_chat_template:
            turns = [_as_chat(example, context) for context in contexts]
            example, contexts = turns[0], [turn.prompt for turn in turns]
        return replace(example, contexts=tuple(contexts)) if len(set(contexts)) > 1 else example

    def _scores(self, example: Example, samples: list[dict[str, Any]]) -> tuple[Scores, dict[str, Any]]:
        """The scores of samples of one document, and what each filter makes of them. A filter that needs more samples than
        these is left out."""
        loaded, document = self._loaded(), example.question or example.id
        task, requests = loaded.task_of(example), self.requests(example)
        responses = [[response(request, sample) for sample in samples] for request in requests]
        if (scored := loaded.scored.get(document)) and scored[0] == responses:
            return scored[1:]
        for request, of_request in zip(requests, responses, strict=True):
            request.filtered_resps, request.resps = {}, of_request
        scores: Scores = {}
        results: dict[str, Any] = {}
        for each in task._filters:
            with suppress(AssertionError):  # of a filter that needs several samples
                each.apply(requests)
                results[each.name] = [request.filtered_resps[each.name] for request in requests]
                values = task.process_results(requests[0].doc, results[each.name])
                scores[each.name] = {k: v for k, v in values.items() if (task.OUTPUT_TYPE, k) not in UNSCORED}
        loaded.scored[document] = responses, scores, results
        return scores, results


_tasks: dict[str, Loaded] = {}
"""Loaded tasks by settings: a cache for the jobs of a sweep."""


def stop_strings(instance: Any) -> list[str]:
    """The stop strings of a generative request."""
    until = instance.args[1].get("until") or []
    return [until] if isinstance(until, str) else until


def _left_out(task: Any) -> list[str]:
    return [metric for metric in task.aggregation() if (task.OUTPUT_TYPE, metric) in UNSCORED]


def _most_tokens(generation: dict[str, Any]) -> int | None:
    return next((int(generation[key]) for key in LENGTHS if generation.get(key) is not None), None)


def _reference(task: Any, document: Any) -> str:
    """A correct answer; of a choice, its text."""
    target = task.doc_to_text(document) if getattr(task, "multiple_input", 0) else task.doc_to_target(document)
    first = (target or [""])[0] if isinstance(target, list) else target
    if isinstance(first, int) and task.OUTPUT_TYPE == "multiple_choice":
        choices = task.doc_to_choice(document)
        first = choices[first] if 0 <= first < len(choices) else ""
    return str(first)


def response(request: Any, sample: dict[str, Any]) -> Any:
    """What a model of lm-eval returns for a request: a completion up to a stop string, or a log likelihood and whether greedy
    decoding gives that choice."""
    if request.request_type == "generate_until":
        return cut(sample["completion"], stop_strings(request))
    choice = sample["choices"][request.idx]
    return choice["log_likelihood"], bool(choice["is_greedy"])


def _as_chat(example: Example, context: str) -> Example:
    """An example whose prompt is the last user's turn of a conversation. Raises UsageError if turns do not alternate."""
    turns = json.loads(context) if context else [{"role": "user", "content": ""}]
    system = turns.pop(0)["content"] if turns[0]["role"] == "system" else ""
    prefix = turns.pop()["content"] if turns[-1]["role"] == "assistant" else ""
    texts = [turn["content"] for turn in turns]
    if not texts or [turn["role"] for turn in turns] != [*["user", "assistant"] * (len(texts) // 2), "user"]:
        raise UsageError(
            f"Example {example.id} has turns that do not alternate: set benchmark.apply_chat_template=false."
        )
    history = tuple(zip(texts[:-1:2], texts[1::2], strict=True))
    return replace(example, prompt=texts[-1], history=history, system=system, prefix=prefix, raw=False)


def _named(prefix: str, scores: Scores) -> dict[str, float]:
    """The numbers among scores, by the names of measures."""
    named = {f"lm_eval.{prefix}{metric}.{name}": number(v) for name, of in scores.items() for metric, v in of.items()}
    return {name: value for name, value in named.items() if value is not None}


def _aggregated(task: Any, items: dict[str, list[Any]]) -> dict[str, Any]:
    """A task's metrics over its documents, as lm-eval names them: METRIC,FILTER."""
    functions = task.aggregation()
    results: dict[str, Any] = {"sample_len": max(map(len, items.values()))}
    for key, values in items.items():
        function = functions.get(key.partition(",")[0])
        results[key] = function(values) if function else sum(values) / len(values)
    return results
