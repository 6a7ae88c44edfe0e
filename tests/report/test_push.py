"""Runs as data sets: what `datasets` loads is what the run wrote, and what the hub is asked."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from support import LIMIT

from rws_cli.errors import RunError, UsageError
from rws_cli.report.escape import markdown
from rws_cli.report.push import card, code, push, typed
from rws_cli.runs.records import read_samples, read_trace

TOKEN = "hf_0123456789abcdefSECRET"
FILES = ["README.md", "manifest.json", "metrics.json", "samples.jsonl", "samples.parquet", "trace.parquet"]


@pytest.fixture
def finished(rws, small: list[str], tmp_path: Path) -> Path:
    assert rws("run", *small, "label='<script>alert(1)</script> | *x*'").exit_code == 0
    return tmp_path / "outputs" / "sudoku" / "small-rws" / "v001"


def loaded(folder: Path, tmp_path: Path, *config: str) -> list[dict[str, Any]]:
    import datasets

    return datasets.load_dataset(str(folder), *config, split="train", cache_dir=str(tmp_path / "cache")).to_list()


def test_a_folder_loads_as_what_the_run_wrote(rws, finished: Path, tmp_path: Path) -> None:
    result = rws("push", "outputs/sudoku/small-rws", "./set")
    assert result.exit_code == 0, result.output
    assert result.output == "set\n"
    folder = tmp_path / "set"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    for name in ("manifest.json", "metrics.json", "samples.jsonl", "trace.parquet"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()
    samples = read_samples(finished)
    assert loaded(folder, tmp_path) == [{k: v for k, v in s.items() if k != "measures"} for s in samples]
    assert all(sample["measures"] == {} for sample in samples)  # what is left out
    assert loaded(folder, tmp_path, "trace") == read_trace(finished)

    again = rws("push", str(finished), "set")  # it exists, so it is no name on the hub
    assert again.exit_code == 2
    assert "set is not empty" in again.output


def test_a_push_that_was_broken_off_is_done_again(
    rws, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rws_cli.report.push.card", killed)
        assert rws("push", str(finished), "./set").exit_code == 130
    assert (tmp_path / "set" / "samples.jsonl").exists()
    assert rws("push", str(finished), "./set").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == FILES


@pytest.mark.parametrize("name", ["failures.jsonl", "trace.parquet", "samples.jsonl"])
def test_a_push_follows_no_link(rws, finished: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").write_text("root:x:0:0\n")
    (finished / name).unlink(missing_ok=True)
    (finished / name).symlink_to(tmp_path / "elsewhere")
    result = rws("push", str(finished), "./set")
    assert result.exit_code == 1
    assert f"{name} is a link" in result.output
    assert not (tmp_path / "set" / name).exists()
    (finished / name).unlink()
    (finished / name).hardlink_to(tmp_path / "elsewhere")  # which looks like a file, but is no record
    assert rws("push", str(finished), "./set").exit_code == 1
    assert not (tmp_path / "set" / name).exists()


def test_nested_missing_and_mixed_fields_are_loaded(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    samples = [
        {"id": "a", "history": [], "grade": None, "reward": None, "measures": {}, "nothing": {}, "mixed": 1, "never": None},
        {"id": "b", "history": [["q", "a"], ["r", "ä"]], "grade": {"correct": True}, "reward": 1, "measures": {"m": None},
         "nothing": {}, "mixed": "one", "never": None},
        {"id": "c", "history": [], "grade": None, "reward": 0.5, "measures": {"m": 2.5}, "nothing": {}, "mixed": None},
    ]  # fmt: skip
    pq.write_table(typed(samples), tmp_path / "samples.parquet")
    rows = loaded(tmp_path, tmp_path)
    assert [row["history"] for row in rows] == [sample["history"] for sample in samples]
    assert [row["grade"] for row in rows] == [None, {"correct": True}, None]
    assert [row["reward"] for row in rows] == [None, 1.0, 0.5]
    assert [row["measures"] for row in rows] == [{"m": None}, {"m": None}, {"m": 2.5}]
    assert [json.loads(row["mixed"]) for row in rows] == [1, "one", None]
    assert [row["never"] for row in rows] == [None] * 3
    assert "nothing" not in rows[0]


def test_the_card_says_how_the_run_was_made_and_shows_nothing_else(finished: Path, tmp_path: Path) -> None:
    push(finished, str(tmp_path / "set"))
    text = (tmp_path / "set" / "README.md").read_text()
    manifest = json.loads((finished / "manifest.json").read_text())
    _, head, body = text.split("---\n", 2)
    header = yaml.safe_load(head)
    assert [config["config_name"] for config in header["configs"] if config.get("default")] == ["samples"]
    assert "license" not in header
    page = MarkdownIt("commonmark").enable("table").render(body)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3  # the label, an override, the configuration
    assert "| *x*." in page
    assert manifest["command"].split()[0] in page
    assert manifest["config_hash"] in page
    assert manifest["sources"]["benchmark"]["sha256"] in page
    assert manifest["machine"]["platform"] in page
    assert f"<td>{manifest['versions']['torch']}</td>" in page
    assert "95 % interval" in page
    assert yaml.safe_load(page.rpartition('<code class="language-yaml">')[2].partition("</code>")[0].replace(
        "&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")) == manifest["config"]  # fmt: skip
    assert not [s for s in read_samples(finished) if s["completion"] in text or s["prompt"] in text]


def test_nothing_leaves_its_place_in_a_card() -> None:
    hostile = "a\n```\n# not a title\n````\n<img src=x onerror=alert(1)> [x](javascript:y) | **b** `c` \\ ~~d~~ &amp;"
    block = MarkdownIt("commonmark").render(code(hostile, ""))
    assert block.count("<code") == 1
    assert "<h1" not in block
    assert "<img" not in block
    cell = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(f"| |\n|-|\n| {markdown(hostile)} |")
    assert cell.count("<td>") == 1
    for tag in ("<img", "<a ", "<strong", "<code", "<h1", "<s>"):
        assert tag not in cell
    assert "&amp;amp;" in cell


def test_a_run_that_has_not_ended_is_refused(rws, finished: Path, tmp_path: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())
    for status in ("running", "interrupted", "failed"):
        (finished / "manifest.json").write_text(json.dumps(manifest | {"status": status}))
        result = rws("push", str(finished), "./set")
        assert result.exit_code == 2, result.output
        assert f"is {status}: finish it with rws run --resume" in result.output
    failed = {"status": "failed", "failed": {"sudoku-test-0-9": "no numbers"}}  # all but some are done
    (finished / "manifest.json").write_text(json.dumps(manifest | failed))
    (finished / "failures.jsonl").write_text('{"id": "sudoku-test-0-9", "error": "no numbers"}\n')
    assert rws("push", str(finished), "./set").exit_code == 0
    assert (tmp_path / "set" / "failures.jsonl").exists()
    assert "1 examples failed" in (tmp_path / "set" / "README.md").read_text()
    assert rws("push", str(finished), "name").exit_code == 2
    assert rws("push", "nowhere", "./other").exit_code == 2


class Hub:
    """Stands for huggingface_hub.HfApi."""

    def __init__(self) -> None:
        self.created: list[Any] = []
        self.uploaded: list[Any] = []
        self.error: Exception | None = None

    def create_repo(self, repo_id: str, **options: Any) -> str:
        if self.error:
            raise self.error
        self.created.append((repo_id, options))
        return f"https://hub/datasets/{repo_id}"

    def upload_folder(self, *, folder_path: Path, **options: Any) -> None:
        self.uploaded.append((sorted(path.name for path in folder_path.iterdir()), options))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    import huggingface_hub

    fake = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return fake


def test_the_hub_is_given_what_a_folder_is(rws, finished: Path, hub: Hub) -> None:
    result = rws("push", str(finished), "me/my.set")
    assert result.exit_code == 0, result.output
    assert result.output == "https://hub/datasets/me/my.set\n"
    assert rws("push", str(finished), "me/my.set", "--public").exit_code == 0
    assert [name for name, _ in hub.created] == ["me/my.set"] * 2
    assert [options["private"] for _, options in hub.created] == [True, False]
    assert all(options["repo_type"] == "dataset" and options["exist_ok"] for _, options in hub.created)
    assert [files for files, _ in hub.uploaded] == [FILES] * 2
    assert all(o["repo_type"] == "dataset" and o["repo_id"] == "me/my.set" for _, o in hub.uploaded)


def status(code: int) -> Exception:
    error = Exception(f"{code} for url https://hub, token {TOKEN}\nand more")
    error.response = SimpleNamespace(status_code=code)  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (status(401), "does not know the token"),
        (status(403), "may not write there"),
        (status(404), "no such user"),
        (status(500), "could not be reached or refused it: 500 for url https://hub, token …"),
        (ConnectionError("no route"), "could not be reached or refused it: no route"),
        (ConnectionError(), "ConnectionError"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(rws, finished: Path, hub: Hub, error: Exception, said: str) -> None:
    hub.error = error
    result = rws("push", str(finished), "me/set")
    assert result.exit_code == 1, result.output
    assert said in result.output
    assert result.output.count("\n") == 1
    assert TOKEN not in result.output


def test_without_a_token_or_a_network_nothing_is_sent(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(RunError, match="HF_HUB_OFFLINE"):  # which the tests set: the real client
        push(finished, "me/set")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(RunError, match="without a token"):
        push(finished, "me/set")
    with pytest.raises(UsageError, match="no place for a data set"):
        push(finished, "me/my/set")


def test_the_card_of_an_installed_package(finished: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text()) | {"git": None}
    assert f"{LIMIT} completions" in (text := card(manifest, json.loads((finished / "metrics.json").read_text())))
    assert "| git | an installed package |" in text
