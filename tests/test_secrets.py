"""Passwords in tracking URIs: used from memory, and in nothing that is shown, stored or sent."""

from __future__ import annotations

import base64
import copy
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import psutil
import pytest
from ruamel.yaml import YAML

from raf_ray import run
from raf_ray.cli import run_command
from raf_ray.cluster import jobs as submit
from raf_ray.config import write_yaml
from raf_ray.config.loading import flatten
from raf_ray.errors import InputError
from raf_ray.masking import is_masked, masked, masked_in, place, scrubbed, unmasked
from raf_ray.search.spec import check_search
from raf_ray.search.study import _make_folder, prepare_search
from raf_ray.track import main as track
from raf_ray.tracking.checks import usable_uri
from raf_ray.tracking.outbox import Outbox, Sent
from raf_ray.tracking.sender import Away
from raf_ray.tracking.store import MlflowStore
from tests.searching import TINY
from tests.tiny import WORDS, tiny
from tests.tracking_helpers import stub_server

PASSWORD = "s3cr3t/p@ss"
ENCODED = "s3cr3t%2Fp%40ss"
TELLING = [PASSWORD, ENCODED, "s3cr3t", base64.b64encode(f"bob:{PASSWORD}".encode()).decode()]
RUN = [*WORDS, "federation.engine=in_process", "federation.rounds=1", "tracking.mlflow=true"]


def check_untold(folder: Path, *texts: str) -> None:
    """Neither a text nor a file below `folder`, nor a file's name, tells the password."""
    for word in TELLING:
        for text in texts:
            assert word not in text
        for path in folder.rglob("*"):
            assert word not in path.name
            assert path.is_dir() or word.encode() not in path.read_bytes(), path


@contextmanager
def tattling_server() -> Iterator[tuple[str, list[str]]]:
    """A server that takes nothing and says in its answer what it was told: its HOST:PORT, and the headers so far."""
    heard: list[str] = []

    def say(headers: Message) -> bytes:
        heard.append(headers.get("Authorization") or "")
        return f"no: {heard[-1]}, {PASSWORD}".encode()

    with stub_server(500, say) as uri:
        yield uri.removeprefix("http://"), heard


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch):
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)


# --- what is masked -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://bob:pw@host:5000", "http://bob:***@host:5000"),
        ("https://bob:p%40w@host/path", "https://bob:***@host/path"),
        ("https://TOKEN@host", "https://***@host"),
        ("https://TOKEN:@host", "https://***@host"),
        ("https://ghp_0123456789abcdefghij:x-oauth-basic@host", "https://***:***@host"),
        ("http://bob:p/w@host", "http://bob:***@host"),
        ("http://bob:pw@[x", "http://bob:***@[x"),
        ("postgresql://user:pw@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:p@w?/d@host/db?sslmode=require", "postgresql://user:***@host/db?sslmode=require"),
        ("postgresql://host/db?user=a&password=pw&x=1", "postgresql://host/db?user=a&password=***&x=1"),
        ("postgresql://user@host/db", "postgresql://***@host/db"),
        ("mysql+pymysql://user:p%23w@host:3306/db", "mysql+pymysql://user:***@host:3306/db"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Dpw", "mssql+pyodbc:///?odbc_connect=***"),
    ],
)
def test_what_of_a_uri_is_masked(uri, shown):
    assert masked(uri) == shown == masked(shown)
    assert is_masked(shown) and not is_masked(uri)
    assert masked_in(f"{uri} is odd") == f"{shown} is odd"


@pytest.mark.parametrize(
    "uri",
    ["http://host:5000", "sqlite:////home/a@b/x.db", "http://host/@bob", "databricks://profile", "http://[x",
     "postgresql://host/db", "nonsense", "file:///a@b"],
)  # fmt: skip
def test_what_holds_no_secret_stays_as_it_is(uri):
    assert masked(uri) == masked_in(uri) == uri and not is_masked(uri)


def test_uris_of_one_place_differ_in_who_asks_alone():
    same = ("http://host:1/a", "http://bob:pw@host:1/a", "http://***@host:1/a")
    assert {place(uri) for uri in same} == {"http://host:1/a"} != {place("http://host:2/a")}


def test_what_was_masked_is_filled_in_from_mlflows_environment(monkeypatch):
    assert unmasked("http://bob:***@host", None, "p@w") == "http://bob:p%40w@host"
    assert unmasked("postgresql://host/db?password=***", None, "p w") == "postgresql://host/db?password=p+w"
    assert is_masked(unmasked("https://***@host", None, "pw"))  # whose?
    with pytest.raises(InputError, match=r"the password of http://bob:\*\*\*@host is kept nowhere on disk: give it ag"):
        usable_uri("http://bob:***@host")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pw")
    assert usable_uri("http://bob:***@host") == "http://bob:pw@host"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "eve")
    assert usable_uri("https://***@host") == "https://eve:pw@host"
    assert usable_uri("http://bob:own@host") == "http://bob:own@host"


