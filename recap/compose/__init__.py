"""Hydra's composition with three additions.

Rows are filled from their ``templates``; what an experiment states for another choice of optimizer,
schedule or model part than the one made is set aside by ``choices``; and what cannot be meant is
refused with the nearest right name.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import hydra
from hydra._internal import hydra as hydra_internals
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from recap.compose.choices import set_aside
from recap.compose.folders import name_folders
from recap.compose.run_config import read_config
from recap.compose.templates import fill_templates
from recap.compose.without_effect import overrides_without_effect, schedule_faults
from recap.nearest import nearest

_HERE = Path(__file__).resolve().parents[1]
# an installed wheel holds the YAML files inside the package, a checkout beside it
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"
SECTIONS = ("training", "model", "train_data", "validation_data", "optimizer", "tracking")
TEMPLATES = ("task", "schedule")
LAUNCHERS = "hydra_plugins.recap_plugins.launcher."  # where recap's own are
AS_RUN = "hydra.mode=RUN"  # what Hydra adds to the overrides of a command without -m
_TAKE_A_VALUE = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp")
_LAUNCHER = re.compile(r"^([+~]*)launcher\.")  # on the command line, for hydra.launcher.


class Refused(CompactHydraException, ValueError):
    """A run that cannot start; the message lists every fault, Hydra prints it without a trace."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def hydra_command(
    config_name: str,
    *,
    check: Callable[[DictConfig, int], list[str]] | None = None,
    ended: Callable[[DictConfig, BaseException | None], None] | None = None,
    queued: bool = True,
) -> Callable[[Callable[[DictConfig], Any]], Callable[..., Any]]:
    """Decorator: a function of the config composed from ``<config_name>.yaml`` is a command.

    With hydra/launcher=slurm or submitit_local it is queued as a job, also without -m.

    Args:
        config_name: the primary config.
        check: what is wrong with a config for so many ranks, told before a job is queued.
        ended: called by rank 0 of a job as it ends, with its config and the error it ends by.
        queued: false for a command that runs where it is typed, whatever the launcher.
    """

    def command(function: Callable[[DictConfig], Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def here_or_queued(cfg: DictConfig) -> Any:
            hydra_node: Any = HydraConfig.get()
            launcher = str(hydra_node.launcher._target_)
            sweep = hydra_node.mode == RunMode.MULTIRUN  # where Hydra asks the launcher itself
            if sweep or not queued or not launcher.startswith(LAUNCHERS):
                return function(cfg)
            queue: Any = Plugins.instance().instantiate_launcher(
                hydra_context=HydraContext(GlobalHydra.instance().config_loader(), Callbacks()),
                task_function=here_or_queued,
                config=hydra_node._get_parent(),  # the whole config, Hydra's part included
            )
            return queue.launch_one()

        setattr(here_or_queued, "check", check)
        composed = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)
        from_command_line = composed(here_or_queued)

        @functools.wraps(function)
        def main() -> Any:
            sys.argv = _arranged(sys.argv)
            return from_command_line()

        setattr(main, "runs", function)  # what a job runs, see recap.compose.frozen
        setattr(main, "ended", ended)
        return main

    return command


def _arranged(argv: Sequence[str]) -> list[str]:
    """The command line with its overrides last, --preview as one: argparse takes them together."""
    rest, overrides = list(argv[:1]), []
    for before, argument in pairwise(argv):
        if argument == "--preview":
            overrides.append("launcher.preview=true")
        elif before not in _TAKE_A_VALUE and re.match(r"~|[^-].*=", argument):
            overrides.append(argument)
        else:
            rest.append(argument)
    return rest + overrides


def compose(*overrides: str, config_name: str = "train") -> DictConfig:
    """The config that a command with these overrides runs on, for use from Python."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return hydra.compose(config_name, list(overrides))


class Composer(ConfigLoaderImpl):
    """Hydra's config loader; see the module's docstring for what it adds."""

    _composed: DictConfig = OmegaConf.create()
    _run: str | None = None  # folder of the run that a primary config composes on
    _asked: frozenset[str] = frozenset()  # what such a primary config asks beside it
    _referred: frozenset[str] = frozenset()  # sections that the files' values refer to
    _primary: str | None = None
    _sweep_dir: str | None = None
    _swept: list[str] | None = None  # what tells a sweep's job from the others
    _for_its_mode: tuple[tuple[Any, ...], DictConfig] | None = None

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """The composed config.

        Hydra asks twice for that of a run, first only to see its ``hydra.mode``, and that takes as
        long: the answer is kept for the second time. Not where a value is to be swept, which the
        second time may refuse.
        """
        asked = (config_name, *overrides)
        if not validate_sweep_overrides:
            cfg = super().load_configuration(config_name, overrides, RunMode.RUN, from_shell, False)
            parsed = OverridesParser.create().parse_overrides(overrides)
            if not any(override.is_sweep_override() for override in parsed):
                self._for_its_mode = asked, cfg
            return cfg
        kept, self._for_its_mode = self._for_its_mode, None
        if run_mode == RunMode.RUN and kept is not None and (*kept[0], AS_RUN) == asked:
            cfg = kept[1]
            cfg.hydra.mode = RunMode.RUN
            cfg.hydra.overrides.hydra.append(AS_RUN)
            return cfg
        return super().load_configuration(config_name, overrides, run_mode, from_shell)

    def _load_configuration_impl(self, config_name, overrides, *args, **kwargs) -> DictConfig:
        overrides = [_LAUNCHER.sub(r"\1hydra.launcher.", override) for override in overrides]
        no_choices = [override for override in overrides if self._is_no_choice(override)]
        faults = [f"{override}: {self._choose(override)}" for override in no_choices]
        overrides = [override for override in overrides if override not in no_choices]
        self._run = _value("run", overrides)
        self._primary = config_name
        while True:  # an override that is refused is set aside, so that all faults come at once
            try:
                cfg = super()._load_configuration_impl(config_name, overrides, *args, **kwargs)
                break
            except CompactHydraException as error:
                rest = [o for o in overrides if not _is_about(o, error)]
                faults.append(self._explain(error))
                if len(rest) == len(overrides):
                    raise Refused(faults) from None
                overrides = rest
        with open_dict(cfg):
            fill_templates(cfg)
        faults += self._unread(cfg, config_name) + overrides_without_effect(cfg, overrides)
        if faults:
            raise Refused(faults)
        with open_dict(cfg):
            name_folders(cfg, self._sweep_dir, self._swept)
        return cfg

    def _compose_config_from_defaults_list(self, defaults, repo) -> DictConfig:
        cfg = super()._compose_config_from_defaults_list(defaults, repo)
        # not `in`, which leaves out what is missing, ???
        if self._run is not None and cfg._get_node("run") is not None:
            self._asked = frozenset(str(key) for key in cfg)
            cfg = self._on_the_runs_own(cfg, Path(self._run))
        written_for = self._written_for(defaults, repo)
        for default in defaults:
            if default.config_path not in written_for:
                set_aside(cfg, default, repo)
        fill_templates(cfg)
        self._composed = cfg
        self._referred = _referred_sections(cfg)
        return cfg

    def _written_for(self, defaults: list[ResultDefault], repo: IConfigRepository) -> set[str]:
        """The choices that the experiment, and those that it builds on, all make themselves."""
        paths = [default.config_path or "" for default in defaults]
        made = []
        for path in (path for path in paths if path.startswith("experiment/")):
            choice = OverridesParser.create().parse_override(path.replace("/", "=", 1))
            named = create_defaults_list(
                repo, self._primary, [choice], prepend_hydra=True, skip_missing=True
            )
            made.append({default.config_path or "" for default in named.defaults})
        return set.intersection(*made) if made else set()

    def _on_the_runs_own(self, cfg: DictConfig, run_dir: Path) -> DictConfig:
        """The config that a run keeps in its folder, with the sections of ``cfg`` for its own."""
        try:
            kept = read_config(run_dir.absolute())
        except ValueError as error:
            raise Refused([str(error)]) from error
        for key in cfg:
            kept.pop(key, None)
        kept.merge_with(cfg)
        return kept

    def load_sweep_config(self, master_config, sweep_overrides) -> DictConfig:
        """The config of one job of a sweep, which knows the folder of the whole."""
        self._sweep_dir = master_config.hydra.sweep.dir
        common = set(master_config.hydra.overrides.task)
        self._swept = [override for override in sweep_overrides if override not in common]
        return super().load_sweep_config(master_config, sweep_overrides)

    def _unread(self, cfg: DictConfig, config_name: str | None) -> list[str]:
        """Sections that are missing, and those that nothing reads: misspelt, in a file or added."""
        if not any(name in cfg for name in SECTIONS):
            return []  # not a config of recap's verbs
        faults = [f"{name}: this section is missing" for name in SECTIONS if name not in cfg]
        known = [*SECTIONS, *TEMPLATES]
        referred = self._referred | _referred_sections(cfg)
        for name in (str(name) for name in cfg):
            if name not in {*known, *referred, *self._asked, "hydra", config_name}:
                faults.append(f"{name}: nothing reads this section; {nearest(name, known)}")
        if "schedule" in cfg:
            plain: Any = OmegaConf.to_container(cfg.schedule, resolve=False)
            faults += schedule_faults(plain)
        return faults

    def _explain(self, error: CompactHydraException) -> str:
        text = str(error).strip()
        if isinstance(error, Refused):
            return text
        if match := re.search(r"Could not override '([^']+)'", text):
            key = getattr(error.__cause__, "full_key", None) or match[1]
            if key.startswith("hydra.launcher."):
                return self._explain_launcher(key.removeprefix("hydra."))
            if key.startswith("hydra.sweeper."):
                own = _dotted_keys(self._composed.hydra.sweeper, "hydra.sweeper.")
                return (
                    f"{key}: there is no such key; {nearest(key, own)}; a new one takes a + before"
                )
            if self._asked and key in self._groups():
                return f"{key}: the run's choice stands; its values are overridden one by one"
            if "/" in key:
                return f"{key}: there is no such group; {nearest(key, self._groups())}"
            close = nearest(key, _dotted_keys(self._composed) + self._groups())
            return f"{key}: there is no such key; {close}; a new one takes a + before"
        if match := re.search(r"Could not delete.*?'([^']+)'.* (does not exist|defaults)", text):
            close = nearest(match[1], _dotted_keys(self._composed) + self._groups())
            return f"~{match[1]}: there is nothing of this name to take out; {close}"
        if match := re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", text):
            group, choice = match[1].removeprefix("/"), match[2]
            choices = self.list_groups_options(group)
            return f"{group}={choice}: there is no such choice; {nearest(choice, choices)}"
        cause = f": {error.__cause__}" if error.__cause__ is not None else ""
        return text + cause

    def _explain_launcher(self, key: str) -> str:
        launcher = self._composed.hydra.launcher
        if not str(launcher.get("_target_")).startswith(LAUNCHERS):
            return f"{key}: no launcher that takes it is chosen; hydra/launcher=slurm is one"
        return f"{key}: there is no such key; {nearest(key, _dotted_keys(launcher, 'launcher.'))}"

    def _is_no_choice(self, override: str) -> bool:
        """Whether a group is given null or a number, which Hydra answers with a trace."""
        key, _, value = override.partition("=")
        if "." in key or not re.fullmatch(r"null|true|false|[\d.]+", value):
            return False  # without a look at all groups, which takes as long as a composition
        return key in self._groups()

    def _choose(self, override: str) -> str:
        choices = self.list_groups_options(override.partition("=")[0])
        return f"a group takes one of its choices; there is {', '.join(choices)}"

    def _groups(self, parent: str = "") -> list[str]:
        """The config groups of recap, nested ones by their path."""
        names = [f"{parent}/{name}".lstrip("/") for name in self.list_groups(parent)]
        names = [name for name in names if name != "hydra"]
        return names + [inner for name in names for inner in self._groups(name)]

    def list_groups_options(self, group: str) -> list[str]:
        """The choices of a config group."""
        return sorted(self.get_group_options(group))


setattr(hydra_internals, "ConfigLoaderImpl", Composer)  # hydra names its loader in this one place


def _value(key: str, overrides: Sequence[str]) -> str | None:
    """The text that an override gives to ``key``, None without one."""
    given = [override for override in overrides if override.startswith(f"{key}=")]
    value = OverridesParser.create().parse_override(given[-1]).value() if given else None
    return None if value is None else str(value)


def _is_about(override: str, error: Exception) -> bool:
    key, _, value = override.lstrip("+~").partition("=")
    key = key.split("@")[0]
    choices = re.split(r"[\[\], ]+", value)  # one, or a list of them
    return any(f"'{name}'" in str(error) for name in (key, *(f"{key}/{one}" for one in choices)))


def _referred_sections(cfg: DictConfig) -> frozenset[str]:
    plain = OmegaConf.to_container(cfg, resolve=False)
    return frozenset(re.findall(r"\$\{(\w+)[.}\[]", str(plain)))


def _dotted_keys(node: Any, prefix: str = "") -> list[str]:
    keys = []
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        for key in node:
            if prefix or key != "hydra":
                keys.append(f"{prefix}{key}")
                if not node._is_interpolation():
                    keys += _dotted_keys(node._get_node(key), f"{prefix}{key}.")
    return keys
