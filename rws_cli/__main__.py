"""`python -m rws_cli` is `rws`."""

from rws_cli.cli import entry

entry()
