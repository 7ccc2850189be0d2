"""A real Slurm on this machine, for the tests: `python -m tests.slurm.cluster up [--fresh]` and `... down`.

Needs Debian and root; installs what is missing (munge, slurmctld, slurmd, slurmdbd, MariaDB's core).  No systemd: the
daemons are ours, listen on 127.0.0.1 only, and keep everything under one folder, DSR_BENCH_SLURM or
/var/lib/dsr-bench-slurm.  `. FOLDER/env.sh` (it exports SLURM_CONF) makes sbatch and squeue talk to it.

One node with 5 CPUs, however many there are, and 2 GPUs that are none.  Partitions: debug (default), high, and below it
low (what must give way is requeued) and scavenge (is cancelled).  `up` starts what does not run yet; `--fresh` forgets
all jobs first, but never hands out a job's number twice.  There is an accounting, because without it nobody knows how a
job ended.
"""

import argparse
import contextlib
import fcntl
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.slurm.configuration import GPUS, NODE, Place, files
from tests.slurm.daemons import Daemon, StartError

FOLDER = Path(os.environ.get("DSR_BENCH_SLURM", "/var/lib/dsr-bench-slurm"))
PACKAGES = ["munge", "slurmctld", "slurmd", "slurm-client", "slurmdbd", "mariadb-server-core"]
NAMES = ["munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd"]
FIRST_PORT, PORTS = 16910, 3
HOSTS, HOSTS_MARK = Path("/etc/hosts"), " # dsr-bench-slurm"
MOST_JOBS_UNNOTICED = 10_000
SQL = Path("/usr/share/mysql")


def main() -> int:
    """Start or stop; the exit code is 1 where that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("--fresh", action="store_true", help="forget all jobs first")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("a Slurm for tests must be started and stopped by root", file=sys.stderr)
        return 1
    os.environ["PATH"] += ":/usr/sbin"  # where daemons are; a root by `su` has it not
    for folder in ("run", "log", "spool", "dev", "munge", "state", "db"):
        (FOLDER / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("munge", "state", "db"):
        (FOLDER / folder).chmod(0o700)
    try:
        with _alone():
            if options.fresh or options.action == "down":
                down(forget=options.fresh)
            if options.action == "up":
                up()
    except (StartError, subprocess.SubprocessError) as error:
        print(f"{error}\n{getattr(error, 'stderr', '') or ''}", file=sys.stderr)
        return 1
    return 0


def up() -> None:
    """Start every daemon that does not run, and return when jobs can be submitted."""
    _install()
    _name_this_host()
    place = _place()
    for name, text in files(place, _memory()).items():
        path = FOLDER / name
        # slurmdbd reads its file only if nobody else can.
        path.touch(mode=0o600 if name == "slurmdbd.conf" else 0o644)
        path.write_text(text)
    for number in range(GPUS):
        device = FOLDER / "dev" / f"gpu{number}"
        if not device.exists():
            _call("mknod", "-m", "666", device, "c", "1", "3")
    _start(place)
    print(f". {FOLDER}/env.sh")


def down(*, forget: bool) -> None:
    """End all jobs and every daemon; `forget` also the jobs' history."""
    _keep_next_number()
    if Daemon("slurmctld", FOLDER).process():
        _end_jobs()
    for name in reversed(NAMES):
        Daemon(name, FOLDER).stop()
    for number in _left_behind():
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    if _is_marked(HOSTS):
        lines = HOSTS.read_text().splitlines(keepends=True)
        HOSTS.write_text("".join(line for line in lines if HOSTS_MARK not in line))
    if forget:
        for folder in ("state", "db", "log", "spool"):
            shutil.rmtree(FOLDER / folder)
            (FOLDER / folder).mkdir(mode=0o700 if folder in ("state", "db") else 0o755)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install() -> None:
    if all(shutil.which(tool) for tool in (*NAMES, "srun", "mungekey")):
        return
    # Debian's packages start daemons of their own unless this file forbids it.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        get = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120"]
        _call(*get, "update", environment=environment)
        _call(*get, "install", "--no-install-recommends", *PACKAGES, environment=environment)
    finally:
        if ours:
            policy.unlink()


def _name_this_host() -> None:
    """Daemons and srun listen where their own host's name leads: that must be the loopback."""
    full = platform.node()
    names = {full, full.split(".")[0]}
    with contextlib.suppress(OSError):
        names = {name for name in names if not socket.gethostbyname(name).startswith("127.")}
    if names:
        # Written in place: it may be mounted.
        HOSTS.write_text(f"127.0.0.1 {' '.join(sorted(names))}{HOSTS_MARK}\n" + HOSTS.read_text())


def _is_marked(path: Path) -> bool:
    return HOSTS_MARK in path.read_text()


def _place() -> Place:
    """Where the cluster was, if any of its daemons still runs; else at free ports."""
    running = any(Daemon(name, FOLDER).process() for name in NAMES)
    known = re.search(r"SlurmctldPort=(\d+)", _read(FOLDER / "slurm.conf"))
    port = int(known[1]) if running and known else FIRST_PORT
    while not running and any(map(_answers, range(port, port + PORTS))):
        port += PORTS
    return Place(FOLDER, port, int(_read(FOLDER / "first_job") or 1))


