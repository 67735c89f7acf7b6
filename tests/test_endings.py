"""A finished run is not lost, nothing but training ends one, and its folder tells how it ended."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import resource
import shutil
import subprocess
import sys

import pytest
from rich.console import Console

from raf_ray import run, run_federation, status
from raf_ray.cli import run_command
from raf_ray.errors import RunError
from raf_ray.experiment import run as experiment
from raf_ray.experiment.watching import Guarded
from raf_ray.federation.events import Noted
from raf_ray.report import figure, plots
from raf_ray.request import assembly
from raf_ray.runs import folder as run_folder
from raf_ray.runs.folder import RESERVE, RunFolder, RunLog
from tests.tiny import WORDS, tiny

ENGINE = "federation.engine=in_process"
ONE_ROUND = [*WORDS, ENGINE, "federation.rounds=1"]
ODD = "[bold]x[b] $a_b$ $\\frac{ é 日本 %s {y}"
TIERS = ["resolution.tiers={'[red]é $x_': 64x48, mid: 32x24}", "federation.clients=['[red]é $x_', mid]"]
PICTURES = ("drift.png", "samples.png")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, in a folder and with a tier of odd names, and what its command printed."""
    folder = tmp_path_factory.mktemp("endings") / ODD
    done = subprocess.run([sys.executable, "-m", "raf_ray.run", *ONE_ROUND, *TIERS, "--output", folder], text=True,
                          capture_output=True, env={**os.environ, "MPLBACKEND": "no such backend"})  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return folder, done.stdout


@pytest.fixture
def copied(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    return folder


def results(folder) -> dict:
    return json.loads((folder / "results.json").read_text())


def resumed(folder, capsys) -> str:
    assert run_command(run.main, [*ONE_ROUND, *TIERS, "--resume", "--output", str(folder)]) == 0
    return capsys.readouterr().out


# --- pictures -------------------------------------------------------------------------------------------


def test_pictures_are_drawn_whatever_the_backend_and_the_names(finished):
    folder, told = finished
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in PICTURES)
    assert "(drift.png, samples.png, results.json, model.pt)" in told and "warning" not in told


def test_a_resume_of_a_complete_run_draws_what_is_missing(copied, capsys):
    before = {name: (copied / name).read_bytes() for name in PICTURES}
    for name in PICTURES:
        (copied / name).unlink()
    assert "(drift.png, samples.png, results.json, model.pt)" in resumed(copied, capsys)
    assert (copied / "samples.png").read_bytes() == before["samples.png"]
    assert (copied / "drift.png").is_file()  # its legend names the folder, which is another one here


def test_a_picture_that_cannot_be_drawn_is_a_warning_and_is_not_said_to_be_there(copied, capsys, monkeypatch):
    (copied / "drift.png").unlink()
    with monkeypatch.context() as broken:
        broken.setattr(figure, "_matplotlib", lambda: (_ for _ in ()).throw(ImportError("no matplotlib")))
        told = resumed(copied, capsys)
    assert "drift.png could not be drawn (ImportError: no matplotlib); the run is complete" in told
    assert "(samples.png, results.json, model.pt)" in told and "Traceback" not in told
    assert "ImportError" in (copied / "run.log").read_text()
    assert "(drift.png, samples.png" in resumed(copied, capsys)


def test_a_run_whose_pictures_cannot_be_drawn_is_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(figure, "_matplotlib", lambda: (_ for _ in ()).throw(ValueError("a bad font")))
    seen = Seen()
    run_federation(tiny(ENGINE, "federation.rounds=1"), tmp_path / "run", watchers=[seen])
    assert results(tmp_path / "run")["status"] == "completed"
    assert [event.message.partition(" could")[0] for event in seen.events if isinstance(event, Noted)] == [*PICTURES]


