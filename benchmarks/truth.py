"""How much of a toy's known features the runs of a finished study found.

    python -m benchmarks.truth studies/song_toy
    python -m benchmarks.truth studies/mfr_toy --held-out 5

For each group of runs: the mean cosine of the best one-to-one assignment of decoder rows to true
features (GT-MCC of arXiv 2505.20254) with a 95 % interval over runs (Student's t), at
the start and at the end, and the share of features found at a cosine of .9; the same against the
runs of the seed held out, if one is named: agreement that a method of training runs together
cannot have made.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

import reseed
from reseed.errors import SpecError
from reseed.formats import own
from reseed.runs import Run, sae_folder
from reseed.spec.subject import ToySpec
from reseed.subjects.toy import Toy

Rows = NDArray[np.float32]


def rows_of(study: reseed.Study, run: Run, step: int | None = None) -> Rows:
    """Decoder rows of a run, at the end or at a snapshot."""
    inner = "." if step is None else sae_folder(run.id, step, study.store)
    return own.read_piece(study.store, f"runs/{run.id}", inner).W_dec


def matched(a: Rows, b: Rows) -> NDArray[np.float64]:
    """Cosines of the best assignment."""
    return reseed.match(a, b).similarity


def told(values: Sequence[float]) -> str:
    """Mean with its interval over runs."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return f"{mean:.3f}"
    half = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5
    return f"{mean:.3f} ± {half:.3f}"


def main() -> None:
    """Print a row for each group."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    parser.add_argument("--held-out", type=int, help="init seed of the runs to compare with")
    asked = parser.parse_args()
    study = reseed.Study.load(asked.study)
    if not isinstance(study.spec.subject, ToySpec):
        raise SpecError(f"{asked.study} is no study of the toy; nothing is known of its features")
    features = Toy(study.spec.subject).features
    runs = [run for run in study.runs if run.state.state == "done"]
    left = [r for r in runs if r.spec.init_seed == asked.held_out and r.spec.sae.mutual is None]
    print(f"{'group':<44}{'truth, start':>16}{'truth, end':>16}{'found at .9':>16}{'held out':>16}")
    for sae in dict.fromkeys(run.spec.sae for run in runs):
        mine = [r for r in runs if r.spec.sae == sae and r.spec.init_seed != asked.held_out]
        label = sae.label
        start = [matched(features, rows_of(study, run, 0)).mean() for run in mine]
        ends = [matched(features, rows_of(study, run)) for run in mine]
        columns = [
            told(start),
            told([e.mean() for e in ends]),
            told([(e >= 0.9).mean() for e in ends]),
        ]
        if left:
            other = rows_of(study, left[0])
            columns.append(told([matched(rows_of(study, run), other).mean() for run in mine]))
        print(f"{label:<44}" + "".join(f"{one:>16}" for one in columns))


if __name__ == "__main__":
    main()
