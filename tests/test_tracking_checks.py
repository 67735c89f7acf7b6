"""What is refused of a tracking setting before a run, and that nothing of MLflow's ends one that has begun."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from raf_ray import run, run_federation
from raf_ray.cli import run_command
from raf_ray.errors import InputError
from raf_ray.federation.events import RoundFinished
from raf_ray.request.plans import plan_clients
from raf_ray.track import main as track
from raf_ray.tracking import system_metrics
from raf_ray.tracking.checks import check_address, check_tracking, local_uri, sqlite_file
from raf_ray.tracking.mlflow import MlflowTracker
from raf_ray.tracking.outbox import Outbox
from raf_ray.tracking.sender import Away
from raf_ray.tracking.store import MlflowStore
from tests.tiny import WORDS, tiny
from tests.tracking_helpers import client_of, config_of, pretend, runs_of

RUN = [*WORDS, "federation.engine=in_process", "federation.rounds=1", "tracking.mlflow=true"]

BAD_URIS = [
    ("http://[x", "is no valid URI: its host or port is wrong"),
    ("http://host:port", "is no valid URI: its host or port is wrong"),
    ("http://host:70000", "is no valid URI: its host or port is wrong"),
    ("http://host:-1", "is no valid URI: its host or port is wrong"),
    ("http://" + 64 * "a" + ".org", "is no valid URI: its host or port is wrong"),
    ("http://a..b", "is no valid URI: its host or port is wrong"),
    ("postgresql+psycopg2://[x/db", "is no valid URI: its host or port is wrong"),
    ("mysql+pymysql://host:port/db", "is no valid URI: its host or port is wrong"),
    ("'http://ho st:5000'", "holds a character that no URI can; write a space as %20"),
    ('"http://host\\n"', "holds a character that no URI can"),
    ("http://", "is no tracking server; write http://HOST:PORT"),
    ("sqlite://", "names no file; write sqlite:///FILE"),
    ("'sqlite:///:memory:'", "names no file"),
    ("sqlite://host/db", "names no file"),
    ("postgresql+nonsense://host/db", "is no database that SQLAlchemy knows"),
]


@pytest.mark.parametrize(("uri", "sentence"), BAD_URIS)
def test_a_uri_that_nobody_can_open_is_refused_before_anything_is_written(uri, sentence, tmp_path, capsys):
    assert run_command(run.main, [*RUN, f"tracking.uri={uri}", "--output", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: tracking.uri=") and sentence in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("uri", ["http://[x", "http://host:port", "nonsense", "postgresql+nonsense://host/db"])
def test_so_is_the_one_that_sync_is_given(uri, tmp_path, capsys):
    Outbox(tmp_path).close()
    assert run_command(track, ["sync", str(tmp_path), "--uri", uri]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --uri={uri} is no ")


@pytest.mark.parametrize(
    ("scheme", "module", "package"),
    [
        ("postgresql+psycopg2", "psycopg2", "psycopg2-binary"),
        ("postgresql+psycopg", "psycopg", "'psycopg[binary]'"),
        ("mysql", "MySQLdb", "mysqlclient"),
        ("mysql+pymysql", "pymysql", "pymysql"),
        ("mssql", "pyodbc", "pyodbc"),
        ("mssql+pymssql", "pymssql", "pymssql"),
    ],
)
def test_a_database_whose_driver_is_not_installed_is_refused_with_its_package(scheme, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError) as caught:
        check_address(f"{scheme}://bob:pw@host/db")
    assert str(caught.value).startswith(f"tracking.uri={scheme}://bob:***@host/db needs a driver that cannot be imp")
    assert f": pip install {package}" in str(caught.value)


# --- files --------------------------------------------------------------------------------------------


def folder(path: Path) -> None:
    path.mkdir()


def below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("a file")


def no_database(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)


def with_schema(version: str):
    def make(path: Path) -> None:
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE alembic_version (version_num VARCHAR)")
            database.execute("INSERT INTO alembic_version VALUES (?)", [version])

    return make


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (folder, "mlflow.db is a folder; name another tracking.uri, or set tracking.mlflow=false"),
        (below_a_file, "is a file; name another tracking.uri"),
        (no_database, "mlflow.db is none (file is not a database); move it away"),
        (with_schema("f00f00f00f00"), "was written by a newer MLflow: upgrade mlflow here"),
        (with_schema("451aebb31d03"), "was written by an older MLflow: copy it and run `mlflow db upgrade sqlite:///"),
    ],
    ids=["folder", "below a file", "no database", "newer", "older"],
)
@pytest.mark.parametrize("named", [True, False], ids=["named", "default"])
def test_a_database_file_that_mlflow_cannot_use_is_refused_before_the_start(make, sentence, named, tmp_path, capsys):
    place = tmp_path / "runs"
    place.mkdir()
    make(place / "mlflow.db")
    words = [f"tracking.uri=sqlite:///{place / 'mlflow.db'}"] if named else []
    with pytest.raises(InputError) as caught:
        check_tracking(tiny("tracking.mlflow=true", *words).tracking, place)
    assert sentence in str(caught.value)
    check_tracking(tiny(*words).tracking, place)  # tracking.mlflow=false


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_database_that_may_not_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match="is read-only"):
        check_address(f"sqlite:///{tmp_path / 'a' / 'mlflow.db'}")


def test_a_database_that_turns_bad_during_a_run_costs_a_warning(tmp_path):
    (tmp_path / "mlflow.db").mkdir()
    (warning,) = pretend(tmp_path / "mine")
    assert "mlflow.db is a folder" in warning and "python -m raf_ray.track sync" in warning


@pytest.mark.parametrize("name", ["plain", "a b", "50%25", "what?", "#1", "[x]", "é"])
def test_the_local_database_lies_in_the_folder_whatever_its_name(name, tmp_path):
    place = tmp_path / name
    assert sqlite_file(local_uri(place)) == place / "mlflow.db"


# --- experiments --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["''", "'  '", '"a\\nb"', 501 * "x", '"a\\0"'])
def test_an_experiment_without_a_proper_name_is_refused(name, tmp_path, capsys):
    assert run_command(run.main, [*RUN, f"tracking.experiment={name}", "--output", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is no name for MLflow: give 1 to 500 printable characters" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["''", "a/b", "a:b", "..", "' '"])
def test_a_registered_model_without_a_proper_name_is_refused(name):
    with pytest.raises(InputError, match=r"tracking.register_model=.* is no name for MLflow"):
        check_tracking(tiny("tracking.mlflow=true", f"tracking.register_model={name}").tracking, Path("."))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A local store, made once."""
    uri = local_uri(tmp_path_factory.mktemp("store"))
    MlflowStore(uri)
    return uri


