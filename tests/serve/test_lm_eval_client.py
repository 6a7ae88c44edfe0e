"""lm-eval's own client of an endpoint, `local-chat-completions`, measures a sampler behind `rws serve`."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from serving import served

import rws_cli

pytest.importorskip("aiohttp")
lm_eval = pytest.importorskip("lm_eval")


def stand_in() -> types.ModuleType:
    """In place of tenacity, which lm-eval's clients need to try again: tries once."""
    module = types.ModuleType("tenacity")
    module.__spec__ = importlib.util.spec_from_loader("tenacity", None)
    for name in ("RetryError", "stop_after_attempt", "wait_exponential"):
        setattr(module, name, type(name, (Exception,), {"__init__": lambda self, *a, **k: None}))
    module.retry = lambda **options: lambda function: function  # type: ignore[attr-defined]
    return module


def test_local_chat_completions_agrees_with_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if importlib.util.find_spec("tenacity") is None:
        monkeypatch.setitem(sys.modules, "tenacity", stand_in())
    from lm_eval.models.openai_completions import LocalChatCompletion
    from lm_eval.tasks import TaskManager

    settings = ["model=tiny", "sampler=threshold", "sampler.schedule.threshold=0.8"]
    run = rws_cli.run(*settings, "benchmark=arithmetic", "benchmark.limit=12", "seed=1234", quiet=True)
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
