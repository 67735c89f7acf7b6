"""``torch.export``'s .pt2: a graph of torch's own operators, which ``torch.export.load`` opens without raf-ray.

And no TorchScript: torch has deprecated it, its tracing fixes the sizes of batch and picture without a word, and its
scripting refuses the tasks' code.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raf_ray.deploy.graph import Graph, Run

ENDING = "pt2"

METADATA = "raf_ray.json"
"""The extra file in the archive that says how pictures are prepared."""


def check_installed() -> None: ...


def write(graph: Graph, path: Path, metadata: Mapping[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that share memory, which these do not
        torch.export.save(graph.program, path, extra_files={METADATA: json.dumps(metadata)})


def opened(path: Path) -> Run:
    module = torch.export.load(path).module()

    def run(images: Tensor) -> list[Tensor]:
        with torch.inference_mode():
            found = module(images)
        return [found] if isinstance(found, Tensor) else list(found)

    return run
