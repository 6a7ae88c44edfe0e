"""A finished run as a data set: on the Hugging Face hub, or in a folder that holds exactly what the hub would.

`datasets.load_dataset` reads it: the samples by default, the trace as the configuration "trace". It reads all of a data
set's configurations as files of one format, so samples.jsonl goes with samples.parquet, the same with types. The card says
how the run was made; it shows no model output, and nothing in it is read as Markdown or HTML that was not written here.
"""

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rws_cli.errors import RunError, UsageError, without_secrets
from rws_cli.files import replacing, user_path, write_whole
from rws_cli.report.escape import as_yaml, markdown, markdown_table
from rws_cli.report.terminal import rows_of
from rws_cli.runs.records import FAILURES, SAMPLES, TRACE, read_finished, read_lines, read_trace
from rws_cli.runs.upgrade import read_manifest, upgrade

FILES = ("manifest.json", SAMPLES, TRACE, "metrics.json", FAILURES)
CARD, TYPED = "README.md", "samples.parquet"
CARD_TEXT = Path(__file__).parent / "page" / "card.md"
UNFINISHED = ".unfinished"
"""Marks a folder that is being written; one that was left by an interrupted push is written again."""
ON_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def push(run: Path, to: str, public: bool = False) -> str:
    """Write a run to USER/NAME on the hub, or into a new or empty folder; returns where it is. A data set that the hub
    does not have yet is made private, unless it is to be public.

    Raises UsageError if the run has not ended or the place is none, and RunError if the hub does not take it.
    """
    manifest = read_manifest(run)
    if not (run / "metrics.json").exists() or not (manifest["status"] == "finished" or manifest["failed"]):
        raise UsageError(f"{run} is {manifest['status']}: finish it with rws run --resume {run}.")
    folder = user_path(to)
    if to.startswith((".", "/", "~")) or folder.exists():
        unfinished = folder / UNFINISHED
        if folder.exists() and not (folder.is_dir() and (unfinished.exists() or not any(folder.iterdir()))):
            raise UsageError(f"{to} is not empty: name a new or an empty folder.")
        folder.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
        write(run, manifest, folder)
        unfinished.unlink()
        return str(folder)
    if not ON_HUB.fullmatch(to):
        raise UsageError(
            f"{to} is no place for a data set: write USER/NAME for the Hugging Face hub, or ./{to} for a folder."
        )
    with tempfile.TemporaryDirectory() as made:
        write(run, manifest, Path(made))
        return upload(Path(made), to, public)


def write(run: Path, manifest: dict[str, Any], folder: Path) -> None:
    """Copy the run's files, and write its typed samples and its card. Raises RunError for links, because their
    targets are not part of the run, and for invalid files."""
    import pyarrow.parquet as pq

    names = [name for name in FILES if name != FAILURES or (run / name).exists()]
    if links := [name for name in names if (run / name).is_symlink()]:
        raise RunError(f"{run / links[0]} is a link: only files of the run itself are pushed.")
    samples, metrics = read_finished(run)
    read_lines(run / FAILURES)
    read_trace(run)
    for name in names:
        with replacing(folder / name) as fresh:
            shutil.copyfile(run / name, fresh)
    upgrade(folder)
    with replacing(folder / TYPED) as fresh:
        pq.write_table(typed(samples), fresh)
    write_whole(folder / CARD, card(manifest, metrics))


def typed(samples: list[dict[str, Any]]) -> Any:
    """The samples as a table. A field without any value is left out, because Parquet has no empty records; one with
    several types becomes JSON text."""
    import pyarrow as pa

    columns = {}
    for name in dict.fromkeys(name for sample in samples for name in sample):
        values = [sample.get(name) for sample in samples]
        try:
            array = pa.array(values)
            mixed = "struct<>" in str(array.type)
        except (pa.ArrowException, OverflowError):
            mixed = True
        if not mixed:
            columns[name] = array
        elif any(values):
            columns[name] = pa.array([json.dumps(value, ensure_ascii=False) for value in values])
    return pa.table(columns)


def upload(folder: Path, name: str, public: bool) -> str:
    """Upload a folder. Raises RunError, in one sentence and without the token, if the hub refuses."""
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if not token:
        raise RunError(f"{name} cannot be written without a token of the hub: run hf auth login, or set HF_TOKEN.")
    api = HfApi()
    try:
        url = api.create_repo(name, repo_type="dataset", exist_ok=True, private=not public)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            repo_type="dataset",
            commit_message="A run of rws",
            delete_patterns=[FAILURES],  # of a run that was here before
        )
    except Exception as error:  # of the hub's client or the one below it, which changes from version to version
        raise RunError(f"{name} was not written: {refusal(error).replace(token, '…')}.") from error
    return str(url)


def refusal(error: Exception) -> str:
    """Why the hub refused."""
    reasons = {
        401: "the hub does not know the token; run hf auth login, or set HF_TOKEN",
        403: "the token may not write there",
        404: "there is no such user or organization, or the token may not see it",
    }
    status = getattr(getattr(error, "response", None), "status_code", None)
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "the hub is turned off by HF_HUB_OFFLINE"
    if status in reasons:
        return reasons[status]
    text = str(getattr(error, "server_message", None) or error).strip() or type(error).__name__
    return f"the hub could not be reached or refused it: {without_secrets(text.splitlines()[0].rstrip('.'))}"


def card(manifest: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The data set card: a header for machines, then Markdown."""
    config = manifest["config"]
    title = " · ".join(config[group]["name"] for group in ("benchmark", "model", "sampler"))
    failed = len(manifest["failed"])
    notes = [
        *([f"Its label is {markdown(config['label'])}."] if config.get("label") else []),
        *([f"{failed} examples failed and are not among them, see {FAILURES}."] if failed else []),
    ]
    git = manifest["git"]
    facts = {
        "started": manifest["started"],
        "finished": manifest["finished"],
        "git": f"{git['commit']}{', with changes' if git['dirty'] else ''}" if git else "an installed package",
        **{f"machine: {name}": as_text(value) for name, value in manifest["machine"].items()},
        **{f"version of {name}": value for name, value in manifest["versions"].items()},
    }
    return CARD_TEXT.read_text(encoding="utf-8").format(
        header=as_yaml(header(title)).strip(),
        title=markdown(title),
        examples=metrics["examples"],
        notes=" ".join(notes),
        metrics=markdown_table(["", ""], rows_of(metrics)),
        command=code(manifest["command"], "sh"),
        overrides=code("\n".join(manifest["overrides"]) or "none", ""),
        facts=markdown_table(["", ""], facts.items()),
        sources=code(as_yaml(manifest["sources"]), "yaml"),
        config_hash=manifest["config_hash"],
        config=code(as_yaml(config), "yaml"),
    )


def header(title: str) -> dict[str, Any]:
    """The header that the hub and `datasets` read."""
    return {
        "pretty_name": title,
        "tags": ["rws", "masked-diffusion", "decoding"],
        "configs": [
            {"config_name": "samples", "data_files": TYPED, "default": True},
            {"config_name": "trace", "data_files": TRACE},
        ],
    }


def code(text: str, language: str) -> str:
    """A code block. Its fence is longer than any in the text, so nothing in it is read as Markdown or HTML."""
    fence = "`" * max(3, *(len(ticks) + 1 for ticks in re.findall("`+", text)), 3)
    return f"{fence}{language}\n{text.rstrip(chr(10))}\n{fence}"


def as_text(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