def test_what_others_say_of_a_uri_is_scrubbed_of_its_password_in_every_form():
    uri = f"http://bob:{ENCODED}@host"
    for word in TELLING[:2] + TELLING[3:]:
        assert scrubbed(f"no: {word}!", uri) == "no: ***!"
    assert scrubbed(f"at {uri}/api", uri) == "at http://bob:***@host/api"


# --- the config ---------------------------------------------------------------------------------------


def test_a_config_gives_its_password_to_who_asks_for_it_alone():
    uri = f"http://bob:{ENCODED}@host"
    config = tiny(f"tracking.uri={uri}")
    assert config.tracking.address == copy.deepcopy(config).tracking.address == uri
    shown = "http://bob:***@host"
    assert flatten(config)["tracking.uri"] == shown and f"uri: {shown}" in write_yaml(config)
    for text in (repr(config), str(config), config.model_dump_json(), f"{config.tracking.uri}"):
        assert "s3cr3t" not in text and shown in text
    for pickled in (pickle.dumps(config), cloudpickle.dumps(config)):
        assert b"s3cr3t" not in pickled and pickle.loads(pickled).tracking.address == shown


@pytest.mark.parametrize(
    "word",
    [
        f"tracking.uri=[http://bob:{ENCODED}@host]",
        f'tracking.uri="http://bob:{PASSWORD}@host',
        f"tracking.uri={{a: http://bob:{ENCODED}@host}}",
        f"http://bob:{PASSWORD}@host",
        f"seed=http://bob:{PASSWORD}@host",
        f"tracking.uri=ftp://bob:{PASSWORD}@host",
        f"tracking.uri=http://bob:{PASSWORD}@host:port",
        f"tracking.uri=http://bob:{ENCODED}@[host",
        f"tracking.uri=postgresql+nonsense://bob:{ENCODED}@host/db",
        f"tracking.uri=postgresql+psycopg2://bob:{PASSWORD}@host:port/db",
        f"tracking.uri='http://bob:{ENCODED}@ho st'",
    ],
)
def test_a_refusal_does_not_tell_the_password(word, tmp_path, capsys):
    assert run_command(run.main, [*RUN, word, "--output", str(tmp_path / "run")]) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1 and "bob" in said.err
    check_untold(tmp_path, said.err, said.out)
    assert not list(tmp_path.iterdir())


def test_a_word_that_is_no_option_does_not_tell_the_password_either(capsys):
    with pytest.raises(SystemExit):
        run.main([f"--tracking.uri=http://bob:{PASSWORD}@host"])
    said = capsys.readouterr()
    assert "unrecognized arguments: --tracking.uri=http://bob:***@host" in said.err and "s3cr3t" not in said.err


# --- runs and what waits ------------------------------------------------------------------------------


def test_nothing_of_a_run_tells_the_password(tmp_path, capfd, monkeypatch):
    """Nor another secret of the environment: the run's files, its record, and what a local MLflow is sent."""
    output = tmp_path / "runs" / "mine"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "s3cr3t of the cluster")
    with tattling_server() as (host, heard):
        uri = f"http://bob:{ENCODED}@{host}"
        assert run_command(run.main, [*RUN, f"tracking.uri={uri}", "--output", str(output)]) == 0
        assert f"Basic {TELLING[3]}" in heard, "the server was told"
        assert f"  uri: http://bob:***@{host}\n" in (output / "config.yaml").read_text()

        # The password is asked for again where something is to be sent, and only there.
        assert run_command(run.main, ["--resume", "--output", str(output)]) == 0
        assert run_command(track, ["sync", str(output)]) == 1
        said = capfd.readouterr()
        assert "is kept nowhere on disk: give it again" in said.err and "waits" not in said.err
        assert run_command(run.main, [*RUN, f"tracking.uri={masked(uri)}", "--output", str(tmp_path / "new")]) == 2
        assert not (tmp_path / "new").exists()

        for words in (["--uri", uri], []):
            heard.clear()
            if not words:
                monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
            assert run_command(track, ["sync", str(output), *words]) == 1
            assert set(heard) == {f"Basic {TELLING[3]}"}
    assert run_command(track, ["sync", str(output), "--uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]) == 0
    assert (tmp_path / "mlartifacts").is_dir()
    more = capfd.readouterr()
    assert f"http://bob:***@{host}" in more.err
    check_untold(tmp_path, said.out, said.err, more.out, more.err)


def test_records_of_a_server_are_its_own_whoever_sends_them(tmp_path):
    box = Outbox(tmp_path)
    box.append({"kind": "run", "key": "k", "uri": "http://bob:***@host"})
    box.save_sent(Sent(f"http://bob:{ENCODED}@host", "run-0", 5))
    assert box.sent().uri == "http://bob:***@host"
    for uri in ("http://host", f"http://bob:{ENCODED}@host", "http://eve:other@host"):
        assert box.sent().is_of(uri)
    assert not box.sent().is_of("http://other")


@pytest.mark.parametrize("rest", [f"bob:{ENCODED}@127.0.0.1:1/db", f"127.0.0.1:1/db?user=bob&password={ENCODED}"])
def test_a_database_that_does_not_answer_is_told_of_without_the_password(rest, capfd, monkeypatch):
    pytest.importorskip("psycopg2")
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 0)
    with pytest.raises(Away, match="onnection refused") as caught:
        MlflowStore(f"postgresql+psycopg2://{rest}")
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "") and "s3cr3t" not in str(caught.value)


