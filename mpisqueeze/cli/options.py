"""The options of commands: those of settings come from their declarations, those of output from one table."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpisqueeze.cli.completion import Completer, names_for, offering, parts, sorts
from mpisqueeze.cli.output import COLORS, Output
from mpisqueeze.errors import UsageError
from mpisqueeze.files import path_of
from mpisqueeze.quantities import parse_size
from mpisqueeze.settings import METHOD, OUTPUT, PROBLEM, RUN, SETTINGS, Setting, Settings, parse_target
from mpisqueeze.streams import reserve

if TYPE_CHECKING:
    from mpisqueeze.analysis.ranking import Target

COMPARISON, NETWORK = "Comparison", "Network"
#: The order of an option's group in help; options that are in none come first.
_GROUPS = (None, COMPARISON, NETWORK, METHOD, PROBLEM, RUN, OUTPUT)

#: An option's metavar and help, by what it writes.
_TARGETS = {
    "json": ("FILE|-", "Write the result as JSON to FILE, or alone to stdout for -."),
    "csv": ("FILE|-", "Write the table as CSV."),
    "markdown": ("FILE|-", "Write the table as Markdown."),
    "latex": ("FILE|-", "Write the table as LaTeX, for the package booktabs."),
    "html": ("FILE|-", "Write a page of tables and plots, complete in itself."),
    "plot": ("FILE", "Draw into a .png, .svg or .pdf file, or here with `terminal`."),
}
_COLOR = f"{', '.join(COLORS[:-1])} or {COLORS[-1]}."
_METAVARS = {int: "COUNT", float: "NUMBER", str: "SPEC", Path: "PATH"}

#: `typer.Option` of a group.
in_comparison, in_network, in_method, in_run, in_output = (
    partial(typer.Option, rich_help_panel=group) for group in (COMPARISON, NETWORK, METHOD, RUN, OUTPUT)
)


def arguments(metavar: str, help: str, completer: Completer | None = None) -> Any:
    """`typer.Argument` of names; help says what their default is."""
    return typer.Argument(metavar=metavar, help=help, show_default=False, autocompletion=completer)


def compressors(group: str | None, help: str, **about: Any) -> Any:
    """`typer.Option` of a compressor, or of several."""
    return typer.Option(rich_help_panel=group, help=help, metavar="SPEC", autocompletion=parts("compressors"), **about)


ConfigOption = Annotated[
    Path | None,
    in_run(
        help="Settings from a TOML file, or a run's config.json. Options come before $MPISQUEEZE_<OPTION>, and that "
        "before the file.",
        metavar="FILE",
    ),
]
TargetLossOption = Annotated[
    float | None,
    in_comparison(
        help="Count bytes and time up to this smoothed loss. Default: 95 % of the first run's progress.", metavar="LOSS"
    ),
]
TargetOption = Annotated[
    str | None,
    in_comparison(
        help="Count them up to the first evaluation that meets this, such as test_accuracy=0.95.", metavar="NAME=VALUE"
    ),
]

SortOption = Annotated[
    str,
    in_comparison(
        help="Rank by loss, test (the metric), bytes, bytes-to-target, time-to-target, time (an iteration's) or given "
        "(not at all).",
        metavar="NAME",
        autocompletion=sorts,
    ),
]

Command = Callable[..., int]


def command(
    settings: Iterable[str] = (), to: Iterable[str] = ("json",), says: Mapping[str, str] | None = None
) -> Callable[[Command], Command]:
    """Give a function the options of settings and of output beside its own.

    The function takes an `Output` as `output`, and of settings a dict `given`, those that were typed, or `settings`.
    The command's attribute `call(values, output)` calls it with another output, which leaves stdout alone.

    Args:
        to: the targets of its output, of `_TARGETS`; `--color` is always there.
        says: other help, by the name of a setting or a target.
    """
    names, targets, says = tuple(settings), tuple(to), says or {}

    def decorate(function: Command) -> Command:
        def call(values: Mapping[str, Any], output: Output) -> int:
            """Call the function with values by name, as typed or as Python has them; None stands for a default."""
            values = {name: _located(value) for name, value in values.items()}
            typed = {name: values.pop(name, None) for name in names}
            given = {name: SETTINGS[name].checked(value) for name, value in typed.items() if value is not None}
            if "given" in own:
                values["given"] = given
            if "settings" in own:
                values["settings"] = Settings(**given)
            return function(output=output, **values)

        @wraps(function)
        def run(**values: Any) -> int:
            output = Output(values.pop("color"), {target: values.pop(f"{target}_to") for target in targets})
            restore = reserve()
            try:
                return call(values, output)
            finally:
                restore()

        own = inspect.signature(function, eval_str=True).parameters
        parameters = [
            *(_of_setting(SETTINGS[name], says.get(name, SETTINGS[name].help)) for name in names),
            *(parameter for name, parameter in own.items() if name not in ("given", "settings", "output")),
            *(
                _option(f"{target}_to", str, f"--{target}", OUTPUT, says.get(target, help), metavar=metavar)
                for target, (metavar, help) in _TARGETS.items()
                if target in targets
            ),
            _option("color", str, "--color", OUTPUT, _COLOR, metavar="WHEN", autocompletion=offering(COLORS)),
        ]
        parameters = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in sorted(parameters, key=_place)]
        run.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.call = call  # type: ignore[attr-defined]
        return run

    return decorate


def _located(value: Any) -> Any:
    """An option's value with `~` expanded in paths, which shells leave in `--out=~/runs`."""
    if isinstance(value, list):
        return [_located(item) for item in value]
    return path_of(value) if isinstance(value, Path) else value


