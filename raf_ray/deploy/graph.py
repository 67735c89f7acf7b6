"""What goes out: a model in evaluation mode as a graph of one or of any size, the task's answer inside or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from raf_ray.data.batches import MEAN, STD
from raf_ray.errors import described
from raf_ray.models import heatmap_stride, size_divisor
from raf_ray.resolution import LARGEST_SIDE, Size
from raf_ray.tasks import Task
from raf_ray.tasks.interface import Decode

STRIDES = (16, 32, 64)
"""Of a net's deepest features: multiples of the model's divisor that are tried where the divisor itself will not do."""

LEAST = 2
"""Times the divisor that a side of any size has at the least: one row of features is a case of its own to torch."""


class Outgoing(nn.Module):
    """A model, alone or between the normalisation and the task's answer.

    Alone (`decode` None): images (B, 3, H, W) float32, normalised -> its outputs (B, K, h, w).
    Else: pictures (B, H, W, 3) uint8 RGB -> the task's answer (B, ...); of joints two outputs, (B, K, 2) x and y in
    pixels of the picture and (B, K) confidences.
    """

    def __init__(self, model: nn.Module, task: Task, decode: Decode | None) -> None:
        super().__init__()
        self.model, self.task, self.decode = model, task, decode

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.decode is None:
            outputs: Tensor = self.model(images)
            return outputs
        pixels = (images.float() - torch.tensor(MEAN)) / torch.tensor(STD)
        answer = self.task.answer(self.model(pixels.permute(0, 3, 1, 2)), self.decode)
        return (answer[..., :2], answer[..., 2]) if self.task.draws_joints else answer

    @property
    def input_name(self) -> str:
        return "images" if self.decode is None else "pictures"

    @property
    def output_names(self) -> tuple[str, ...]:
        if self.decode is None:
            return ("heatmaps",) if self.task.draws_joints else ("outputs",)
        return ("joints", "confidences") if self.task.draws_joints else ("answer",)

    def example(self, size: Size) -> Tensor:
        """Two of what it takes."""
        if self.decode is None:
            return torch.zeros(2, 3, size.height, size.width)
        return torch.zeros(2, size.height, size.width, 3, dtype=torch.uint8)


@dataclass(frozen=True)
class Graph:
    """A traced `Outgoing`."""

    program: ExportedProgram
    input_name: str
    output_names: tuple[str, ...]
    size: Size | None
    """Height and width that it takes; None: any that `divisor` divides, from LEAST times it"""
    divisor: int

    def takes(self, size: Size) -> bool:
        if self.size is not None:
            return size == self.size
        return all(side % self.divisor == 0 and side >= LEAST * self.divisor for side in (size.height, size.width))

    @property
    def told(self) -> str:
        """The sizes that it takes, for people."""
        return str(self.size or f"any: sides from {LEAST * self.divisor} that {self.divisor} divides")


def fixed_graph(outgoing: Outgoing, size: Size) -> Graph:
    """The graph for batches of any length at one size."""
    program = _traced(outgoing, outgoing.example(size), {0: Dim("batch", min=1)})
    return Graph(program, outgoing.input_name, outgoing.output_names, size, size_divisor(outgoing.model))


def any_size_graphs(outgoing: Outgoing) -> Iterator[Graph | str]:
    """Graphs for batches of any length and size, or why there is none, by what must divide the sides.

    The model's own divisor comes first. Where it treats some of its sizes in another way (the demo pads those that 16
    does not divide), no one graph may do for all, and multiples of 16, 32 or 64 are left.
    """
    own = size_divisor(outgoing.model)
    rows, columns = (2, 3) if outgoing.decode is None else (1, 2)
    for divisor in dict.fromkeys([own, *(stride for stride in STRIDES if stride % own == 0)]):
        most = LARGEST_SIDE // divisor
        sides = {
            rows: divisor * Dim("rows", min=LEAST, max=most),
            columns: divisor * Dim("columns", min=LEAST, max=most),
        }
        example = outgoing.example(Size(8 * divisor, 6 * divisor))
        try:
            program = _traced(outgoing, example, {0: Dim("batch", min=1), **sides})
        except Exception as error:  # torch raises another type for every reason why a model is no one graph
            yield described(error)[:200]
        else:
            yield Graph(program, outgoing.input_name, outgoing.output_names, None, divisor)


def describe(graph: Graph, outgoing: Outgoing, told: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says of itself, beside what is `told`, such as how people are cut: with both, pictures can be
    prepared for it."""
    decodes = outgoing.decode is not None
    made: dict[str, Any] = {
        **told,
        "input": {
            "name": graph.input_name,
            "layout": "NHWC" if decodes else "NCHW",
            "type": "uint8" if decodes else "float32",
            "colour": "RGB",
            "size": None if graph.size is None else [graph.size.height, graph.size.width],
            "divisor": graph.divisor,
            "least": LEAST * graph.divisor,
            "mean": None if decodes else list(MEAN),
            "std": None if decodes else list(STD),
        },
        "output": {
            "names": list(graph.output_names),
            "decode": outgoing.decode,
            "heatmap_stride": heatmap_stride(outgoing.model) if outgoing.task.draws_joints else None,
        },
    }
    return made


def _traced(outgoing: Outgoing, example: Tensor, dims: Mapping[int, Any]) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(outgoing.eval(), (example,), dynamic_shapes=(dict(dims),), strict=False)


Run = Callable[[Tensor], list[Tensor]]
"""An opened file: what it takes -> its outputs."""
