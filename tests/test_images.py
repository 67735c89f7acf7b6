"""The Dockerfile, and the files for KubeRay: linted, their steps run, their fields the operator's. No engine runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from raf_ray.config import load_config
from raf_ray.run import parser
from tests.hosts import make_wheels

REPOSITORY = Path(__file__).resolve().parents[1]
DOCKERFILE = REPOSITORY / "Dockerfile"
BIN = Path(sys.executable).parent


def instructions() -> list[tuple[str, str]]:
    """(instruction, its words), comments and line ends taken out."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in whole.splitlines() if line.strip()]


def test_hadolint_finds_nothing():
    done = subprocess.run([BIN / "hadolint", DOCKERFILE], text=True, capture_output=True)
    assert done.returncode == 0 and not done.stdout, done.stdout


@pytest.mark.slow
def test_its_steps_install_the_project_in_a_fresh_folder(tmp_path):
    """But for apt, user and owner; pip takes links to what is installed here."""
    make_wheels(tmp_path / "wheels")
    place, home = tmp_path / "raf-ray", tmp_path / "home"
    place.mkdir()
    home.mkdir()
    python = tmp_path / "bin"
    python.mkdir()
    (python / "python").symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    environment = {"HOME": str(home), "PATH": f"{place}/.venv/bin:{python}:/usr/bin:/bin", "DEVICE": "gpu",
                   "TORCH_INDEX": "", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}  # fmt: skip
    ran = 0
    for name, words in instructions():
        if name == "COPY":
            *sources, target = [word for word in words.split() if not word.startswith("--")]
            for source in sources:
                to = place / target / ("" if target == "raf_ray" else source)
                copy = shutil.copytree if (REPOSITORY / source).is_dir() else shutil.copy
                copy(REPOSITORY / source, to)
        elif name == "RUN" and "pip install" in words:
            done = subprocess.run(["sh", "-c", words], cwd=place, env=environment, text=True, capture_output=True)
            assert done.returncode == 0, done.stdout + done.stderr
            refused = subprocess.run(["sh", "-c", words], cwd=place, env={**environment, "DEVICE": "cpu"}, text=True,
                                     capture_output=True)  # fmt: skip
            assert refused.returncode == 2 and "DEVICE=cpu needs TORCH_INDEX" in refused.stderr
            ran += 1
    (command,) = [words for name, words in instructions() if name == "CMD"]
    assert ran == 1 and command == '["python", "-m", "raf_ray.run"]'
    done = subprocess.run([place / ".venv" / "bin" / "python", "-m", "raf_ray.run", "--help"], cwd=home, text=True,
                          env=environment, capture_output=True)  # fmt: skip
    assert done.returncode == 0 and "usage: python -m raf_ray.run" in done.stdout


def test_only_what_is_copied_goes_to_the_engine():
    copied = {word for name, words in instructions() if name == "COPY" for word in words.split()[1:-1]}
    kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == copied and all((REPOSITORY / name).exists() for name in copied)


# --- KubeRay ------------------------------------------------------------------------------------------


def fields(required: str = "", **properties: Any) -> dict[str, Any]:
    """A schema of an object that has these fields and no others."""
    return {"type": "object", "properties": properties, "required": required.split(), "additionalProperties": False}


TEXT, COUNT, YES = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^\d+(\.\d+)?(m|Ki|Mi|Gi|Ti)?$"}}
NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
CONTAINER = fields(
    "name image resources", name=NAME, image=TEXT,
    ports={"type": "array", "items": fields("containerPort name", containerPort=COUNT, name=NAME)},
    resources=fields("limits requests", limits=QUANTITIES, requests=QUANTITIES),
    envFrom={"type": "array", "items": fields(secretRef=fields("name", name=NAME, optional=YES))},
)  # fmt: skip
TEMPLATE = fields("spec", spec=fields("containers", containers={"type": "array", "items": CONTAINER, "minItems": 1}))
CLUSTER = fields(
    "headGroupSpec", rayVersion=TEXT, authOptions=fields(mode={"enum": ["disabled", "token"]}),
    headGroupSpec=fields("template", rayStartParams=TEXTS, template=TEMPLATE),
    workerGroupSpecs={"type": "array", "items": fields(
        "groupName template minReplicas maxReplicas", groupName=NAME, replicas=COUNT, minReplicas=COUNT,
        maxReplicas=COUNT, rayStartParams=TEXTS, template=TEMPLATE,
    )},
)  # fmt: skip
JOB = fields("entrypoint rayClusterSpec", entrypoint=TEXT, shutdownAfterJobFinishes=YES, ttlSecondsAfterFinished=COUNT,
             backoffLimit=COUNT, rayClusterSpec=CLUSTER)  # fmt: skip
"""Of the operator's ray.io/v1, version 1.6, as far as our files use it."""


def whole(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return fields("apiVersion kind metadata spec", apiVersion={"const": "ray.io/v1"}, kind={"const": kind},
                  metadata=fields("name", name=NAME), spec=spec)  # fmt: skip


def read(name: str) -> tuple[dict[str, Any], str]:
    text = (REPOSITORY / "cluster" / "kuberay" / name).read_text(encoding="utf-8")
    return YAML(typ="safe", pure=True).load(text), text


@pytest.mark.parametrize(
    ("name", "schema"), [("raycluster.yaml", whole("RayCluster", CLUSTER)), ("rayjob.yaml", whole("RayJob", JOB))]
)
def test_the_files_for_kuberay_have_the_operators_fields(name, schema):
    values, _ = read(name)
    jsonschema.validate(values, schema)
    spec = values["spec"].get("rayClusterSpec", values["spec"])
    assert f"ray=={spec['rayVersion']}" in (REPOSITORY / "constraints.txt").read_text().splitlines()
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        for container in group["template"]["spec"]["containers"]:
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert container["image"] == "<REGISTRY/raf-ray>"
    broken = {**values, "spec": {**values["spec"], "workerGroupSpec": []}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_the_labels_of_kuberays_workers_are_those_that_its_command_asks_for():
    values, text = read("raycluster.yaml")
    words = re.findall(r'"(resources\.[^"]+)"', text)
    config = load_config(overrides=words)
    labels = {group["rayStartParams"]["labels"] for group in values["spec"]["workerGroupSpecs"]}
    asked = {f"{key}={value}" for tier in config.resources.labels.values() for key, value in tier.items()}
    assert asked and asked <= labels
    has_gpu = {
        group["rayStartParams"]["labels"]: "nvidia.com/gpu"
        in group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for group in values["spec"]["workerGroupSpecs"]
    }
    assert {label for label, has in has_gpu.items() if has} == asked


def test_the_run_of_the_job_is_one_that_the_command_takes():
    values, _ = read("rayjob.yaml")
    words = values["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "raf_ray.run"]
    arguments = parser().parse_intermixed_args(words[3:])
    load_config(overrides=arguments.overrides)
    assert arguments.output.startswith("s3://BUCKET/") and arguments.address is None
