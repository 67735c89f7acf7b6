"""The detected boxes that a config asks to be scored beside the given ones."""

from __future__ import annotations

from collections.abc import Mapping

from raf_ray.config.tree import Config
from raf_ray.data.annotations.detections import Detections, read_detections
from raf_ray.data.people import People
from raf_ray.errors import InputError
from raf_ray.paths import existing_file


def detections_of(config: Config, held_out: Mapping[str, People]) -> dict[str, Detections]:
    """Split -> boxes of ``evaluation.boxes``; {} where none are asked for or the split is not there.

    Raises InputError where they do not go with the data or the metric.
    """
    evaluation, data, split = config.evaluation, config.data, config.evaluation.split
    if evaluation.boxes is None or split not in held_out:
        return {}
    if evaluation.metric != "oks_ap" or config.task.name != "pose":
        raise InputError("evaluation.boxes: detected boxes have an OKS AP alone; set evaluation.metric=oks_ap")
    if data.name in ("synthetic", "shards"):
        raise InputError(
            f"evaluation.boxes: {data.name} has no pictures that a detector could see; set data.name to a data set"
        )
    key = f"{split}_people"
    if getattr(data, key) is not None:
        raise InputError(
            f"evaluation.boxes: boxes of people who are not scored would count as wrong, so all are needed; set "
            f"data.{key}=null"
        )
    return {split: read_detections(existing_file(evaluation.boxes, "evaluation.boxes:"), held_out[split])}
