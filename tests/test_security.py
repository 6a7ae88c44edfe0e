"""What a configuration or an environment must not be able to do."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from support import manifest_of

from rws_cli.cli.jobs import plan_task, run
from rws_cli.cli.launching import launch, recorded_overrides
from rws_cli.config.catalog import CONF
from rws_cli.config.check import check_consent
from rws_cli.config.composing import compose, unchecked
from rws_cli.errors import UsageError

REFUSED = [
    ["+hydra.callbacks.mine._target_=os.system"],
    ["hydra.callbacks={mine: {_target_: os.system}}"],
    ["hydra.launcher._target_=os.system", "-m"],
    ["hydra/job_logging=default"],
    ["+hydra.job_logging.handlers.x.()=os.system"],
    ["+sampler._target_=os.system"],
]


@pytest.mark.parametrize("arguments", REFUSED, ids=[" ".join(arguments) for arguments in REFUSED])
def test_no_object_is_made_of_a_command_line(rws, arguments: list[str], tmp_path: Path) -> None:
    result = rws("run", *arguments)
    assert result.exit_code == 2, result.output
    assert "would create Python objects from a configuration" in result.output
    assert not list(tmp_path.iterdir())


CALLBACK = "callbacks: {x: {_target_: pathlib.Path.mkdir, self: {_target_: pathlib.Path, _args_: [ran]}}}"
FOLDERS = {
    "_target_: os.system": "would create Python objects from a configuration",
    f"hydra: {{{CALLBACK}}}": "hydra.callbacks",
    "hydra: {job_logging: {root: {level: INFO}}}": "hydra.job_logging",
    "hydra: {launcher: {setup: [touch ran]}}": "hydra.launcher.setup",
    "hydra: {launcher: '${table}'}\ntable: {_target_: os.system}": "hydra.launcher",
    "hydra: {sweeper: {custom_search_space: os.mkdir}}": "hydra.sweeper.custom_search_space",
    "hydra: {sweeper: {params: {hydra.job.env_set.LD_PRELOAD: /x.so}}, mode: MULTIRUN}": "hydra.job.env_set",
    "hydra: {sweeper: {params: {+hydra.callbacks.x: 3}}, mode: MULTIRUN}": "hydra.callbacks",
    "hydra: {sweeper: {params: {label: \"${oc.decode:'{_target_: os.system}'}\"}}, mode: MULTIRUN}": "_target_",
    "hydra: {job: {env_set: {PYTHONPATH: /x}}}": "hydra.job.env_set",
    "hydra: {job: {chdir: true}}": "hydra.job.chdir",
    "hydra: {searchpath: ['file:///tmp']}": "hydra.searchpath",
    "sweeps: [[hydra.job.env_set.X=1]]": "hydra.job.env_set.X=1",
    "sweeps: [[--config-dir=/x]]": "--config-dir=/x",
    "sweeps: [['label=\"a']]": "a list of lists of overrides",
    "label: ${oc.env:HF_TOKEN}": "label",
    "label: '${${table.a}:HF_TOKEN}'\ntable: {a: oc.env}": "label",
    "model: {trust_remote_code: true, revision: '0000000000000000000000000000000000000000'}": "type trust_remote_code=true",
    "metric: {x: {module: code}}": "metric.x.module",
    "judge: {base_url: 'http://elsewhere'}": "judge.base_url",
}


@pytest.mark.parametrize("content", FOLDERS)
def test_nor_of_a_configuration_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code").mkdir()
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "bad.yaml").write_text(f"# @package _global_\n{content}\n")
    typed = ["--config-dir=mine", "+experiment=bad", *(["judge=openai"] if "base_url" in content else [])]
    with pytest.raises(UsageError) as refused:
        launch(plan_task, typed)
    assert FOLDERS[content] in str(refused.value)
    assert "hf_0123456789" not in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code", "mine"]


def test_a_configuration_behind_a_link_is_read_alike(rws, tmp_path: Path) -> None:
    """The check is of what was composed: names and links of files do not matter."""
    text, own = (CONF / "config.yaml").read_text(), tmp_path / "mine" / "own.yaml"
    (tmp_path / "mine").mkdir()
    own.write_text(text)
    whole = rws("run", "--config-dir", "mine", "--config-name=own", "--cfg=job")
    assert whole.exit_code == 0, whole.output
    (tmp_path / "elsewhere.txt").write_text(text.replace("hydra:\n", f"hydra:\n  {CALLBACK}\n"))
    own.unlink()
    own.symlink_to(tmp_path / "elsewhere.txt")
    for arguments in (["-cd=mine", "-cn=own"], ["--config-dir=mine", "--config-name", "own", "-m"]):
        result = rws("run", *arguments)
        assert (result.exit_code, "hydra.callbacks" in result.output) == (2, True), result.output
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("command", ["run", "calibrate", "generate"])
def test_options_that_rws_does_not_have_are_refused(rws, command: str) -> None:
    for option in (
        "--experimental-rerun=x", "--experimental-re=x", "--config-path=mine", "--config-p=mine", "-cp=mine", "-cdmine",
        "--config-d=mine", "--hydra-help", "--info", "-hm", "-xh=/a/h",
    ):  # fmt: skip
        result = rws(command, "seed=0", option)
        assert result.exit_code == 2, result.output
        assert f"rws: {option.partition('=')[0]} is not an option of rws {command}" in result.output


def test_a_path_behind_an_option_is_no_option(rws) -> None:
    for option in ("-cd=/a/path/with/h", "--config-dir=/a/path/with/h"):
        result = rws("run", option)
        assert result.exit_code == 2
        assert result.output == "rws: --config-dir=/a/path/with/h is not a folder.\n"


RECORDED = {
    "--experimental-rerun": "--experimental-rerun",
    "--config-dir=/x": "--config-dir=/x",
    "hydra.launcher.setup=[touch ran]": "hydra.launcher.setup",
    "hydra/callbacks=x": "hydra/callbacks=x",
    "hydra.job.env_set.LD_PRELOAD=x": "hydra.job.env_set",
    "reward@hydra.launcher=tiny": "reward@hydra.launcher",
    "hydra={launcher: {setup: [x]}}": "hydra={launcher",
    "model.trust_remote_code=true": "type trust_remote_code=true",
    "+metric.x.module=code": "type metric.x.module=code",
    "label=${oc.env:HF_TOKEN}": "label",
}


@pytest.mark.parametrize("override", RECORDED)
@pytest.mark.parametrize("sweep", [False, True])
def test_what_a_run_was_started_with_is_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, sweep: bool
) -> None:
    """A folder may be a stranger's: of its records only settings of rws are taken, none of which runs code."""
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "got").mkdir()
    overrides = [override, f"model.revision={'0' * 40}"]
    command = ["rws", "run", "-m", *overrides] if sweep else ["rws", "run"]
    stored = {"command": shlex.join(command)}
    if not sweep:
        groups = {group: {"name": "x"} for group in ("model", "reward", "benchmark")}
        kinds = {name: {"kind": "none"} for name in ("schedule", "remasking", "search")}
        stored = manifest_of(
            {"seed": 0, "sampler": {"name": "x"} | kinds} | groups, overrides=overrides, status="running", **stored
        )
    (tmp_path / "got" / ("sweep.json" if sweep else "manifest.json")).write_text(json.dumps(stored))
    with pytest.raises(UsageError) as refused:
        run([], "got", dry_run=True)
    assert RECORDED[override] in str(refused.value)
    assert "hf_0123456789" not in str(refused.value)


