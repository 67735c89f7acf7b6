"""What is wrong with a tracking setting, as far as it shows before the run and without asking a server."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from raf_ray.config.tree import TrackingConfig
from raf_ray.errors import InputError
from raf_ray.masking import is_masked, masked, place, unmasked

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""MLflow's; ``+driver`` may follow."""

INSTALL = {
    "psycopg2": "psycopg2-binary",
    "psycopg": "'psycopg[binary]'",
    "MySQLdb": "mysqlclient",
    "mysql": "mysql-connector-python",
}
"""Module of a driver -> its package, where that has another name."""

LONGEST_EXPERIMENT = 500
"""MLflow's limit."""

USER, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"
"""MLflow's environment variables."""

LOCAL_FILE = "mlflow.db"
"""Beside the run folders, where no server is given."""

OTHERWISE = "name another tracking.uri, or set tracking.mlflow=false"


def check_tracking(tracking: TrackingConfig, folder: Path) -> None:
    """Raise InputError where MLflow cannot take runs. `folder` holds the local database where no server is given."""
    if not tracking.mlflow:
        return
    _check_names(tracking)
    check_address(tracking.address or local_uri(folder))


def check_address(uri: str, what: str = "tracking.uri") -> None:
    """Raise InputError where runs cannot be sent there: also for a missing driver or password, or an unusable file."""
    check_uri(uri, what)
    uri = usable_uri(uri)
    engine = _engine(uri)
    if engine == "sqlite":
        _check_sqlite(sqlite_file(uri), uri)
    elif engine in DATABASES:
        _check_driver(uri, what)


def check_uri(uri: str | None, what: str = "tracking.uri") -> None:
    """Raise InputError for a tracking URI that is none of MLflow's."""
    if uri is None:
        return
    named, engine = f"{what}={masked(uri)}", _engine(uri)
    if any(not c.isprintable() or (c.isspace() and engine != "sqlite") for c in uri):
        raise InputError(f"{what}={masked(uri)!r} holds a character that no URI can; write a space as %20")
    try:
        # A database's password may hold anything as it is, where a server's must be encoded.
        parts = urlsplit(uri if is_http(uri) else place(uri))
        host = parts.hostname or ""
        host.encode("idna")
        _ = parts.port
    except ValueError:  # its text may quote a part of the password
        raise InputError(f"{named} is no valid URI: its host or port is wrong; write http://HOST:PORT, and special "
                         "characters of a password encoded, such as %40 for @") from None  # fmt: skip
    if "://" not in uri or not (host if is_http(uri) else engine in (*DATABASES, "databricks")):
        raise InputError(
            f"{named} is no tracking server; write http://HOST:PORT or sqlite:///FILE, or null for a local file"
        )
    if engine == "sqlite" and (not uri.startswith("sqlite:///") or sqlite_file(uri).name in ("", ":memory:")):
        raise InputError(f"{named} names no file; write sqlite:///FILE, or sqlite:////FILE for a path from the root")


def usable_uri(uri: str) -> str:
    """The URI to connect by. What was masked in it comes from MLflow's own environment variables.

    Raises:
        InputError: they do not say it.
    """
    if not is_masked(uri):
        return uri
    full = unmasked(uri, os.environ.get(USER), os.environ.get(PASSWORD))
    if not is_masked(full):
        return full
    if is_http(uri) and os.environ.get(TOKEN):  # MLflow sends it by itself
        return re.sub(r"//[^/@]*@", "//", uri)
    raise InputError(
        f"the password of {uri} is kept nowhere on disk: give it again, with tracking.uri=... (track sync: --uri ...) "
        f"or in the environment as {USER} and {PASSWORD}"
    )


def local_uri(folder: Path) -> str:
    """Of the SQLite file in `folder`."""
    path = str((folder / LOCAL_FILE).resolve())
    if "%" in path or "?" in path:  # SQLAlchemy's versions differ in what these mean
        from sqlalchemy.engine import URL

        return URL.create("sqlite", database=path).render_as_string()
    return f"sqlite:///{path}"


def sqlite_file(uri: str) -> Path:
    """The file of an ``sqlite:///`` URI, by SQLAlchemy's rules."""
    path = uri.removeprefix("sqlite:///")
    if "%" in path or "?" in path:
        from sqlalchemy.engine import make_url

        path = make_url(uri).database or ""
    return Path(path)


