"""`cluster/onprem.yaml` for real: a laptop brings Ray up on three hosts by SSH, runs, loses a host, takes it down."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from raf_ray import run_federation
from raf_ray.runs.mirror import STALE_SECONDS
from tests.hosts import HOME, Hosts, hosts_up
from tests.searching import TINY
from tests.tiny import WORDS, tiny

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]
FILE = f"{HOME}/onprem.yaml"
ON_HEAD = "cd raf-ray && source .venv/bin/activate && "
LONG = (*WORDS, "federation.clients={high: 2, mid: 2, low: 2}", "federation.rounds=12", "data.people_per_client=24",
        "resources.cpus_per_client=0.7", "resources.clients_per_actor=1")  # fmt: skip
"""Two such clients fit on a host of two CPUs, so that six live on all three."""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with hosts_up() as hosts:
        write_file(hosts, cluster_file())
        yield hosts


def cluster_file() -> str:
    """The file with addresses, user and key set, as its own lines say."""
    text = (REPOSITORY / "cluster" / "onprem.yaml").read_text()
    for old, new in (("192.0.2.10", "10.77.0.1"), ("192.0.2.11, 192.0.2.12", "10.77.0.2, 10.77.0.3")):
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


def write_file(hosts: Hosts, text: str, name: str = "onprem.yaml") -> None:
    (hosts.laptop.home / name).write_text(text)


def cluster(hosts: Hosts, *words: str, code: int = 0) -> str:
    """``python -m raf_ray.cluster words`` on the laptop: what it says."""
    return hosts.run(hosts.laptop, "python", "-m", "raf_ray.cluster", *words, code=code).stdout


def on_head(hosts: Hosts, command: str, code: int | None = 0) -> str:
    return hosts.run(hosts.laptop, "ray", "exec", FILE, command, code=code).stdout


def wait_for_nodes(hosts: Hosts, count: int, seconds: float = 120, prefix: str = "") -> str:
    deadline = time.monotonic() + seconds
    cpus = int(hosts.run(hosts.laptop, "nproc").stdout)
    while True:
        said = on_head(hosts, f"{prefix}ray status", code=None)
        found = re.search(r"/(\d+(?:\.\d+)?) CPU", said)
        if found and float(found[1]) == count * cpus:
            return said
        assert time.monotonic() < deadline, said
        time.sleep(2)


def fetch(hosts: Hosts, where: str, into: Path) -> Path:
    """A run's folder, by the lines of the guide."""
    hosts.run(hosts.laptop, "bash", "-c", f"cd && mkdir -p runs && ray rsync-down {FILE} '{where}/' runs/{into.name}/")
    shutil.copytree(hosts.laptop.home / "runs" / into.name, into)
    return into


def assert_same(folder: Path, reference: Path) -> None:
    one, other = (torch.load(path / "model.pt", weights_only=True)["model"] for path in (folder, reference))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def run_on_head(hosts: Hosts, module: str, words: Sequence[str], at: dict[str, Callable[[], None]]) -> str:
    """Run a command on the head, and do something when its run.log holds a text; what it said."""
    log = hosts.hosts["h0"].home / "raf-ray" / "runs" / "mine" / "run.log"
    command = f"{ON_HEAD} python -m {module} --address auto {shlex.join(words)}"
    with open(hosts.folder / "said", "w+", errors="replace") as said:
        words_there = hosts.command(hosts.laptop, ["ray", "exec", FILE, command])
        process = subprocess.Popen(words_there, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        while process.poll() is None:
            time.sleep(0.2)
            told = log.read_text() if log.exists() else ""
            for text in [text for text in at if text in told]:
                at.pop(text)()
        said.seek(0)
        assert process.returncode == 0 and not at, said.read()
        said.seek(0)
        return said.read()


def test_a_cluster_of_ones_own_machines(hosts, tmp_path):
    """One cycle; its parts build on each other."""
    h1, h2 = hosts.hosts["h1"], hosts.hosts["h2"]
    hosts.cut(h2)
    said = cluster(hosts, "up", FILE)
    assert "10.77.0.3 is left out for now" in said, said
    wait_for_nodes(hosts, 2)
    hosts.boot(h2)
    wait_for_nodes(hosts, 3)

    at = {"training round 3 of": lambda: hosts.cut(h1), "training round 6 of": lambda: hosts.boot(h1)}
    run_on_head(hosts, "raf_ray.run", ["--output", "runs/mine", *LONG], at)
    mine = fetch(hosts, "~/raf-ray/runs/mine", tmp_path / "mine")
    told = (mine / "run.log").read_text()
    assert "node 10.77.0.2 was lost" in told
    reference = run_federation(tiny(*LONG, "federation.engine=in_process"), tmp_path / "reference")
    assert_same(mine, reference.folder)
    wait_for_nodes(hosts, 3)

    search = hosts.laptop.home / "search"
    search.mkdir()
    (search / "tiny.yaml").write_text(
        TINY.replace("num_samples: 4", "num_samples: 2").replace("rounds: 3", "rounds: 1")
    )
    hosts.own(search)
    tune = f"PYTHONPATH={REPOSITORY} python -m raf_ray.tune tiny.yaml --address http://127.0.0.1:8265"
    with tunnel(hosts):
        said = hosts.run(hosts.laptop, "bash", "-c", f"cd ~/search && {tune}").stdout
    assert "on test (%)" in said and "on the cluster's head node (10.77.0.1)" in said, said

    said = cluster(hosts, "down", FILE)
    assert all(f"Ray has ended on 10.77.0.{number}" in said for number in (2, 3)), said
    left = {name: hosts.ray_processes(host) for name, host in hosts.hosts.items()}
    assert not any(left.values()), left


SECRETS = {"AWS_SECRET_ACCESS_KEY": "aws-secret-9d1f", "MLFLOW_TRACKING_PASSWORD": "mlflow-secret-77ab"}
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "key", "MLFLOW_TRACKING_USERNAME": "me", **SECRETS}
TLS = "RAY_USE_TLS=1 RAY_TLS_SERVER_CERT=~/.ray/tls/server.crt RAY_TLS_SERVER_KEY=~/.ray/tls/server.key " \
      "RAY_TLS_CA_CERT=~/.ray/tls/ca.crt"  # fmt: skip


