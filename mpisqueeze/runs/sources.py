"""Where a run's settings come from: the command line, else the environment, else a file, else the defaults."""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mpisqueeze.errors import UsageError
from mpisqueeze.files import read_text
from mpisqueeze.language import moved, suggestion, upgraded
from mpisqueeze.runs.plan import DEFAULT_EPOCHS, Plan, TrainConfig, config_of, value_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_NAMES = tuple(item.name for item in fields(TrainConfig))
PREFIX = "MPISQUEEZE_"
#: Names the file, as --config does.
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
#: TrainConfig's settings by the variable that gives them. MPISQUEEZE_DATA has long been the data folder.
VARIABLES = {f"{PREFIX}{name.upper()}": name for name in _NAMES if name != "data"}
#: Two ways to say one thing: who gives one of them overrides both.
_EITHER = ("iterations", "epochs")
#: What a run folder's config.json says of the run and not of its settings; `out` is the folder itself.
_OF_THE_RUN = ("parts", "iterations_per_epoch", "ranks", "dimension", "out")


@dataclass(frozen=True)
class Asked:
    """What the command line says of a run's settings.

    Attributes:
        given: by TrainConfig's names, those alone that were typed.
        path: the file that --config names, or None.
        unused: names that the command has no use for, in a file or the environment.
    """

    given: Mapping[str, Any]
    path: Path | None = None
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """Resolved settings.

    Attributes:
        origins: by name, whom to blame for one that was not typed: a variable, or a file and its key.
    """

    config: TrainConfig
    origins: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """A UsageError about an option that was not typed names where it comes from."""
        try:
            yield
        except UsageError as error:
            name = (error.option or "").removeprefix("--").replace("-", "_")
            raise UsageError(error.message, self.origins.get(name, error.option)) from error.__cause__


def resolve(asked: Asked, environment: Mapping[str, str]) -> Settings:
    """The settings that are asked for, typed but not checked.

    Raises:
        UsageError: the file or a variable is wrong; says which, where, and what is accepted.
    """
    path, origin = asked.path, "--config"
    if path is None and environment.get(CONFIG_VARIABLE):
        path, origin = Path(environment[CONFIG_VARIABLE]), CONFIG_VARIABLE
    from_file = _from_file(path, origin) if path else {}
    from_environment = _from_environment(environment)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source in (from_file, from_environment, {name: (value, "") for name, value in asked.given.items()}):
        used = {name: found for name, found in source.items() if name not in asked.unused}
        for name in (*used, *(_EITHER if any(name in used for name in _EITHER) else ())):
            values.pop(name, None)
            origins.pop(name, None)
        values |= {name: value for name, (value, _) in used.items()}
        origins |= {name: blamed for name, (_, blamed) in used.items() if blamed}
    return Settings(TrainConfig(**values), origins)


def _from_file(path: Path, option: str) -> dict[str, tuple[Any, str]]:
    """(value, whom to blame) by name. Raises UsageError."""
    found: dict[str, tuple[Any, str]] = {}
    for key, value in _read(path, option).items():
        name = key.replace("-", "_")
        if name not in _NAMES:
            known = [known.replace("_", "-") if "-" in key else known for known in _NAMES]
            raise UsageError(f"{key!r} is no setting{moved(name) or suggestion(key, known)}", str(path))
        if name in found:
            raise UsageError(f"{key!r} is given twice, as {name!r} too", str(path))
        try:
            found[name] = (getattr(config_of({name: value}), name), f"{path}: {key}")
        except UsageError as error:
            raise UsageError(error.message, f"{path}: {key}") from None
    return found


def _read(path: Path, option: str) -> dict[str, Any]:
    """The keys of a TOML file, or of a run's config.json. Raises UsageError."""
    if os.path.isfile(path / "config.json"):
        raise UsageError(f"{path} is a folder; its settings are {path / 'config.json'}", option)
    text = read_text(path, option)
    is_json = path.suffix == ".json"
    try:
        found = json.loads(text) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not {'JSON' if is_json else 'TOML'}: {error}", option) from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} does not hold a JSON object", option)
    if "iterations_per_epoch" in found:
        # Of a finished run both lengths are known, and what it had no use for is null.
        either = ("epochs",) if found.get("iterations") is not None else ()
        found = upgraded({key: found[key] for key in found if key not in (*_OF_THE_RUN, *either)})
    return {key: value for key, value in found.items() if value is not None or not is_json}


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """(value, variable) by name; an empty variable is none. Raises UsageError."""
    _refuse_misspelt(environment)
    found: dict[str, tuple[Any, str]] = {}
    for variable, text in sorted(environment.items()):
        if variable in VARIABLES and text:
            name = VARIABLES[variable]
            try:
                found[name] = (value_of(name, text), variable)
            except ValueError as error:
                raise UsageError(str(error), variable) from None
    return found


def _refuse_misspelt(environment: Mapping[str, str]) -> None:
    """Raise UsageError for a variable that is nearly a setting's."""
    for variable in sorted(environment):
        if variable.startswith(PREFIX) and variable not in VARIABLES:
            known = [name.removeprefix(PREFIX) for name in VARIABLES]
            former = moved(variable.removeprefix(PREFIX).lower())
            if former:
                raise UsageError(f"is no setting{former}", variable)
            near = difflib.get_close_matches(variable.removeprefix(PREFIX), known, n=1, cutoff=0.8)
            if near:
                raise UsageError(f"is no setting; did you mean {PREFIX}{near[0]}?", variable)


def as_toml(plan: Plan, about: Mapping[str, tuple[str, str]]) -> str:
    """The settings of a plan, as `--config` takes them back; those that are not set are comments.

    Args:
        about: a heading and a remark for each, by TrainConfig's names, in the order of the listing.

    Raises:
        UsageError: a name holds bytes that are no text.
    """
    config = replace(plan.config, compressor=plan.compressor.spec)
    if config.iterations is None and config.epochs is None:
        config = replace(config, epochs=DEFAULT_EPOCHS)
    lines = ["# mpisqueeze train --config FILE"]
    for heading in dict.fromkeys(heading for heading, _ in about.values()):
        lines += ["", f"# {heading}"]
        for name, remark in ((name, remark) for name, (at, remark) in about.items() if at == heading):
            value = getattr(config, name)
            setting = f"# {name}: not set" if value is None else f"{name} = {_toml(name, value)}"
            lines.append(f"{setting:<32}  # {remark}")
    return "\n".join(lines) + "\n"


def _toml(name: str, value: Any) -> str:
    """A flag, a number or text. Raises UsageError."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{text!r} is not text in UTF-8, as a settings file is", f"--{name.replace('_', '-')}"
        ) from None
    # TOML's escapes are JSON's, but it wants one for DEL too.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
