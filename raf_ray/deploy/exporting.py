"""A model written as files, one a size and one of any, each held against the model before any of them is there."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from raf_ray.deploy.check import Difference, differences
from raf_ray.deploy.graph import Graph, Outgoing, any_size_graphs, describe, fixed_graph
from raf_ray.errors import InputError, RunError, described
from raf_ray.resolution import Size
from raf_ray.tasks import Task
from raf_ray.tasks.interface import Decode

Format = Literal["onnx", "torch"]
FORMATS: tuple[Format, ...] = ("onnx", "torch")


@dataclass(frozen=True)
class Exported:
    """One file."""

    path: Path
    sizes: str
    """The size that it takes, or which any"""
    bytes: int
    differences: tuple[Difference, ...]


def export_model(
    model: nn.Module, task: Task, decode: Decode | None, sizes: Sequence[Size], stem: Path, format: Format,
    metadata: Mapping[str, Any],
) -> tuple[list[Exported], str]:  # fmt: skip
    """Write `stem`-HxW for each size and `stem`-any; the files, and why there is none of any size ("": there is).

    Args:
        model: in evaluation mode, on the CPU.
        decode: the task's answer inside, by that method; None: the model alone.
        metadata: further words for the files' own record.

    Raises:
        InputError: the format's packages are missing, or the model cannot be such a file.
        RunError: a file computes something else than the model. Nothing is left behind.
    """
    files = files_of(format)
    files.check_installed()
    outgoing = Outgoing(model, task, decode)
    stem.parent.mkdir(parents=True, exist_ok=True)
    done: list[Exported] = []
    with tempfile.TemporaryDirectory(prefix=".export-", dir=stem.parent) as folder, torch.no_grad():

        def make(graph: Graph) -> None:
            name = f"{stem.name}-{graph.size or 'any'}.{files.ENDING}"
            made = Path(folder, name)
            _write(files, graph, made, describe(graph, outgoing, metadata))
            apart = _checked(files, made, graph, outgoing, sizes)
            done.append(Exported(stem.with_name(name), graph.told, made.stat().st_size, apart))

        for size in sizes:
            make(_fixed(outgoing, size))
        why = _try_each(any_size_graphs(outgoing), make)
        for one in done:
            os.replace(Path(folder, one.path.name), one.path)
    return done, why


def files_of(format: Format) -> Any:
    """The module of a format: `ENDING`, `check_installed`, `write` and `opened`."""
    return importlib.import_module(f"raf_ray.deploy.{format}_file")


def _try_each(graphs: Iterable[Graph | str], make: Callable[[Graph], None]) -> str:
    """Make the first that is one and computes what the model does; why none did, or ""."""
    why = ""
    for graph in graphs:
        if isinstance(graph, Graph):
            try:
                make(graph)
            except RunError as error:
                graph = str(error)
            else:
                return ""
        why = why or graph
    return why


def _fixed(outgoing: Outgoing, size: Size) -> Graph:
    try:
        return fixed_graph(outgoing, size)
    except Exception as error:  # torch raises another type for every reason why a model is no one graph
        raise InputError(
            f"the model cannot be exported at {size}, since torch.export makes no graph of it "
            f"({described(error)[:200]}); one's own model must not branch on values of its tensors"
        ) from error


def _write(files: Any, graph: Graph, path: Path, metadata: Mapping[str, Any]) -> None:
    try:
        files.write(graph, path, metadata)
    except (InputError, OSError):
        raise
    except Exception as error:  # of the converter, for an operator that the format lacks
        cause = str(error).strip().splitlines() or [""]
        raise InputError(
            f"the model cannot be written as {files.ENDING} ({type(error).__name__}: {cause[-1][:200]}); try the other "
            "--format"
        ) from error


def _checked(files: Any, path: Path, graph: Graph, outgoing: Outgoing, sizes: Sequence[Size]) -> tuple[Difference, ...]:
    """Raises RunError where the file cannot run, or differs from the model at a size that it takes."""
    at = [size for size in sizes if graph.takes(size)]
    if graph.size is None:  # sizes at which nothing was traced: odd multiples, and one without padding
        side = 64 if 64 % graph.divisor == 0 else 8 * graph.divisor
        at += [Size(5 * graph.divisor, 7 * graph.divisor), Size(side, side)]
    found: list[Difference] = []
    run = files.opened(path)
    for size in at:
        try:
            found += differences(run, outgoing, size)
        except Exception as error:  # whatever the format's own runtime raises
            raise RunError(
                f"{path.name} does not run at {size} ({described(error)[:200]}); nothing was written, try the other "
                "--format"
            ) from error
    for one in found:
        if not one.is_within:
            raise RunError(
                f"{path.name} differs from the model by {one.largest:.3g} in {one.output} at {one.size}, where float32 "
                f"may lose {one.allowed:.3g}; nothing was written, try the other --format"
            )
    return tuple(found)
