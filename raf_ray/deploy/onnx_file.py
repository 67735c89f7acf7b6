"""ONNX: a graph that onnxruntime and most engines run, with its metadata under the key `raf_ray`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from raf_ray.deploy.graph import Graph, Run
from raf_ray.errors import InputError

ENDING = "onnx"

METADATA = "raf_ray"
"""The key of the file's metadata that says how pictures are prepared."""

PACKAGES = ("onnx", "onnxscript", "onnxruntime")

OPSET = 18

LARGEST = 2**31 - 2**24
"""Bytes of weights: protobuf's bound of 2 GiB, and some room for the graph."""


def check_installed() -> None:
    """Raise InputError where a package of the extra `onnx` is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(
            f"--format onnx needs {', '.join(missing)}, not installed here; pip install 'raf-ray[onnx]', or take "
            "--format torch"
        )


def write(graph: Graph, path: Path, metadata: Mapping[str, Any]) -> None:
    """Raises InputError where the model is larger than such a file may be."""
    check_installed()
    import onnx

    size = sum(tensor.numel() * tensor.element_size() for tensor in graph.program.state_dict.values())
    if size > LARGEST:
        raise InputError(f"the model has {size / 2**30:.1f} GiB of weights, and an ONNX file holds 2 at most; take "
                         "--format torch")  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own converter, which has no other way to be quiet
        made = torch.onnx.export(
            _plain(graph.program), dynamo=True, verbose=False, opset_version=OPSET,
            input_names=[graph.input_name], output_names=list(graph.output_names),
        )  # fmt: skip
    assert made is not None
    model = made.model_proto
    _name_sides(model, graph)
    onnx.helper.set_model_props(model, {METADATA: json.dumps(metadata)})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def opened(path: Path) -> Run:
    """The file in onnxruntime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(found) for found in session.run(None, {name: images.numpy()})]

    return run


def _name_sides(model: Any, graph: Graph) -> None:
    """Give the input's free sides names that say what they are, in the outputs too where they are the same."""
    del model.graph.value_info[:]
    sides = ("batch", "3", "height", "width") if graph.input_name == "images" else ("batch", "height", "width", "3")
    given = model.graph.input[0].type.tensor_type.shape.dim
    names = {dim.dim_param: side for dim, side in zip(given, sides, strict=True) if dim.dim_param}
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:  # to write one clears a number
                dim.dim_param = names.get(dim.dim_param, dim.dim_param)


def _plain(program: ExportedProgram) -> ExportedProgram:
    """The same without two operators that torch's converter to ONNX lacks."""
    return program.run_decompositions(
        {
            torch.ops.aten.linalg_solve_ex.default: _solved,  # DARK's fit at the border
            torch.ops.aten.remainder.Scalar: _remainder,  # by a size that is known when it runs
        }
    )


def _solved(matrix: Tensor, right: Tensor, **_: object) -> tuple[Tensor, Tensor]:
    """`torch.linalg.solve_ex` of (..., n, n) and (..., n, m) by Gauss-Jordan elimination; NaN where there is no answer.

    Without a search for pivots: the matrices of a weighted least-squares fit are positive (semi)definite.
    """
    size = matrix.shape[-1]
    both = torch.cat([matrix, right], dim=-1)
    for k in range(size):
        row = both[..., k : k + 1, :] / both[..., k : k + 1, k : k + 1]
        above, below = both[..., :k, :], both[..., k + 1 :, :]
        both = torch.cat([above - above[..., k : k + 1] * row, row, below - below[..., k : k + 1] * row], dim=-2)
    return both[..., size:], torch.zeros(matrix.shape[:-2], dtype=torch.int32)


def _remainder(values: Tensor, by: int) -> Tensor:
    return values - torch.div(values, by, rounding_mode="floor") * by
