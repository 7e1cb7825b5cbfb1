"""Real clusters of two nodes on this machine: installed, started and stopped by the tests."""

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
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
            shared = ("events/", "work/", "decided.json")
            for name in [name for name in files if name.startswith(shared)]:
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


BRICK = """
volume posix
  type storage/posix
  option directory {folder}/brick
end-volume
volume locks
  type features/locks
  subvolumes posix
end-volume
volume server
  type protocol/server
  option transport-type tcp
  option transport.socket.bind-address 127.0.0.1
  option transport.socket.listen-port 24123
  option auth.addr.locks.allow 127.0.0.1
  subvolumes locks
end-volume
"""

CLIENT = """
volume client
  type protocol/client
  option transport-type tcp
  option remote-host 127.0.0.1
  option remote-port 24123
  option remote-subvolume locks
end-volume
"""


@pytest.fixture(scope="session")
def mounts(tmp_path_factory):
    """Two folders that are clients of one network file system (GlusterFS over loopback)."""
    root_of_debian()
    if not Path("/dev/fuse").exists():
        pytest.skip("a client of GlusterFS needs /dev/fuse")
    installed("glusterfsd", "glusterfs-server", "glusterfs-client", "attr")
    folder = tmp_path_factory.mktemp("gluster")
    for name in ("brick", "a", "b"):
        (folder / name).mkdir()
    (folder / "brick.vol").write_text(BRICK.format(folder=folder))
    (folder / "client.vol").write_text(CLIENT)
    volume = f"0x{uuid.uuid4().hex}"
    command("setfattr", "-n", "trusted.glusterfs.volume-id", "-v", volume, str(folder / "brick"))
    server = folder / "brick.vol", folder / "brick.log", folder / "brick.pid"
    done = command("glusterfsd", *words(*server))
    for name in ("a", "b"):
        client = folder / "client.vol", folder / f"{name}.log", folder / f"{name}.pid"
        done = done.returncode and done or command("glusterfs", *words(*client), str(folder / name))
    if done.returncode or not os.path.ismount(folder / "b"):
        pytest.skip(f"GlusterFS does not start here: {done.stderr.strip()[-200:]}")
    yield folder / "a", folder / "b"
    for name in ("a", "b"):
        command("umount", "-l", str(folder / name))
    stop(folder / "brick.pid")


def words(volume, log, pid):
    return "-f", str(volume), "-l", str(log), "-p", str(pid)
