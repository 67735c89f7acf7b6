"""`python -m raf_ray.cluster`: what a cluster file lacks is said in a sentence before anything is started."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from raf_ray.cli import run_command
from raf_ray.cluster.__main__ import main

REPOSITORY = Path(__file__).resolve().parents[1]
ONPREM = (REPOSITORY / "cluster" / "onprem.yaml").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home without keys."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(REPOSITORY)


def refused(capsys: pytest.CaptureFixture[str], file: str | Path, verb: str = "up") -> str:
    """The one sentence by which a file is refused."""
    assert run_command(main, [verb, str(file)]) == 2
    said = capsys.readouterr()
    assert not said.out and len(said.err.splitlines()) == 1 and said.err.startswith("error: ")
    return said.err


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    text = ONPREM
    for old, new in (("192.0.2.10", "127.0.0.1"), ("192.0.2.11, 192.0.2.12", "127.0.0.2"), *changes):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "cluster.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def make_key(folder: Path, passphrase: str = "") -> Path:
    (folder / ".ssh").mkdir()
    key = folder / ".ssh" / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", key], check=True)
    return key


@pytest.mark.parametrize("name", ["gpu.yaml", "cpu.yaml", "gcp.yaml", "azure.yaml", "onprem.yaml"])
def test_our_files_are_refused_until_they_are_filled_in(name, capsys):
    said = refused(capsys, f"cluster/{name}")
    assert "set it" in said or "set those of your machines" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "is no YAML"),
        ("a: 1", "it has no provider"),
        (ONPREM.replace("setup_commands:", "setup_command:"), "setup_command"),
        (ONPREM.replace("type: local", "type: moon"), "moon"),
        ("provider: {type: local}\ncluster_name: a\n", "no cluster file for Ray"),
    ],
)
def test_what_is_no_cluster_file_is_refused(text, says, tmp_path, capsys):
    path = tmp_path / "cluster.yaml"
    path.write_text(text, encoding="utf-8")
    assert says in refused(capsys, path)


def test_a_missing_file_is_refused(tmp_path, capsys):
    assert "does not exist" in refused(capsys, tmp_path / "none.yaml", "down")


def test_a_missing_key_is_refused(tmp_path, capsys):
    assert "does not exist; make one with `ssh-keygen" in refused(capsys, written(tmp_path))


def test_a_key_that_asks_for_a_passphrase_is_refused(tmp_path, capsys):
    make_key(tmp_path, "secret word")
    said = refused(capsys, written(tmp_path))
    assert "does not open without a passphrase" in said and "secret" not in said


def test_a_key_that_others_can_read_is_refused(tmp_path, capsys):
    make_key(tmp_path).chmod(0o644)
    assert "chmod 600" in refused(capsys, written(tmp_path))


def test_a_head_that_does_not_answer_is_refused(tmp_path, capsys):
    make_key(tmp_path)
    path = written(tmp_path, ("ssh_user: ubuntu", "ssh_user: ubuntu\n  ssh_proxy_command: 'false'"))
    assert "the head 127.0.0.1 of" in refused(capsys, path)


def test_a_machine_that_stands_twice_is_refused(tmp_path, capsys):
    make_key(tmp_path)
    path = written(tmp_path)
    path.write_text(path.read_text().replace("127.0.0.2", "127.0.0.1"))
    assert "names one machine twice" in refused(capsys, path)


def test_workers_whose_end_is_not_known_are_told_of_before_the_head_is_ended(tmp_path, capsys):
    make_key(tmp_path)
    path = written(tmp_path)
    lines = [line for line in path.read_text().splitlines() if "&& ray stop" not in line]
    path.write_text("\n".join(lines) + "\n")
    assert "no line of worker_start_ray_commands is a `ray stop`" in refused(capsys, path, "down")
