"""How long the explorer takes on a made-up study of 131,072 latents x 9 runs, and its memory.

    python -m benchmarks.explore [--folder DIR] [--latents N] [--runs M]

Prints one run's figures: each address is asked over HTTP of a server of its own, five times; first
and median, and the median of the processor time that the server took, which other work on the
machine changes less. Nothing is asserted, since they depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

from benchmarks.made_up_study import write_study

SERVE = """
import sys
from pathlib import Path
from reseed.explore.server import explore, folder_at
explore([folder_at(Path(sys.argv[1]))], port=0, started=lambda address: print(address, flush=True))
"""


def main() -> None:
    """Write the study if it is not there, and ask for one page after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "explore-bench"
    )
    parser.add_argument("--latents", type=int, default=131_072)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--dimensions", type=int, default=64)
    chosen = parser.parse_args()
    toml = chosen.folder / f"f{chosen.latents}-m{chosen.runs}.toml"
    if not toml.exists():
        write_study(
            toml, latents=chosen.latents, runs=chosen.runs, dimensions=chosen.dimensions,
            contexts=2, window=17, all_pairs=False,
        )  # fmt: skip
    begun = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(toml)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        root = f"{server.stdout.readline().strip()}{toml.stem}/"
        print(f"server up after {time.perf_counter() - begun:.2f} s")
        print("load average", *(f"{load:.1f}" for load in os.getloadavg()))
        _ask_all(root, chosen.latents * chosen.runs, server.pid)
        status = Path(f"/proc/{server.pid}/status").read_text()
        for name in ("VmHWM", "RssAnon"):
            line = next(line for line in status.splitlines() if line.startswith(name))
            print(f"{name}: {int(line.split()[1]) / 1024:.0f} MiB")
    finally:
        server.terminate()
        server.wait()


def _ask_all(root: str, total: int, server: int) -> None:
    begun = time.perf_counter()
    urlopen(f"{root}latents").read()
    print(f"first view: {time.perf_counter() - begun:.2f} s (checksums of the table among it)")
    columns = ("n_matched", "firing_rate", "max_decoder_cos", "q_fdr", "verdict", "run", "max_act")
    asked: list[tuple[str, str, dict[str, str | int]]] = []
    for name in (*columns, "explanation"):
        for sign in ("", "-"):
            asked.append((f"sort {sign}{name}", "latents", {"sort": sign + name}))
    filters: dict[str, dict[str, str | int]] = {
        "a range": {"firing_rate": "0.001..0.01"},
        "three columns": {
            "firing_rate": "0.001..",
            "n_matched": "4..",
            "verdict": "feature_stable",
        },
        "an explanation": {"explanation": "number 7"},
    }
    for words, query in filters.items():
        asked.append((f"filter by {words}", "latents", {**query, "sort": "-max_act"}))
    last = -(-total // 50)
    for page in (2, last // 4, last // 2, last - 1):
        asked.append((f"page {page:,}", "latents", {"page": page, "sort": "-firing_rate"}))
    asked += [
        ("histograms", "histograms", {}),
        ("histograms, filtered", "histograms", {"n_matched": "4.."}),
        ("texts of a page", "texts", {"sort": "-firing_rate"}),
        ("search explanations", "latents", {"q": "number 77", "in": "explanations"}),
        ("search all texts", "latents", {"q": "river", "in": "contexts"}),
        ("search, then sort", "latents", {"q": "river", "in": "contexts", "sort": "-max_act"}),
        ("other words", "latents", {"q": "city music", "in": "contexts"}),
        ("other words, then sort", "latents", {"q": "city music", "in": "contexts", "sort": "run"}),
        ("a rare word", "latents", {"q": " n77 ", "in": "contexts"}),
        ("anywhere", "latents", {"q": "album"}),
    ]
    for words, path, query in asked:
        _show(words, f"{root}{path}?{urlencode(query)}", server)
    found = json.loads(urlopen(f"{root}texts").read())["texts"]
    run, latent = next(iter(found)).rsplit(" ", 1)
    views = [f"{name}/{latent}/{run}" for name in ("feature", "display", "nearest")]
    for path in (*views, "pair", "map"):
        _show(path.partition("/")[0], root + path, server)


def _show(words: str, address: str, server: int) -> None:
    times, processor = list[float](), list[float]()
    for _ in range(5):
        begun, taken = time.perf_counter(), _processor(server)
        urlopen(address).read()
        times.append(1000 * (time.perf_counter() - begun))
        processor.append(1000 * (_processor(server) - taken))
    print(
        f"{words:32} first {times[0]:7.0f} ms   median {statistics.median(times):7.0f} ms   "
        f"processor, first {processor[0]:6.0f} ms   median {statistics.median(processor):6.0f} ms",
        flush=True,
    )


def _processor(process: int) -> float:
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
