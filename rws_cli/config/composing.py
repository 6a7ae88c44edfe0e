"""Compose configurations with Hydra, and check everything that Hydra composes.

Hydra instantiates Python objects from some of its own settings (callbacks, logging, launchers, sweepers) and sets
environment variables from others. Any file or override can contain them, so the composed result is checked every time:
for a sweep, and again for each of its jobs, in each process.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import MISSING
from typing import Any

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from rws_cli import registry
from rws_cli.config.catalog import CONF, external_folders
from rws_cli.config.check import check, check_consent, environment_hidden
from rws_cli.config.hydra_errors import NOT_COMPOSED, explain
from rws_cli.config.identity import differing_keys
from rws_cli.config.keys import PARTS
from rws_cli.config.renamed import advise, rename_settings, renamed_choice, renamed_override
from rws_cli.config.schema import Config
from rws_cli.errors import UsageError
from rws_cli.files import user_path

CORE, PLUGINS = "hydra._internal.core_plugins", "hydra_plugins"
TARGETS = {
    "hydra.launcher._target_": "|".join(
        (
            rf"{CORE}\.basic_launcher\.BasicLauncher",
            rf"{PLUGINS}\.hydra_joblib_launcher\.joblib_launcher\.JoblibLauncher",
            rf"{PLUGINS}\.hydra_submitit_launcher\.submitit_launcher\.(Slurm|Local)Launcher",
        )
    ),
    "hydra.sweeper._target_": rf"{CORE}\.basic_sweeper\.BasicSweeper|"
    rf"{PLUGINS}\.hydra_optuna_sweeper\.optuna_sweeper\.OptunaSweeper",
    "hydra.sweeper.sampler._target_": r"optuna\.samplers\.\w+",
}
"""The classes that Hydra may instantiate, by the key that names them."""
NAMES_OBJECTS = re.compile(r"^[+~]*hydra[./](callbacks|job_logging|hydra_logging)|(^|[.{, ])_target_ *[:=]")
"""Overrides refused here, before Hydra sees them, for a clear message."""
OBJECTS = "{} would create Python objects from a configuration, which rws does not allow: remove it."
SWEEP_DIR = "${output}/multirun"
"""hydra.sweep.dir in conf/: each sweep gets its own folder in it."""
UNTRUSTED = ("command-line", "parts")
"""Hydra's names for the folders whose files may not change how Hydra runs."""
LOOP = "write a loop over single runs, and compare them with rws.compare."
FROM_A_FOLDER = re.compile(r"mode|sweeper\.params\..+")
"""Settings of Hydra's own that a configuration folder may change."""


