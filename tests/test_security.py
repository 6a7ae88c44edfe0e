"""What a configuration or an environment must not be able to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from rws_cli.config import compose
from rws_cli.errors import UsageError

REFUSED = [
    ["+hydra.callbacks.mine._target_=os.system"],
    ["hydra.callbacks={mine: {_target_: os.system}}"],
    ["hydra.launcher._target_=os.system", "-m"],
    ["hydra/job_logging=default"],
    ["+hydra.job_logging.handlers.x.()=os.system"],
    ["+sampler._target_=os.system"],
    ["hydra.searchpath=[file:///tmp]"],
]


@pytest.mark.parametrize("arguments", REFUSED, ids=[" ".join(arguments) for arguments in REFUSED])
def test_no_object_is_made_of_a_command_line(rws, arguments: list[str], tmp_path: Path) -> None:
    result = rws("run", *arguments)
    assert result.exit_code == 2, result.output
    assert "would make Python objects of a configuration" in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", ["_target_: os.system", "hydra:\n  callbacks:\n    x: {_target_: os.system}", "hydra: {job_logging: {}}"]
)
def test_nor_of_a_configuration_folder(rws, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "bad.yaml").write_text(f"# @package _global_\n{content}\n")
    result = rws("run", "--config-dir", str(tmp_path / "mine"), "+experiment=bad")
    assert result.exit_code == 2, result.output
    assert "would make Python objects of a configuration" in result.output


@pytest.mark.parametrize("at", ["model", "reward", "sampler", "benchmark"])
@pytest.mark.parametrize("name", ["../up", "/etc/x", "a/b", "..", "", ".hidden", "a b"])
def test_names_stay_within_the_output_folder(at: str, name: str) -> None:
    with pytest.raises(UsageError, match=f"{at}.name="):
        compose(f"{at}.name='{name}'")


def test_secrets_are_written_nowhere(rws, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hf_0123456789abcdefSECRET"
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY"):
        monkeypatch.setenv(name, secret)
    output = "".join(rws(*command).output for command in (["run", *small], ["doctor", *small], ["run", "--cfg", "all"]))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 4
    assert not [path for path in written if secret.encode() in path.read_bytes()]
    assert secret not in output


def test_pickled_weights_are_refused(rws, llada_folder: Path, tmp_path: Path) -> None:
    import torch

    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in llada_folder.iterdir():
        if "safetensors" not in file.name:
            (folder / file.name).write_bytes(file.read_bytes())
    torch.save({}, folder / "pytorch_model.bin")
    result = rws("run", f"model.path={folder}", "reward=verifier", "benchmark.limit=1")
    assert result.exit_code == 2, result.output
    assert "cannot be loaded" in result.output
