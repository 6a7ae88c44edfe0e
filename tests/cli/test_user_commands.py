"""The commands that the project was first asked for, and those of the Makefile and README; links in the documents."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from rws_cli.cli.launching import launch
from rws_cli.config.catalog import choices

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)


def test_rws_on_llada_from_a_local_folder(rws, llada_folder: Path) -> None:
    result = rws("run", "sampler=rws", "model=llada", f"model.path={llada_folder}", "reward=verifier", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "llada" in result.output
    assert "guidance rws" in result.output
    assert "nothing was run" in result.output


def test_a_multirun(rws, small: list[str], tmp_path: Path) -> None:
    few = ["benchmark.limit=1", "sampler.tokens_per_step=36"]
    result = rws("run", "--multirun", "sampler=rws,confidence", "seed=0,1", *small, *few)
    assert result.exit_code == 0, result.output
    sweep = tmp_path / "outputs/multirun/latest"
    assert sorted(path.parent.name for path in sweep.glob("*/metrics.json")) == ["0", "1", "2", "3"]


def jobs(arguments: list[str], sweep: Path) -> list[str]:
    """The samplers of the jobs that the arguments of `rws run` stand for, each checked and none run; of an experiment,
    whose jobs other tests check, its name."""
    if arguments and arguments[0].startswith("+experiment="):
        assert arguments[0].partition("=")[2] in choices("experiment")
        return arguments
    found: list[str] = []
    launch(lambda config, composed: found.append(config.sampler.name), arguments, sweep=sweep)
    return found


def recipe(target: str) -> str:
    """What make would run for a target, without running it."""
    command = ["make", "--dry-run", "--always-make", "VENV=nowhere", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize("target", [target for target in TARGETS if target != "clean"])
def test_a_make_target_can_be_read(target: str) -> None:
    assert recipe(target).strip()


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize("target", ["run", "sweep", "paper-small", "pareto"])
def test_what_make_types_are_command_lines(tmp_path: Path, target: str) -> None:
    names = re.search(r"^PAPER := (.*)$", MAKEFILE, re.MULTILINE)
    assert names
    words = [name.split() for name in re.findall(r"nowhere/bin/(rws run[^;\n]*)", recipe(target))]
    assert words
    for line in words:
        for name in names[1].split() if "$name" in " ".join(line) else [""]:
            assert jobs([word.replace("$name", name) for word in line[2:]], tmp_path)


README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    re.sub(r"\s+# .*", "", line)
    for language, block in BLOCKS
    for line in block.splitlines()
    if not language and line.startswith("rws ")
]


@pytest.mark.parametrize("line", [c for c in COMMANDS if re.match(r"rws (run|calibrate|list)\b(?! --config-dir)", c)])
def test_commands_in_the_readme_can_be_run(rws, line: str, tmp_path: Path) -> None:
    words = [word for word in shlex.split(line)[1:] if word not in ("--dry-run", "--cfg", "job")]
    if words[0] == "list":
        assert rws(*words).exit_code == 0
    elif "--resume" in words:
        assert "--resume" in rws("run", "--help").output
    else:
        assert jobs(words[1:], tmp_path)


@pytest.mark.parametrize("line", [c for c in COMMANDS if re.match(r"rws (likelihood|generate)\b", c)])
def test_quick_commands_in_the_readme_run(rws, line: str) -> None:
    result = rws(*shlex.split(line)[1:])
    assert result.exit_code == 0, result.output
    assert "-0.866" in result.output if "likelihood" in line else "so 21 - 2 = 19 + 10 #### 29" in result.output


def test_the_readmes_reward_model_can_be_chosen(rws, tmp_path: Path) -> None:
    """With a checkpoint that exists, and without the steps that need calibrated statistics."""
    (file,) = re.findall(r"`(\S+/mine\.yaml)`", README)
    (block,) = (block for language, block in BLOCKS if language == "yaml")
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(block.replace("path/to/checkpoint", "bundled:tiny-reward"))
    lines = [shlex.split(line)[1:] for line in COMMANDS if "--config-dir" in line]
    assert [words[0] for words in lines] == ["calibrate", "run"]
    result = rws(*lines[1], "--dry-run", "benchmark.limit=1")
    assert result.exit_code == 0, result.output
    assert "mine" in result.output


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (block,) = (block for language, block in BLOCKS if language == "python")
    assert "limit=8" in block
    monkeypatch.chdir(tmp_path)
    exec(block.replace("limit=8", "limit=1"), {})
    assert "accuracy_difference" in (output := capsys.readouterr().out)
    assert output.splitlines()[-1].startswith("so 21 - 2 = 19")


def test_links_in_the_documents_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "RESULTS.md", "SECURITY.md"):
        text = (ROOT / name).read_text()
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            file, _, anchor = link.partition("#")
            if not link.startswith("https://"):
                assert (ROOT / file).exists(), link
                headings = re.findall(r"^#+ (.+)$", (ROOT / (file or name)).read_text(), re.MULTILINE) if anchor else []
                anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert not anchor or anchor in anchors, link