class Loader(ConfigLoaderImpl):
    """Composes from the user's configuration folder, if given, then those of external parts, then conf/.

    Raises UsageError if the user's folder does not exist. Picklable: another process then finds the same parts.
    """

    def __init__(self, config_dir: str | None = None) -> None:
        path = create_config_search_path(str(CONF))
        for folder in external_folders().values():
            path.prepend(UNTRUSTED[1], f"file://{folder}", SearchPathQuery(provider="schema"))
        self.parts = registry.folders()
        if config_dir is not None:
            folder = user_path(config_dir).absolute()
            if not folder.is_dir():
                raise UsageError(f"--config-dir={config_dir} is not a folder.")
            path.prepend(UNTRUSTED[0], f"file://{folder}", SearchPathQuery(provider="schema"))
        super().__init__(path)
        self.sweep_dir: str | None = None  # set once a sweep has begun, for all its jobs

    @environment_hidden()
    def load_configuration(self, *args: Any, **kwargs: Any) -> DictConfig:
        """Raises UsageError for a configuration that names Python to run."""
        for folder in self.parts:
            registry.add_folder(folder)
        composed = super().load_configuration(*args, **kwargs)
        _check_objects(composed)
        if self.sweep_dir is not None:
            composed.hydra.sweep.dir = self.sweep_dir
        return composed

    def _parse_overrides_and_create_caching_repo(self, config_name: str | None, overrides: list[str]) -> Any:
        for override in overrides:
            if found := NAMES_OBJECTS.search(override):
                raise UsageError(OBJECTS.format(found[0].strip("+~.{:,= ")))
        parsed: Any
        repo: Any
        parsed, repo = super()._parse_overrides_and_create_caching_repo(
            config_name, [renamed_override(override) for override in overrides]
        )
        load, exists = repo.load_config, repo.config_exists  # files too may use old names
        repo.load_config = lambda config_path: load(renamed_choice(config_path))
        repo.config_exists = lambda config_path: exists(renamed_choice(config_path))
        return parsed, repo

    def _process_config_searchpath(self, config_name: str | None, parsed_overrides: Any, repo: Any) -> None:
        """Refuse search paths: one may be a package, which Hydra would import before composing anything."""
        primary = repo.load_config(config_path=config_name) if config_name else None
        named = any(override.get_key_element() == "hydra.searchpath" for override in parsed_overrides)
        if named or (primary and OmegaConf.select(primary.config, "hydra.searchpath")):
            raise UsageError("hydra.searchpath is not supported: give a configuration folder with --config-dir DIR.")

    def _compose_config_from_defaults_list(self, defaults: Any, repo: Any) -> DictConfig:
        """What the files compose to, with the default settings of each part that they name."""
        composed = super()._compose_config_from_defaults_list(defaults, repo)
        for key, role in PARTS.items():
            _add_defaults(OmegaConf.select(composed, key), role)
        for node in (OmegaConf.select(composed, "metric") or {}).values():
            _add_defaults(node, "metric")
        sampler = OmegaConf.select(composed, "sampler")
        order = registry.available("order").get(sampler.get("order")) if OmegaConf.is_dict(sampler) else None
        if order and order.settings.keys() - {"kind"}:
            sampler.setdefault(order.name, {})
            _add_defaults(sampler[order.name], "order", order.name)
        return composed

    def _load_single_config(self, default: Any, repo: Any) -> Any:
        loaded = super()._load_single_config(default, repo)
        values = OmegaConf.to_container(loaded.config)
        rename_settings(values, advise)
        if values != OmegaConf.to_container(loaded.config):
            loaded.config = OmegaConf.create(values)
        if loaded.provider in UNTRUSTED:
            _check_folder(loaded.config, default.config_path)
        return loaded


def _add_defaults(node: Any, role: str, kind: str | None = None) -> None:
    """Add the settings missing from a part's node, with their defaults, also for the parts within it."""
    if not OmegaConf.is_dict(node):
        return
    values: Any = OmegaConf.to_container(node)
    source = registry.available(role).get(kind or str(values.get("kind")))
    if source is None:
        return
    for setting in source.settings.values():
        if setting.name not in values and setting.name != "kind" and setting.default is not MISSING:
            node[setting.name] = setting.default
        elif inner := setting.allowed.get("role"):
            below = node[setting.name] if OmegaConf.is_dict(node[setting.name]) else {}
            for part in [below] if "kind" in below else below.values():
                _add_defaults(part, inner)
        if setting.type.startswith("dict") and OmegaConf.is_dict(node.get(setting.name)):
            OmegaConf.set_struct(node[setting.name], False)  # the names in it are the user's


def hydra_of(loader: Loader) -> Hydra:
    """Hydra, composing only with that loader. Sets Hydra's version base for this process."""
    version.setbase("1.3")
    return Hydra(task_name="rws", config_loader=loader)


def compose(*overrides: str) -> Config:
    """The checked configuration of `rws run OVERRIDES`, for scripts and notebooks. Raises UsageError."""
    return check(unchecked(*overrides))


def unchecked(*overrides: str, config_dir: str | None = None) -> DictConfig:
    """What Hydra composes from overrides, conf/ and a configuration folder. Raises UsageError if it cannot."""
    return _without_hydra(_composed(overrides, config_dir))


def compose_one(
    *overrides: str, config_dir: str | None = None, typed: Sequence[str] | None = None
) -> tuple[Config, list[str]]:
    """The checked configuration of a single run, and its overrides with current names. typed: the overrides that the user
    wrote, if not all.

    Raises UsageError for whatever Hydra or `check` rejects, for options, for Hydra's own settings, and for sweeps.
    """
    for override in overrides:
        if override.startswith("-"):
            raise UsageError(f"{override} is an option of the command line: give overrides, such as sampler=rws.")
        with suppress(HydraException):  # composing reports what is wrong with it
            if is_hydras(override):
                raise UsageError(f"{override} changes how Hydra runs, which is only possible on the command line.")
            if OverridesParser.create().parse_override(override).is_sweep_override():
                raise UsageError(f"{override} has several values: {LOOP}")
    prefixed = ["+" + each if each.startswith("experiment=") else each for each in overrides]
    composed = _composed(prefixed, config_dir)
    hydra = composed.hydra
    if hydra.mode == RunMode.MULTIRUN or composed.get("sweeps") is not None:
        chosen = next((each for each in prefixed if each.startswith("+experiment=")), "The configuration")
        raise UsageError(f"{chosen.lstrip('+')} is a sweep: {LOOP}")
    config = check(_without_hydra(composed))
    check_consent(config, overrides if typed is None else typed)
    return config, [str(each) for each in hydra.overrides.task]


