"""`rws list GROUP NAME` says of every choice what Hydra makes of it, and of every setting all that the schema knows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from rws_cli.cli.describe import FREE, describe
from rws_cli.config.catalog import CONF, GROUPS, choices
from rws_cli.config.composing import compose as checked
from rws_cli.config.composing import unchecked
from rws_cli.errors import UsageError

ROOT = Path(__file__).parents[2]
AT = {"guidance": "sampler.guidance", "search": "sampler.search"}


def leaves(node: Any, at: str) -> dict[str, Any]:
    """Dotted keys of what can be set; what papers published is one setting."""
    if not isinstance(node, dict) or not node or at == "table.published":
        return {at: node}
    return {
        key: leaf for name, value in node.items() for key, leaf in leaves(value, f"{at}.{name}".lstrip(".")).items()
    }


def settable(group: str, name: str) -> dict[str, Any]:
    """As it is composed: each setting of the choice's node and its value; of a method or an experiment those of its file."""
    override = {"metric": f"metric=[{name}]", "method": f"+method={name}", "experiment": f"+experiment={name}"}
    first = ["sampler=confidence"] if group == "guidance" else []
    composed = unchecked(*first, override.get(group, f"{group}={name}"))
    values = OmegaConf.to_container(composed, resolve=True)
    if group not in ("method", "experiment"):
        at = AT.get(group, group)
        return leaves(OmegaConf.to_container(OmegaConf.select(composed, at), resolve=True), at)
    content = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    keys = leaves({key: value for key, value in content.items() if key not in ("defaults", "hydra", "sweeps")}, "")
    return {key: value for key, value in leaves(values, "").items() if key in keys}


def shown(output: str) -> dict[str, list[str]]:
    """Setting → the other cells of its row, of a table so wide that nothing is folded."""
    lines = output.splitlines()
    start = next((n for n, line in enumerate(lines) if line.startswith("setting ")), len(lines))
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[start + 1 :]]
    rows = rows[: rows.index([""])] if [""] in rows else rows
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: row[1:] for row in rows}


QUICK = ("sampler", "reward", "benchmark")
"""Groups of which the test suite describes a few choices; the slow tests describe all of all groups."""


def same(default: str, value: Any) -> bool:
    default = re.sub(r" \*$", "", default)
    without_source = re.sub(r" \([\w.:,]+\)$", "", default)
    if value == "???":
        return default == "must be set"
    return value in (default, without_source) or yaml.safe_load(without_source) == value


@pytest.mark.parametrize(
    ("group", "few"),
    [pytest.param(group, group in QUICK, marks=[] if group in QUICK else pytest.mark.slow) for group in GROUPS]
    + [pytest.param(group, False, marks=pytest.mark.slow) for group in QUICK],
)
def test_every_choice_names_every_setting_once_with_its_default(
    rws, group: str, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "6000")
    published = [name for name in choices(group) if name.startswith("published/")][
        1:
    ]  # one stands for these like files
    described = {name: text for name, text in choices(group).items() if name not in published}
    for name, description in list(described.items())[:: max(1, len(described) // 5) if few else 1]:
        result = rws("list", group, name)
        assert result.exit_code == 0, result.output
        assert result.output.startswith(description)
        assert f"{group}/{name}.yaml" in result.output
        assert result.output.splitlines()[-1].startswith("rws "), name
        files = re.findall(r"^code\s+(\S+)", result.output, re.MULTILINE)
        assert all((ROOT / file).is_file() for file in files)
        assert files or name == "none" or group in (*FREE, "likelihood"), name
        rows, expected = shown(result.output), settable(group, name)
        assert {key for key in rows if not key.startswith("+")} == set(expected), name
        for key, value in expected.items():
            assert same(rows[key][0], value), (name, key, value, rows[key])
            assert all(len(cell) > 2 for cell in rows[key][1:]), key
            assert len(rows[key]) == 3


def test_rws_says_what_it_is(rws) -> None:
    output = rws("list", "sampler", "rws").output
    assert "arXiv 2509.00707, https://arxiv.org/abs/2509.00707" in output
    assert "rws_cli/guidance/rws.py" in output
    rows = {row.key: row for row in describe("sampler", "rws").rows}
    strength, form, order = (rows[f"sampler.{key}"] for key in ("guidance.strength", "guidance.form", "order"))
    assert (strength.default, strength.values, strength.changed) == ("1.0", "a number ≥ 0", True)
    assert form.values == "identity · linear · exponential · floored"
    assert not order.changed
    assert {row.key for row in describe("sampler", "remdm_loop").rows if row.changed} >= {
        "sampler.order", "sampler.top_p", "sampler.schedule.t_on",
    }  # fmt: skip


def test_what_must_be_set_and_where_a_default_comes_from() -> None:
    replay = describe("sampler", "recorded_scale")
    assert {row.key: row.default for row in replay.rows}["sampler.guidance.run"] == "must be set"
    assert replay.example == "rws run sampler=recorded_scale sampler.guidance.run=…"
    assert {row.key: row.default for row in replay.rows}["sampler.gen_length"] == "36 (benchmark.gen_length)"
    dream = {row.key: row for row in describe("model", "masked_lm").rows}
    assert dream["model.mask_token_id"].values == "a whole number ≥ 0 or null"
    assert (
        dict(describe("experiment", "controls").facts)["sweeps"]
        == "sampler=confidence,rws,constant_scale,random seed=0,1"
    )


def test_what_is_shown_fits_a_narrow_terminal(rws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    for group, name in (("judge", "openai"), ("sampler", "rws"), ("metric", "perplexity")):
        plain = re.sub(r"\x1b\[[\d;]*m", "", rws("list", group, name).output)
        assert max(map(len, plain.splitlines())) <= 80
        for row in describe(group, name).rows:
            assert f"\n{row.key} " in plain
            if len(row.default) < 20:
                assert re.search(rf"\n{re.escape(row.key)} .*\n  {re.escape(row.default)}", plain), row


EXAMPLES = [
    *(("guidance", name) for name in choices("guidance")), *(("search", name) for name in choices("search")),
    ("reward", "none"), ("reward", "intern"), ("sampler", "recorded_scale"), ("benchmark", "mbpp"), ("benchmark", "keywords"),
    ("method", "rws_eurus"), ("model", "dream"),
]  # fmt: skip


@pytest.mark.parametrize(("group", "name"), EXAMPLES)
def test_its_example_can_be_typed(group: str, name: str) -> None:
    words = describe(group, name).example.split()
    assert words[:2] == ["rws", "run"]
    given = [word.replace("…", "0" * 40 if word.startswith("pins.") else "owner/name") for word in words[2:]]
    assert checked(*given)


def test_unknown_names_get_one_sentence(rws) -> None:
    for arguments, said in (
        (
            ("sampler", "rwz"),
            "sampler=rwz is not known: choose from a_cfg, autoregressive, best_of_n, .* did you mean rws",
        ),
        (("reward", "_classifier"), "reward=_classifier is not known: .*did you mean classifier"),
        (("samplers", "rws"), "samplers is not a group: .*did you mean sampler"),
    ):
        result = rws("list", *arguments)
        assert result.exit_code == 2
        assert re.search(said, result.output)
        assert result.output.count("\n") == 1
    with pytest.raises(UsageError):
        describe("experiment", "controlz")


def test_help_on_a_choice_needs_no_torch() -> None:
    code = "import sys; from rws_cli.cli.describe import describe; describe('reward', 'tiny'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
