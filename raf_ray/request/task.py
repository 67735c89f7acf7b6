"""What is learnt, by `task.name`; and what of the config does not go with it."""

from __future__ import annotations

from dataclasses import replace

from raf_ray import tasks
from raf_ray.config.evaluation import EvaluationConfig
from raf_ray.config.tree import Config, ObjectiveConfig
from raf_ray.data.people import People
from raf_ray.errors import InputError
from raf_ray.objectives import Switches
from raf_ray.plugins import is_import_path, make_own
from raf_ray.tasks import Task
from raf_ray.tasks.interface import ANY_TASK
from raf_ray.tasks.pose import Pose

OF_POSES = ("metric", "val_metric", "decode")
"""Keys of `evaluation.*` that belong to poses."""


def task_of(config: Config) -> Task:
    """The task. Raises InputError where it is one's own and is none, or has not the model's stride."""
    name, codec = config.task.name, config.data.codec
    own = is_import_path(name)
    task = make_own(name, "task.name", Task) if own else tasks.built_in(name)  # type: ignore[type-abstract]
    if isinstance(task, Pose):
        task = replace(task, codec=codec)
    return task.at_stride(config.model.heatmap_stride)


def check_task(config: Config, task: Task) -> None:
    """Raise InputError where keys are set that mean nothing to the task."""
    if config.data.codec != "subpixel" and not isinstance(task, Pose):
        raise InputError(f"data.codec={config.data.codec} is of heatmaps, which task.name={config.task.name} has not; "
                         "leave it out")  # fmt: skip
    if config.data.codec != "subpixel" and config.objective.name == "mrkd" and config.objective.resize == "matched":
        raise InputError("objective.resize=matched brings teachers to the Gaussians of data.codec=subpixel, not of "
                         f"{config.data.codec}; set one of them to its default")  # fmt: skip
    if why := unfit_objective(config.task.name, task, config.objective):
        raise InputError(why)
    if task.metric is None:
        return
    defaults = EvaluationConfig()
    for key in OF_POSES:
        value = getattr(config.evaluation, key)
        if value != getattr(defaults, key):
            scored = f"; it is scored by {task.metric}" if key != "decode" else ""
            raise InputError(
                f"evaluation.{key}={value} is of poses, but task.name is {config.task.name}{scored}; leave it out"
            )


def check_can_be_stored(config: Config, task: Task, people: People) -> None:
    """Raise InputError where the task's labels are pictures too, which shards that are cut before do not hold."""
    if task.maps(people) is not None:
        raise InputError(
            f"task.name={config.task.name} learns from label maps, which neither prepared shards nor a search's shared "
            "data hold; run it by itself on the data set"
        )


def unfit_objective(name: str, task: Task, objective: ObjectiveConfig) -> str | None:
    """Why the task called `name` cannot go by that section, and what to do; None where it can."""
    defaults = ObjectiveConfig()
    for key in Switches.__annotations__:
        value = getattr(objective, key, None)
        if key not in ANY_TASK | task.switches and value != getattr(defaults, key, None):
            return f"objective.{key}={value} is of heatmaps, which task.name={name} has not; leave it out"
    return task.unfit(switches_of(objective))


def switches_of(objective: ObjectiveConfig) -> Switches:
    """RAF's switches, as the config has them."""
    return Switches(
        alpha=objective.alpha,
        teacher=objective.teacher,
        weighting=objective.weighting,
        kd_weight=objective.kd_weight,
        loss=objective.loss,
        temperature=objective.temperature,
        resize=objective.resize,
        reduction=objective.reduction,
    )


def metrics_of(config: Config) -> dict[str, str]:
    """Split -> the metric it is scored by."""
    evaluation, own = config.evaluation, task_of(config).metric
    if own is not None:
        return {"val": own, "train": own, "test": own}
    rounds = evaluation.val_metric or evaluation.metric
    return {"val": rounds, "train": rounds, "test": evaluation.metric}