def _composed(overrides: Iterable[str], config_dir: str | None) -> DictConfig:
    """What Hydra composes, including its own settings."""
    try:
        return hydra_of(Loader(config_dir)).compose_config("config", list(overrides), RunMode.RUN, from_shell=False)
    except NOT_COMPOSED as error:
        raise UsageError(explain(error)) from error


def _without_hydra(composed: DictConfig) -> DictConfig:
    with open_dict(composed):
        del composed["hydra"]
    return composed


def check_plain(overrides: Iterable[str], where: object) -> None:
    """Check that overrides from a file change only settings of rws. Raises UsageError if not."""
    for override in overrides:
        if override.startswith("-"):
            raise UsageError(
                f"{where}: {override} is an option, and options are not taken from a file: type it on the command line."
            )
        if is_hydras(override):
            raise UsageError(
                f"{where}: {override} changes how Hydra runs, which is not taken from a file: type it on the command line."
            )


def is_hydras(override: str) -> bool:
    """Whether an override changes a setting of Hydra's own. Raises HydraException if it cannot be read."""
    read = OverridesParser.create().parse_override(override)
    return any(re.match(r"hydra\b", part or "") for part in (read.key_or_group, read.package))


def _check_objects(composed: DictConfig) -> None:
    """Raises UsageError naming a key from which Hydra would create an object."""
    params = OmegaConf.select(composed, "hydra.sweeper.params")
    if OmegaConf.is_config(params):
        OmegaConf.resolve(params)  # as Hydra does before it looks for targets in it
    values: Any = OmegaConf.to_container(composed)
    hydra = values["hydra"]
    refused = [f"hydra.{key}" for key in ("job_logging", "hydra_logging") if (hydra[key] or {"root": key})["root"]]
    if hydra["callbacks"]:
        refused.append("hydra.callbacks")
    if isinstance(hydra["sweeper"], dict) and hydra["sweeper"].get("custom_search_space"):
        refused.append("hydra.sweeper.custom_search_space")
    refused += [key for key, name in _targets(values) if not re.fullmatch(TARGETS.get(key, "(?!)"), str(name))]
    if refused:
        raise UsageError(OBJECTS.format(refused[0]))


def _targets(node: Any, parent: str = "") -> Iterator[tuple[str, Any]]:
    """Each `_target_` within a node: its dotted key and its value."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        path = f"{parent}.{key}".lstrip(".")
        if key == "_target_":
            yield path, value
        yield from _targets(value, path)


def _check_folder(config: Any, name: str) -> None:
    """Raises UsageError if a file of a configuration folder changes how Hydra runs.

    A launcher's settings become a shell script on a cluster, env_set becomes the environment, and so on. A folder may
    only set swept values, and repeat what conf/config.yaml has.
    """
    values = OmegaConf.to_container(config)
    theirs = values.get("hydra") or {} if isinstance(values, dict) else {}
    if not isinstance(theirs, dict):
        raise UsageError(f"{name}: hydra={theirs} must be a group of settings.")
    for key in ("callbacks", "job_logging", "hydra_logging"):
        if theirs.get(key) is not None:
            raise UsageError(f"{name}: " + OBJECTS.format(f"hydra.{key}"))
    ours = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["hydra"]
    for key, (value, _) in differing_keys(theirs, ours).items():
        if value is not None and not FROM_A_FOLDER.fullmatch(key):
            raise UsageError(
                f"{name}: hydra.{key} would change how Hydra runs, which is not taken from a configuration folder: "
                "type it on the command line."
            )
    sweeper = theirs.get("sweeper")
    if isinstance(sweeper, dict) and isinstance(sweeper.get("params"), dict):
        check_plain((f"{key}=0" for key in sweeper["params"]), name)
