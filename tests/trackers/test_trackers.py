"""Runs that are also logged by wandb, MLflow and TensorBoard, read back through the libraries' own files and clients."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import LIMIT, samples_of

from rws_cli import registry
from rws_cli.errors import Interrupted
from rws_cli.trackers import base
from rws_cli.trackers.mlflow import allowed

RUNNING = {"examples", "accuracy", "reward", "god", "tokens_per_second"}
PARTS = ["--parts", "parts"]
SECRET = "0123456789abcdef0123456789abcdefSECRET00"


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in, and nothing is configured."""
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def folder(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "sudoku" / "small-rws" / "v001"


def read(run: Path, file: str) -> Any:
    return json.loads((run / file).read_text())


def cut(run: Path, lines: int) -> None:
    """As if the run had been killed after so many examples."""
    kept = (run / "samples.jsonl").read_text().splitlines(keepends=True)[:lines]
    (run / "samples.jsonl").write_text("".join(kept))
    (run / "manifest.json").write_text(json.dumps(read(run, "manifest.json") | {"status": "running"}))
    (run / "metrics.json").unlink()


def check_running(last: dict[str, float], metrics: dict[str, Any]) -> None:
    """The last values logged during a run equal its final metrics."""
    assert last.keys() == {f"running/{name}" for name in RUNNING}
    assert last["running/examples"] == LIMIT
    assert last["running/accuracy"] == pytest.approx(metrics["accuracy"])
    assert last["running/reward"] == pytest.approx(metrics["reward"])
    assert last["running/god"] == pytest.approx(metrics["order"][metrics["god"]])


def logged_of(metrics: dict[str, Any]) -> dict[str, float]:
    """What is logged of a finished run: its measures, by the names that they have in tables."""
    cost, n, guidance = metrics["cost"], metrics["examples"], metrics["guidance"]
    low, high = metrics["accuracy_interval"]
    found = {name: metrics[name] for name in ("examples", "failed", "accuracy", "partial", "reward", "near_ties")}
    found |= {"accuracy_low": low, "accuracy_high": high}
    for record, ending in (("order", ""), ("order_with_eos", "_with_eos")):
        found |= {
            f"{'god' if name == 'god_tokens' else name}{ending}": value for name, value in metrics[record].items()
        }
    found |= {name: guidance[name] for name in ("scale", "temperature", "reversals", "changed_selections")}
    sums = {name: cost[name] for name in cost if name.startswith(("mdm_", "reward_")) or name == "seconds"}
    sums["tokens"] = cost["mdm_tokens"] + cost["reward_tokens"]
    found |= {f"total_{name}": value for name, value in sums.items()} | {
        name: value / n for name, value in sums.items()
    }
    found |= {name: value for name, value in cost.items() if name not in sums}
    return {name: float(value) for name, value in found.items() if value is not None}


def test_tensorboard(rws, small: list[str], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert rws("run", *small, "output=plain").exit_code == 0
    result = rws("run", *small, "runtime.tracker=tensorboard")
    assert result.exit_code == 0, result.output
    run = folder(tmp_path)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    metrics = read(run, "metrics.json")
    assert [event.step for event in scalars["running/accuracy"]] == [4, 6]
    check_running({tag: s[-1].value for tag, s in scalars.items() if tag.startswith("running/")}, metrics)
    flat = {tag.removeprefix("metrics/"): s[-1].value for tag, s in scalars.items() if tag.startswith("metrics/")}
    assert flat == pytest.approx(logged_of(metrics), rel=1e-6)  # event files have single precision
    assert flat["total_mdm_passes"] == 6 * LIMIT
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "    tracker: tensorboard\n" in text

    plain, tracked = (read(at, "manifest.json") for at in (tmp_path / "plain/sudoku/small-rws/v001", run))
    assert tracked["config_hash"] == plain["config_hash"]
    assert "tracker" not in plain
    assert samples_of(run) == samples_of(tmp_path / "plain/sudoku/small-rws/v001")


@pytest.mark.slow
def test_mlflow_and_a_resumed_run(rws, small: list[str], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    result = rws("run", *small, "runtime.tracker=mlflow")
    assert result.exit_code == 0, result.output
    run = folder(tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow' / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name != "Default"]
    assert experiment.name == "sudoku"
    [logged] = client.search_runs([experiment.experiment_id])
    assert read(run, "manifest.json")["tracker"] == {"name": "mlflow", "id": logged.info.run_id}
    assert (logged.info.run_name, logged.info.status) == ("small-rws/v001", "FINISHED")
    assert logged.data.params["sampler/guidance/kind"] == "rws"
    metrics, found = read(run, "metrics.json"), logged.data.metrics
    check_running({key: value for key, value in found.items() if key.startswith("running/")}, metrics)
    flat = {allowed(key): value for key, value in logged_of(metrics).items()}
    assert {key.removeprefix("metrics/"): v for key, v in found.items() if key.startswith("metrics/")} == flat
    assert [m.step for m in client.get_metric_history(logged.info.run_id, "running/god")] == [4, 6]

    cut(run, 2)
    assert rws("run", "--resume", str(run), "runtime.workers=1").exit_code == 0  # a parameter that differs
    [again] = client.search_runs([experiment.experiment_id])
    assert (again.info.run_id, again.info.status) == (logged.info.run_id, "FINISHED")
    steps = [m.step for m in client.get_metric_history(again.info.run_id, "running/god")]
    assert sorted(steps) == [4, 6, 6]
    assert not (tmp_path / "mlruns").exists()


def records(file: Path) -> Iterator[Any]:
    """The records of a wandb file: after 7 bytes a log in LevelDB's format, of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # a block's end, too small for another header
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def keyed(items: Any) -> dict[str, Any]:
    return {"/".join([item.key, *item.nested_key]).strip("/"): json.loads(item.value_json) for item in items}


def test_wandb_offline_and_a_resumed_run(
    rws, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    result = rws("run", *small, "runtime.tracker=wandb")
    assert result.exit_code == 0, result.output
    assert "wandb" not in result.output
    run = folder(tmp_path)
    [file] = run.glob("wandb/offline-run-*/*.wandb")
    found = list(records(file))
    begun = next(record.run for record in found if record.HasField("run"))
    assert (begun.project, begun.display_name) == ("rws", "small-rws/v001")
    assert json.loads(next(u.value_json for u in begun.config.update if u.key == "sampler"))["order"] == "confidence"
    assert read(run, "manifest.json")["tracker"] == {"name": "wandb", "id": begun.run_id}
    history = [keyed(record.history.item) for record in found if record.HasField("history")]
    assert [row["_step"] for row in history] == [4, 6]
    metrics = read(run, "metrics.json")
    check_running({key: value for key, value in history[-1].items() if not key.startswith("_")}, metrics)
    summary = [keyed(record.summary.update) for record in found if record.HasField("summary")]
    flat = {key.removeprefix("metrics/"): v for part in summary for key, v in part.items() if "metrics/" in key}
    assert flat == pytest.approx(logged_of(metrics))
    assert [record.exit.exit_code for record in found if record.HasField("exit")] == [0]

    cut(run, 2)
    again = rws("run", "--resume", str(run))
    assert again.exit_code == 0, again.output
    files = sorted(run.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    assert [path.name for path in files] == [f"run-{begun.run_id}.wandb"] * 2  # wandb sync joins them
    assert not [child for child in psutil.Process().children() if "wandb" in child.name()]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_wandb_without_a_key_stays_here_unless_it_must_not(
    rws, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = rws("run", *small, "runtime.tracker=wandb")
    assert result.exit_code == 0, result.output
    assert list(folder(tmp_path).glob("wandb/offline-run-*/*.wandb"))
    assert result.output.count("wandb sync") == 1

    monkeypatch.setenv("WANDB_MODE", "online")
    result = rws("run", *small, "runtime.tracker=wandb", "output=online")
    assert result.exit_code == 0, result.output
    assert result.output.count("wandb stopped logging this run") == 1
    run = tmp_path / "online/sudoku/small-rws/v001"
    assert samples_of(run) == samples_of(folder(tmp_path))
    assert "tracker" not in read(run, "manifest.json")
    assert not [child for child in psutil.Process().children() if "wandb" in child.name()]


def test_a_server_that_is_down_costs_one_line_without_its_password(
    rws, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:9/")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = rws("run", *small, "runtime.tracker=mlflow")
    assert result.exit_code == 0, result.output
    assert result.output.count("mlflow stopped logging this run") == 1
    run = folder(tmp_path)
    assert "mlflow stopped logging" in (run / "run.log").read_text()
    assert read(run, "manifest.json")["status"] == "finished"
    assert len(samples_of(run)) == LIMIT
    assert SECRET not in result.output
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_missing_library_is_named(
    rws, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    found = base.find_spec
    monkeypatch.setattr(base, "find_spec", lambda wanted: None if wanted == name else found(wanted))
    for more in ([], ["--dry-run"]):
        result = rws("run", *more, *small, f"runtime.tracker={name}")
        assert result.exit_code == 2, result.output
        assert f"pip install 'rws[{name}]'" in result.output
    assert not list(tmp_path.iterdir())


RECORDER = """
'A tracker that records its calls, and fails where it is asked to.'
from rws_cli.part import part
from rws_cli.trackers.base import Tracker


@part
class Recorder(Tracker):
    fails, calls = "", []

    def open(self, run):
        self.id = "7"
        self.call("open", run.id)

    def log(self, step, values):
        self.call("log", step)

    def finish(self, step, metrics):
        self.call("finish", step)

    def close(self, status):
        self.call("close", status)

    def call(self, name, what):
        self.calls.append((name, what))
        if name == self.fails:
            raise OSError(f"no [/{name}]\\nand more")
"""


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Any]:
    """A tracker in a file of the user's."""
    file = tmp_path / "parts" / "trackers" / "recorder.py"
    file.parent.mkdir(parents=True)
    file.write_text(RECORDER)
    registry.set_folders([str(tmp_path / "parts")])
    yield registry.load("tracker", "recorder", "runtime.tracker")
    registry.set_folders([])


@pytest.mark.parametrize(
    ("fails", "expected"),
    [
        ("", [("open", None), ("log", 4), ("log", 6), ("finish", 6), ("close", "finished")]),
        ("open", [("open", None)]),
        ("log", [("open", None), ("log", 4), ("close", "failed")]),
        ("finish", [("open", None), ("log", 4), ("log", 6), ("finish", 6), ("close", "failed")]),
        ("close", [("open", None), ("log", 4), ("log", 6), ("finish", 6), ("close", "finished")]),
    ],
)
def test_no_fault_of_a_tracker_reaches_the_run(
    rws, small: list[str], tmp_path: Path, recorder: Any, fails: str, expected: list[Any]
) -> None:
    recorder.fails = fails
    result = rws("run", *small, *PARTS, "runtime.tracker=recorder")
    assert result.exit_code == 0, result.output
    assert recorder.calls == expected
    assert result.output.count("stopped logging this run") == bool(fails)
    assert f"stopped logging this run: no [/{fails}]; the run continues without it" in result.output or not fails
    assert read(folder(tmp_path), "manifest.json")["status"] == "finished"
    assert read(folder(tmp_path), "metrics.json")["examples"] == LIMIT


def test_a_tracker_is_told_how_the_run_ended(
    rws, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any
) -> None:
    calls = recorder.calls

    def stop(_: Any, folder: Path | str = "") -> None:
        if list(Path(folder or ".").glob("samples.jsonl")):
            raise Interrupted("here")

    with monkeypatch.context() as patched:
        patched.setattr("rws_cli.runs.stopping.Stop.check", stop)
        assert rws("run", *small, *PARTS, "runtime.tracker=recorder").exit_code == 130
    assert calls == [("open", None), ("log", 4), ("close", "interrupted")]
    calls.clear()
    assert rws("run", "--resume", str(folder(tmp_path)), *PARTS).exit_code == 0
    assert calls == [("open", "7"), ("log", 6), ("finish", 6), ("close", "finished")]
    calls.clear()
    failing = rws("run", *small, *PARTS, "runtime.tracker=recorder", "sampler.guidance.normalize=none",
                  "sampler.guidance.form=identity", "output=failing")  # fmt: skip
    assert failing.exit_code == 1
    assert calls[-1] == ("close", "failed")
