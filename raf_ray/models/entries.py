"""A checkpoint file's weights by name, as various tools write them: under which key, behind which prefix.

Files are read with `weights_only=True` or as safetensors, so a file cannot run code.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from raf_ray.errors import InputError
from raf_ray.resolution import HEATMAP_STRIDE

STATE_KEYS = ("state_dict", "model", "model_state_dict", "module", "network", "net", "weights", "params", "teacher")
"""Where tools put a model's weights; the first that is there is used."""

AVERAGED_KEYS = ("state_dict_ema", "ema_state_dict", "model_ema", "ema", "params_ema")
"""Where tools put its moving average; used where there is nothing else."""

WRAPPERS = ("_orig_mod", "module")
"""Parts of a name that torch.compile and DistributedDataParallel add, at any place."""

HEADS = ("model", "net", "network", "backbone")
"""What a module that trains another, such as Lightning's or DINO's, calls it: the head of all its names."""


@dataclass(frozen=True)
class Found:
    """A state dict of a file."""

    entries: dict[str, Tensor]
    """By the names that they have there."""
    source: str
    """The key that they stand under; empty: the file's top."""
    others: list[str]
    """Keys of further state dicts beside it."""
    heatmap_stride: int | None
    """Of the model, as a run's model.pt says it; None: another file."""


def read_entries(path: Path) -> Found:
    """A file's state dict.

    Raises:
        InputError: there is no such file, or it holds no state dict that can be read safely.
    """
    if path.is_dir():
        raise InputError(f"the checkpoint {path} is a folder; give a file")
    if not path.is_file():
        raise InputError(f"there is no checkpoint file {path}: check the path")
    return entries_in(_content(path), path)


def entries_in(content: Any, path: Path) -> Found:
    """The state dict in what was read of the file at `path`. Raises InputError where there is none."""
    found = _state_dicts(content)
    if not found:
        raise InputError(
            f"{path} holds no state dict (name -> tensor), neither at its top nor under 'model' or"
            " 'state_dict': give a model.pt of a run, or a MAE or ViTPose checkpoint"
        )
    source, entries = next(iter(found.items()))
    return Found(entries, source, list(found)[1:], _stride_in(content))


def _content(path: Path) -> Any:
    try:
        if _is_safetensors(path):
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sparse tensors and TorchScript, which are refused in our words
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is no checkpoint, or one with objects that could run code, which are never read: save"
            " its state dict alone, torch.save(state_dict, path), and give that file"
        ) from error
    except OSError as error:
        raise InputError(f"the checkpoint file {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file fails anywhere in the reader: EOFError, RuntimeError, ...
        raise InputError(
            f"{path} is not readable as a checkpoint ({_kind(path) or type(error).__name__ + ': it is damaged'})"
            ": save a state dict with torch.save(state_dict, path), or copy or download the file again"
        ) from error


def _stride_in(content: Mapping[str, Any]) -> int | None:
    stride = content.get("heatmap_stride", HEATMAP_STRIDE if "model_name" in content else None)
    return stride if isinstance(stride, int) else None


def _is_safetensors(path: Path) -> bool:
    """By its first sign of JSON behind eight bytes of length; the names of such files vary."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _kind(path: Path) -> str | None:
    """What else a file is that is not read as a checkpoint."""
    if not path.stat().st_size:
        return "it is empty"
    if _is_safetensors(path) or path.suffix == ".safetensors":
        return "it is a damaged safetensors file"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return "it is a TorchScript archive"
        return "it is a zip archive of another kind"
    return None


def _state_dicts(content: object, inside: str = "") -> dict[str, dict[str, Tensor]]:
    """Key -> state dict, the one to use first: at the top, under a known key, or under one within one."""
    if not isinstance(content, Mapping) or not content:
        return {}
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors and all(map(is_entry, content.items())):
        return {inside.rstrip("."): tensors}
    found: dict[str, dict[str, Tensor]] = {}
    for key in (*STATE_KEYS, *AVERAGED_KEYS):
        if isinstance(content.get(key), Mapping) and inside.count(".") < 2:
            found |= _state_dicts(content[key], f"{inside}{key}.")
    return found


def is_entry(item: tuple[Any, Any]) -> bool:
    """Whether a (key, value) pair belongs in a state dict: a tensor, or what a module keeps beside its tensors."""
    name, value = item
    return isinstance(name, str) and (isinstance(value, Tensor) or name.endswith("_extra_state"))


# --- names ----------------------------------------------------------------------------------------------


def plain_name(name: str) -> str:
    """A name without what wrappers add to it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS) or name


def prefixes_in(entries: Mapping[str, Tensor]) -> list[str]:
    """The prefixes that may be taken off plain names, the empty one first, stacked as they are: ``model.net.``."""
    prefixes: dict[str, None] = {"": None}
    for name in entries:
        prefix = ""
        for part in plain_name(name).split(".")[:-1]:
            if part not in HEADS:
                break
            prefix += f"{part}."
            prefixes[prefix] = None
    return list(prefixes)


def without_prefix(entries: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """By plain names without `prefix`; entries that lack it keep theirs where no other takes it."""
    plain = {plain_name(name): value for name, value in entries.items()}
    others = {name: value for name, value in plain.items() if not name.startswith(prefix)}
    return others | {name.removeprefix(prefix): value for name, value in plain.items() if name.startswith(prefix)}


def shape_of(value: Tensor) -> tuple[int, ...] | None:
    """None for a tensor of tensors, which has no shape."""
    return None if value.is_nested else tuple(value.shape)
