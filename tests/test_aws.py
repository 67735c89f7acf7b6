"""`cluster/gpu.yaml` as far as can be without a cloud: Ray's AWS launcher, EC2 by moto, and hosts for its machines.

The hosts get the addresses that moto gives its instances, and the keys that Ray made: so SSH, set-up commands, Ray's
start and the autoscaler's work are real; the image, the disks and the drivers are not.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import HOME, Host, Hosts, hosts_up, ip
from tests.tiny import WORDS

pytest.importorskip("moto.server", reason="needs moto, a stand-in for AWS in Python")

REPOSITORY = Path(__file__).resolve().parents[1]
FILE = f"{HOME}/gpu.yaml"
PORT = 5000
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "key-of-the-tests", "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
    "AWS_DEFAULT_REGION": "us-west-2", "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_ENDPOINT_URL": f"http://10.77.0.9:{PORT}", "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
}  # fmt: skip

WATCH = """
# Each instance when it is first seen, and again when it has ended, a JSON line each.
import json, time, boto3
ec2, seen = boto3.client("ec2"), {}
while True:
    for group in ec2.describe_instances()["Reservations"]:
        for one in group["Instances"]:
            if seen.get(one["InstanceId"]) != one["State"]["Name"]:
                seen[one["InstanceId"]] = one["State"]["Name"]
                print(json.dumps(one, default=str), flush=True)
    time.sleep(0.5)
"""


class Cloud:
    """moto on the laptop, whose instances are the hosts, in order."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.instances: dict[str, dict[str, Any]] = {}
        self.homes: dict[str, Host] = {}
        self._free = [hosts.hosts[name] for name in ("h0", "h1", "h2")]
        server = f"python -m moto.server -H 10.77.0.9 -p {PORT} > ~/moto.log 2>&1"
        self._moto = hosts.start(hosts.laptop, "bash", "-c", server, environment=SETTINGS)
        while hosts.run(hosts.laptop, "bash", "-c", f"< /dev/tcp/10.77.0.9/{PORT}", code=None).returncode:
            assert self._moto.poll() is None
            time.sleep(0.5)
        self._watch = hosts.start(hosts.laptop, "python", "-c", WATCH, environment=SETTINGS)
        threading.Thread(target=self._follow, daemon=True).start()

    def call(self, code: str) -> Any:
        """What an expression of `ec2` gives."""
        text = f"import json, boto3; ec2 = boto3.client('ec2'); print(json.dumps({code}, default=str))"
        return json.loads(self.hosts.run(self.hosts.laptop, "python", "-c", text, environment=SETTINGS).stdout)

    def _follow(self) -> None:
        assert self._watch.stdout is not None
        for line in self._watch.stdout:
            instance = json.loads(line)
            name = instance["InstanceId"]
            is_new = name not in self.instances
            self.instances[name] = instance
            if is_new and instance["State"]["Name"] in ("pending", "running") and self._free:
                self._settle(instance, self._free.pop(0))

    def _settle(self, instance: dict[str, Any], host: Host) -> None:
        """Give a host an instance's addresses, and let Ray's key in."""
        self.homes[instance["InstanceId"]] = host
        for address in (instance["PublicIpAddress"], instance["PrivateIpAddress"]):
            ip("-n", host.namespace, "addr", "add", f"{address}/32", "dev", "eth0")
        ip("-n", host.namespace, "route", "replace", "default", "dev", "eth0", "src", instance["PrivateIpAddress"])
        keys = sorted((self.hosts.laptop.home / ".ssh").glob("*.pem"))
        public = subprocess.run(["ssh-keygen", "-y", "-f", keys[0]], check=True, capture_output=True, text=True).stdout
        (host.home / ".ssh" / "authorized_keys").write_text(public)


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with hosts_up() as hosts:
        ip("-n", hosts.laptop.namespace, "route", "add", "default", "dev", "switch")
        exports = "".join(f"export {key}={value}\n" for key, value in SETTINGS.items())
        for host in hosts.hosts.values():
            with open(host.home / ".profile", "a") as profile:
                profile.write(exports)
            sudo = host.home / ".local" / "bin" / "sudo"
            sudo.write_text(f'#!/bin/sh\necho "$@" >> {HOME}/sudo.log\n')
            sudo.chmod(0o755)
            hosts.own(host.home)
        yield Cloud(hosts)


def flat(text: str) -> str:
    """Without what a terminal is told and where it breaks lines."""
    return " ".join(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).split())


@pytest.mark.slow
@pytest.mark.rare
def test_ray_up_makes_the_machines_that_the_file_says_and_ray_down_ends_them(cloud, tmp_path):
    hosts = cloud.hosts
    image = cloud.call("ec2.describe_images()['Images'][0]['ImageId']")
    text = (REPOSITORY / "cluster" / "gpu.yaml").read_text()
    unset = "ami-00000000000000000"
    (hosts.laptop.home / "unset.yaml").write_text(text)
    refused = hosts.run(hosts.laptop, "python", "-m", "raf_ray.cluster", "up", f"{HOME}/unset.yaml",
                        environment=SETTINGS, code=2).stdout  # fmt: skip
    assert f"ImageId is still {unset}" in refused and len(refused.splitlines()) == 1
    assert not cloud.instances and not cloud.call("ec2.describe_key_pairs()['KeyPairs']")

    (hosts.laptop.home / "gpu.yaml").write_text(text.replace(unset, image))
    hosts.run(hosts.laptop, "python", "-m", "raf_ray.cluster", "up", FILE, environment=SETTINGS)
    run = "cd raf-ray && source .venv/bin/activate && python -m raf_ray.run --address auto --output runs/mine "
    words = [*WORDS, "resources.wait_for_room_s=240", "federation.rounds=1"]
    said = hosts.run(hosts.laptop, "ray", "exec", FILE, run + shlex.join(words), environment=SETTINGS).stdout
    assert re.search(r"waiting up to 240 s .* for \d nodes? that the cluster starts \(.*worker", flat(said)), said
    status = hosts.run(hosts.laptop, "ray", "exec", FILE, "raf-ray/.venv/bin/ray status", environment=SETTINGS).stdout
    assert re.search(r"/2\.0 GPU", status), status
    assert len(cloud.instances) == 3, cloud.instances
    kinds = {}
    for instance in cloud.instances.values():
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        kinds.setdefault(tags["ray-user-node-type"], []).append(instance)
    assert {kind: len(made) for kind, made in kinds.items()} == {"head": 1, "worker": 2}
    assert {(one["InstanceType"], one.get("InstanceLifecycle")) for one in kinds["worker"]} == {("g4dn.xlarge", "spot")}
    assert [one["InstanceType"] for one in kinds["head"]] == ["m5.2xlarge"]
    groups = {group["GroupId"] for one in cloud.instances.values() for group in one["SecurityGroups"]}
    rules = cloud.call(f"ec2.describe_security_groups(GroupIds={sorted(groups)})['SecurityGroups']")
    opened = [(rule.get("FromPort"), [r["CidrIp"] for r in rule["IpRanges"]]) for rule in rules[0]["IpPermissions"]]
    assert [port for port, ranges in opened if ranges] == [22]

    hosts.run(hosts.laptop, "python", "-m", "raf_ray.cluster", "down", FILE, environment=SETTINGS)
    deadline = time.monotonic() + 60
    while {one["State"]["Name"] for one in cloud.instances.values()} - {"shutting-down", "terminated"}:
        assert time.monotonic() < deadline, cloud.instances
        time.sleep(1)
