"""The command line as users type it, on a small random checkpoint in LLaDA's format (and so meaningless scores)."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import LIMIT, SHARED, llada_config, llada_weights, samples_of, save_llada, save_reward

import rws_cli
from rws_cli.cli.base import complete


def test_version_help_and_lists(rws) -> None:
    assert rws("--version").output.strip() == f"rws {rws_cli.__version__}"
    assert "compare" in rws("--help").output
    assert "--resume" in rws("run", "--help").output
    for group, name in (("model", "llada_1_5"), ("sampler", "left_to_right"), ("experiment", "controls")):
        assert name in rws("list", group).output
        assert name in rws("list").output
    wrong = rws("list", "samplers")
    assert wrong.exit_code == 2
    assert "did you mean sampler" in wrong.output
    assert rws().exit_code == 2


HEAVY = ("torch", "transformers", "datasets", "pandas", "scipy")


@pytest.mark.parametrize(
    ("does", "absent"),
    [
        ("app(['--help'], standalone_mode=False)", ("hydra", "omegaconf", "rws_cli.registry", *HEAVY)),
        ("app(['run', '--help'], standalone_mode=False)", ("hydra", "omegaconf", "rws_cli.registry", *HEAVY)),
        ("complete('sampler.te'); complete('sampler=r')", ("hydra", "omegaconf", *HEAVY)),
        ("app(['list'], standalone_mode=False)", ("hydra", "omegaconf", *HEAVY)),
        ("app(['list', 'measure', 'god'], standalone_mode=False)", ("hydra", *HEAVY)),
        ("app(['list', 'sampler', 'rws'], standalone_mode=False)", HEAVY),
        ("app(['list', 'reward', 'composite'], standalone_mode=False)", HEAVY),
    ],
)
def test_help_completion_and_lists_import_little(does: str, absent: tuple[str, ...]) -> None:
    code = f"from rws_cli.cli.base import app, complete; {does}; import sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "rws_cli.cli.run" in done.stdout.splitlines()
    assert not set(absent) & set(done.stdout.splitlines())


def test_a_run_leaves_a_complete_folder(rws, small: list[str], tmp_path: Path) -> None:
    result = rws("run", *small)
    assert result.exit_code == 0, result.output
    run = tmp_path / "outputs" / "sudoku" / "small-rws" / "v001"
    assert result.output.rstrip().endswith("outputs/sudoku/small-rws/v001")
    assert re.search(r"GOD .*mean distance from left-to-right order, in tokens", result.output)
    assert sorted(p.name for p in run.iterdir()) == [
        "manifest.json", "metrics.json", "run.log", "samples.jsonl", "trace.parquet",
    ]  # fmt: skip
    assert (run.parent / "latest").resolve() == run

    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["config"]["sampler"]["guidance"]["kind"] == "rws"
    assert manifest["overrides"] == small
    assert manifest["versions"]["torch"]
    assert manifest["sources"]["model"]["weights"]
    assert manifest["sources"]["benchmark"]["examples"] == LIMIT

    samples = samples_of(run)
    assert len(samples) == LIMIT
    trace = pq.read_table(run / "trace.parquet").to_pylist()
    assert [row["id"] for row in trace] == [sample["id"] for sample in samples]
    for sample, row in zip(samples, trace, strict=True):
        assert sorted(row["position"]) == list(range(36))
        assert [sample["tokens"][p] for p in row["position"]] == row["token"]
        assert all(1.0 < s < 2.0 for s in row["scale"])  # 1 + sigmoid
        assert row["pairs"][::6] == [n * (n - 1) // 2 for n in (36, 30, 24, 18, 12, 6)]
        assert sample["guidance"]["reversals"] == sum(row["reversals"][::6]) / sum(row["pairs"][::6])
        assert sample["cost"]["mdm_passes"] == 6
        assert sample["cost"]["reward_calls"] + sample["cost"]["reward_cache_hits"] == 6
        assert sample["reward"] == sample["grade"]["partial"]

    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["examples"] == LIMIT
    assert metrics["accuracy"] == sum(s["grade"]["correct"] for s in samples) / LIMIT
    assert metrics["partial"] == pytest.approx(sum(s["grade"]["partial"] for s in samples) / LIMIT)
    assert metrics["cost"]["mdm_passes"] == 6 * LIMIT

    shown = rws("show", "outputs/sudoku/small-rws")
    assert shown.exit_code == 0
    assert "accuracy" in shown.output
    assert rws("run", *small, "seed=1").output.rstrip().endswith("v002")


def test_the_same_tokens_at_any_batch_size(rws, small: list[str], tmp_path: Path) -> None:
    found = []
    for size in (1, 4, 6):
        options = [
            *small,
            f"runtime.batch_size={size}",
            "sampler.temperature=0.8",
            "sampler.eos=stop",
            f"output=o{size}",
        ]
        assert rws("run", *options).exit_code == 0
        found.append(samples_of(tmp_path / f"o{size}" / "sudoku" / "small-rws" / "v001"))
    assert found[0] == found[1] == found[2]


def test_a_sweep_keeps_its_jobs_and_a_joined_table(rws, small: list[str], tmp_path: Path) -> None:
    result = rws("run", "sampler=confidence,random", "seed=0,1", *small, "-m")  # Hydra wants -m first; rws does not
    assert result.exit_code == 0, result.output
    sweep = tmp_path / "outputs" / "multirun" / "v001"
    assert sorted(p.name for p in sweep.iterdir()) == ["0", "1", "2", "3", "multirun.yaml", "sweep.csv", "sweep.json"]
    with (sweep / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["sampler"], row["seed"]) for row in rows] == [
        ("confidence", "0"), ("confidence", "1"), ("random", "0"), ("random", "1"),
    ]  # fmt: skip
    for row in rows:
        metrics = json.loads((sweep / row["job"] / "metrics.json").read_text())
        assert float(row["accuracy"]) == metrics["accuracy"]
        assert float(row["reward"]) == metrics["reward"]
        assert [float(row["accuracy_low"]), float(row["accuracy_high"])] == metrics["accuracy_interval"]
        assert int(row["total_mdm_passes"]) == metrics["cost"]["mdm_passes"]
        assert float(row["mdm_passes"]) == metrics["cost"]["mdm_passes"] / LIMIT
    compared = rws("compare", str(sweep))
    assert compared.exit_code == 0
    assert "confidence" in compared.output
    assert "0,1" in compared.output


def test_one_failing_job_leaves_the_others_and_says_so(rws, small: list[str], tmp_path: Path) -> None:
    result = rws("run", "-m", "sampler.block_length=36,5,18", *small)
    assert result.exit_code == 2
    assert "does not divide" in result.output
    sweep = tmp_path / "outputs" / "multirun" / "v001"
    with (sweep / "sweep.csv").open() as file:
        assert [row["job"] for row in csv.DictReader(file)] == ["0", "2"]
    assert "paired; differences to the first line" in result.output


def test_dry_run_runs_nothing(rws, small: list[str], tmp_path: Path) -> None:
    result = rws("run", "--dry-run", *small, "sampler.cfg_scale=1")
    assert result.exit_code == 0, result.output
    assert "MDM passes, at most" in result.output
    assert f"{2 * 6 * LIMIT}" in result.output
    assert not list(tmp_path.iterdir())
    swept = rws("run", "--dry-run", "-m", *small, "seed=0,1")
    assert swept.output.count("nothing was run") == 2
    assert not list(tmp_path.iterdir())


def test_hydras_own_options(rws, tmp_path: Path) -> None:
    printed = rws("run", "sampler=random", "--cfg", "job")
    assert printed.exit_code == 0
    assert "order: random" in printed.output
    assert not list(tmp_path.iterdir())


MISTAKES = {
    "sampler=rwss": "did you mean rws?",
    "smapler=rws": "did you mean sampler?",
    "seeed=1": "seeed is not a setting here; did you mean seed?",
    "+seed=1": "type seed=… without the plus",
    "~foo": "removes a setting that does not exist",
    "word": "type key=value",
    "=3": "cannot be composed",
    "sampler.guidance.form=[1": "cannot be read",
    "--resme": "did you mean --resume?",
    "model=llada": "GSAI-ML/LLaDA-8B-Instruct is not available",
    "model.path=/nowhere": "model.path=/nowhere does not exist",
    "reward.path=bundled:nothing": "is not bundled",
    "model.device=cuda:77": "model.device=cuda:77",
    "model.device=abacus": "is not a device",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(rws, override: str, tmp_path: Path) -> None:
    result = rws("run", override)
    assert result.exit_code == 2, result.output
    assert MISTAKES[override] in result.output
    assert "Traceback" not in result.output
    assert result.output.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_compare_refuses_what_cannot_be_compared(rws, small: list[str]) -> None:
    assert rws("compare", "nowhere", "neither").exit_code == 2
    rws("run", *small, "output=a")
    rws("run", *small, "output=b", "benchmark.seed=5")
    one = rws("compare", "a/sudoku/small-rws")
    assert one.exit_code == 2
    assert "at least two" in one.output
    different = rws("compare", "a/sudoku/small-rws", "b/sudoku/small-rws")
    assert different.exit_code == 2
    assert "no example in common" in different.output


def test_resume_refuses_another_configuration(rws, small: list[str], tmp_path: Path) -> None:
    assert rws("run", *small).exit_code == 0
    run = tmp_path / "outputs" / "sudoku" / "small-rws" / "v001"
    refused = rws("run", "--resume", str(run), "sampler.temperature=0.5", "seed=3")
    assert refused.exit_code == 2
    assert "sampler.temperature (0.0 then, 0.5 now)" in refused.output
    assert "seed (0 then, 3 now)" in refused.output
    assert rws("run", "--resume", str(tmp_path / "nowhere")).exit_code == 2
    again = rws("run", "--resume", str(run), "runtime.batch_size=1")  # changes no token, so it is welcome
    assert again.exit_code == 0, again.output
    assert len(samples_of(run)) == LIMIT


def test_overrides_complete_in_the_shell() -> None:
    assert "sampler.temperature=" in complete("sampler.te")
    assert complete("sampler=rw") == ["sampler=rws"]
    assert complete("seed=") == []


def test_a_sweep_of_which_every_job_fails_says_why(rws, small: list[str]) -> None:
    result = rws("run", *small, "+experiment=matched_temperature", "sampler.guidance.run=nowhere")
    assert result.exit_code == 2, result.output
    assert "nowhere does not exist" in result.output


def test_a_failing_run_keeps_what_it_has(rws, small: list[str], tmp_path: Path) -> None:
    result = rws("run", *small, "sampler.guidance.normalize=none", "sampler.guidance.form=identity")
    assert result.exit_code == 1, result.output
    assert "would invert the logits" in result.output
    run = tmp_path / "outputs" / "sudoku" / "small-rws" / "v001"
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "invert" in manifest["error"]
    assert "failed" in rws("show", str(run)).output


def test_a_run_is_marked_again_without_decoding(rws, small: list[str], tmp_path: Path) -> None:
    data = tmp_path / "two.jsonl"
    data.write_text('{"question": "w1 w2", "answer": "#### 1"}\n{"question": "w3", "answer": "#### 2"}\n')
    options = [*small, "benchmark=gsm8k", f"benchmark.path={data}", "benchmark.gen_length=8", "benchmark.limit=2",
               "benchmark.template='{question}'", "sampler.tokens_per_step=4"]  # fmt: skip
    assert rws("run", *options).exit_code == 0
    run = tmp_path / "outputs" / "gsm8k" / "small-rws" / "v001"
    before = samples_of(run)
    assert [sample["grade"]["correct"] for sample in before] == [False, False]
    again = rws("grade", str(run))
    assert again.exit_code == 0, again.output
    assert "grades changed: 0" in again.output
    assert samples_of(run) == before

    # As if an older grader had missed a right answer.
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    lines[1]["completion"] = "#### 2"
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "grades changed: 1" in rws("grade", "outputs/gsm8k/small-rws").output
    assert json.loads((run / "metrics.json").read_text())["accuracy"] == 0.5
    assert [note["changed"] for note in json.loads((run / "manifest.json").read_text())["graded"]] == [0, 1]

    assert "did you mean benchmark.path" in rws("grade", str(run), "benchmark.pth=x").output
    assert rws("grade", str(run), "seed=1").exit_code == 2
    data.write_text('{"question": "w5", "answer": "#### 1"}\n{"question": "w3", "answer": "#### 2"}\n')
    assert "gsm8k-0 has changed since the run" in rws("grade", str(run)).output
    assert "is already finished" in rws("run", "--resume", str(run)).output  # nothing is left to do


def test_calibration_measures_what_an_unsteered_run_shows_to_the_reward(rws, small: list[str], tmp_path: Path) -> None:
    assert rws("calibrate", *small).exit_code == 0
    found = json.loads(next((tmp_path / "outputs" / "calibration").glob("*/*/v001/normalization.json")).read_text())
    assert rws("run", *small, "sampler.guidance.strength=0").exit_code == 0
    trace = pq.read_table(tmp_path / "outputs" / "sudoku" / "small-rws" / "v001" / "trace.parquet").to_pylist()
    scores = [dict(zip(row["step"], row["reward"], strict=True)) for row in trace]
    flat = [score for by_step in scores for score in by_step.values()]
    assert found["n"] == len(flat) == 6 * LIMIT
    assert found["mean"] == pytest.approx(sum(flat) / len(flat), abs=1e-4)
    assert (found["min"], found["max"]) == pytest.approx((min(flat), max(flat)), abs=1e-4)
    assert [len(pool) for pool in found["by_progress"]] == [
        6,
        6,
        0,
        6,
        0,
        6,
        6,
        0,
        6,
        0,
    ]  # 0, 6, …, 30 of 36 are filled
    assert found["provenance"]["sources"]["benchmark"]["examples"] == LIMIT
    along, masked = found["decodings_by_progress"], found["masked_by_progress"]
    assert [part["n"] if part else 0 for part in along] == [6, 6, 0, 6, 0, 6, 6, 0, 6, 0]
    assert sum(part["mean"] * 6 for part in along if part) == pytest.approx(sum(flat), abs=1e-2)
    assert [part["n"] for part in masked] == [LIMIT] * 10
    assert masked[0]["mean"] == along[0]["mean"]  # nothing is filled yet: the same first pass


def test_a_reward_without_statistics_is_calibrated_first(rws, small: list[str], tmp_path: Path) -> None:
    options = [*small, "reward=classifier", f"reward.path={save_reward(tmp_path / 'reward')}", "reward.name=mine"]
    refused = rws("run", *options)
    assert refused.exit_code == 2
    assert "rws calibrate" in refused.output
    result = rws("calibrate", *options)
    assert result.exit_code == 0, result.output
    assert rws("run", *options).exit_code == 0
    stored = json.loads((tmp_path / "outputs/calibration/mine/small-sudoku/latest/normalization.json").read_text())
    manifest = json.loads((tmp_path / "outputs/sudoku/small-rws/latest/manifest.json").read_text())
    assert manifest["sources"]["statistics"] == {key: stored[key] for key in ("mean", "std", "min", "max")}
    constant = rws("calibrate", *small, "reward=constant")
    assert constant.exit_code == 1
    assert "nothing to normalize" in constant.output
    assert rws("calibrate", *small, "reward=none", "sampler=confidence").exit_code == 2


@pytest.mark.parametrize(
    ("benchmark", "file", "more"),
    [
        ("gsm8k", "gsm8k_test_1000.jsonl", ["benchmark.shots=1", "benchmark.shots_path={}/gsm8k_train_1000.jsonl"]),
        ("math500", "math500_test.jsonl", []),
        ("humaneval", "humaneval.jsonl", ["benchmark.allow_code_execution=true"]),
        ("mbpp", "mbpp_test.jsonl", ["benchmark.allow_code_execution=true"]),
        ("countdown", "countdown_cd3_test.jsonl", []),
        ("sudoku4", "sudoku_4x4_test.csv", []),
        ("keywords", "words_to_sentence_hard.jsonl", []),
        ("mt_bench", "mt_bench_questions.jsonl", ["reward=none", "sampler=confidence"]),
        ("instructions", "ifeval_prompts.jsonl", ["reward=none", "sampler=confidence"]),
    ],
)
def test_every_benchmark_runs_on_the_real_files(
    rws, tmp_path: Path, benchmark: str, file: str, more: list[str]
) -> None:
    """Scores of a random model mean nothing; that the whole path holds is what is tested."""
    data = SHARED / "data"
    if not (data / file).exists():
        pytest.skip(f"{file} is not available")
    config = llada_config(max_sequence_length=2048)
    path = save_llada(tmp_path / "model", config, llada_weights(config))
    result = rws(
        "run", f"model.path={path}", f"benchmark={benchmark}", f"benchmark.path={data / file}", "benchmark.limit=3",
        "benchmark.gen_length=8", "sampler.tokens_per_step=2", "reward=verifier", *[text.format(data) for text in more],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    run = next((tmp_path / "outputs" / benchmark).glob("*/v001"))
    samples = samples_of(run)
    is_open = benchmark in ("mt_bench", "instructions")
    first_turns = [sample["id"] for sample in samples if not sample["history"]]
    assert first_turns == [f"{benchmark}-{n}" for n in range(3)]
    assert all(is_open or sample["grade"]["extractor"] for sample in samples)
    assert json.loads((run / "metrics.json").read_text())["accuracy"] == (None if is_open else 0)


def test_a_terminal_is_told_how_to_go_on(rws, small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert rws("run", "-m", *small, "seed=0,1").exit_code == 0
    assert rws("show", "outputs/multirun/v001/1").output.splitlines()[-1] == "outputs/multirun/v001/1"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    run = "outputs/multirun/v001/1"
    assert f"rws report {run} · rws replay {run}" in re.sub(r"\x1b\[[0-9;]*m", "", rws("show", run).output)
    again = re.sub(r"\x1b\[[0-9;]*m", "", rws("run", "--resume", "outputs/multirun/v001").output)
    assert "rws report outputs/multirun/v001 · rws replay outputs/multirun/v001/0" in again
