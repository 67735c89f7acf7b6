"""What can be chosen by name: one's own by import path, ``package.module:name``; a room's by what its files name."""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from raf_ray.errors import InputError, one_line

Kind = TypeVar("Kind")


def is_import_path(name: str) -> bool:
    return ":" in name


def load_object(path: str, key: str) -> Any:
    """The object at `path`; `key` is the config key named in the error. The working directory is searched too."""
    module_name, _, name = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"{key}={path}: cannot import module '{module_name}' ({error})") from error
    except Exception as error:  # the module's own code failed
        raise InputError(f"{key}={path}: importing '{module_name}' raised {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise InputError(f"{key}={path}: module '{module_name}' has no '{name}'")
    return getattr(module, name)


def make_own(path: str, key: str, kind: type[Kind]) -> Kind:
    """One's own `kind` at a path, made without parameters. Raises InputError where it is none; `key` names it there."""
    make = load_object(path, key)
    try:
        own = make()
    except TypeError as error:
        raise InputError(f"{key}: {path} cannot be made without parameters: {one_line(error)}") from error
    if not isinstance(own, kind):
        raise InputError(f"{key}: {path} gives {type(own).__name__}, not a {kind.__module__}.{kind.__name__}")
    return own


def names_in(room: str) -> dict[str, str]:
    """Name -> file of a package, from the tuple `NAMES` that each file may have; in the files' order."""
    return {name: file for file, names in constants_in(room, "NAMES").items() for name in names}


@lru_cache
def constants_in(room: str, constant: str) -> dict[str, Any]:
    """File -> the literal that `constant` is there, of a package's files that have it; in the files' order.

    The files are read and not imported: the config asks, and torch takes seconds.
    """
    found: dict[str, Any] = {}
    spec = importlib.util.find_spec(room)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in sorted(Path(folder).glob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == constant:
                    found[path.stem] = ast.literal_eval(node.value)
    return found


def classes_in(room: str, base: type[Kind]) -> dict[str, type[Kind]]:
    """File name -> the subclass of `base` that a file of a package defines, in alphabetical order."""
    found: dict[str, type[Kind]] = {}
    for info in pkgutil.iter_modules(importlib.import_module(room).__path__):
        module = importlib.import_module(f"{room}.{info.name}")
        for _, value in inspect.getmembers(module, inspect.isclass):
            own = value.__module__ == module.__name__ and value is not base
            if own and issubclass(value, base) and not inspect.isabstract(value):
                found[info.name] = value
    return found


def parameters_of(kind: type) -> Mapping[str, Any]:
    """Parameter name -> its pydantic field, of a class whose fields are config keys.

    pydantic gives a field its docstring in the class that has it and none in that class's subclasses.
    """
    found = {}
    for name, field in getattr(kind, "__pydantic_fields__", {}).items():
        above = (getattr(one, "__pydantic_fields__", {}).get(name) for one in kind.__mro__)
        told = next((one.description for one in above if one is not None and one.description), None)
        found[name] = copy.copy(field)
        found[name].description = told
    return found
