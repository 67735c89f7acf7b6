"""Hosts for the tests of clusters: parts of this machine with network, processes, files and SSH of their own.

Needs root, network namespaces, and the packages iproute2, openssh-server and rsync (Debian's names).
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
LAPTOP = "laptop"
ADDRESSES = {"h0": "10.77.0.1", "h1": "10.77.0.2", "h2": "10.77.0.3", LAPTOP: "10.77.0.9"}
"""The namespaces are new, so no other network can have these. The laptop holds the switch that joins them."""
USER, UID = "ubuntu", 7301
"""Who logs in on the hosts, as on a cloud's: nobody special."""
HOME = f"/home/{USER}"
NEEDED = {"ip": "iproute2", "sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync",
          "unshare": "util-linux", "setpriv": "util-linux", "nsenter": "util-linux"}  # fmt: skip

INIT = r"""
# Process 1 of a host. Private files hide this machine's at the same paths; /tmp last, since it hides $files.
set -e
mount --make-rprivate /
hostname "$name"
for bound in $kept; do case $bound in /tmp/*|/root/*|/home/*)
    mkdir -p "$files$bound"; mount --rbind "$bound" "$files$bound"; mount -o remount,bind,ro "$files$bound";; esac; done
mount -t tmpfs -o size=9g,mode=1777 tmpfs /dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts /dev/pts; mount --bind /dev/pts/ptmx /dev/ptmx
for file in hosts passwd group; do mount --bind "$files/etc/$file" /etc/$file; done
mount --bind "$files/run" /run
mount --rbind "$files/root" /root; mount --rbind "$files/home" /home; mount --rbind "$files/tmp" /tmp
cd /; rm -f /run/sshd.pid; touch /run/up
if [ "$name" = laptop ]; then sleep infinity & else "$sshd" -D -e -f /run/sshd_config < /dev/null & fi
while kill -0 $! 2> /dev/null; do wait $! || true; done
"""


@dataclass
class Host:
    name: str
    namespace: str
    folder: Path
    """What lies at /home, /root, /tmp, /run and some files of /etc on it"""
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return ADDRESSES[self.name]

    @property
    def home(self) -> Path:
        """The user's home, as it is seen from outside."""
        return self.folder / HOME[1:]