BROKEN = ["[]", "3", "{}", '{"command": 3}', '{"command": "rws run \'"}', '{"command": null}', '{"overrides": 3}', "{"]


@pytest.mark.parametrize("name", ["sweep.json", "manifest.json"])
def test_a_file_that_does_not_say_how_it_was_started_is_one_sentence(rws, tmp_path: Path, name: str) -> None:
    for content in BROKEN:
        (tmp_path / name).write_text(content)
        result = rws("run", "--resume", ".")
        assert result.exit_code in (1, 2), (content, result.output)
        assert name in result.output
        assert result.output.count("\n") == 1, result.output


def test_what_a_sweep_was_started_with_is_named_and_can_be_typed_again(tmp_path: Path) -> None:
    file = tmp_path / "sweep.json"
    command = ["-m", "--config-dir", "my conf", "seed=0,1", "hydra/launcher=slurm", "hydra.launcher.partition=gpu"]
    file.write_text(json.dumps({"command": shlex.join(["rws", "run", *command])}))
    with pytest.raises(UsageError) as refused:
        recorded_overrides(file, [])
    assert f"rws run --resume {tmp_path} '--config-dir=my conf' hydra.launcher.partition=gpu" in str(refused.value)
    typed = ["--config-dir=elsewhere", "hydra.launcher.partition=cpu"]
    assert recorded_overrides(file, typed) == ["seed=0,1", "hydra/launcher=slurm"]


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


def test_a_sweep_takes_no_judges_address_from_its_jobs(rws, tmp_path: Path, small: list[str]) -> None:
    sweep = ["-m", *small, "sampler=confidence,random", "benchmark.limit=1", "hydra.sweep.dir=sweep"]
    assert rws("run", *sweep).exit_code == 0
    for manifest in (tmp_path / "sweep").glob("*/manifest.json"):
        value = json.loads(manifest.read_text())
        value["config"]["judge"] = OmegaConf.to_container(unchecked("judge=openai", "judge.base_url=http://x").judge)
        manifest.write_text(json.dumps(value))
    again = rws("run", *sweep)
    assert "Not judged: judge.base_url=http://x must be given on the command line" in again.output


def test_consent_is_the_setting_itself_with_its_value() -> None:
    config = compose("reward=classifier", "reward.path=owner/model")
    config.reward.trust_remote_code = True
    for typed in (
        [],
        ["reward.trust_remote_code=false"],
        ["label=trust_remote_code"],
        ["output=trust_remote_code=true"],
    ):
        with pytest.raises(UsageError, match=r"reward\.trust_remote_code=true must be given on the command line"):
            check_consent(config, typed)
    check_consent(config, ["reward.trust_remote_code=true"])
    config = compose("judge=openai", "judge.base_url=http://here")
    for typed in ([], ["judge.base_url=http://elsewhere"], ["label=http://here"]):
        with pytest.raises(UsageError, match="judge.base_url=http://here must be given on the command line"):
            check_consent(config, typed)
    check_consent(config, ["judge.base_url=http://here"])