@pytest.mark.parametrize("name", ["a/b/c", "[bold]x[/]", "'", "50 %", "x" * 500, "é"])
def test_odd_names_of_experiments_and_folders_are_taken_as_they_are(name, tmp_path, store):
    place = tmp_path / os.fsdecode(b"odd \xff [x]")
    assert pretend(place, f"tracking.uri={store}", f"tracking.experiment='{name.replace(chr(39), 2 * chr(39))}'") == []
    (found,) = runs_of(store, experiment=name)
    assert found.info.run_name == "odd ? [x]" and found.data.metrics["loss"] == pytest.approx(1 / 3)


def test_a_deleted_experiment_is_told_of_with_its_remedy_and_the_records_wait(tmp_path, store, capsys):
    words = (f"tracking.uri={store}", "tracking.experiment=gone")
    assert pretend(tmp_path / "first", *words) == []
    (found,) = runs_of(store, experiment="gone")
    client_of(store).delete_experiment(found.info.experiment_id)
    (warning,) = pretend(tmp_path / "second", *words)
    remedy = f"MLFLOW_TRACKING_URI={store} mlflow experiments restore -x {found.info.experiment_id}"
    assert f"experiment 'gone' was deleted: bring it back with `{remedy}`, or begin runs with another" in warning
    with pytest.raises(Away, match="experiment 'gone' was deleted"):  # while a run goes on
        MlflowStore(store).log_params(found.info.run_id, {"a": "1"})
    client_of(store).restore_experiment(found.info.experiment_id)
    assert run_command(track, ["sync", str(tmp_path)]) == 0
    assert len(runs_of(store, experiment="gone")) == 2


