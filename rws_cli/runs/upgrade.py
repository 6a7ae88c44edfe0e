"""Run folders that an earlier rws wrote: read with the names of today, and rewritten before anything is added to them."""

from pathlib import Path
from typing import Any

from rws_cli.config.check import read_again
from rws_cli.config.identity import config_hash
from rws_cli.config.renamed import SCHEMA
from rws_cli.files import replacing, write_json, write_whole
from rws_cli.runs.folder import read_json, schema_of
from rws_cli.runs.records import FAILURES, SAMPLES, as_lines, part_table, read_lines, trace_files


def read_manifest(run: Path) -> dict[str, Any]:
    """A run's manifest. Of an earlier schema, its configuration has today's names and defaults, and its hash is the one
    that this configuration would have now; `config_hash_before` is the one that was recorded."""
    manifest = read_json(run / "manifest.json")
    if manifest["schema"] < SCHEMA:
        manifest["config"] = read_again(manifest["config"])
        manifest.setdefault("config_hash_before", manifest["config_hash"])
        manifest["config_hash"] = config_hash(manifest["config"])
    return manifest


def upgrade(run: Path) -> None:
    """Rewrite a run's records in today's schema, the manifest last; if this is interrupted, it can be done again."""
    if schema_of(run) == SCHEMA:
        return
    import pyarrow.parquet as pq

    manifest = read_manifest(run)
    for file in trace_files(run):
        if file.exists():
            with replacing(file) as fresh:
                pq.write_table(part_table(file), fresh)
    for file in (run / SAMPLES, run / FAILURES, *run.glob("judgements/*/verdicts.jsonl")):
        if file.exists():
            write_whole(file, as_lines(read_lines(file)))
    if (run / "metrics.json").exists():
        write_json(run / "metrics.json", read_json(run / "metrics.json"))
    write_json(run / "manifest.json", manifest | {"schema": SCHEMA})
