"""Run folders and shards in a storage: a real S3 server on loopback, that goes away and comes back."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from raf_ray import evaluate, run_federation, status
from raf_ray.cli import run_command
from raf_ray.config import load_config
from raf_ray.errors import InputError, RunError
from raf_ray.experiment.place import working_folder
from raf_ray.experiment.shards import prepare_shards
from raf_ray.run import main
from raf_ray.runs.checkpoint import Checkpoint
from raf_ray.runs.folder import RunFolder
from raf_ray.runs.mirror import HELD
from raf_ray.storage import PART, Storage, open_storage
from tests.tiny import WORDS, tiny

moto_server = pytest.importorskip("moto.server", reason="needs moto, an S3 server in Python")
boto3 = pytest.importorskip("boto3", reason="needs boto3, which tells moto who may do what")
gcs_server = pytest.importorskip("gcp_storage_emulator.server", reason="needs gcp-storage-emulator")

LONG = (*WORDS, "federation.engine=in_process", "federation.rounds=8")


class Door:
    """A way to a server that can be shut: while it is, connections are refused and those that stand are cut."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[socket.socket] = []

    def shut(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._pairs:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._pairs = []

    def open(self) -> None:
        self._listener = self._listen(self.port)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._pairs += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    door = Door(server.get_host_and_port()[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key-of-the-tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        from pyarrow.fs import S3FileSystem

        S3FileSystem(
            endpoint_override=f"127.0.0.1:{door.port}", scheme="http", region="us-east-1", allow_bucket_creation=True
        ).create_dir("bucket")
        yield door
    server.stop()


@pytest.fixture(scope="module")
def gcs() -> Iterator[Door]:
    """A server that speaks as Google's storage does, with a bucket."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = gcs_server.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    yield Door(port)
    server.stop()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The long run in a folder of this machine."""
    return run_federation(load_config(overrides=LONG), tmp_path_factory.mktemp("long") / "reference").folder


@pytest.fixture
def uri(door: Door, request: pytest.FixtureRequest) -> str:
    """Of a folder of this test alone."""
    return in_bucket(door, f"{request.node.name.partition('[')[0]}/mine")


def in_bucket(door: Door, path: str) -> str:
    return f"s3://bucket/{path}?endpoint_override=127.0.0.1:{door.port}&scheme=http&region=us-east-1"


def in_gcs_bucket(door: Door, path: str) -> str:
    return f"gs://anonymous@bucket/{path}?endpoint_override=127.0.0.1:{door.port}&scheme=http&retry_limit_seconds=1"


def assert_same(storage: Storage, reference: Path, tmp_path: Path) -> None:
    storage.fetch("model.pt", tmp_path / "fetched.pt")
    one, other = (torch.load(p, weights_only=True)["model"] for p in (tmp_path / "fetched.pt", reference / "model.pt"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "raf_ray.run", *words]


def test_a_run_in_a_storage_leaves_there_what_one_in_a_folder_leaves(uri, tmp_path, monkeypatch):
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(copies))
    config = tiny("federation.engine=in_process")
    found = run_federation(config, uri)
    reference = run_federation(config, tmp_path / "reference")
    assert set(found.folder.files()) == {path.name for path in reference.folder.iterdir() if path.name[0] != "."}
    assert_same(found.folder, reference.folder, tmp_path)
    assert list(copies.iterdir()) == []


def test_a_killed_run_goes_on_from_the_storage_to_the_same_bits(uri, reference, tmp_path):
    storage = open_storage(uri, "uri")
    process = subprocess.Popen(command("--output", uri, *LONG), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while "checkpoint.pt" not in storage.files():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert "model.pt" not in storage.files()
    storage.delete(HELD)  # in place of a minute's wait
    done = subprocess.run(command("--output", uri, "--resume"), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(storage, reference, tmp_path)


def test_a_run_in_googles_storage_goes_on_from_there(gcs, reference, tmp_path):
    uri = in_gcs_bucket(gcs, "mine")
    with pytest.raises(InputError, match="make the bucket"):
        open_storage(uri.replace("bucket", "nobody"), "--output", writes=True)
    storage = open_storage(uri, "uri")

    def stop(folder: RunFolder, checkpoint: Checkpoint) -> None:
        save(folder, checkpoint)
        if checkpoint.round == 2:
            raise KeyboardInterrupt

    save = RunFolder.save_checkpoint
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "save_checkpoint", stop)
        run_federation(load_config(overrides=LONG), uri)
    assert "checkpoint.pt" in storage.files() and "model.pt" not in storage.files()
    gcs.shut()
    waits = threading.Timer(3, gcs.open)
    waits.start()
    assert storage.files()  # after a wait
    assert run_command(main, ["--output", uri, "--resume"]) == 0
    assert_same(storage, reference, tmp_path)


def test_a_storage_that_is_away_costs_waiting_and_not_the_run(door, uri, reference, tmp_path):
    process = subprocess.Popen(command("--output", uri, *LONG), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True)  # fmt: skip
    storage = open_storage(uri, "uri")
    while "rounds.csv" not in storage.files():
        assert process.poll() is None
        time.sleep(0.1)
    door.shut()
    time.sleep(8)
    assert process.poll() is None  # it trains, or waits at its end
    door.open()
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    assert_same(storage, reference, tmp_path)


def test_where_the_storage_stays_away_the_copy_stays_and_the_sentence_names_it(door, uri, tmp_path, monkeypatch):
    monkeypatch.setattr("raf_ray.storage.PATIENCE_SECONDS", 1.0)
    try:
        says = pytest.raises(RunError, match=r"all of it is in (\S+), where --resume goes on")
        with says as caught, working_folder(uri, "--output") as folder:
            folder.mkdir()
            (folder / "config.yaml").write_text("seed: 1\n")
            door.shut()
    finally:
        door.open()
    assert (folder / "config.yaml").read_text() == "seed: 1\n" and str(folder) in str(caught.value)


def test_two_commands_do_not_write_to_one_folder(uri, tmp_path):
    with working_folder(uri, "--output") as folder:
        folder.mkdir()
        (folder / "config.yaml").write_text("seed: 1\n")
        deadline = time.monotonic() + 30
        while HELD not in {name for name in open_storage(uri, "uri").files()}:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        with pytest.raises(InputError, match=rf"another process \({os.getpid()} on "), working_folder(uri, "--output"):
            pass
    with working_folder(uri, "--output") as folder:
        assert (folder / "config.yaml").read_text() == "seed: 1\n"


def test_a_folder_in_use_is_refused_and_overwritten_when_asked(uri, tmp_path):
    config = tiny("federation.engine=in_process")
    run_federation(config, uri)
    with pytest.raises(InputError, match="is not empty"):
        run_federation(config, uri)
    changed = tiny("federation.engine=in_process", "seed=3")
    found = run_federation(changed, uri, overwrite=True)
    assert_same(found.folder, run_federation(changed, tmp_path / "reference").folder, tmp_path)


def test_what_was_written_in_part_is_not_there(uri, tmp_path):
    storage = open_storage(uri, "uri")
    (tmp_path / "whole").write_bytes(b"whole")
    storage.send(tmp_path / "whole", "checkpoint.pt")
    with storage.filesystem.open_output_stream(f"{storage.base}/checkpoint.pt{PART}1234") as half:
        half.write(b"ha")
    assert set(storage.files()) == {"checkpoint.pt"}
    storage.fetch("checkpoint.pt", tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == b"whole"


def test_clients_train_from_shards_in_a_storage_to_the_same_bits(uri, tmp_path):
    words = ("federation.engine=in_process", "data.augment=true")
    prepared = prepare_shards(tiny(*words), open_storage(uri, "--output"))
    assert {"index.json", "train-000.parquet", "val.parquet", "test.parquet"} == set(prepared.folder.files())
    prepare_shards(tiny(*words), tmp_path / "shards")
    shards = "data.name=shards"
    here = run_federation(tiny(*words, shards, f"data.root={tmp_path / 'shards'}"), tmp_path / "here")
    there = run_federation(tiny(*words, shards, f"data.root={uri}"), tmp_path / "there")
    assert (here.folder / "scores.csv").read_text() == (there.folder / "scores.csv").read_text()
    one, other = (torch.load(p / "model.pt", weights_only=True)["model"] for p in (here.folder, there.folder))
    assert all(torch.equal(one[key], other[key]) for key in one)
    with pytest.raises(InputError, match="is not empty"):
        prepare_shards(tiny(*words), open_storage(uri, "--output"))


def test_other_commands_read_a_run_by_its_uri(uri, capsys):
    run_federation(tiny("federation.engine=in_process"), uri)
    for command, word in ((status.main, "completed"), (evaluate.main, "PCK")):
        assert run_command(command, [uri]) == 0
        assert word in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ftp://bucket/mine", "no storage of that kind is known; give s3://, gs:// or file:///, or a folder"),
        ("s3://", "names no folder"),
        ("s3://me:word@bucket/mine", "holds a secret"),
        ("s3://nobody/mine", "make the bucket"),
        ("s3://bucket/mine?colour=red", "Unexpected query parameter"),
        ("file://host/mine", "correct the URI"),
    ],
)
def test_a_wrong_uri_is_refused_in_a_sentence(text, says, door, tmp_path, monkeypatch, capsys):
    if text.startswith("s3://") and "?" not in text and says != "names no folder":
        text = f"{text}?endpoint_override=127.0.0.1:{door.port}&scheme=http&region=us-east-1"
    monkeypatch.chdir(tmp_path)
    assert run_command(main, ["--output", text, *WORDS]) == 2
    said = capsys.readouterr()
    assert says in said.err and len(said.err.splitlines()) == 1 and "word" not in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rights", [[], ["s3:ListBucket", "s3:GetObject"]])
def test_a_storage_that_grants_no_rights_is_refused_at_the_start(rights, uri, door, tmp_path, monkeypatch, capsys):
    """Nobody's key, and one that may read alone."""
    iam = boto3.client("iam", endpoint_url=f"http://127.0.0.1:{door.port}", region_name="us-east-1")
    name = f"reader-{len(rights)}"
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    if rights:
        statement = {"Effect": "Allow", "Action": rights, "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName=name, PolicyName="reads", PolicyDocument=policy)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    if rights:
        assert open_storage(uri, "uri").files() == {}
    assert run_command(main, ["--output", uri, *WORDS]) == 2
    said = capsys.readouterr().err
    assert "set credentials that may read and write there" in said and len(said.splitlines()) == 1
    assert key["SecretAccessKey"] not in said


def test_a_storage_that_does_not_answer_is_refused_at_the_start(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    uri = f"s3://bucket/mine?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    assert run_command(main, ["--output", uri, *WORDS]) == 2
    assert "can be reached from here" in capsys.readouterr().err
