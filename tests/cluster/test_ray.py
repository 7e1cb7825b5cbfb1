"""The toy study on a real Ray of two nodes, in network namespaces of their own."""

import os
import shutil
import subprocess
import sys

import pytest
from tests.processes import RESEED, child, until

import reseed
from reseed.study import Study

pytest.importorskip("ray", reason="Ray is not installed: make test-cluster does it")

HEAD, NODE = "reseed-a", "reseed-b"
ENVIRONMENT = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_NODE_IP_ADDRESS": "10.77.0.1"}
SHARED = ["--num-cpus=1", "--object-store-memory=100000000"]


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True)


def inside(space, *command, **more):
    return subprocess.run(
        ["ip", "netns", "exec", space, *map(str, command)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        **more,
    )


def end_all():
    for space in (HEAD, NODE):
        pids = ip("netns", "pids", space).stdout.split()
        subprocess.run(["kill", "-9", *pids], capture_output=True)
        ip("netns", "del", space)


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    """Address of a Ray whose two nodes see each other and nothing else."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    end_all()
    for space in (HEAD, NODE):
        if (done := ip("netns", "add", space)).returncode:
            pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
    ip("link", "add", "rsa", "type", "veth", "peer", "name", "rsb")
    for space, link, address in ((HEAD, "rsa", "10.77.0.1/24"), (NODE, "rsb", "10.77.0.2/24")):
        ip("link", "set", link, "netns", space)
        ip("-n", space, "addr", "add", address, "dev", link)
        ip("-n", space, "link", "set", "lo", "up")
        ip("-n", space, "link", "set", link, "up")
    program = [sys.executable, "-m", "ray.scripts.scripts", "start"]
    head = ["--head", "--node-ip-address=10.77.0.1", "--port=6399", "--include-dashboard=false"]
    node = ["--address=10.77.0.1:6399", "--node-ip-address=10.77.0.2"]
    try:
        for space, words in ((HEAD, head), (NODE, node)):
            done = inside(space, *program, *words, *SHARED, timeout=200)
            assert done.returncode == 0, done.stdout + done.stderr
        yield "10.77.0.1:6399"
    finally:
        end_all()


def start(study, out, address):
    engine = out.with_suffix(".engine.toml")
    engine.write_text(f'on = "ray"\nworkers = 2\ngib = 0.5\naddress = "{address}"\n')
    command = (*RESEED, "run", study, "--out", out, "--engine", engine)
    return child("ip", "netns", "exec", HEAD, *command, env=ENVIRONMENT)


@pytest.mark.slow
def test_two_nodes_make_what_one_process_makes(ray, finished, tmp_path, same_pieces):
    with start(finished / "study.toml", tmp_path / "tiny", ray) as process:
        out, _ = process.communicate(timeout=280)
    assert process.returncode == 0, out
    assert same_pieces(tmp_path / "tiny", finished)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_dies_while_it_trains(ray, write_study, same_pieces):
    """What it did is done again on the other one, which from here on is alone."""
    text = {"tokens": 512_000, "checkpoint_tokens": 6_400}
    alone = write_study("alone/tiny", training=text)
    reseed.run(Study.load(alone), progress=False)
    shared = write_study("shared/tiny", training=text)
    folder = shared.with_suffix("") / "runs"
    with start(shared, shared.with_suffix(""), ray) as process:
        until(lambda: list(folder.glob("*.part/*/checkpoint.safetensors")), process)
        pids = ip("netns", "pids", NODE).stdout.split()
        subprocess.run(["kill", "-9", *pids], check=True)
        out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    assert same_pieces(shared.with_suffix(""), alone.with_suffix(""))


def test_no_cluster_at_the_address(write_study, cli, tmp_path):
    engine = tmp_path / "engine.toml"
    engine.write_text('on = "ray"\naddress = "127.0.0.1:9"\n')
    done = cli("run", write_study(), "--engine", engine)
    assert done.returncode == 2
    assert "there is no Ray cluster at '127.0.0.1:9'" in done.stderr
