"""Standard output and error that cannot be written: no run ends by them, but where a pipe's reader has left."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from raf_ray import evaluate, run, status
from raf_ray.cli import run_command
from raf_ray.terminal import printable
from tests.tiny import WORDS

ENGINE = "federation.engine=in_process"


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line for bash; `run` in it is the command."""
    words = {**os.environ, **environment, "PY": f"{sys.executable} -m raf_ray"}
    return subprocess.run(["bash", "-c", line], env=words, capture_output=True, text=True, check=False)


class Broken(io.StringIO):
    """A stream whose device fails."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams") / "mine"
    assert run_command(run.main, [*WORDS, ENGINE, "federation.rounds=1", "--output", str(folder)]) == 0
    return folder


def ended(folder) -> str:
    return json.loads((folder / "results.json").read_text())["status"]


@pytest.mark.parametrize("number", [28, 5], ids=["disk full", "terminal gone"])
def test_a_run_goes_on_where_its_output_cannot_be_written(number, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Broken(number))
    assert run_command(run.main, [*WORDS, ENGINE, "federation.rounds=1", "--output", str(tmp_path / "run")]) == 0
    assert ended(tmp_path / "run") == "completed"
    told = capsys.readouterr().err
    assert told.count("standard output cannot be written") == 1 and str(tmp_path) not in told


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_run_without_a_stream_goes_on(stream, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, stream, None)
    assert run_command(run.main, [*WORDS, ENGINE, "federation.rounds=1", "--output", str(tmp_path / "run")]) == 0
    assert getattr(sys, stream) is None and ended(tmp_path / "run") == "completed"


def test_a_run_whose_reader_has_left_is_interrupted_and_can_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Broken(32))
    words = [*WORDS, ENGINE, "--output", str(tmp_path / "run")]
    assert run_command(run.main, words) == 141
    assert capsys.readouterr().err == "" and ended(tmp_path / "run") == "interrupted"
    monkeypatch.undo()
    assert run_command(run.main, [*words, "--resume"]) == 0
    assert ended(tmp_path / "run") == "completed"


@pytest.mark.parametrize("command", [status.main, evaluate.main])
def test_every_command_ends_by_the_pipes_convention(command, finished, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Broken(32))
    assert run_command(command, [str(finished)]) == 141
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("redirected", "code"),
    [("> /dev/full", 0), ("<&- >&- 2>&-", 0), ("> /dev/full 2> /dev/full", 0)],
)
def test_help_for_streams_that_a_shell_has_closed_or_filled(redirected, code):
    done = shell(f"$PY.run --help {redirected}")
    assert done.returncode == code
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_help_whose_reader_has_left():
    done = shell("$PY.run --help | true; echo ${PIPESTATUS[0]}")
    assert done.stdout in ("141\n", "0\n") and done.stderr == ""  # 0 where the pipe took it all before it was closed


def test_an_error_is_told_by_its_exit_code_where_stderr_is_closed():
    assert shell("$PY.run nonsense=1 2>&-").returncode == 2


def test_a_terminal_that_knows_ascii_alone_gets_escapes(finished, tmp_path):
    odd = tmp_path / "日本 [b]é[b]"
    odd.symlink_to(finished)
    done = shell(f"$PY.status '{odd}'", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert r"\u65e5\u672c [b]\xe9[b]" in done.stdout


def test_a_name_of_any_bytes_can_be_printed():
    assert printable("a\udcffb") == "a\\udcffb" and printable("[b]é") == "[b]é"


def test_a_fault_of_the_code_is_one_sentence_that_says_where_its_traceback_is(capsys):
    def main(words):
        raise ZeroDivisionError("of http://bob:s3cret@host\nby nothing")

    assert run_command(main, []) == 1
    error = capsys.readouterr().err
    said, kept = re.fullmatch(r"(failed: .*) \(the traceback is in (\S+)\)\n", error).groups()
    assert said == "failed: unexpected ZeroDivisionError: of http://bob:***@host by nothing"
    text = Path(kept).read_text()
    Path(kept).unlink()
    assert "in main" in text and "s3cret" not in text