# --- searches and jobs --------------------------------------------------------------------------------


def test_what_a_search_writes_and_gives_to_tune_holds_no_password(tmp_path):
    uri = f"http://bob:{ENCODED}@host"
    values = YAML(typ="safe", pure=True).load(TINY)
    values["base"]["tracking"] = {"uri": uri}
    search = check_search("tiny", values)
    assert search.tracking.address == search.base_config().tracking.address == uri
    request = prepare_search(search, tmp_path / "out", resume=False, overwrite=False)
    _make_folder(request)
    (tmp_path / "trainable.pkl").write_bytes(cloudpickle.dumps(search))
    (tmp_path / "best.yaml").write_text(write_yaml(search.final_config(search.planned[0])))
    check_untold(tmp_path, repr(search))
    assert "uri: http://bob:***@host" in (tmp_path / "out" / "search.yaml").read_text()
    assert prepare_search(search, tmp_path / "out", resume=True, overwrite=False).ledger.records == []


class Jobs:
    """A job server that keeps what it is given."""

    def __init__(self, kept: Path) -> None:
        self.kept = kept

    def submit_job(self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any]) -> str:
        shutil.copytree(runtime_env["working_dir"], self.kept)
        (self.kept / "job.txt").write_text(repr((entrypoint, submission_id, runtime_env)))
        return submission_id


def test_a_submitted_job_is_sent_no_password(tmp_path, monkeypatch, capfd):
    from ray.job_submission import JobStatus

    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "mine.yaml").write_text(f"tracking:\n  uri:\n    http://bob:{ENCODED}@host\n")
    (here / "mine.py").write_text("at = 'http://bob:pw@elsewhere'\n")
    ended = SimpleNamespace(status=JobStatus.SUCCEEDED, driver_exit_code=0, driver_agent_http_address=None)
    monkeypatch.setattr(submit, "connect", lambda dashboard: Jobs(tmp_path / "sent"))
    monkeypatch.setattr(submit.JobLog, "follow", lambda self: ended)
    words = [*RUN, f"tracking.uri=postgresql://bob:{PASSWORD}@host/db", "--config", "mine.yaml"]
    assert run_command(run.main, [*words, "--address", "http://127.0.0.1:8265"]) == 0
    said = capfd.readouterr()
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where the cluster runs its jobs" in said.out
    check_untold(tmp_path / "sent", said.out, said.err)
    assert "tracking.uri=postgresql://bob:***@host/db" in (tmp_path / "sent" / "job.txt").read_text()
    for name in ("mine.yaml", ".job-config.yaml"):
        assert "http://bob:***@host" in (tmp_path / "sent" / name).read_text()
    assert (tmp_path / "sent" / "mine.py").read_text() == (here / "mine.py").read_text()


def test_rays_dashboard_is_told_the_command_line_without_the_password(monkeypatch):
    import ray._private.utils as utils

    from raf_ray.cluster.manners import mask_command_line

    monkeypatch.setattr(utils, "get_entrypoint_name", utils.get_entrypoint_name)
    monkeypatch.setattr(psutil.Process, "cmdline", lambda self: ["python", f"tracking.uri=http://bob:{PASSWORD}@host"])
    mask_command_line()
    mask_command_line()
    assert utils.get_entrypoint_name() == "python tracking.uri=http://bob:***@host"
