"""What Hydra and OmegaConf find wrong with overrides, in one sentence of ours."""

import re
import shlex

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from rws_cli.config.catalog import GROUPS, choices
from rws_cli.config.keys import known_keys, unknown_key
from rws_cli.errors import choose_from, first_line, nearest

PLUGINS = ("joblib", "optuna", "submitit")
"""Extras that install a launcher or a sweeper of Hydra's, whose names begin like theirs."""
LIBRARIES = (HydraException, OmegaConfBaseException, yaml.YAMLError)
NOT_COMPOSED = (
    *LIBRARIES, OSError, ValueError, TypeError, AssertionError, AttributeError, KeyError, IndexError, RuntimeError,
    ImportError,
)  # fmt: skip
"""What Hydra, OmegaConf and the parsers below them raise at overrides and files that they cannot make sense of."""


def quoted(override: str) -> str | None:
    """How to type an override whose value is text that Hydra would read otherwise; None where it is no key=value."""
    key, equals, value = override.partition("=")
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    rewritten = f'{key}="{escaped}"'
    try:
        OverridesParser.create().parse_override(rewritten)
    except HydraException:
        return None
    return shlex.quote(rewritten) if equals else None


def unknown_choice(group: str, name: str) -> str:
    if group in GROUPS:
        return f"{group}={name} is not known: {choose_from(name, choices(group))}"
    if extra := next((extra for extra in PLUGINS if group.startswith("hydra/") and name.startswith(extra)), None):
        return f"{group}={name} is not installed: pip install 'rws[{extra}]'."
    return f"{group}={name} is not known{nearest(group, list(GROUPS)) or '.'}"


def explain(error: Exception) -> str:
    """One sentence for an error of Hydra's: what is wrong, where, and what is allowed."""
    text = str(error)
    if not isinstance(error, LIBRARIES):
        return f"The overrides cannot be composed: {first_line(error)}."
    if isinstance(error, yaml.YAMLError):
        return f"A configuration file is not YAML: {' '.join(text.split())}."
    if match := re.search(r"Could not find '([\w/]+)/([^']*)'", text) or re.search(
        r"Could not load '([\w/]+)/([^']*)'", text
    ):
        return unknown_choice(*match.groups())
    if match := re.search(r"Could not override '([^']*)'", text):
        key = match.group(1)
        if "No match in the defaults list" in text:
            return f"{key} is not a group of choices{nearest(key, list(GROUPS)) or '.'} Groups: {', '.join(GROUPS)}."
        return unknown_key(key)
    if match := re.search(r"Could not append to config\. An item is already at '([^']*)'", text):
        return f"+{match.group(1)} adds a setting that exists: write {match.group(1)}=… without the plus."
    if match := re.search(r"Could not delete from config\. '([^']*)' does not exist", text):
        return f"~{match.group(1)} removes a setting that does not exist{nearest(match.group(1), known_keys()) or '.'}"
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read: write {quoted(error.override) or 'key=value'}."
    if match := re.search(r"Ambiguous value for argument '(.*)'$", text, re.MULTILINE):
        return f"{match[1]} is several values: add -m to run each, or write {quoted(match[1])} for one."
    if match := re.search(r"Sweep parameters '(.*)' requires --multirun", text):
        return f"{match[1]} is several values: add -m to run each."
    return f"{first_line(error)}{'' if first_line(error).endswith('.') else '.'}"
