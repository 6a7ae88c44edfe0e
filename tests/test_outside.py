"""A part of each role that researchers write, in a folder outside the package: tests/outside, laid out as --parts takes it.

How a folder or an installed package is found, and what it must not be able to do: tests/cli/test_outside_parts.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import samples_of
from typer.testing import CliRunner, Result
from worker_support import same, when_decoding

from rws_cli import registry
from rws_cli.cli import app
from rws_cli.runs.records import read_trace

OUTSIDE = Path(__file__).parent / "outside"
PARTS = {
    "sampler.order": "outward",
    "sampler.schedule": "growing",
    "sampler.guidance": "steady",
    "sampler.search": "vote",
    "reward": "brief",
    "benchmark": "counting",
    "metric.overlap": "overlap",
    "judge": "shorter",
}
"""The key that each is chosen at → its name."""
RUN = [
    "benchmark=counting", "benchmark.limit=8", "sampler=outward", "sampler.outward.start=0.25",
    "sampler.schedule.kind=growing", "guidance=steady", "search=vote", "sampler.search.particles=2", "sampler.temperature=1", "reward=brief",
    "reward@reward.part=verifier", "reward.price=0.05", "metric=[overlap]", "runtime.batch_size=2", "runtime.threads=1",
]  # fmt: skip
MADE = Path("outputs/counting/tiny-outward/v001")


def file_of(name: str) -> Path:
    (file,) = OUTSIDE.glob(f"*/{name}.py")
    return file


def forget() -> None:
    """No folder is known, and nothing of one is imported: other tests of this process may have left some."""
    registry.set_folders([])
    for name in [name for name in sys.modules if name.startswith("rws_parts")]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def _no_folders() -> Iterator[None]:
    forget()
    yield
    forget()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with all of them but the judge, decoded by one process that was never stopped."""
    folder = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(app, ["run", "--parts", str(OUTSIDE), *RUN])
    assert result.exit_code == 0, result.output
    return folder / MADE


def test_each_is_one_file_with_a_yaml_both_short() -> None:
    assert {file.stem for file in OUTSIDE.glob("*/*.py")} == set(PARTS.values())
    for name in PARTS.values():
        files = [file_of(name), *OUTSIDE.glob(f"conf/*/{name}.yaml")]
        assert len(files) == 2
        assert sum(len(file.read_text().splitlines()) for file in files) < 40


def test_list_shows_each_and_where_it_is_from(rws) -> None:
    listed = rws("list", "--parts", str(OUTSIDE)).output.splitlines()
    for name in PARTS.values():
        (line,) = (line for line in listed if line.split()[0] == name)
        assert line.endswith(f" (from --parts {OUTSIDE})")
        (yaml,) = OUTSIDE.glob(f"conf/*/{name}.yaml")
        shown = rws("list", yaml.parent.name, name, "--parts", str(OUTSIDE)).output.replace("\n", "")
        assert f"{file_of(name)} (from --parts {OUTSIDE})" in shown
    assert not [name for name in sys.modules if name.startswith("rws_parts") and "." in name]


def test_all_of_them_decide_a_run(here: Path) -> None:
    samples, traces = samples_of(here), read_trace(here)
    assert len(samples) == 8
    scales = set()
    for sample, row in zip(samples, traces, strict=True):
        # the schedule commits 1, 2, 3 and the last 2 of 8 tokens, the order's nearest to the position 0.25 · 7 first
        outward = sorted(range(8), key=lambda n: (abs(n - 1.75), n))
        assert row["position"] == [*outward[:1], *sorted(outward[1:3]), *sorted(outward[3:6]), *sorted(outward[6:])]
        assert row["step"] == [0, 1, 1, 2, 2, 2, 3, 3]
        # the guidance records its scale, and what that is made of, for each position
        assert row["scale"] == [1 + 0.5 * same for same in row["guidance.same"]]
        assert all(0 <= same <= step for same, step in zip(row["guidance.same"], row["step"], strict=True))
        scales |= {tuple(row["guidance.same"][3:6])}
        # the search has a score for each answer, the reward takes off a price for each word
        assert sample["particles"] == pytest.approx([sample["particles"][0]] * 2)
        assert 0.5 <= sample["particles"][0] <= 1
        price = 0.05 * len(sample["completion"].split())
        assert sample["reward"] == pytest.approx(sample["grade"]["partial"] - price)
        # the benchmark and the metric
        first = int(sample["prompt"].removeprefix("count on from "))
        assert sample["reference"] == f"{first + 1} {first + 2} {first + 3}"
        shares = [letter in sample["reference"] for letter in sample["completion"]]
        assert sample["measures"]["overlap.share"] == (pytest.approx(sum(shares) / len(shares)) if shares else None)
    assert any(len(set(few)) > 1 for few in scales)  # positions of one step differ
    measured = [value for sample in samples if (value := sample["measures"]["overlap.share"]) is not None]
    metrics = json.loads((here / "metrics.json").read_text())
    assert metrics["measures"]["overlap.share"] == pytest.approx(sum(measured) / len(measured))


