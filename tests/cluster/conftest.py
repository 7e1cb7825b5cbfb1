"""Real clusters of two nodes on this machine: installed, started and stopped by the tests."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

SKIP = (".lock", "events.jsonl", "summary.json", "report.html")
"""Files that say when, or the folder's name."""

SLURM = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
ReturnToService=2
MailProg=/bin/true
KillWait=5
SlurmdTimeout=15
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=17001 CPUs={cores} RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=17002 CPUs={cores} RealMemory=4000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE
"""


@pytest.fixture
def same_pieces(tree):
    """Whether two folders have the same files, but for what the work itself leaves."""

    def same(one, other):
        trees = [tree(folder, skip=SKIP) for folder in (one, other)]
        for files in trees:
            for name in [name for name in files if name.startswith(("events/", "work/"))]:
                del files[name]
        return trees[0] == trees[1]

    return same


def root_of_debian():
    if os.geteuid() != 0:
        pytest.skip("only root can install and start this cluster")
    if shutil.which("apt-get") is None:
        pytest.skip("this cluster comes from Debian's packages, and there is no apt-get")


def command(*args, **more):
    return subprocess.run(args, capture_output=True, text=True, check=False, **more)


def installed(program, *packages):
    """Install packages unless the program is there; skip where that is not possible."""
    if shutil.which(program):
        return
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (("update",), ("install", "-y", "--no-install-recommends", *packages)):
        done = command("apt-get", *words, env=quiet)
    if shutil.which(program) is None:
        pytest.skip(f"{', '.join(packages)} cannot be installed: {done.stderr.strip()[-200:]}")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A controller and two nodes; gives the folder of their pids and logs."""
    root_of_debian()
    installed("slurmctld", "slurm-wlm", "munge")
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    text = SLURM.format(host=socket.gethostname(), folder=folder, cores=os.cpu_count())
    (folder / "slurm.conf").write_text(text)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    if command("munge", "-n").returncode:
        command("install", "-d", "-o", "munge", "-g", "munge", "/run/munge")
        command("runuser", "-u", "munge", "--", "munged")
    for daemon in (("slurmctld",), ("slurmd", "-N", "n1"), ("slurmd", "-N", "n2")):
        done = command(*daemon)
        if done.returncode:
            pytest.skip(f"{daemon[0]} does not start here: {done.stderr.strip()[-200:]}")
    for _ in range(150):
        if len(command("sinfo", "-h", "-t", "idle", "-o", "%N %T", "-N").stdout.split("\n")) > 2:
            break
        time.sleep(0.2)
    else:
        pytest.skip(f"the nodes of Slurm do not come up: {command('sinfo').stdout}")
    yield folder
    command("scancel", "--user", "root")
    for pid in folder.glob("*.pid"):
        stop(pid)
    del os.environ["SLURM_CONF"]


def stop(pid: Path, signum=signal.SIGTERM):
    """Send a signal to the process of a pid file, if it is there."""
    try:
        os.kill(int(pid.read_text()), signum)
    except (OSError, ValueError):
        return