def _place(parameter: inspect.Parameter) -> int:
    about = getattr(parameter.annotation, "__metadata__", (None,))[0]
    return _GROUPS.index(getattr(about, "rich_help_panel", None))


def _option(name: str, kind: Any, flags: str, group: str, help: str, **about: Any) -> inspect.Parameter:
    """An option that is None unless it is typed."""
    annotation = Annotated[
        kind | None, typer.Option(flags, rich_help_panel=group, help=help, show_default=False, **about)
    ]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _of_setting(setting: Setting, help: str) -> inspect.Parameter:
    is_flag = setting.type is bool
    default = setting.typed(setting.default)[0].removeprefix("--") if is_flag else setting.default
    text = help.replace("[", "\\[") + ("" if default is None else f" [dim]\\[default:\u00a0{default}][/]")
    if is_flag:
        return _option(setting.name, bool, f"{setting.option}/{setting.typed(False)[0]}", setting.group, text)
    metavar = setting.metavar or ("NAME" if setting.kind.choices else _METAVARS[setting.type])
    # As text, whatever it is, so that it is read as in a file; a path, too, which the shell completes by itself.
    return _option(
        setting.name, str, setting.option, setting.group, text, metavar=metavar, autocompletion=names_for(setting)
    )


def quantity(option: str, text: str | None, parse: Callable[[str], Any] = parse_size) -> Any:
    """The value of an option with units or suffixes; None where it is not given. Raises UsageError."""
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        raise UsageError(str(error), option) from None


def target_of(target: str | None, target_loss: float | None) -> Target | None:
    """The target that costs are counted up to, by `--target` or `--target-loss`. Raises UsageError."""
    from mpisqueeze.analysis.ranking import Target

    if target_loss is not None:
        if target is not None:
            raise UsageError("does not go with --target: give one of them", "--target-loss")
        if not math.isfinite(target_loss):
            raise UsageError(f"must be a number, got {target_loss}", "--target-loss")
        return Target("", target_loss)
    if target is None:
        return None
    try:
        return Target(*parse_target(target))
    except ValueError:
        raise UsageError(f"{target!r} is not NAME=VALUE, such as test_accuracy=0.95", "--target") from None