def test_the_manifest_has_their_names_sources_and_hashes(here: Path) -> None:
    used = json.loads((here / "manifest.json").read_text())["sources"]["parts"]
    assert {key: part["name"] for key, part in used.items() if part["source"] != "rws"} == {
        key: name for key, name in PARTS.items() if key != "judge"
    }
    for key, name in PARTS.items():
        if key != "judge":
            assert used[key]["source"] == f"--parts {OUTSIDE}"
            assert used[key]["role"] == key.removeprefix("sampler.").partition(".")[0]
            assert used[key]["sha256"] == hashlib.sha256(file_of(name).read_bytes()).hexdigest()


def test_a_judge_compares_two_runs(rws, here: Path, tmp_path: Path) -> None:
    there = rws("run", "--parts", str(OUTSIDE), *RUN, "sampler.outward.start=1")
    assert there.exit_code == 0, there.output
    runs = [str(here), str(tmp_path / MADE)]
    result = rws("judge", *runs, "judge=shorter", "judge.margin=1", "--parts", str(OUTSIDE))
    assert result.exit_code == 0, result.output
    (file,) = (tmp_path / MADE).glob("judgements/shorter-*/verdicts.jsonl")
    verdicts = [json.loads(line) for line in file.read_text().splitlines()]
    lengths = [{sample["id"]: len(sample["completion"]) for sample in samples_of(Path(run))} for run in runs]
    assert len(verdicts) == 16
    for verdict in verdicts:
        base, other = (length[verdict["id"]] for length in lengths)
        longer = (other - base) * (1 if verdict["order"] == 0 else -1)
        assert verdict["first"] == (0.5 if abs(longer) <= 1 else float(longer > 0))
    assert {verdict["first"] for verdict in verdicts} > {0.5}


def test_a_stopped_run_goes_on_with_the_same_files_alone(rws, here: Path, tmp_path: Path) -> None:
    shutil.copytree(OUTSIDE, tmp_path / "mine")
    run = tmp_path / MADE
    killer = when_decoding(run, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = rws("run", "--parts", "mine", *RUN)
    killer.join()
    assert stopped.exit_code == 143, stopped.output
    assert 0 < len(samples_of(run)) < 8

    def resume(*more: str) -> Result:
        return rws("run", "--resume", str(run), *more)

    refused = resume()
    assert refused.exit_code == 2
    assert f"type it again, rws run --resume {run} --parts={tmp_path / 'mine'}" in refused.output
    file = tmp_path / "mine/search/vote.py"
    file.write_text(file.read_text() + "# another\n")
    changed = resume("--parts", "mine")
    assert changed.exit_code == 2
    assert "sampler.search=vote of --parts mine" in changed.output
    assert "vote.py has changed since" in changed.output
    shutil.copy(file_of("vote"), file)
    done = resume("--parts", "mine")
    assert done.exit_code == 0, done.output
    assert same(run, here)


def test_a_worker_gets_what_was_typed(rws, here: Path, tmp_path: Path) -> None:
    result = rws("run", "--parts", str(OUTSIDE), *RUN, "runtime=devices", "runtime.workers=1", "output=shipped")
    assert result.exit_code == 0, result.output
    assert same(tmp_path / "shipped" / MADE.relative_to("outputs"), here)


def test_so_do_the_jobs_of_a_sweep(rws, here: Path, tmp_path: Path) -> None:
    result = rws("run", "-m", "--parts", str(OUTSIDE), *RUN, "benchmark.limit=2,1")
    assert result.exit_code == 0, result.output
    runs = sorted((tmp_path / "outputs/multirun").glob("[!l]*/*/manifest.json"))  # not latest
    assert [samples_of(file.parent) for file in runs] == [samples_of(here)[:count] for count in (2, 1)]