def _start(place: Place) -> None:
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SLURM_CONF": f"{FOLDER}/slurm.conf",
        "MYSQL_UNIX_PORT": str(place.database_socket),
    }
    key = FOLDER / "munge" / "munge.key"
    if not key.exists():
        _call("mungekey", "--create", "--keyfile", key)
    munged = ["munged", "--foreground", "--origin=127.0.0.1", f"--socket={place.munge_socket}", f"--key-file={key}"]
    munged += [f"--pid-file={FOLDER}/run/munged.pid", f"--seed-file={FOLDER}/munge/seed"]
    munged += [f"--log-file={FOLDER}/log/munged.log"]
    Daemon("munged", FOLDER).start(
        munged, environment, lambda: _works("munge", "-n", "-S", place.munge_socket, "-o", "/dev/null")
    )
    if not (FOLDER / "db" / "ready").exists():
        _make_database()
    database = ["mariadbd", f"--defaults-file={FOLDER}/my.cnf"]
    Daemon("mariadbd", FOLDER).start(database, environment, lambda: _accepts(place.database_socket))
    Daemon("slurmdbd", FOLDER).start(["slurmdbd", "-D"], environment, lambda: _answers(place.port + 1))
    controller = Daemon("slurmctld", FOLDER)
    controller.start(["slurmctld", "-D"], environment, lambda: " is UP" in _output("scontrol", "ping"))
    Daemon("slurmd", FOLDER).start(["slurmd", "-D", "-N", NODE], environment, _node_works)
    controller.wait_until(
        lambda: f"dsr|{place.port}" in _output("sacctmgr", "-nP", "show", "cluster", "format=cluster,controlport")
    )


def _make_database() -> None:
    """What mariadb-install-db does; that is in a package with much else."""
    shutil.rmtree(FOLDER / "db")
    (FOLDER / "db" / "data").mkdir(parents=True, mode=0o700)
    statements = [
        "CREATE DATABASE mysql;",
        "USE mysql;",
        "SET @auth_root_socket='root';",
        "SET @skip_auth_anonymous=1;",
    ]
    statements += [(SQL / name).read_text() for name in ("mysql_system_tables.sql", "mysql_system_tables_data.sql")]
    statements += ["CREATE DATABASE slurm_acct_db;"]
    _call("mariadbd", f"--defaults-file={FOLDER}/my.cnf", "--bootstrap", text="\n".join(statements))
    (FOLDER / "db" / "ready").touch()


def _node_works() -> bool:
    state = _output("sinfo", "-h", "-p", "debug", "-o", "%T").strip()
    if state.startswith(("down", "drain")):
        _works("scontrol", "update", f"nodename={NODE}", "state=resume")
    return state in ("idle", "mixed", "allocated", "completing")


def _keep_next_number() -> None:
    """A new cluster's jobs must not be taken for an old one's; nobody knows how far a controller came that crashed."""
    known = int(_read(FOLDER / "first_job") or 1)
    if Daemon("slurmctld", FOLDER).process():
        number = re.search(r"NEXT_JOB_ID\s*=\s*(\d+)", _output("scontrol", "show", "config"))
        known = int(number[1]) if number else known + MOST_JOBS_UNNOTICED
    elif (FOLDER / "run" / "slurmctld.own").exists():
        known += MOST_JOBS_UNNOTICED
    (FOLDER / "first_job").write_text(str(known))


def _end_jobs() -> None:
    """A job outlives its daemon."""
    _works("scancel", "--user=root")
    deadline = time.monotonic() + 15
    while _output("squeue", "-h") and time.monotonic() < deadline:
        time.sleep(0.2)


def _left_behind() -> list[int]:
    """Processes of this cluster's jobs that a crash left: their environment names the cluster and a job."""
    numbers = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            lines = file.read_bytes().split(b"\0")
            ours = f"SLURM_CONF={FOLDER}/slurm.conf".encode() in lines
            if ours and any(line.startswith(b"SLURM_JOB_ID=") for line in lines):
                numbers.append(int(file.parent.name))
    return numbers


def _memory() -> int:
    """Four fifths of the machine's memory, in MiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 4 // 5 // 2**20


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _read(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def _call(*command: str | Path, text: str = "", environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, input=text, env=environment, capture_output=True, text=True, timeout=300, check=True)


def _works(*command: str | Path) -> bool:
    return _answer(command).returncode == 0


def _output(*command: str | Path) -> str:
    return _answer(command).stdout


def _answer(command: Sequence[str | Path]) -> "subprocess.CompletedProcess[str]":
    """What a client of this cluster, and of no other, says within a few seconds."""
    environment = {**os.environ, "SLURM_CONF": f"{FOLDER}/slurm.conf"}
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


if __name__ == "__main__":
    sys.exit(main())