def make_certificates(hosts: Hosts) -> None:
    """By the lines of the guide."""
    guide = (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8")
    lines = [
        line.strip()
        for line in guide.splitlines()
        if line.startswith("      openssl ") or line.startswith("      mkdir -p ~/.ray/tls")
    ]
    script = "\n".join(lines).replace("IP:ADDRESS,IP:ADDRESS", "IP:10.77.0.1,IP:10.77.0.2,IP:10.77.0.3")
    hosts.run(hosts.laptop, "bash", "-ec", f"cd; {script}")


@pytest.mark.rare
def test_with_a_token_and_tls_a_job_runs_and_no_secret_is_seen(hosts, tmp_path):
    token_mode = {"RAY_AUTH_MODE": "token", **ENVIRONMENT}
    hosts.run(hosts.laptop, "ray", "get-auth-token", "--generate", environment=token_mode)
    token = (hosts.laptop.home / ".ray" / "auth_token").read_text().strip()
    assert len(token) >= 32
    make_certificates(hosts)
    text = cluster_file()
    assert text.count("RAY_AUTH_MODE=disabled ray start") == 2
    text = text.replace("RAY_AUTH_MODE=disabled ray start", f"RAY_AUTH_MODE=token {TLS} ray start")
    text = text.replace(
        "file_mounts:\n", "file_mounts:\n  ~/.ray/auth_token: ~/.ray/auth_token\n  ~/.ray/tls: ~/.ray/tls\n"
    )
    write_file(hosts, text)
    for name in ("h0", "h1", "h2"):  # where a cluster's user keeps them: before `ray start`
        with open(hosts.hosts[name].home / ".profile", "a") as profile:
            profile.writelines(f"export {key}={value}\n" for key, value in ENVIRONMENT.items())
    hosts.run(hosts.laptop, "python", "-m", "raf_ray.cluster", "up", FILE, environment=token_mode)
    with tunnel(hosts, token_mode):
        wait_for_nodes(hosts, 3, prefix=f"export RAY_AUTH_MODE=token {TLS}; ")
        status = ("python", "-m", "raf_ray.status", "http://127.0.0.1:8265")
        refused = hosts.run(hosts.laptop, *status, code=2).stdout
        assert "asks for a token" in refused and len(refused.splitlines()) == 1
        words = [*WORDS, "tracking.mlflow=true", "tracking.uri=http://10.77.0.9:5999"]
        command = f"mkdir -p ~/work && cd ~/work && PYTHONPATH={REPOSITORY} python -m raf_ray.run --address "
        command += f"http://127.0.0.1:8265 --output mine {shlex.join(words)}"
        processes = ""
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(hosts.run, hosts.laptop, "bash", "-c", command, environment=token_mode)
            while not wait([job], timeout=2).done:
                processes += "".join(hosts.run(host, "ps", "ax", "-o", "args").stdout for host in hosts.hosts.values())
        said = job.result().stdout
        assert "ray::ClientHost" in processes and "ended with exit code" not in said
        jobs = hosts.run(hosts.laptop, "curl", "-sf", "-H", f"Authorization: Bearer {token}",
                         "http://127.0.0.1:8265/api/jobs/").stdout  # fmt: skip
    secrets = [token, *SECRETS.values()]
    seen = {"said": said, "jobs": jobs, "processes": processes}
    seen |= {str(path): path.read_bytes().decode("utf-8", "replace") for path in public_files(hosts)}
    assert any("run.log" in name for name in seen) and any("raylet" in name for name in seen)
    found = {(name, secret) for name, text in seen.items() for secret in secrets if secret in text}
    assert not found
    hosts.run(hosts.laptop, "python", "-m", "raf_ray.cluster", "down", FILE, environment=token_mode)
    assert not any(hosts.ray_processes(host) for host in hosts.hosts.values())


@pytest.mark.rare
def test_a_host_that_is_lost_leaves_its_run_to_another_by_s3(hosts, tmp_path):
    h1, h2 = hosts.hosts["h1"], hosts.hosts["h2"]
    key = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
    uri = "s3://bucket/mine?endpoint_override=10.77.0.9:5998&scheme=http&region=us-east-1"
    words = (*WORDS, "federation.engine=in_process", "federation.rounds=8")
    server = hosts.start(hosts.laptop, "moto_server", "-H", "0.0.0.0", "-p", "5998")
    make = "from pyarrow.fs import FileSystem; FileSystem.from_uri('s3://bucket?endpoint_override=10.77.0.9:5998&" \
           "scheme=http&region=us-east-1&allow_bucket_creation=true')[0].create_dir('bucket')"  # fmt: skip
    look = f"from raf_ray.storage import open_storage; print(*open_storage({uri!r}, 'uri').files())"

    def there() -> str:
        return hosts.run(hosts.laptop, "python", "-c", look, environment=key).stdout

    try:
        hosts.run(hosts.laptop, "bash", "-c", "until : < /dev/tcp/10.77.0.9/5998; do sleep 0.2; done 2> /dev/null")
        hosts.run(hosts.laptop, "python", "-c", make, environment=key)
        run = ("bash", "-c", f"cd; python -m raf_ray.run --output '{uri}' \"$@\"", "run")
        with open(tmp_path / "said", "w") as said:
            first = subprocess.Popen(hosts.command(h1, [*run, *words], key), stdout=said, stderr=said)
            while "checkpoint.pt" not in there():
                assert first.poll() is None, (tmp_path / "said").read_text()
            hosts.cut(h1)
            first.wait()
        assert "model.pt" not in there()
        said = hosts.run(h2, *run, "--resume", environment=key, code=2).stdout
        assert "another process" in said and "on h1) writes to s3://bucket/mine" in said
        time.sleep(STALE_SECONDS)
        hosts.run(h2, *run, "--resume", environment=key)
        fetch_all = f"from raf_ray.experiment.place import reading_folder as r; import shutil\n" \
                    f"with r({uri!r}, 'it') as folder: shutil.copytree(folder, '{HOME}/from-s3')"  # fmt: skip
        hosts.run(hosts.laptop, "python", "-c", fetch_all, environment=key)
    finally:
        server.kill()
        hosts.run(hosts.laptop, "pkill", "moto_server", code=None)
        hosts.boot(h1)
    reference = run_federation(tiny(*words), tmp_path / "reference")
    assert_same(hosts.laptop.home / "from-s3", reference.folder)


@contextmanager
def tunnel(hosts: Hosts, environment: dict[str, str] | None = None) -> Iterator[None]:
    """`ray dashboard` on the laptop; it leaves its ssh behind."""
    command = hosts.command(hosts.laptop, ["ray", "dashboard", FILE], environment)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while hosts.run(hosts.laptop, "bash", "-c", "< /dev/tcp/127.0.0.1/8265", code=None).returncode:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
        yield
    finally:
        hosts.run(hosts.laptop, "pkill", "ssh", code=None)
        process.terminate()
        process.wait()


def public_files(hosts: Hosts) -> list[Path]:
    """What a run and Ray wrote on all hosts: run folders, MLflow's records, all logs."""
    places = [host.folder / "tmp" for host in hosts.hosts.values()] + [hosts.hosts["h0"].home / "raf_ray_runs"]
    return [path for place in places for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
