"""One's own people, model, objective or skeleton by import path, ``package.module:name``."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from raf_ray.errors import InputError


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
