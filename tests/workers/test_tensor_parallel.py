"""A model that several processes share decodes as one in a single process; what goes wrong in one of them is seen."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from dream_files import save_dream
from split_models import llada_variants, logits, split
from support import make_settings, samples_of, save_reward
from worker_support import RUN, kill_a_worker, pins, when_decoding

from rws_cli.config.composing import compose
from rws_cli.errors import RunError, UsageError
from rws_cli.models.sharded import Rank, check_divides, rank_count, split_among
from rws_cli.runs.batch_decoder import BatchDecoder, Outcome
from rws_cli.workers.base import TRIES, Worker
from rws_cli.workers.tensor_parallel import ShortOfMemoryError, SynchronizedDecoder, TensorParallel, check_agreement


@pytest.fixture
def shared(small: list[str], tmp_path: Path) -> list[str]:
    """A run with a reward model, in several batches."""
    return [
        *small, "reward=classifier", f"reward.path={save_reward(tmp_path / 'reward')}", "benchmark.limit=10",
        "sampler.guidance.normalize=none", "sampler.guidance.form=exponential", "runtime.batch_size=2",
        "sampler.tokens_per_step=1", "sampler.temperature=1", "runtime.threads=1",
    ]  # fmt: skip


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]


def assert_same(one: Path, other: Path) -> None:
    """Tokens and their order are the same, and rewards but for rounding."""
    pairs = list(zip(samples_of(one), samples_of(other), strict=True))
    assert pairs
    for ours, theirs in pairs:
        for key in ("id", "tokens", "order", "grade", "committed"):
            assert ours[key] == theirs[key], key
        assert ours["reward"] == pytest.approx(theirs["reward"], abs=1e-4)


@pytest.mark.slow
def test_split_models_have_the_logits_of_whole_ones(tmp_path: Path) -> None:
    (tmp_path / "dream").mkdir()
    settings = llada_variants(tmp_path) | {"dream": make_settings("dream", save_dream(tmp_path / "dream"))}
    context = multiprocessing.get_context("spawn")
    lines = [context.Pipe() for _ in range(2)]
    processes = [
        context.Process(target=split, args=(settings, Rank(n, 2, str(tmp_path / "meeting"), 60.0), theirs))
        for n, (_, theirs) in enumerate(lines)
    ]
    for process in processes:
        process.start()
    for _, theirs in lines:
        theirs.close()
    found = [ours.recv() for ours, _ in lines]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    for name, one in settings.items():
        whole = one.load()
        (first, held), (second, _) = found[0][name], found[1][name]
        assert first == second  # to the last bit, as they must go the same way
        for ours, true in zip(first, logits(whole), strict=True):
            torch.testing.assert_close(torch.tensor(ours), torch.tensor(true), atol=1e-4, rtol=1e-4)
        assert held < 0.55 * sum(p.numel() for p in whole.model.parameters())


@pytest.mark.slow
def test_ranks_come_to_the_same_samples_through_a_death_and_an_interruption(
    rws, shared: list[str], tmp_path: Path
) -> None:
    cached = [*shared, "sampler.block_length=18", "runtime.cache=prefix"]
    assert rws("run", *cached, "output=here").exit_code == 0
    run = tmp_path / "two" / RUN

    def kill_one_then_interrupt() -> None:
        done = len(samples_of(run))
        kill_a_worker("spawn_main")()
        deadline = time.monotonic() + 60
        while len(samples_of(run)) == done and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    killer = when_decoding(run, kill_one_then_interrupt)
    result = rws("run", *cached, "runtime=tensor_parallel", "output=two")
    killer.join()
    assert result.exit_code == 143, result.output
    assert re.search(r"a rank ended with SIGKILL: new ones decode its \d examples", (run / "run.log").read_text())
    assert 2 < len(samples_of(run)) < 10
    assert not children()
    assert rws("run", "--resume", str(run), "runtime.backend=local").exit_code == 0
    assert_same(run, tmp_path / "here" / RUN)
    manifests = [json.loads((tmp_path / at / RUN / "manifest.json").read_text()) for at in ("here", "two")]
    assert manifests[0]["config_hash"] == manifests[1]["config_hash"]
    assert pins(manifests[0]) == pins(manifests[1])


@pytest.mark.slow
def test_a_rank_that_is_stuck_ends_the_run(
    rws, shared: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorParallel, "seconds", 5.0)
    run = tmp_path / "outputs" / RUN
    killer = when_decoding(run, lambda: children()[1].send_signal(signal.SIGSTOP))
    result = rws("run", *shared, "runtime=tensor_parallel")
    killer.join()
    assert result.exit_code == 1, result.output
    assert "Decoding the batch that starts with example" in result.output
    assert "Traceback" not in result.output
    assert json.loads((run / "manifest.json").read_text())["status"] == "failed"
    assert not children()


class Group(TensorParallel):
    """A group whose ranks are pipes that the test writes to; restarts are only counted."""

    def __init__(self, *said: list[tuple[str, Any]]) -> None:
        super().__init__(kind="tensor_parallel")
        self.config, self.seconds, self.tries = compose("runtime.batch_size=9"), 0.1, {}
        self.begun, self.said = 0, said
        self.start()

    def start(self) -> None:
        self.begun += 1
        self.members, self.far = [], []
        for words in self.said:
            ours, theirs = multiprocessing.Pipe()
            for word in words:
                theirs.send(word)
            self.far.append(theirs)
            process = SimpleNamespace(exitcode=None, join=lambda seconds: None)
            self.members.append(Worker(self.config, process, ours))


BATCH: list[Any] = [SimpleNamespace(id="e-7")]


def outcome(token: int = 1, position: int = 0) -> Outcome:
    trace = {"id": "e-7", "token": [token], "position": [position], "step": [0]}
    return Outcome([{"id": "e-7", "tokens": [token]}], [trace], {"e-9": "why"})


def test_ranks_that_disagree_end_the_run() -> None:
    assert check_agreement([outcome(), outcome()]).samples[0]["tokens"] == [1]
    for other in (outcome(token=2), outcome(position=3), Outcome()):
        with pytest.raises(RunError, match="Ranks 0 and 1 decoded example e-7 differently"):
            list(Group([("done", outcome())], [("done", other)]).decode([BATCH]))


def test_a_rank_that_says_nothing_ends_the_run() -> None:
    with pytest.raises(RunError, match="starts with example e-7 failed: rank 1 did not respond for 0.1 seconds"):
        list(Group([("step", 1), ("done", outcome())], []).decode([BATCH]))


def test_what_goes_wrong_in_a_rank_is_one_sentence() -> None:
    with pytest.raises(RunError, match="starts with example e-7 failed: no such thing"):
        list(Group([("broken", "no such thing")], []).decode([BATCH]))
    with pytest.raises(UsageError, match="cannot be loaded"):
        Group([("failed", UsageError("cannot be loaded"))], []).receive([])


def test_a_batch_that_takes_ranks_with_it_ends_the_run() -> None:
    group = Group([], [("broken", "the other is gone")])
    group.cause_of_death = lambda: "SIGKILL"  # type: ignore[method-assign]
    with pytest.raises(RunError, match=f"{TRIES} workers ended unexpectedly on the batch that starts with example e-7"):
        list(group.decode([BATCH]))
    assert group.begun == TRIES


def test_short_of_memory_all_ranks_begin_anew_with_half_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group([("memory", 9)], [])
    answers = group.decode([BATCH])
    group.said = ([("done", outcome())], [("done", outcome())])
    assert next(answers).samples
    assert group.config.runtime.batch_size == 4
    assert group.begun == 2


def test_a_rank_does_not_halve_its_rows_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = SynchronizedDecoder.__new__(SynchronizedDecoder)
    decoder.rows, decoder.notify = 2, lambda line: None
    with pytest.raises(ShortOfMemoryError):
        decoder.halve()
    assert decoder.rows == 2
    decoder.rows = 1
    with pytest.raises(RunError, match="Out of memory with a single row"):
        decoder.halve()
    assert BatchDecoder.halve is not SynchronizedDecoder.halve


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["model=masked_lm", "model.path=x"], "model.kind=masked_lm, which cannot be split"),
        (["model.device=cpu"], "model.device=cpu, because each rank uses its own device"),
        (["model.device_map=auto"], "model.device_map=auto"),
        (["model.quantization=4bit"], "model.quantization=4bit"),
        (["runtime.compile=true"], "runtime.compile=true"),
    ],
)
def test_what_cannot_be_split_is_refused(settings: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=f"runtime.backend=tensor_parallel does not work with {sentence}"):
        compose("runtime=tensor_parallel", *settings)


def test_sizes_must_divide(rws, small: list[str]) -> None:
    result = rws("run", *small, "runtime=tensor_parallel", "runtime.workers=3", "--dry-run")
    assert result.exit_code == 2
    assert (
        "3 ranks cannot share 4 attention heads, 4 key-value heads and an intermediate size of 48 evenly: set "
        "runtime.workers to one of 1, 2, 4." in " ".join(result.output.split())
    )
    check_divides(SimpleNamespace(num_attention_heads=28, num_key_value_heads=4, intermediate_size=18944), 4)
    with pytest.raises(UsageError, match="one of 1, 2, 4"):
        check_divides(SimpleNamespace(num_attention_heads=28, num_key_value_heads=4, intermediate_size=18944), 7)


def test_each_rank_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = TensorParallel(kind="tensor_parallel")
    assert rank_count(compose("runtime=tensor_parallel").runtime) == 2
    assert [one.model.device for one in workers.ranks(compose("runtime=tensor_parallel"))] == ["cpu", "cpu"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert rank_count(compose("runtime=tensor_parallel").runtime) == 4
    spread = workers.ranks(compose("runtime=tensor_parallel", "reward.device=cpu"))
    assert [(one.model.device, one.reward.device) for one in spread] == [(f"cuda:{n}", "cpu") for n in range(4)]
    with pytest.raises(UsageError, match="runtime.workers=8 ranks need a GPU each, and this machine has 4"):
        rank_count(compose("runtime=tensor_parallel", "runtime.workers=8").runtime)


def test_transformers_is_asked_as_its_release_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import make_dataclass

    from transformers import distributed

    assert split_among(1) == {}
    assert split_among(2)["distributed_config"].tp_size == 2
    monkeypatch.setattr(
        distributed, "DistributedConfig", make_dataclass("DistributedConfig", ["enable_expert_parallel"])
    )
    assert split_among(2) == {"tp_plan": "auto"}
