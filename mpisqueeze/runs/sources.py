"""The sources of a run's settings: the command line, else the environment, else a file, else the defaults."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mpisqueeze.errors import UsageError
from mpisqueeze.files import path_of, read_text, read_toml
from mpisqueeze.language import suggestion
from mpisqueeze.runs.plan import Plan
from mpisqueeze.settings import DEFAULT_EPOCHS, EITHER, SETTINGS, Setting, Settings, moved, name_of, upgraded

PREFIX = "MPISQUEEZE_"
#: Names the file, as --config does.
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
#: Settings by the variable that gives them. MPISQUEEZE_DATA has long been the data folder.
VARIABLES = {f"{PREFIX}{name.upper()}": name for name in SETTINGS if name != "data"}
#: Keys of a run folder's config.json that describe the run and are no settings; `out` is the folder itself.
_OF_THE_RUN = ("parts", "iterations_per_epoch", "ranks", "dimension", "shapes", "bytes", "out")
#: (value, whom to blame for it) by the setting's name.
Given = dict[str, tuple[Any, str]]


@dataclass(frozen=True)
class Resolved:
    """Settings from all sources.

    Attributes:
        origins: by name, whom to blame for one that was not typed: a variable, or a file and its key.
    """

    config: Settings
    origins: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """A UsageError about an option that was not typed names where it comes from."""
        try:
            yield
        except UsageError as error:
            raise UsageError(error.message, self.origins.get(name_of(error.option), error.option)) from error.__cause__


def resolve(
    given: Mapping[str, Any], environment: Mapping[str, str], path: Path | None = None, unused: Sequence[str] = ()
) -> Resolved:
    """The settings that are asked for, typed but not checked together.

    Args:
        given: those that were typed on the command line, by name.
        path: the file that --config names, or None.
        unused: names that the command has no use for, in a file or the environment.

    Raises:
        UsageError: the file or a variable is wrong; says which, where, and what is accepted.
    """
    origin = "--config"
    if path is None and environment.get(CONFIG_VARIABLE):
        path, origin = path_of(environment[CONFIG_VARIABLE]), CONFIG_VARIABLE
    from_file = _from_file(path, origin) if path else {}
    found: Given = {}
    for source in (from_file, _from_environment(environment), {name: (given[name], "") for name in given}):
        used = {name: source[name] for name in source if name not in unused}
        overridden = EITHER if any(name in used for name in EITHER) else ()
        found = {name: found[name] for name in found if name not in overridden} | used
    origins = {name: blamed for name, (_, blamed) in found.items() if blamed}
    return Resolved(Settings(**{name: value for name, (value, _) in found.items()}), origins)


def _from_file(path: Path, option: str) -> Given:
    found: Given = {}
    for key, value in _read(path, option).items():
        name = key.replace("-", "_")
        if name not in SETTINGS:
            known = [known.replace("_", "-") if "-" in key else known for known in SETTINGS]
            raise UsageError(f"{key!r} is no setting{moved(name) or suggestion(key, known)}", str(path))
        if name in found:
            raise UsageError(f"{key!r} is given twice, as {name!r} too", str(path))
        try:
            found[name] = (SETTINGS[name].convert(value), f"{path}: {key}")
        except ValueError as error:
            raise UsageError(str(error), f"{path}: {key}") from None
    return found


def _read(path: Path, option: str) -> dict[str, Any]:
    """The keys of a TOML file, or of a run's config.json. Raises UsageError."""
    if os.path.isfile(path / "config.json"):
        raise UsageError(f"{path} is a folder; its settings are {path / 'config.json'}", option)
    is_json = path.suffix == ".json"
    try:
        found = json.loads(read_text(path, option)) if is_json else read_toml(path, option)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}", option) from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} does not hold a JSON object", option)
    if "iterations_per_epoch" in found:
        # A finished run knows both lengths, and a setting that it had no use for is null.
        either = ("epochs",) if found.get("iterations") is not None else ()
        found = upgraded({key: found[key] for key in found if key not in (*_OF_THE_RUN, *either)})
    return {key: value for key, value in found.items() if value is not None or not is_json}


def _from_environment(environment: Mapping[str, str]) -> Given:
    """The settings in variables that are not empty. Raises UsageError, also for a misspelt variable."""
    found: Given = {}
    for variable, text in sorted(environment.items()):
        if variable in VARIABLES:
            try:
                if text:
                    found[VARIABLES[variable]] = (SETTINGS[VARIABLES[variable]].convert(text), variable)
            except ValueError as error:
                raise UsageError(str(error), variable) from None
        elif variable.startswith(PREFIX):
            known = [name.removeprefix(PREFIX) for name in VARIABLES]
            former = moved(variable.removeprefix(PREFIX).lower())
            if former:
                raise UsageError(f"is no setting{former}", variable)
            near = difflib.get_close_matches(variable.removeprefix(PREFIX), known, n=1, cutoff=0.8)
            if near:
                raise UsageError(f"is no setting; did you mean {PREFIX}{near[0]}?", variable)
    return found


def as_toml(plan: Plan) -> str:
    """The settings of a plan, as `--config` takes them back; those that are not set are comments.

    Raises:
        UsageError: a name holds bytes that are no text.
    """
    config = replace(plan.config, compressor=plan.compressor.spec)
    if config.iterations is None and config.epochs is None:
        config = replace(config, epochs=DEFAULT_EPOCHS)
    lines = ["# mpisqueeze train --config FILE"]
    group = ""
    for name, setting in SETTINGS.items():
        if setting.group != group:
            group = setting.group
            lines += ["", f"# {group}"]
        value = getattr(config, name)
        text = f"# {name}: not set" if value is None else f"{name} = {_toml(setting, value)}"
        lines.append(f"{text:<32}  # {setting.help}")
    return "\n".join(lines) + "\n"


def _toml(setting: Setting, value: Any) -> str:
    """A flag, a number or text. Raises UsageError."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{text!r} is not text in UTF-8, as a settings file is", setting.option) from None
    # TOML's escapes are JSON's, but it wants one for DEL too.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