@dataclass
class Hosts:
    """A laptop and three hosts that it reaches by SSH."""

    folder: Path
    hosts: dict[str, Host] = field(default_factory=dict)

    @property
    def laptop(self) -> Host:
        return self.hosts[LAPTOP]

    def command(self, host: Host, words: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
        """The words that run a command on a host as its user."""
        assert host.process is not None
        init = ip_pids(host.process.pid)
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        told = {"PATH": path, "HOME": HOME, "USER": USER, "TERM": "dumb", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
        told |= environment or {}
        return ["nsenter", "-t", str(init), "-m", "-u", "-i", "-n", "-p", f"--wd={REPOSITORY}",
                "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups",
                "env", "-i", *(f"{key}={value}" for key, value in told.items()), *words]  # fmt: skip

    def run(self, host: Host, *words: str, seconds: float = 300, environment: Mapping[str, str] | None = None,
            code: int | None = 0) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a command on a host to its end; stdout and stderr together. `code`: which is expected, None is any."""
        done = subprocess.run(
            self.command(host, words, environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=seconds,
        )  # fmt: skip
        assert code is None or done.returncode == code, f"{shlex.join(words)}: {done.returncode}\n{done.stdout}"
        return done

    def start(self, host: Host, *words: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command, whose output must be read."""
        return subprocess.Popen(
            self.command(host, words, environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip

    def ray_processes(self, host: Host) -> list[str]:
        """Command lines of what Ray left on a host."""
        lines = self.run(host, "ps", "ax", "-o", "args=").stdout.splitlines()
        return [line for line in lines if "ray::" in line or "/ray/" in line]

    def own(self, place: Path) -> None:
        """Give a folder and what is in it to the hosts' user."""
        for path in (place, *place.rglob("*")):
            os.chown(path, UID, UID, follow_symlinks=False)

    def boot(self, host: Host) -> None:
        """Start a host, or start it again, with the files that it has."""
        files = host.folder
        kept = [str(REPOSITORY), sys.prefix, sys.base_prefix, str(self.folder / "wheels")]
        init = shlex.join(["env", f"name={host.name}", f"files={files}", f"kept={' '.join(kept)}",
                           f"sshd={shutil.which('sshd')}", "bash", "-c", INIT])  # fmt: skip
        with open(self.folder / f"{host.name}.log", "ab") as log:
            host.process = subprocess.Popen(
                ["ip", "netns", "exec", host.namespace, "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork",
                 "--kill-child", "--mount-proc", "bash", "-c", f"exec {init}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._wait_for(host)

    def cut(self, host: Host) -> None:
        """End a host as a power cut would: all its processes at once."""
        assert host.process is not None
        host.process.send_signal(signal.SIGKILL)
        host.process.wait()

    def _wait_for(self, host: Host) -> None:
        deadline = time.monotonic() + 20
        marks = ["test", "-e", "/run/up" if host.name == LAPTOP else "/run/sshd.pid"]
        while True:
            assert host.process is not None
            said = (self.folder / f"{host.name}.log").read_text(errors="replace")
            assert host.process.poll() is None, said
            try:
                if subprocess.run(self.command(host, marks), stderr=subprocess.DEVNULL).returncode == 0:
                    return
            except ProcessLookupError:
                pass
            assert time.monotonic() < deadline, said
            time.sleep(0.1)


def ip_pids(unshare: int) -> int:
    """Process 1 of a host, as this machine numbers it."""
    children = Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()
    if not children:
        raise ProcessLookupError
    return int(children[0])


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@contextmanager
def hosts_up() -> Iterator[Hosts]:
    """All four, up. Skips where the machine cannot have them."""
    for command, package in NEEDED.items():
        if shutil.which(command) is None:
            pytest.skip(f"needs {command} (Debian's package {package})")
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes namespaces")
    folder = Path(tempfile.mkdtemp(prefix="raf-hosts-", dir="/tmp"))
    folder.chmod(0o755)
    hosts = Hosts(folder)
    made: list[str] = []
    try:
        _wire(hosts, made)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
        make_wheels(folder / "wheels")
        for host in hosts.hosts.values():
            _furnish(hosts, host)
            hosts.boot(host)
        yield hosts
    finally:
        for host in hosts.hosts.values():
            if host.process is not None and host.process.poll() is None:
                hosts.cut(host)
        for namespace in made:
            ip("netns", "del", namespace)
        shutil.rmtree(folder, ignore_errors=True)


def _wire(hosts: Hosts, made: list[str]) -> None:
    """A network namespace each, joined by a switch in the laptop's, without a way out."""
    for name in (LAPTOP, "h0", "h1", "h2"):
        namespace = f"raf{os.getpid()}{name}"
        try:
            ip("netns", "add", namespace)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
        made.append(namespace)
        hosts.hosts[name] = Host(name, namespace, hosts.folder / name)
        ip("-n", namespace, "link", "set", "lo", "up")
    switch = hosts.laptop.namespace
    ip("-n", switch, "link", "add", "switch", "type", "bridge")
    ip("-n", switch, "addr", "add", f"{ADDRESSES[LAPTOP]}/24", "dev", "switch")
    ip("-n", switch, "link", "set", "switch", "up")
    for name, host in hosts.hosts.items():
        if name != LAPTOP:
            ip("-n", host.namespace, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", switch)
            ip("-n", switch, "link", "set", name, "master", "switch", "up")
            ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
            ip("-n", host.namespace, "link", "set", "eth0", "up")
            # It leads nowhere: Ray finds a host's own address by the route to a public one.
            ip("-n", host.namespace, "route", "add", "default", "via", ADDRESSES[LAPTOP])


def _furnish(hosts: Hosts, host: Host) -> None:
    """A host's own files: the user's home with what a fresh Debian gives it, his key, Python and where pip looks."""
    files, home = host.folder, host.home
    for place in ("etc", "root", "tmp", "run/sshd", "home"):
        (files / place).mkdir(parents=True, mode=0o755)
    (files / "tmp").chmod(0o1777)
    for place in (".ssh", ".local/bin", ".config/pip"):
        (home / place).mkdir(parents=True, exist_ok=True)
    for skeleton in (".bashrc", ".profile"):
        shutil.copy(Path("/etc/skel") / skeleton, home)
    (home / ".local" / "bin" / "python3").symlink_to(
        Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    )
    (home / ".config" / "pip" / "pip.conf").write_text(
        f"[global]\nno-index = true\nfind-links = {hosts.folder / 'wheels'}\ndisable-pip-version-check = true\n"
    )
    if host.name == LAPTOP:
        shutil.copy(hosts.folder / "key", home / ".ssh" / "id_ed25519")
    else:
        shutil.copy(hosts.folder / "key.pub", home / ".ssh" / "authorized_keys")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", files / "run" / "host_key"], check=True)
        (files / "run" / "sshd_config").write_text(
            "ListenAddress 0.0.0.0\nHostKey /run/host_key\nPidFile /run/sshd.pid\nUsePAM no\nUseDNS no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 50\n"
        )
    hosts.own(home)
    (home / ".ssh").chmod(0o700)
    names = "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
    (files / "etc" / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
    for name, line in (("passwd", f"{USER}:*:{UID}:{UID}::{HOME}:/bin/bash\n"), ("group", f"{USER}:x:{UID}:\n")):
        others = [one for one in Path("/etc", name).read_text().splitlines(True) if not one.startswith(f"{USER}:")]
        (files / "etc" / name).write_text("".join([*others, line]))


def make_wheels(folder: Path) -> None:
    """A folder of wheels for pip: each installed package under its own name, linked and not copied.

    What a wheel holds is one line, the folder where this Python's packages are, so that a host's environment takes
    seconds in place of minutes and 6 GB; and it needs no other, since all are there. The project's own needs,
    constraints, scripts and the editable install are pip's work as ever.
    """
    folder.mkdir()
    link = "".join(f"{place}\n" for place in dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib")))
    for found in importlib.metadata.distributions():
        name, version = found.metadata["Name"], found.version
        if found.read_text("WHEEL") is None:  # this project itself
            continue
        stem = f"{name.replace('-', '_').replace('.', '_')}-{version}"
        texts = {
            "linked_packages.pth": link,
            f"{stem}.dist-info/METADATA": "".join(
                line for line in (found.read_text("METADATA") or "").splitlines(True) if "Requires-Dist:" not in line
            ),
            f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{stem}.dist-info/entry_points.txt": found.read_text("entry_points.txt") or "",
        }
        record = f"{stem}.dist-info/RECORD"
        lines = [f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in texts.items()]
        with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
            for path, text in {**texts, record: "".join(lines) + f"{record},,\n"}.items():
                wheel.writestr(path, text)


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
