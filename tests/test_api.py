"""`import rws_cli as rws`, as a notebook uses it: in one process, inside a running event loop, more than once."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase
from omegaconf import OmegaConf
from support import manifest_of, samples_of, word_tokenizer, write_run
from typer.testing import CliRunner

import rws_cli as rws
from rws_cli import registry
from rws_cli.cli import app
from rws_cli.config.renamed import advise
from rws_cli.runs.progress import Progress

SMALL = ("benchmark.limit=3", "sampler.tokens_per_step=24")
"""A run of seconds."""


def state() -> dict[str, Any]:
    """What of the process a notebook would notice."""
    root = logging.getLogger()
    return {
        "arguments": list(sys.argv),
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "root logger": (root.level, list(root.handlers), list(root.filters)),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "hydra": (GlobalHydra.instance().hydra, HydraConfig.instance().cfg, VersionBase.instance().getbase()),
        "interpolation": OmegaConf.create({"home": "${oc.env:HOME}"}).home,
        "torch": (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.is_inference_mode_enabled()),
        "random": (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),
        "parts": registry.folders(),
        "threads": threading.active_count(),
    }  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(here: Path) -> Any:
    """Type a command."""
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


# --- a notebook ---------------------------------------------------------------------------------------------------


def test_cells_in_a_running_event_loop_twice(here: Path) -> None:
    torch.set_num_threads(2)

    async def notebook() -> None:
        for version in ("v001", "v002"):
            before = state()
            guided = rws.run("sampler=rws", *SMALL, "runtime.threads=1", "runtime.deterministic=true", quiet=True)
            assert state() == before
            assert guided.folder == here / "outputs/sudoku/tiny-rws" / version
            plain = rws.run("sampler=confidence", *SMALL, "runtime.threads=1", quiet=True)
            assert len(rws.compare(guided, plain)) == 2
            assert rws.load("outputs/sudoku/tiny-rws").folder == guided.folder
            assert rws.generate("x", "sampler.gen_length=6", "runtime.threads=1").trace["position"].max() == 5
            assert state() == before

    try:
        asyncio.run(notebook())
    finally:
        torch.set_num_threads(1)


def test_importing_loads_nothing_heavy() -> None:
    code = """
