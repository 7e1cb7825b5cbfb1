import importlib.util
from pathlib import Path

import numpy as np
import pytest

from reseed.calibration.stage import stage
from reseed.events import Events
from reseed.spec.analysis import CalibrationSpec
from reseed.spec.subject import ToySpec
from reseed.subjects.toy_truth import truth_of


@pytest.fixture(scope="session")
def planted():
    """The module `planted.py`."""
    path = Path(__file__).parent / "planted.py"
    spec = importlib.util.spec_from_file_location("planted", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOY = ToySpec(
    kind="toy", features=60, dimensions=48, active=4, roots=4, children=2, depth=1,
    subspaces=3, rank=2,
)  # fmt: skip
SPEC = CalibrationSpec(subset=3, bins=2, draws=30)
RUNS = 6


@pytest.fixture(scope="session")
def known(planted, tmp_path_factory):
    """Six runs: 20 features, 4 sums of parent and child, one of strangers, parts of two of three
    subspaces, 10 random rows each, all shuffled; 4 dead latents that are nothing."""
    draw, truth = np.random.default_rng(0), truth_of(TOY)
    child = np.flatnonzero(truth.parent >= 0)[:4]
    others = np.setdiff1d(truth.single, [*child, *truth.parent[child]])
    features, strangers = others[:20], others[-2:]
    sums = truth.features[[*child, strangers[0]]]
    sums = sums + truth.features[[*truth.parent[child], strangers[1]]]
    decoders, rates, orders = [], [], []
    for _ in range(RUNS):
        around = draw.standard_normal((4, 2)) @ truth.bases[0]
        one_way = truth.bases[1][:1] + 0.01 * draw.standard_normal((1, 48))
        exact = np.concatenate([truth.features[features], sums, planted.unit(around), one_way])
        rows = np.concatenate(
            [planted.noisy(exact, draw, 0.01), planted.unit(draw.standard_normal((14, 48)))]
        )
        order = draw.permutation(len(rows))
        rate = np.concatenate([truth.firing[features], np.full(20, 0.05), np.zeros(4)])
        decoders.append(rows[order])
        rates.append(rate[order])
        orders.append(order)
    store, group = planted.write_group(tmp_path_factory.mktemp("known"), decoders, rates)
    study = planted.study_of(store, group, TOY, SPEC)
    (summary,) = stage(study, Events())
    read = lambda name: store.table("calibration/planted", f"{name}.parquet")  # noqa: E731
    return {
        "read": read, "summary": summary, "features": features, "truth": truth, "orders": orders,
        "study": study, "store": store, "group": group,
    }  # fmt: skip
