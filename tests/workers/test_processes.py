"""Several processes, or a Ray cluster, come to the samples of one process; those that die are replaced."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import samples_of
from worker_support import RUN, kill_a_worker, pins, same, when_decoding

from rws_cli.config.composing import compose
from rws_cli.errors import RunError
from rws_cli.workers import processes
from rws_cli.workers.base import TRIES, Worker, assign_device
from rws_cli.workers.processes import Processes, serve, worker_configs


@pytest.fixture
def slow(small: list[str]) -> list[str]:
    return [*small, "benchmark.limit=16", "runtime.batch_size=2", "sampler.tokens_per_step=1", "sampler.temperature=1"]


@pytest.mark.parametrize(
    ("backend", "process"), [("devices", "spawn_main"), pytest.param("ray", "ray::Actor", marks=pytest.mark.slow)]
)
def test_workers_come_to_the_same_samples_though_one_is_killed(
    rws, slow: list[str], tmp_path: Path, backend: str, process: str
) -> None:
    assert rws("run", *slow, "output=here").exit_code == 0
    run = tmp_path / backend / RUN
    killer = when_decoding(run, kill_a_worker(process))
    result = rws("run", *slow, f"runtime={backend}", "runtime.workers=2", f"output={backend}", "runtime.threads=1")
    killer.join()
    assert result.exit_code == 0, result.output
    assert same(run, tmp_path / "here" / RUN)
    if backend == "devices":
        assert "a worker ended with SIGKILL: a new one decodes its 2 examples" in (run / "run.log").read_text()
    manifests = [json.loads((at / RUN / "manifest.json").read_text()) for at in (tmp_path / "here", tmp_path / backend)]
    assert manifests[0]["config_hash"] == manifests[1]["config_hash"]
    assert pins(manifests[0]) == pins(manifests[1])


@pytest.mark.slow
def test_a_run_with_workers_is_interrupted_and_goes_on_without(rws, slow: list[str], tmp_path: Path) -> None:
    assert rws("run", *slow, "output=here").exit_code == 0
    run = tmp_path / "stopped" / RUN
    killer = when_decoding(run, lambda: os.kill(os.getpid(), signal.SIGTERM))
    result = rws("run", *slow, "runtime=devices", "runtime.workers=2", "output=stopped")
    killer.join()
    assert result.exit_code == 143, result.output
    assert 0 < len(samples_of(run)) < 16
    assert not [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
    assert rws("run", "--resume", str(run), "runtime.backend=local").exit_code == 0
    assert same(run, tmp_path / "here" / RUN)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["devices", "ray"])
def test_what_a_worker_cannot_load_is_one_sentence(
    rws, small: list[str], llada_folder: Path, tmp_path: Path, backend: str
) -> None:
    for file in llada_folder.iterdir():
        (tmp_path / "broken" / file.name).parent.mkdir(exist_ok=True)
        (tmp_path / "broken" / file.name).write_bytes(file.read_bytes())
    shard = next((tmp_path / "broken").glob("*-00002-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:200])
    result = rws("run", *small, f"model.path={tmp_path / 'broken'}", f"runtime={backend}", "runtime.workers=1")
    assert result.exit_code == 2, result.output
    assert "cannot be loaded" in result.output
    assert "Traceback" not in result.output


def test_a_batch_that_takes_workers_with_it_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead:
        exitcode = -signal.SIGKILL

        def join(self, seconds: float) -> None: ...

    example: Any = type("E", (), {"id": "e-7"})
    workers = Processes(kind="processes")
    workers.tries = {}
    monkeypatch.setattr(processes, "start_worker", lambda config, serve: Worker(config, Dead(), None))  # type: ignore[arg-type]
    monkeypatch.setattr(processes, "wait_until_loaded", lambda worker: {})
    worker: Any = Worker(compose(), Dead(), None, [example])  # type: ignore[arg-type]
    for _ in range(TRIES - 1):
        assert not workers.replace(worker).batch
    with pytest.raises(
        RunError,
        match=f"{TRIES} workers ended unexpectedly on the batch that starts with example e-7, the last with SIGKILL",
    ):
        workers.replace(worker)


def test_workers_share_devices_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert [c.model.device for c in worker_configs(compose())] == ["cpu"] * 4
    assert [c.runtime.threads for c in worker_configs(compose("runtime.workers=3"))] == [5] * 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    spread = worker_configs(compose("runtime.workers=3", "reward.device=cpu"))
    assert [c.model.device for c in spread] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [c.reward.device for c in spread] == ["cpu"] * 3
    assert assign_device(compose("model.device=cpu"), "cuda:1", 2).model.device == "cpu"


def test_a_cluster_that_is_not_there_is_one_sentence(rws, small: list[str]) -> None:
    result = rws("run", *small, "runtime=ray", "runtime.address=127.0.0.1:1")
    assert result.exit_code == 2, result.output
    assert "runtime.address=127.0.0.1:1 is not a reachable Ray cluster" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("gone", [EOFError, BrokenPipeError, ConnectionResetError])
def test_a_worker_whose_run_is_gone_ends_in_silence(monkeypatch: pytest.MonkeyPatch, gone: type[Exception]) -> None:
    class Line:
        def send(self, message: object) -> None:
            pass

        def recv(self) -> object:
            raise gone

    for name in ("prepare", "load", "BatchDecoder", "sources"):
        monkeypatch.setattr(f"rws_cli.workers.processes.{name}", lambda *_, **__: None)
    serve(compose(), Line())  # type: ignore[arg-type]