def test_names_in_a_picture_are_text_and_all_are_in_the_legend(tmp_path):
    from matplotlib.figure import Figure

    names = ["$\\frac{", "_hidden", "$a$", "a\udcffb", "[b]"]
    runs = {name: {"by_resolution": {"64x48": 0.5}, "train_resolutions": ["64x48"], "metric": "$", "split": "_"}
            for name in names}  # fmt: skip
    plots.draw_drift(tmp_path / "drift.png", runs)
    axes = Figure().add_subplot()
    plots._draw_curves(axes, runs)
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert shown == ["$\\frac{", "_hidden", "$a$", "a\\udcffb", "[b]"]


def test_drawing_leaves_the_callers_matplotlib_as_it_would_be(tmp_path):
    script = ("import sys, pathlib\nfrom raf_ray.report.figure import figure\n"
              "with figure(pathlib.Path(sys.argv[1]), 2, 2, 50) as drawn: drawn.suptitle('$x')\n"
              "import matplotlib\nassert matplotlib.rcParams['text.parse_math']\n"
              "print(dict.__getitem__(matplotlib.rcParams, 'backend'))\n")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "x.png"], text=True,
                          capture_output=True, env={**os.environ, "MPLBACKEND": "svg"})  # fmt: skip
    assert done.stdout == "svg\n", done.stderr


# --- names ----------------------------------------------------------------------------------------------


def test_names_are_printed_as_they_are(finished, capsys):
    folder, told = finished
    assert told.startswith(f"{ODD}  mrkd, 1 x [red]é $x_ 64x48, 1 x mid 32x24")
    assert re.search(rf"test at +{re.escape(ODD)}", told) and f"Results: {folder} (" in told
    for shown in (folder, folder.parent):
        assert run_command(status.main, [str(shown)]) == 0
        assert ODD in capsys.readouterr().out


# --- watching -------------------------------------------------------------------------------------------


class Seen:
    """A watcher that keeps what it sees; `fails` names the calls that raise."""

    def __init__(self, *fails: str) -> None:
        self.events, self.calls, self.fails = [], [], fails

    def _call(self, name):
        self.calls.append(name)
        if name in self.fails:
            raise OSError(errno.ENOSPC, "a full disk")

    def begin(self, prepared, folder):
        self._call("begin")

    def see(self, event):
        self.events.append(event)
        self._call("see")

    def end(self, folder, results):
        self._call("end")


@pytest.mark.parametrize(("fails", "calls"), [(("begin",), ["begin", "end"]), (("see", "end"), ["begin", "see", "end"]),
                                              (("end",), None)])  # fmt: skip
def test_a_display_that_fails_is_noted_once_and_ends_no_run(fails, calls, tmp_path):
    told = []
    watcher = Seen(*fails)
    run_federation(tiny(ENGINE, "federation.rounds=1"), tmp_path / "run",
                   watchers=[Guarded(watcher, "the display", told.append)])  # fmt: skip
    assert results(tmp_path / "run")["status"] == "completed"
    assert calls is None or watcher.calls == calls
    assert len(told) == 1 and told[0].startswith("the display failed (OSError: [Errno 28] a full disk)")
    assert "Traceback" in (tmp_path / "run" / "run.log").read_text()


def test_all_watchers_are_told_of_the_end_though_one_of_them_fails(tmp_path):
    first, second = Seen(), Seen("end")
    with pytest.raises(OSError, match="a full disk"):
        run_federation(tiny(ENGINE, "federation.rounds=1"), tmp_path / "run", watchers=[first, second])
    assert first.calls[-1] == second.calls[-1] == "end"


