"""Files are UTF-8 whatever the locale, and what the locale cannot show is no traceback."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rws_cli.cli import app, entry
from rws_cli.errors import UsageError
from rws_cli.files import write_json
from rws_cli.runs.folder import read_json
from rws_cli.runs.generate import decoded

ROOT = Path(__file__).parents[2]
TINY = ["sampler=confidence", "reward=none", "sampler.gen_length=4", "sampler.tokens_per_step=4"]


def without_encoding(tree: ast.AST) -> list[int]:
    """Lines that read or write text in the locale's encoding."""
    found = []
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and "encoding" not in {keyword.arg for keyword in call.keywords}:
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            as_text = any(k.arg == "text" and isinstance(k.value, ast.Constant) for k in call.keywords)
            if (
                name in ("read_text", "write_text")
                or as_text
                or (name == "open" and {"r", "w", "a", "x", "a+"} & {*modes})
            ):
                found.append(call.lineno)
    return found


@pytest.mark.parametrize("line", ["file.read_text()", "open('a', 'w')", "p.open('a+')", "run(x, text=True)"])
def test_a_file_in_the_locales_encoding_is_found(line: str) -> None:
    assert without_encoding(ast.parse(line)) == [1]


def test_every_text_file_is_opened_as_utf8() -> None:
    files = [file for folder in ("rws_cli", "scripts") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    named = {str(file.relative_to(ROOT)): without_encoding(ast.parse(file.read_bytes())) for file in files}
    assert {file: lines for file, lines in named.items() if lines} == {}


IN_THE_C_LOCALE = """
from pathlib import Path
from rws_cli.runs.progress import Progress
from rws_cli.runs.records import append_lines, read_samples
from support import sample_of
here = Path(".")
append_lines(here / "samples.jsonl", [sample_of("a", 1.0, prompt="caf\\xe9 \\u674e")])
assert read_samples(here)[0]["prompt"] == "caf\\xe9 \\u674e"
Progress(1, [], here / "run.log").notify("caf\\xe9 failed")
"""


def test_records_are_utf8_in_the_c_locale(tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": path}
    ran = subprocess.run([sys.executable, "-c", IN_THE_C_LOCALE], cwd=tmp_path, env=environment, capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()
    assert "café 李" in (tmp_path / "samples.jsonl").read_text(encoding="utf-8")
    assert "café failed" in (tmp_path / "run.log").read_text(encoding="utf-8")


def test_a_prompt_is_utf8_or_the_locales(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoded("café".encode()) == "café"
    with pytest.raises(UsageError, match=r"not valid UTF-8: byte 4 is 0xe9"):
        decoded(b"caf\xe9")
    monkeypatch.setattr("locale.getencoding", lambda: "latin-1")
    assert decoded(b"caf\xe9") == "café"


def test_bytes_that_are_not_text_are_one_sentence() -> None:
    result = CliRunner().invoke(app, ["generate", "-", *TINY], input=b"\xff\xfe")
    assert result.exit_code == 2
    assert result.output == "rws: The prompt is not valid UTF-8: byte 1 is 0xff.\n"


def test_a_name_that_is_not_utf8_is_kept_as_it_is(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / "a.json", {"output": name})
    assert read_json(tmp_path / "a.json") == {"output": name}
    assert (tmp_path / "a.json").read_text(encoding="utf-8").isascii()


def test_what_the_locale_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", None)  # as where it is closed
    monkeypatch.setattr("rws_cli.cli.app", lambda **_: print("café"))
    entry()
    shown.flush()
    assert shown.buffer.getvalue() == b"caf\\xe9\n"
