"""Finding a part by name: built in, registered under an entry point, or in a file: `FILE.py:Class`, or a function."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import pkgutil
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from mpisqueeze.errors import UsageError, describe, describe_value
from mpisqueeze.files import path_of
from mpisqueeze.language import Parameter, label_of, parameters_of, parse_spec, resolve_parameters, suggestion

_PLUGIN = re.compile(r"(?P<file>.+\.py):(?P<spec>(?P<name>[A-Za-z_]\w*)([:,].*)?)")


@dataclass(frozen=True)
class Part:
    """A class found under a spec, with the keyword arguments that the spec gives it.

    `origin` is `built-in`, `entry point` or the plug-in's file.
    """

    spec: str
    cls: type[Any]
    options: dict[str, Any]
    origin: str

    @property
    def name(self) -> str:
        return str(getattr(self.cls, "name", self.cls.__name__))

    @property
    def label(self) -> str:
        """Its name in tables and folders, with its parameters as they were given."""
        return label_of(self.name, self.spec)

    @property
    def is_plugin(self) -> bool:
        return self.origin != "built-in"


class Registry:
    """The parts of one kind: the classes in a package that carry a `name`, entry points of a group, and files.

    Args:
        given: keyword arguments of a class that the package gives it, and that are no parameters of a spec.
    """

    def __init__(self, kind: str, package: str, option: str, given: tuple[str, ...] = ()) -> None:
        self.kind, self.package, self.option, self.given = kind, package, option, given
        self.group = f"mpisqueeze.{kind}s"

    @cache  # noqa: B019 - a registry lives as long as the process
    def builtins(self) -> dict[str, type[Any]]:
        """The classes by name: one is built in because its module lies in the package, with no list to maintain."""
        package = importlib.import_module(self.package)
        found: dict[str, type[Any]] = {}
        for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda item: item.name):
            module = importlib.import_module(f"{self.package}.{info.name}")
            for value in vars(module).values():
                if isinstance(value, type) and value.__module__ == module.__name__ and "name" in vars(value):
                    found[vars(value)["name"]] = value
        return found

    @cache  # noqa: B019
    def entries(self) -> dict[str, Any]:
        """Entry points by name; they are loaded only when asked for."""
        return {point.name: point for point in entry_points(group=self.group)}

    def names(self) -> list[str]:
        return sorted({*self.builtins(), *self.entries()})

    def parameters(self, name: str) -> tuple[Parameter, ...]:
        """The parameters of a built-in part; none of an entry point, which is not loaded for that."""
        found: Any = self.builtins().get(name)
        return parameters_of(found, self.given) if found else ()

    def find(self, text: str) -> Part:
        """The part that `text` names. Raises UsageError with the nearest known name, or why a plug-in does not load."""
        plugin = _PLUGIN.fullmatch(text)
        try:
            cls: Any
            if several := _several(text):
                raise UsageError(f"{text!r} names {len(several)} parts; write each by itself: {' '.join(several)}")
            if plugin:
                path = path_of(plugin["file"])
                spec, origin = parse_spec(plugin["spec"]), str(path.absolute())
                cls = self._class_of(load_part(path, plugin["name"]), text)
            else:
                spec, origin = parse_spec(text), "built-in"
                cls = self.builtins().get(spec.name)
            if cls is None and spec.name in self.entries():
                origin = "entry point"
                try:
                    cls = self._class_of(self.entries()[spec.name].load(), spec.name)
                except (Exception, SystemExit) as error:
                    raise UsageError(f"the entry point {spec.name!r} does not load: {describe(error)}") from error
            if cls is None:
                raise UsageError(
                    f"unknown {self.kind} {spec.name!r}{suggestion(spec.name, self.names())}; "
                    f"known: {', '.join(self.names())}, or {self.plugins}"
                )
            if origin != "built-in":
                _check_declared(cls, text)
            return Part(text, cls, resolve_parameters(spec, parameters_of(cls, self.given)), origin)
        except UsageError as error:
            raise UsageError(error.message, error.option or self.option) from error.__cause__

    @property
    def plugins(self) -> str:
        """The forms in which a user names a part of their own."""
        return "FILE.py:Class or FILE.py:function" if self.kind == "problem" else "FILE.py:Class"

    def _class_of(self, found: Any, text: str) -> type[Any]:
        """A class as it is; of a function, the torch problem that it describes."""
        if isinstance(found, type):
            return found
        if self.kind != "problem":
            raise UsageError(f"{text} is a function, and a {self.kind} is a class")
        from mpisqueeze.problems.function import problem_of

        return problem_of(found)


def _options(text: str) -> set[str]:
    """The options of the part that a text begins with."""
    name = re.split("[:/,]", text)[0]
    return {option.name for parts in (algorithms, compressors, problems) for option in parts.parameters(name)}


def _several(text: str) -> list[str]:
    """The parts that a text names with commas between them; none where it names one."""
    begun: list[str] = []
    for item in text.split(","):
        name = re.split("[:/]", item)[0].strip()
        # Names are looked up where it may be one, since those of algorithms load MPI.
        kinds = (compressors, problems, algorithms) if begun and "=" not in item else ()
        if not begun or (any(name in parts.names() for parts in kinds) and name not in _options(begun[-1])):
            begun.append(item.strip())
        else:
            begun[-1] += f",{item}"
    return begun if len(begun) > 1 else []


#: Attributes that a class may have, and what each must be.
_DECLARED: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("name", "summary", "default_compressor", "fixed_compressor", "lossless", "default_data"),
        (lambda value: isinstance(value, str), "text"),
    ),
    **dict.fromkeys(
        ("compresses", "compresses_up", "needs_data", "takes_batch_size", "overlaps", "own_momentum", "linear"),
        (lambda value: isinstance(value, bool), "True or False"),
    ),
    **dict.fromkeys(
        ("takes", "ignores"),
        (lambda value: isinstance(value, tuple) and all(isinstance(item, str) for item in value), "a tuple of texts"),
    ),
    "fails_with": (lambda value: value in ("", "biased", "lossy"), "biased, lossy or empty"),
    **dict.fromkeys(("check_installed", "limit_threads", "check_parts"), (callable, "a method of the class")),
    "default_lr": (lambda value: isinstance(value, int | float) and 0 < value < math.inf, "a number above 0"),
}


def _check_declared(cls: type[Any], text: str) -> None:
    """Raise UsageError for a plug-in's class with an attribute that is not what it must be."""
    for name, (fits, what) in _DECLARED.items():
        value = getattr(cls, name, None)
        if value is not None and not fits(value):
            raise UsageError(f"{text} breaks its contract: {name} must be {what}, not {describe_value(value)}")