# --- nothing ends a run -------------------------------------------------------------------------------


class Broken:
    """What fails at everything."""

    def __getattr__(self, name):
        raise ZeroDivisionError(f"{name} of http://bob:s3cr3t@host")


@pytest.mark.parametrize("part", ["mlflow.Log", "log.Sender", "log.Outbox", "mlflow.run_tags", "mlflow.flatten"])
def test_whatever_fails_in_tracking_costs_one_warning(part, tmp_path, monkeypatch):
    def fail(*words, **options):
        raise ZeroDivisionError("at http://bob:s3cr3t@host")

    monkeypatch.setattr(f"raf_ray.tracking.{part}", fail)
    warnings = pretend(tmp_path / "mine")
    assert len(warnings) == 1 and "ZeroDivisionError" in warnings[0] and "the run itself is whole" in warnings[0]


def test_a_log_that_breaks_in_the_middle_costs_one_warning(tmp_path):
    config, warnings = config_of("tracking.uri=http://127.0.0.1:9"), []
    tracker = MlflowTracker(config, warnings.append)
    tracker.begin(SimpleNamespace(plans=plan_clients(config)), tmp_path)
    tracker._log = Broken()
    for done in (1, 2):
        tracker.see(RoundFinished(done, 2, {"round": done, "loss": 0.5}))
    tracker.end(tmp_path, None)
    assert len(warnings) == 1 and "MLflow lacks a part of this run (ZeroDivisionError" in warnings[0]


def test_a_machine_that_does_not_tell_its_use_ends_the_samples_alone(monkeypatch):
    def fail():
        raise RuntimeError("no /proc here")

    told = []
    monkeypatch.setattr(system_metrics, "sample", fail)
    monkeypatch.setattr(system_metrics, "SAMPLE_SECONDS", 0.0)
    sampler = system_metrics.SystemSampler(lambda values: None, told.append)
    sampler._thread.join(30)
    sampler.stop()
    assert told == ["MLflow gets no further system metrics of this run (RuntimeError: no /proc here)"]


# --- from Python --------------------------------------------------------------------------------------


def test_a_run_from_python_is_tracked_as_its_config_asks(tmp_path, store, caplog):
    words = ("federation.engine=in_process", "federation.rounds=1", "tracking.log_model=false")
    config = tiny(*words, "tracking.mlflow=true", f"tracking.uri={store}", "tracking.experiment=python")
    run_federation(config, tmp_path / "asked")
    (found,) = runs_of(store, experiment="python")
    assert found.info.run_name == "asked" and found.info.status == "FINISHED"
    run_federation(config, tmp_path / "own watchers", watchers=[])
    run_federation(tiny(*words), tmp_path / "not asked")
    assert len(runs_of(store, experiment="python")) == 1
    assert not list(tmp_path.glob("*/mlflow.jsonl"))[1:] and not (tmp_path / "mlflow.db").exists()
    away = config.model_copy(update={"tracking": config_of("tracking.uri=http://127.0.0.1:9").tracking})
    run_federation(away, tmp_path / "away")
    (record,) = (record for record in caplog.records if record.name == "raf_ray.tracking")
    assert "no server answers at http://127.0.0.1:9" in record.getMessage()
    with pytest.raises(InputError, match="is no valid URI"):
        run_federation(tiny(*words, "tracking.mlflow=true", "tracking.uri=http://[x"), tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
