"""Read a checkpoint file into a model: this project's own, or a pre-trained one in a published layout.

| layout | recognised by | loaded | must match |
| --- | --- | --- | --- |
| own `model.pt` | no mark of the others | everything | every name and shape |
| MAE (He et al. 2022) | entry `patch_embed.proj.weight` | ViT backbone | the backbone |
| ViTPose (Xu et al. 2022) | key `state_dict` or entry `backbone.pos_embed` | backbone, head | the backbone |

The layouts are those of the papers' official code. Our position embeddings are in neither: there a table
for one size (`pos_embed`), here computed for any (see `vitpose.py`); so they stay as they are. Files are
read with `weights_only=True`, so a file cannot run code.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from raf_ray.errors import InputError
from raf_ray.models.vitpose import is_position_embedding

Layout = Literal["own", "mae", "vitpose"]

SHOWN = 3
"""Entries that an error names before it stops."""


@dataclass(frozen=True)
class CheckpointReport:
    """What became of every entry; names are the model's, those of `unexpected` the file's."""

    loaded: list[str]
    """Entries whose values now come from the file."""
    missing: list[str]
    """Entries of the model that the file does not have; they keep the values that they had."""
    unexpected: list[str]
    """Entries of the file that the model has no place for, such as MAE's `cls_token` and decoder; ignored."""
    mismatched: list[str]
    """Entries in both with another shape, such as a head for other joints; the model keeps its own values."""


def load_checkpoint(model: nn.Module, path: str | Path) -> CheckpointReport:
    """Load a file's weights into the model, in place, and report entry by entry; checks precede any change.

    A published layout must fill the whole backbone but its position embeddings; the head may stay as it was
    (MAE has none, and a ViTPose of another joint count has another last layer), so look at the report.

    Raises:
        InputError (a ValueError): there is no such file, it holds no checkpoint, it holds objects other than
            plain tensors and containers, or it is a checkpoint of another model.
    """
    path = Path(path)
    entries, layout = read_entries(path)
    if layout == "mae":
        entries = {mae_to_own(name): value for name, value in entries.items()}

    own = model.state_dict()
    report = CheckpointReport(
        loaded=[name for name in own if name in entries and entries[name].shape == own[name].shape],
        missing=[name for name in own if name not in entries],
        unexpected=[name for name in entries if name not in own],
        mismatched=[name for name in own if name in entries and entries[name].shape != own[name].shape],
    )
    differing = differences(report, layout)
    if differing:
        named = [describe(name, own, entries) for name in differing[:SHOWN]]
        more = ", ..." if len(differing) > SHOWN else ""
        raise InputError(
            f"{path} is a checkpoint of another model: {len(differing)} entries do not match,"
            f" {', '.join(named)}{more}; build the model that it was saved from, or give one of this model"
        )
    model.load_state_dict({name: entries[name] for name in report.loaded}, strict=False)
    return report


def read_entries(path: Path) -> tuple[dict[str, Tensor], Layout]:
    """A file's state dict, under the names that it has there, and the layout of those names.

    Raises:
        InputError: see `load_checkpoint`.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint file {path}: check the path")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is no checkpoint, or one with objects that could run code, which are never read: save"
            " its state dict alone, torch.save(state_dict, path), and give that file"
        ) from error
    except OSError as error:
        raise InputError(f"the checkpoint file {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file fails anywhere in the reader: EOFError, RuntimeError, ...
        raise InputError(
            f"{path} is not readable as a checkpoint ({type(error).__name__}): it is damaged or another kind"
            " of file, so copy or download it again"
        ) from error

    official = isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping)
    if official:
        content = content["state_dict"]
    elif isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not content or not all(map(is_entry, content.items())):
        raise InputError(
            f"{path} holds no state dict (name -> tensor), neither at its top nor under 'model' or"
            " 'state_dict': give a model.pt of a run, or a MAE or ViTPose checkpoint"
        )
    entries = dict(content)
    if "patch_embed.proj.weight" in entries:
        return entries, "mae"
    return entries, "vitpose" if official or "backbone.pos_embed" in entries else "own"


def is_entry(item: tuple[Any, Any]) -> bool:
    """Whether a (key, value) pair belongs in a state dict."""
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def mae_to_own(name: str) -> str:
    """MAE's name of an encoder entry to ours; what has no counterpart (decoder, tokens) keeps its name."""
    if name.startswith(("patch_embed.", "blocks.")):
        return f"backbone.{name}"
    if name.startswith("norm."):
        return f"backbone.last_{name}"
    return name


def differences(report: CheckpointReport, layout: Layout) -> list[str]:
    """The entries that make a file a checkpoint of another model; empty for one of this model."""
    if layout == "own":
        return report.mismatched + report.missing + report.unexpected
    needed = [name for name in report.missing if not is_position_embedding(name)]
    unknown = [name for name in report.unexpected if name not in REPLACED]
    return [name for name in report.mismatched + needed + unknown if name.startswith("backbone.")]


REPLACED = {"backbone.pos_embed", "backbone.cls_token"}
"""Entries of an official ViTPose backbone that ours does without: see `GlobalPosition`."""


def describe(name: str, own: Mapping[str, Tensor], entries: Mapping[str, Tensor]) -> str:
    """One entry that does not match, for an error: its name and why."""
    if name not in entries:
        return f"{name} (not in the file)"
    if name not in own:
        return f"{name} (not in this model)"
    return f"{name} (shape {tuple(entries[name].shape)}, here {tuple(own[name].shape)})"