@cache
def _load_module(path: Path) -> ModuleType:
    if not os.path.isfile(path):
        raise UsageError(f"there is no file {path}")
    name = f"mpisqueeze_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # A plug-in may import its neighbours, as a script may.
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    # Ranks share the file: none of them writes a compiled copy beside it.
    writing, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            hint = ": pip install 'mpisqueeze[torch]'"
        raise UsageError(f"{path} does not load: {describe(error)}{hint}") from error
    finally:
        sys.dont_write_bytecode = writing
    return module


def load_part(path: Path, name: str) -> type[Any] | FunctionType:
    """The class or function `name` of the file `path`. Raises UsageError when it does not load."""
    module = _load_module(path)
    found = getattr(module, name, None)
    if not isinstance(found, type | FunctionType):
        own = [
            key
            for key, value in vars(module).items()
            if isinstance(value, type | FunctionType) and value.__module__ == module.__name__
        ]
        raise UsageError(f"{path} has no class or function {name!r}; it has: {', '.join(own) or 'none'}")
    return found


algorithms = Registry("algorithm", "mpisqueeze.algorithms", "--algorithm")
compressors = Registry("compressor", "mpisqueeze.compressors", "--compressor")
optimizers = Registry("optimizer", "mpisqueeze.optimizers", "--optimizer")
problems = Registry("problem", "mpisqueeze.problems", "--problem", ("dataset", "batch_size", "partition"))