import sys, rws_cli, rws_cli.cli
assert "decode" in dir(rws_cli)
from typer.testing import CliRunner
assert CliRunner().invoke(rws_cli.cli.app, ["--help"]).exit_code == 0
print(sorted({"torch", "pandas", "hydra", "transformers", "omegaconf"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_all_names_are_there_typed_and_documented() -> None:
    for public in (getattr(rws, name) for name in rws.__all__):
        assert public.__doc__
        if inspect.isfunction(public):
            signature = inspect.signature(public)
            kinds = [signature.return_annotation, *(each.annotation for each in signature.parameters.values())]
            assert inspect.Parameter.empty not in kinds
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        _ = rws.runn  # type: ignore[attr-defined]


# --- run, load, compare, generate ---------------------------------------------------------------------------------


def test_a_run_is_that_of_the_command_line(command: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ("sampler=rws", *SMALL, "label=x")
    run = rws.run(*overrides)
    assert "3 of 3 examples" in capsys.readouterr().err
    assert command("run", *overrides).exit_code == 0
    typed = rws.load(here / "outputs/sudoku/tiny-rws/v002")
    assert samples_of(run.folder) == samples_of(typed.folder)
    for key in ("config", "config_hash", "overrides", "command", "sources", "status"):
        assert run.manifest[key] == typed.manifest[key]
    assert run.config["label"] == "x"

    assert list(run.samples["id"]) == [f"sudoku-test-0-{n}" for n in range(3)]
    assert len(run.trace) == run.samples["committed"].sum() == 3 * run.config["sampler"]["gen_length"]
    assert run.trace["step"].min() == 0
    assert {"id", "step", "position", "token", "text", "confidence", "reward", "scale"} <= set(run.trace.columns)
    (metrics,) = run.metrics.to_dict("records")
    assert metrics["sampler.name"] == "rws"
    assert metrics["accuracy"] == run.samples["correct"].mean()
    assert metrics["accuracy_low"] <= metrics["accuracy"] <= metrics["accuracy_high"]

    rws.run(*overrides, quiet=True)
    assert capsys.readouterr().err == ""


def test_an_old_name_gets_its_advice(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    advise.cache_clear()
    run = rws.run("sampler=temperature", *SMALL, "benchmark.answers=1", quiet=True)
    assert run.config["sampler"]["name"] == "constant_scale"
    advice = capsys.readouterr().err.splitlines()
    assert advice == [
        "rws: sampler=temperature has been renamed: use sampler=constant_scale",
        "rws: benchmark.answers=1 has been renamed: use benchmark.completions=1",
    ]


def test_an_interrupted_run_is_loaded_and_resumed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    overrides = (*SMALL, "runtime.batch_size=1")
    with monkeypatch.context() as patched:
        patched.setattr(Progress, "finished", interrupt)
        with pytest.raises(KeyboardInterrupt):
            rws.run(*overrides, quiet=True)
    stopped = rws.load("outputs/sudoku/tiny-rws/latest")
    assert (stopped.manifest["status"], len(stopped.samples)) == ("interrupted", 1)
    assert stopped.metrics["examples"][0] == 1
    with pytest.raises(rws.UsageError, match=r"seed \(0 then, 1 now\)"):
        rws.run("seed=1", resume=stopped)
    finished = rws.run(resume=stopped, quiet=True)
    assert finished.folder == stopped.folder
    assert samples_of(finished.folder) == samples_of(rws.run(*overrides, quiet=True).folder)
    assert rws.run(resume=finished.folder).manifest["finished"] == finished.manifest["finished"]


def test_parts_and_configurations_from_outside(here: Path) -> None:
    (here / "mine/sampler").mkdir(parents=True)
    (here / "mine/sampler/quick.yaml").write_text("defaults: [_base, _self_]\nname: quick\ntokens_per_step: 12\n")
    parts = Path(__file__).parent / "outside"
    run = rws.run("sampler=quick", "sampler.order=outward", "benchmark.limit=1", config_dir="mine", parts=parts)
    assert run.config["sampler"]["order"] == "outward"
    assert registry.folders() == []
    assert run.manifest["command"].startswith(f"rws run --config-dir=mine --parts={parts} sampler=quick")


def test_compare_has_the_numbers_of_the_records(here: Path) -> None:
    base = write_run(here / "a", "confidence", 0, {"x": 0.0, "y": 0.5, "z": 1.0})
    write_run(here / "b", "rws", 0, {"x": 1.0, "y": 1.0, "z": 1.0})
    write_run(here / "c", "rws", 1, {"x": 1.0, "y": 0.0, "z": 1.0})
    frame = rws.compare(base, "b", rws.load("c"))
    assert frame["label"].to_list() == ["confidence", "rws"]
    assert frame["seeds"].to_list() == ["0", "0, 1"]
    assert frame["accuracy"].to_list() == pytest.approx([1 / 3, 5 / 6])
    assert frame["accuracy_difference"][1] == pytest.approx(1 / 2)
    assert frame["partial_difference"][1] == pytest.approx((1.0 + 0.0 + 0.0) / 3)
    assert frame["partial_difference_low"][1] <= 1 / 3 <= frame["partial_difference_high"][1]
    assert math.isnan(frame["accuracy_difference"][0])
    assert 0 < frame["p"][1] <= 1


def test_generate_gives_text_and_trace() -> None:
    found = rws.generate("ben has 2 apples, gives 1 away. how many now?", "sampler.gen_length=8", "seed=3")
    assert found.text == found.sample["completion"]
    assert found.trace["token"][found.trace["position"] == 0].item() == found.sample["tokens"][0]
    assert len(found.trace) == 8


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: rws.run("sampler=rws,random"), r"sampler=rws,random has several values: write a loop .* rws.compare"),
        (lambda: rws.run("+experiment=controls"), r"experiment=controls is a sweep: write a loop"),
        (lambda: rws.run("experiment=pareto"), r"experiment=pareto is a sweep: write a loop"),
        (lambda: rws.run("-m", "seed=1"), r"-m is an option of the command line"),
        (lambda: rws.run("hydra.run.dir=x"), r"hydra.run.dir=x changes how Hydra runs"),
        (lambda: rws.run("sampler=rw"), r"sampler=rw is not known.*did you mean rws"),
        (lambda: rws.run("sampler.stepz=1"), r"sampler.stepz is not a setting here; did you mean sampler.steps"),
        (lambda: rws.run(config_dir="none"), r"--config-dir=none is not a folder"),
        (lambda: rws.run(parts=["none"]), r"--parts=none is not a folder"),
        (lambda: rws.run(resume="none"), r"none does not exist"),
        (lambda: rws.run("label=${oc.env:HOME}"), r"cannot read environment variables"),
        (lambda: rws.load("none"), r"none does not exist"),
        (lambda: rws.load("x" * 300), r"xx.*: File name too long"),
        (lambda: rws.compare("none", "other"), r"none does not exist"),
        (lambda: rws.compare(), r"cannot be compared"),
        (lambda: rws.generate("x", "benchmark=sudoku"), r"leave out benchmark=…"),
        (lambda: decode([], gen_length=4), r"prompts is empty"),
        (lambda: decode(sampler="rw"), r"sampler=rw is not known.*did you mean rws"),
        (lambda: decode(sampler="wino"), r"sampler.schedule.kind=wino hides each token from itself"),
        (lambda: decode(sampler="pc"), r"sampler.order.kind=pc needs files or weights of a checkpoint"),
        (lambda: decode(sampler="entrgi"), r"sampler.guidance.kind=entrgi needs files or weights of a checkpoint"),
        (lambda: decode(sampler="rws"), r"sampler.guidance.kind=rws needs a reward: give reward"),
        (lambda: decode(sampler="rws", reward=lambda p, c: [0.0]), r"rws.Statistics\(mean, std, min, max\)"),
        (lambda: decode(eos="stop"), r"sampler.eos=stop needs to know the end tokens"),
        (lambda: decode(mask_id=-1), r"mask_id=-1 is not a token id"),
        (lambda: decode(eos_ids=[MASK]), r"mask_id=11 is among eos_ids"),
        (lambda: decode(steps=5), r"sampler.steps=5 is out of range"),
        (lambda: decode(block_size=3), r"sampler.block_size is not a setting here; did you mean sampler.block_length"),
        (lambda: decode(overrides=["model=llada"]), r"model=llada does not apply to rws.decode"),
        (lambda: decode(mask_id=12, function=lambda ids: toy(ids.clamp(max=11))), r"logits for 12 tokens, so token 12"),
        (lambda: decode(function=lambda ids: ids), r"must return a tensor \(B, L, V\), which is \(1, 7, V\) here; .* \(1, 7\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_a_usage_error(call: Any, sentence: str, here: Path) -> None:
    before = state()
    with pytest.raises(rws.UsageError, match=sentence):
        call()
    assert state() == before
    assert not list(here.iterdir())


def test_a_failing_run_is_a_run_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state()
    (here / "outputs").write_text("a file")
    with pytest.raises(rws.RunError, match="cannot be written"):
        rws.run(*SMALL, quiet=True)
    assert state() == before
    (here / "damaged").mkdir()
    (here / "damaged/manifest.json").write_text(str(manifest_of({})))
    with pytest.raises(rws.RunError, match="cannot be read"):
        rws.load("damaged")


def test_in_a_thread(here: Path) -> None:
    """Signal handlers can be set in the main thread alone; and threads may come at the same time."""

    async def notebook() -> list[Any]:
        calls = (
            asyncio.to_thread(rws.generate, "a b", f"sampler={name}", "sampler.gen_length=4")
            for name in ("rws", "random")
        )
        run = asyncio.to_thread(rws.run, "benchmark.limit=1", "sampler.tokens_per_step=24", quiet=True)
        return await asyncio.gather(run, *calls)

    from transformers import PreTrainedModel

    tie_weights = PreTrainedModel.tie_weights  # replaced while a model loads
    before = state()["handlers"]
    run, *generated = asyncio.run(notebook())
    assert len(run.samples) == 1
    assert all(len(each.trace) == 4 for each in generated)
    assert state()["handlers"] == before
    assert state()["interpolation"] == os.environ["HOME"]
    assert PreTrainedModel.tie_weights is tie_weights


# --- decode -------------------------------------------------------------------------------------------------------

VOCABULARY, MASK, END = 12, 11, 10
PROMPTS = [[1, 2, 3], [4], [5, 6, 7], [2, 2]]
STATISTICS = rws.Statistics(mean=40.0, std=10.0, min=0.0, max=80.0)


GENERATOR = torch.Generator().manual_seed(0)
LEFT, RIGHT, ALL, PLACE = (1.2 * torch.randn(32, VOCABULARY, generator=GENERATOR) for _ in range(4))


def toy(ids_BL: torch.Tensor) -> torch.Tensor:
    """Logits (B, L, V) by a position's neighbors, its place, and all tokens; the mask is as likely as any token."""
    around = LEFT[ids_BL.roll(1, 1)] + RIGHT[ids_BL.roll(-1, 1)] + PLACE[: ids_BL.shape[1]]
    return around + ALL[ids_BL].mean(1, keepdim=True)


def decode(
    prompts: Any = PROMPTS[:1], sampler: str = "confidence", overrides: Any = (), function: Any = toy, **options: Any
):
    return rws.decode(function, prompts, sampler, *overrides, **{"mask_id": MASK, "gen_length": 4} | options)


def token_sum(prompts: list[list[int]], completions: list[list[int]]) -> list[float]:
    return [float(sum(prompt) + sum(completion)) for prompt, completion in zip(prompts, completions, strict=True)]


def until_end(tokens: list[int], end: int | None) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens


def slow(prompt: list[int], length: int, block: int, per_step: int, strength: float | None, end: int | None = None):
    """METHODS.md, "One RWS step", for one row, in probabilities of plain Python; strength None: scale 1. Returns the
    completion and (step, position, reward, scale) of each commit."""
    completion, trace, step = [MASK] * length, [], 0
    for start in range(0, length, block):
        while any(completion[i] == MASK for i in range(start, start + block)):
            logits = toy(torch.tensor([prompt + completion]))[0, len(prompt) :].double().tolist()
            best = [max((v for v in range(len(z)) if v != MASK), key=z.__getitem__) for z in logits]
            reward, scale = None, 1.0
            if strength is not None:
                shown = [best[i] if token == MASK else token for i, token in enumerate(completion)]
                reward = float(sum(prompt) + sum(until_end(shown, end)))
                rho = 1 / (1 + math.exp(-(reward - STATISTICS.mean) / STATISTICS.std))
                scale = 1 + strength * rho
            confidence = {}
            for i in range(start, start + block):
                if completion[i] == MASK:
                    powers = [math.exp(scale * (z - logits[i][best[i]])) for z in logits[i]]
                    confidence[i] = 1 / sum(powers)
            chosen = sorted(sorted(confidence, key=lambda i: (-confidence[i], i))[:per_step])
            for i in chosen:
                completion[i] = best[i]
                trace.append((step, i, reward, scale if strength is not None else None))
            step += 1
    return completion, trace


@pytest.mark.parametrize(
    ("sampler", "overrides", "strength"),
    [("confidence", [], None), ("rws", [], 1.0), ("rws", ["sampler.guidance.strength=3"], 3.0)],
)
@pytest.mark.parametrize("end", [None, END])
def test_decode_against_a_slow_reference(
    sampler: str, overrides: list[str], strength: float | None, end: int | None
) -> None:
    found = decode(
        PROMPTS, sampler, overrides, gen_length=8, block_length=4, tokens_per_step=2, eos_ids=[end] if end else [],
        reward=None if strength is None else rws.RewardFunction(token_sum, STATISTICS),
    )  # fmt: skip
    columns = ["step", "position", "reward", "scale"]
    for number, prompt in enumerate(PROMPTS):
        completion, trace = slow(prompt, 8, 4, 2, strength, end)
        assert found.completions[number] == completion
        rows = found.trace[found.trace["prompt"] == number]
        expected = pd.DataFrame(trace, columns=columns).astype(float)
        pd.testing.assert_frame_equal(rows[columns].astype(float).reset_index(drop=True), expected)
        assert [completion[i] for i in rows["position"]] == rows["token"].to_list()
    assert found.costs["mdm_passes"].to_list() == [4] * 4
    assert found.costs["mdm_tokens"].to_list() == [4 * (len(prompt) + 8) for prompt in PROMPTS]
    calls = found.costs["reward_calls"] + found.costs["reward_cache_hits"]
    assert calls.to_list() == [0 if strength is None else 4] * 4
    assert "text" not in found.trace


def test_decode_does_not_depend_on_the_batch() -> None:
    options: dict[str, Any] = {
        "sampler": "rws", "gen_length": 6, "temperature": 1.0, "reward": rws.RewardFunction(token_sum, STATISTICS)
    }  # fmt: skip
    together = decode(PROMPTS, **options)
    assert decode(PROMPTS, overrides=["runtime.batch_size=1"], **options).completions == together.completions
    assert decode([*PROMPTS[:2], [9] * 9], **options).completions[:2] == together.completions[:2]
    assert decode(list(map(torch.tensor, PROMPTS)), **options).completions == together.completions
    assert decode(PROMPTS, seed=1, **options).completions != together.completions
    twice = decode([PROMPTS[0], PROMPTS[0]], **options).completions
    assert twice[0] != twice[1]


def test_a_search_returns_the_completion_of_highest_reward() -> None:
    seen: list[float] = []

    def reward(prompts: list[list[int]], completions: list[list[int]]) -> torch.Tensor:
        seen.extend(values := token_sum(prompts, completions))
        return torch.tensor(values)

    found = decode(PROMPTS[:1], "confidence", ["search=best_of_n"], temperature=1.0, reward=reward)
    assert len(seen) == 4 == found.costs["reward_calls"].item()
    assert sum(PROMPTS[0] + found.completions[0]) == max(seen) > min(seen)


def test_a_reward_of_texts_reads_what_the_tokenizer_writes() -> None:
    tokenizer = word_tokenizer(
        [f"w{n}" for n in range(10)] + ["<end>", "<mask>"], eos_token="<end>", mask_token="<mask>"
    )
    read: list[tuple[str, str]] = []

    def reward(prompts: list[str], completions: list[str]) -> list[float]:
        read.extend(zip(prompts, completions, strict=True))
        return [float(len(completion)) for completion in completions]

    def ending(ids_BL: torch.Tensor) -> torch.Tensor:
        """Sure of w7, w8, the end, and w9, from left to right."""
        wanted = torch.tensor([0, 7, 8, END, 9])
        return 9.0 * torch.nn.functional.one_hot(wanted.expand(ids_BL.shape), 12) * torch.arange(5, 0, -1)[:, None]

    function = rws.RewardFunction(reward, STATISTICS, tokenizer)
    found = decode([[3]], "rws", function=ending, eos_ids=[END], reward=function)
    assert found.completions == [[7, 8, END, 9]]
    assert read == [("w3", "w7 w8")]
    assert found.trace["text"].to_list() == ["w7", "w8", "<end>", "w9"]
    read.clear()
    decode([[3]], "rws", ["sampler.guidance.fill=keep"], function=ending, eos_ids=[END], reward=function)
    assert [completion.split() for _, completion in read][:2] == [["<mask>"] * 4, ["w7", *["<mask>"] * 3]]


def test_what_fails_in_a_decoding() -> None:
    def broken(ids: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        decode(function=broken)
    with pytest.raises(rws.RunError, match="not finite"):
        decode(function=lambda ids: toy(ids) * math.nan)
    for reward, sentence in (
        (lambda prompts, completions: [0.0, 1.0], "2 scores for 1 completions"),
        (lambda prompts, completions: [math.nan], "nan"),
        (lambda prompts, completions: 1 / 0, "The reward failed: ZeroDivisionError"),
    ):
        with pytest.raises(rws.RunError, match=sentence):
            decode(sampler="rws", reward=rws.RewardFunction(reward, STATISTICS))


def test_the_dtype_of_logits_rounds_where_it_is_asked_to() -> None:
    """LLaDA's present rule compares probabilities in the model's dtype: in bfloat16 a lead of 8 and one of 9 tie."""

    def sure(ids_BL: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*ids_BL.shape, 12)
        logits[:, -2, 5], logits[:, -1, 5] = 12.0, 13.0
        return logits

    for dtype, position in ((torch.float32, 1), (torch.bfloat16, 0)):
        found = decode(
            [[1]], function=lambda ids, dtype=dtype: sure(ids).to(dtype), gen_length=2, confidence="model_dtype"
        )
        assert found.trace["position"][0] == position