def is_http(uri: str) -> bool:
    return _engine(uri) in ("http", "https")


def _engine(uri: str) -> str:
    """The URI's scheme, without a driver."""
    return uri.partition(":")[0].partition("+")[0].lower()


def _check_names(tracking: TrackingConfig) -> None:
    name, model = tracking.experiment, tracking.register_model
    if not name.strip() or len(name) > LONGEST_EXPERIMENT or not name.isprintable():
        raise InputError(
            f"tracking.experiment={name[:60]!r} is no name for MLflow: give 1 to {LONGEST_EXPERIMENT} printable "
            "characters"
        )
    if model is not None and (not model.strip() or "/" in model or ":" in model or model in (".", "..")):
        raise InputError(f"tracking.register_model={model!r} is no name for MLflow: it may not be empty or hold / or :")


def _check_sqlite(path: Path, uri: str) -> None:
    """Raise InputError where MLflow cannot keep its records in that file."""
    named = f"MLflow's database {path}"
    try:
        if path.is_dir():
            raise InputError(f"{named} is a folder; {OTHERWISE}")
        beside = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        if beside != path and not beside.is_dir():
            raise InputError(f"{named} cannot be made, as {beside} is a file; {OTHERWISE}")
        if not os.access(beside, os.W_OK):
            raise InputError(f"{named} cannot be written, as {beside} is read-only; {OTHERWISE}")
        if beside == path and path.stat().st_size:
            _check_schema(path, uri)
    except OSError as error:
        raise InputError(f"{named} cannot be used ({error.strerror or error}); {OTHERWISE}") from error


def _check_schema(path: Path, uri: str) -> None:
    named = f"MLflow's database {path}"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0)) as database:
            found = database.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.OperationalError:  # no such table: a new one; or locked: another run is at work on it
        return
    except sqlite3.DatabaseError as error:
        raise InputError(f"{named} is none ({error}); move it away, {OTHERWISE}") from error
    known, newest = _schemas()
    if not known or not found or found[0][0] in newest:
        return
    if found[0][0] in known:
        raise InputError(f"{named} was written by an older MLflow: copy it and run `mlflow db upgrade {masked(uri)}`, "
                         f"{OTHERWISE}")  # fmt: skip
    raise InputError(f"{named} was written by a newer MLflow: upgrade mlflow here, {OTHERWISE}")


def _schemas() -> tuple[set[str], set[str]]:
    """The installed MLflow's schema versions, and the last; empty where it does not show them."""
    package = find_spec("mlflow")
    known, replaced = set(), set()
    for folder in (package.submodule_search_locations or []) if package is not None else []:
        for path in (Path(folder) / "store" / "db_migrations" / "versions").glob("*.py"):
            text = path.read_text(encoding="utf-8")
            known.update(re.findall(r"^revision\s*=\s*[\"'](\w+)", text, re.MULTILINE))
            replaced.update(re.findall(r"^down_revision\s*=\s*[\"'](\w+)", text, re.MULTILINE))
    return known, known - replaced


def _check_driver(uri: str, what: str) -> None:
    """Raise InputError where the Python driver of a database is not installed."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    named = f"{what}={masked(uri)}"
    try:
        dialect = make_url(uri).get_dialect()
        is_async = bool(dialect.is_async)
        dialect.import_dbapi()
    except (SQLAlchemyError, ValueError) as error:
        known = f" ({' '.join(str(error).split())})" if isinstance(error, SQLAlchemyError) else ""
        raise InputError(f"{named} is no database that SQLAlchemy knows{known}; check its scheme and port") from None
    except ImportError as error:
        module = (error.name or dialect.driver).partition(".")[0]
        # Since SQLAlchemy 2.1 plain postgresql:// means another driver than before.
        named_one = ", or write postgresql+psycopg2://, whose driver is installed"
        other = named_one if module == "psycopg" and find_spec("psycopg2") is not None else ""
        raise InputError(f"{named} needs a driver that cannot be imported ({error}): "
                         f"pip install {INSTALL.get(module, module)}{other}") from error  # fmt: skip
    if is_async:
        raise InputError(f"{named}: MLflow cannot use {dialect.driver}, an asynchronous driver; name another, "
                         "such as postgresql+psycopg2 or mysql+pymysql")  # fmt: skip