def test_what_a_display_of_a_command_raises_ends_nothing(tmp_path, monkeypatch, capsys):
    from raf_ray.tracking.progress import ProgressDisplay

    def fails(self, event):
        raise RuntimeError("no such colour")

    monkeypatch.setattr(ProgressDisplay, "see", fails)
    assert run_command(run.main, [*ONE_ROUND, "--output", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.count("the progress display failed (RuntimeError: no such colour)") == 1


# --- disks ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk():
    """No file may be larger than 200 kB, so a checkpoint cannot be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_does_not_fit_is_told_in_a_sentence(tmp_path, small_disk):
    with pytest.raises(RunError, match=r"^cannot write to \S+run: File too large$") as error:
        run_federation(tiny(ENGINE, "federation.rounds=1"), tmp_path / "run")
    assert results(tmp_path / "run")["status"] == "failed"
    assert results(tmp_path / "run")["error"] == str(error.value)
    assert not (tmp_path / "run" / RESERVE).exists()


def test_room_is_kept_for_the_last_status(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.begin_results({"status": "running"})
    assert (tmp_path / RESERVE).stat().st_size >= 2**16

    def write_on_a_full_disk(path, values, write=run_folder.write_json):
        if (tmp_path / RESERVE).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, values)

    monkeypatch.setattr(run_folder, "write_json", write_on_a_full_disk)
    folder.end_results({"status": "failed"})
    assert results(tmp_path)["status"] == "failed"


def test_a_kills_room_goes_with_the_run_that_is_replaced(tmp_path):
    (tmp_path / RESERVE).write_bytes(b"0")
    RunFolder(tmp_path).check_free(overwrite=True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_log_that_does_not_fit_says_nothing(capfd):
    logger = logging.getLogger("raf_ray.test")
    handler = RunLog("/dev/full")
    logger.addHandler(handler)
    try:
        logger.error("lost")
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert capfd.readouterr().err == ""


def test_a_file_elsewhere_is_named_and_not_the_run_folder(tmp_path):
    class Engine:
        def run(self, spec, folder, checkpoint):
            raise OSError(errno.EIO, "Input/output error", "/data/picture.jpg")
            yield

    prepared = assembly.prepare(tiny(ENGINE))
    with pytest.raises(RunError, match=r"^/data/picture\.jpg: Input/output error$"):
        experiment.run_prepared(prepared, tmp_path / "run", resume=False, overwrite=False, address=None, watchers=[],
                                engine=Engine())  # fmt: skip
    assert results(tmp_path / "run")["status"] == "failed"


def test_a_disk_that_is_full_after_the_end_is_one_sentence(capsys):
    def main(words):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/comparison.json")

    assert run_command(main, []) == 1
    assert capsys.readouterr().err == "failed: runs/comparison.json: No space left on device\n"


# --- what a folder says ---------------------------------------------------------------------------------


def status_of(folder, capsys) -> str:
    assert run_command(status.main, [str(folder), "--follow"]) == 0
    return capsys.readouterr().out


def test_status_finds_out_that_a_run_died_and_a_resume_completes_it(copied, capsys):
    (copied / "results.json").write_text(json.dumps({**results(copied), "status": "running"}))
    told = status_of(copied, capsys)
    assert re.search(r"status +died", told) and "--resume goes on with it" in told
    resumed(copied, capsys)
    assert re.search(r"status +completed", status_of(copied, capsys))


def test_status_believes_a_run_that_holds_its_folder(copied, capsys):
    (copied / "results.json").write_text(json.dumps({**results(copied), "status": "running"}))
    with RunFolder(copied).locked():
        assert run_command(status.main, [str(copied)]) == 0
        with open(copied / "config.yaml", "rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert re.search(r"status +running", capsys.readouterr().out)


def test_a_trial_whose_process_is_gone_has_died(copied, tmp_path, capsys):
    trial = {"number": 0, "hash": "a", "params": {"x": "[b]$"}, "status": "running", "round": 1, "folder": "run",
             "metrics": {"score_mean": 0.5}}  # fmt: skip
    (tmp_path / "trials.json").write_text(json.dumps({"trials": [trial], "metric": ["score_mean"], "mode": ["max"]}))
    told = status_of(tmp_path, capsys)
    assert re.search(r"\*0 +died", told) and "x=[b]$" in told


def test_a_run_that_ends_before_its_first_round_says_so(tmp_path):
    class Stops(Seen):
        def begin(self, prepared, folder):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_federation(tiny(ENGINE), tmp_path / "run", watchers=[Stops()])
    assert results(tmp_path / "run")["status"] == "interrupted"


def test_a_warning_of_a_run_is_shown_as_one(capsys):
    from raf_ray.tracking.progress import ProgressDisplay

    ProgressDisplay(Console(file=sys.stdout, width=100)).see(Noted("[b]odd"))
    assert capsys.readouterr().out == "warning [b]odd\n"
