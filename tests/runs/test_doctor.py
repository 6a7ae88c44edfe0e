"""What rws doctor finds on this machine and in checkpoints of known size."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from support import llada_config, llada_weights

from rws_cli.benchmarks.sudoku import Sudoku
from rws_cli.config.composing import compose
from rws_cli.models.checkpoint import stored_weights
from rws_cli.runs import doctor


def test_what_models_need_is_read_off_their_files(rws, small: list[str], llada_folder: Path, tmp_path: Path) -> None:
    weights = sum(w.numel() for w in llada_weights(llada_config()).values())
    assert stored_weights(str(llada_folder), None, "model.path")[0] == weights  # type: ignore[index]
    findings = {finding.name: finding for finding in doctor.examine(compose(*small))}
    assert f"{weights:,} weights" in findings["model=small"].detail
    assert "on cpu" in findings["model=small"].detail
    assert findings["memory on cpu"].ok
    assert "4 rows" in findings["decoding step"].detail
    assert "passes of reward models" not in findings["memory plan"].detail
    assert findings["output"].ok
    result = rws("doctor", *small)
    assert result.exit_code == 0, result.output
    assert "fits" in result.output
    assert not (tmp_path / "outputs").exists()


def test_what_does_not_fit_is_an_exit_code(rws, small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "free_memory", lambda device: 1000)
    result = rws("doctor", *small)
    assert result.exit_code == 1
    assert "does not fit" in result.output


def test_each_device_is_named_by_itself(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def free_memory(device: str) -> int:
        return 7 * doctor.GIB if device == "cpu" else 5 * doctor.GIB

    monkeypatch.setattr(doctor, "pick_device", lambda name, key: torch.device("cpu" if name == "auto" else name))
    monkeypatch.setattr(doctor, "free_memory", free_memory)
    monkeypatch.setattr("rws_cli.runs.prepared.pick_device", doctor.pick_device)
    settings = compose(*small, "reward=tiny", "reward.device=cuda:1")
    findings = {finding.name: finding.detail for finding in doctor.check_components(settings)}
    assert "of 7.0 GiB free" in findings["memory on cpu"]
    assert "of 5.0 GiB free" in findings["memory on cuda:1"]


def test_ranks_need_a_part_of_the_model_each(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "GIB", 1)  # so that small figures show

    def found(*more: str) -> dict[str, str]:
        return {
            finding.name: finding.detail for finding in doctor.check_components(compose(*small, "reward=tiny", *more))
        }

    def figure(text: str) -> float:
        return float(text.split(" weights, ")[1].split()[0])

    whole, shared = found(), found("runtime=tensor_parallel", "runtime.workers=4")
    assert figure(shared["model=small"]) == figure(whole["model=small"]) / 4
    assert figure(shared["reward=tiny"]) == figure(whole["reward=tiny"])
    assert "for each of 4 ranks on cpu" in shared["model=small"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(doctor, "free_memory", lambda device: 1 << 40)
    spread = found("runtime=tensor_parallel", "model.dtype=float32", "reward.device=cpu")
    assert "for each of 2 ranks on cuda:0, cuda:1" in spread["model=small"]
    assert figure(spread["model=small"]) == figure(whole["model=small"]) / 2
    assert spread["memory on cuda:0"] == spread["memory on cuda:1"]


def test_what_is_not_here_is_said(rws) -> None:
    result = rws("doctor", "model=llada", "reward=none", "sampler=confidence")
    assert result.exit_code == 1
    said = [line for line in result.output.splitlines() if line.startswith(("✓", "✗", "–"))]
    assert [line for line in said if line.startswith("✗")] == [line for line in said if "model=llada" in line]
    assert "is not on this machine, and the Hub cannot be reached" in " ".join(result.output.split())
    assert rws("doctor", "model.path=/nowhere").exit_code == 1
    assert rws("doctor", "model=lada").exit_code == 2


def test_quantization_halves_and_quarters(small: list[str]) -> None:
    def gib(*more: str) -> str:
        return {f.name: f.detail for f in doctor.examine(compose(*small, *more))}["model=small"]

    count = int(gib().split()[0].replace(",", ""))
    for bits, width in (("8bit", 1), ("4bit", 0.5)):
        assert f"{count * width / doctor.GIB:.2f} GiB" in gib(f"model.quantization={bits}")


class Hub:
    """A hub that takes its time to answer, or does not."""

    def __init__(self, seconds: float, error: Exception | None = None) -> None:
        self.seconds, self.error, self.asked = seconds, error, 0

    def head(self, address: str, timeout: float) -> None:
        self.asked += 1
        time.sleep(self.seconds)
        if self.error:
            raise self.error


@pytest.mark.parametrize(
    ("hub", "answers"),
    [(Hub(0), True), (Hub(0, OSError("no route")), False), (Hub(2), False)],
    ids=["up", "down", "slow"],
)
def test_the_hub_is_asked_once_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, small: list[str], hub: Hub, answers: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_session", lambda: hub)
    monkeypatch.setattr(doctor, "HUB_SECONDS", 0.1)
    monkeypatch.setattr(doctor, "check_components", lambda config, online: [doctor.Finding("online", str(online))])
    findings = {finding.name: finding.detail for finding in doctor.examine(compose(*small))}
    assert findings["online"] == str(answers)
    assert findings["Hub"].startswith("reachable" if answers else "not reachable")
    assert hub.asked == 1


def test_nothing_is_asked_of_a_hub_that_does_not_answer() -> None:
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    with doctor.offline():
        assert constants.HF_HUB_OFFLINE
        assert datasets.config.HF_HUB_OFFLINE
    assert before == constants.HF_HUB_OFFLINE


def test_a_failure_of_any_kind_is_a_line(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(Sudoku, "examples", broken)
    findings = {finding.name: finding for finding in doctor.check_components(compose(*small))}
    assert findings["model=small"].ok
    assert findings["benchmark=sudoku"] == doctor.Finding("benchmark=sudoku", "ZeroDivisionError: by zero", False)
