"""Sampled windows: equal to a plain twin that sees everything, in any order, in parts."""

from collections import Counter

import numpy as np
import polars as pl
import pytest

from reseed.evidence.rows import Fired
from reseed.evidence.sampler import Neighbours, WindowSampler, example_bytes
from reseed.evidence.smallest import Reservoir, put
from reseed.evidence.tables import JOINED_SCHEMA, tables_of
from reseed.evidence.windows import SPLITS, cut, hashed, split_of
from reseed.spec.analysis import EvidenceSpec

torch = pytest.importorskip("torch")
BLOCKS, L, F = 12, 40, 9
SPEC = EvidenceSpec(examples=5, window=7, strongest=2, seed=3)


class Text:
    """Documents of uneven length that run on over blocks; -1 between them; some rows left out."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 23, 200)
        stream = np.concatenate([np.append(np.full(n, d), -1) for d, n in enumerate(sizes)])
        self._documents = stream[: BLOCKS * L].reshape(BLOCKS, L)
        self._keep = (self._documents >= 0) & (rng.random((BLOCKS, L)) < 0.9)
        self._keep[:, 0] = False

    length = L

    def positions(self, block):
        return np.flatnonzero(self._keep[block])

    def documents(self, block):
        return self._documents[block]

    def tokens(self, block, first, last):
        return [f" {block}.{at}" for at in range(first, last)]


@pytest.fixture(scope="module")
def text():
    return Text()


@pytest.fixture(scope="module")
def dense(text):
    """[BLOCKS, L, F] activations; latent 0 is dead, 1 fires once, 2 everywhere, 3 in two values."""
    rng = np.random.default_rng(1)
    out = rng.gamma(2.0, 1.0, (BLOCKS, L, F)).astype(np.float32)
    rates = np.array([0, 0, 1, 0.1, 0.02, 0.05, 0.1, 0.2, 0.4])
    out[rng.random(out.shape) >= rates] = 0
    out[:, :, 3] = np.ceil(out[:, :, 3])
    keep = np.stack([np.isin(np.arange(L), text.positions(b)) for b in range(BLOCKS)])
    out[~keep] = 0
    out[tuple(np.argwhere(keep)[17]) + (1,)] = 1.5
    return out


NEAR = {4: [(5, 0.9), (8, 0.5)], 5: [(4, 0.9), (6, 0.3), (0, 0.2)], 0: [(2, 0.4)], 2: [(1, 0.1)]}
"""Latent to its neighbours and cosines."""


def neighbours():
    edges = sorted((latent, j, cosine) for latent, near in NEAR.items() for j, cosine in near)
    of, near, cosine = map(np.array, zip(*edges, strict=True))
    start = np.searchsorted(of, np.arange(F + 1))
    return Neighbours(start=start, near=near, cosine=cosine.astype(np.float32))


def fast(text, dense, order, step=5, spec=SPEC, near=True):
    found = WindowSampler(F, spec, neighbours() if near else None)
    for i in range(0, len(order), step):
        blocks = order[i : i + step]
        place, position, latent = np.nonzero(dense[blocks])
        fired = Fired(place, position, latent, dense[blocks][place, position, latent])
        found.add(cut(text, blocks, spec.window, spec.seed), fired)
    return found


def all_windows(text, window):
    """Every window as (block, first, last, document), position by position."""
    out = []
    for block in range(BLOCKS):
        documents, at = text.documents(block), 0
        while at < L:
            end = at
            while end < L and documents[end] == documents[at]:
                end += 1
            parts = -(-(end - at) // window)
            part = [(p * parts) // (end - at) for p in range(end - at)]
            for number in range(parts):
                inside = [at + p for p in range(end - at) if part[p] == number]
                kept = set(inside) & set(text.positions(block).tolist())
                if documents[at] >= 0 and kept:
                    out.append((block, inside[0], inside[-1] + 1, int(documents[at])))
            at = end
    return out


def plain(text, dense, spec=SPEC):
    """(latent, split, kind) to a list of (block, first), each list in order of choice."""
    windows = all_windows(text, spec.window)
    ids = np.array([b * L + first for b, first, _, _ in windows])
    draw = [int(x) for x in hashed(ids, "example-windows", spec.seed)]
    offset = [int(x) for x in hashed(np.arange(F), "example-latents", spec.seed)]
    out, counts = {}, Counter()
    for latent in range(F):
        for split, name in enumerate(SPLITS):
            mine = [w for w, one in enumerate(windows) if split_of(one[3], spec.seed) == split]
            act = {w: dense[windows[w][0], windows[w][1] : windows[w][2]] for w in mine}
            turn = {w: (draw[w] - offset[latent]) % 2**64 for w in mine}
            fires = sorted((w for w in mine if act[w][:, latent].max() > 0), key=turn.get)
            silent = sorted((w for w in mine if act[w][:, latent].max() == 0), key=turn.get)
            top = sorted(fires, key=lambda w: (-act[w][:, latent].max(), turn[w] >> 32))
            hard = {
                w: max(
                    (np.float32(c) * act[w][:, j].max() for j, c in NEAR.get(latent, [])), default=0
                )
                for w in silent
            }
            near = sorted(
                (w for w in silent if hard[w] > 0), key=lambda w: (-hard[w], turn[w] >> 32)
            )
            n, most = spec.examples, spec.strongest if split == 0 else 0
            out[latent, name, "firing"] = set(fires[:n]) | set(top[:most])
            out[latent, name, "random"] = silent[:n]
            out[latent, name, "neighbour"] = near[:n]
            counts[latent, name] = len(mine), len(fires)
    return windows, out, counts


def same(a, b):
    for one, other in zip(a, b, strict=True):
        assert one.equals(other)


def test_the_sample_is_that_of_a_plain_twin_that_sees_everything(text, dense) -> None:
    windows, want, counts = plain(text, dense)
    found = tables_of(fast(text, dense, np.arange(BLOCKS)), text)
    first_of = dict(found.windows.select("window", "first").iter_rows())
    for (latent, split, kind), chosen in want.items():
        rows = found.examples.filter(latent=latent, split=split, kind=kind)
        ids = [windows[w][0] * L + windows[w][1] for w in chosen]
        if kind == "firing":
            assert sorted(rows["window"]) == sorted(ids)
            assert rows["strength"].is_sorted(descending=True)
        else:
            assert rows["window"].to_list() == ids
            assert rows["position"].to_list() == [first_of[one] for one in ids]
    for row in found.counts.iter_rows(named=True):
        there, fires = counts[row["latent"], row["split"]]
        assert (row["windows"], row["firing"], row["silent"]) == (there, fires, there - fires)


def test_examples_show_the_text_and_the_activations(text, dense) -> None:
    tables = tables_of(fast(text, dense, np.arange(BLOCKS)), text)
    shown = tables.joined()
    assert dict(shown.schema) == JOINED_SCHEMA
    assert shown.height == tables.examples.height > 200
    spans = {(b, first): (last, d) for b, first, last, d in all_windows(text, SPEC.window)}
    for row, extra in zip(
        shown.iter_rows(named=True), tables.examples.iter_rows(named=True), strict=True
    ):
        block, first = divmod(extra["window"], L)
        last, document = spans[block, first]
        assert row["tokens"] == text.tokens(block, first, last)
        assert (row["block"], row["document"]) == (block, document)
        act = dense[block, first:last, row["latent"]]
        assert row["activations"] == act.tolist()
        assert row["strength"] == act.max()
        assert row["position"] == first + act.argmax()
        assert (row["quantile"] is None) == (row["kind"] != "firing")
        assert (row["kind"] == "firing") == (act.max() > 0)
        if row["kind"] == "neighbour":
            near = {j: c * dense[block, first:last, j].max() for j, c in NEAR[row["latent"]]}
            assert near[extra["neighbour"]] == pytest.approx(max(near.values()))


def test_order_and_steps_change_nothing(text, dense) -> None:
    want = tables_of(fast(text, dense, np.arange(BLOCKS)), text)
    order = np.random.default_rng(5).permutation(BLOCKS)
    for step in (1, 4, BLOCKS):
        same(want, tables_of(fast(text, dense, order, step), text))


def test_windows_are_disjoint_and_of_one_document(text) -> None:
    windows = cut(text, np.arange(BLOCKS), 7, 0)
    assert (windows.last - windows.first).max() == 7
    covered = windows.of >= 0
    keep = np.stack([np.isin(np.arange(L), text.positions(b)) for b in range(BLOCKS)])
    assert not (keep & ~covered).any()
    for w in range(len(windows.block)):
        inside = np.argwhere(windows.of == w)
        assert set(inside[:, 0]) == {windows.block[w]}
        assert inside[:, 1].tolist() == list(range(windows.first[w], windows.last[w]))
        assert set(text.documents(windows.block[w])[inside[:, 1]]) == {windows.document[w]}
    one_by_one = [cut(text, [block], 7, 0).id for block in range(BLOCKS)]
    assert np.concatenate(one_by_one).tolist() == windows.id.tolist()


def test_long_documents_are_cut_evenly() -> None:
    class One(Text):
        length = 100

        def __init__(self):
            self._documents = np.zeros((1, 100), int)
            self._keep = np.ones((1, 100), bool)

    windows = cut(One(), [0], 32, 0)
    assert (windows.last - windows.first).tolist() == [25, 25, 25, 25]


def test_splits_are_disjoint_balanced_and_seeded() -> None:
    documents = np.arange(3000)
    splits = split_of(documents, 0)
    assert np.bincount(splits).tolist() == [1000] * 3
    assert (splits == split_of(documents[::-1], 0)[::-1]).all()
    other = split_of(documents, 1)
    assert 0.25 < (splits == other).mean() < 0.42
    orders = Counter(map(tuple, splits.reshape(-1, 3).tolist()))
    assert len(orders) == 6
    assert min(orders.values()) > 120


def test_documents_of_two_uses_never_meet(text, dense) -> None:
    shown = tables_of(fast(text, dense, np.arange(BLOCKS)), text).joined()
    per = shown.group_by("document").agg(pl.col("split").n_unique())
    assert per["split"].max() == 1


def test_sampling_is_uniform(text, dense) -> None:
    """Over seeds, every window that a latent fires in (or not) is drawn equally often."""
    hits = {"firing": Counter(), "random": Counter()}
    draws = 400
    sums = Counter()
    for seed in range(draws):
        spec = EvidenceSpec(examples=3, window=7, strongest=0, seed=seed)
        found = fast(text, dense, np.arange(BLOCKS), BLOCKS, spec, near=False)
        every = found.entries()
        for kind in hits:
            kept = every[kind]
            mine = kept[kept["group"] // 3 == 6]
            hits[kind].update(mine["window"].tolist())
            sums[kind] += len(mine)
    fires = {w: dense[w[0], w[1] : w[2], 6].max() > 0 for w in all_windows(text, 7)}
    for kind, counted in hits.items():
        there = sum(fires.values()) if kind == "firing" else len(fires) - sum(fires.values())
        assert len(counted) == there
        want = sums[kind] / there
        spread = np.array(list(counted.values()))
        assert abs(spread - want).max() < 5 * np.sqrt(want)


def test_rare_and_dead_latents_are_kept_and_counted(text, dense) -> None:
    found = tables_of(fast(text, dense, np.arange(BLOCKS)), text)
    firing = found.counts.group_by("latent").agg(pl.col("firing").sum()).sort("latent")["firing"]
    assert firing[:2].to_list() == [0, 1]
    assert found.counts["latent"].n_unique() == F
    once = found.examples.filter(latent=1, kind="firing")
    assert once.height == 1
    assert once["quantile"].item() == 0
    dead = found.examples.filter(latent=0)
    assert dead.height > 0
    assert "firing" not in set(dead["kind"])
    always = found.examples.filter(latent=2)
    assert set(always["kind"]) == {"firing"}


def test_quantiles_are_ranks_in_the_sample(text, dense) -> None:
    spec = EvidenceSpec(examples=20, window=7, strongest=0)
    found = tables_of(fast(text, dense, np.arange(BLOCKS), spec=spec), text)
    full = 0
    for _, rows in found.examples.filter(kind="firing").group_by("latent", "split"):
        got = rows.sort("quantile")["quantile"].to_list()
        assert got == [i * 10 // rows.height for i in range(rows.height)]
        by_rank = rows.sort("strength", "window")
        assert by_rank["quantile"].is_sorted()
        full += rows.height == 20
    assert full > 5


def test_the_strongest_are_in_the_top_of_the_sample(text, dense) -> None:
    found = tables_of(fast(text, dense, np.arange(BLOCKS)), text)
    explain = found.examples.filter(latent=8, split="explain", kind="firing")
    top = explain.sort("strength", descending=True).head(SPEC.strongest)
    all_of_it = [
        dense[b, first:last, 8].max()
        for b, first, last, d in all_windows(text, SPEC.window)
        if split_of(d, SPEC.seed) == 0
    ]
    assert top["strength"].to_list() == sorted(all_of_it)[::-1][: SPEC.strongest]
    assert top["quantile"].min() >= 8
    assert found.examples.filter(latent=8, split="score", kind="firing").height == SPEC.examples


def test_memory_stays_within_its_bound(text, dense) -> None:
    found = fast(text, dense, np.arange(BLOCKS))
    held = sum(kept.nbytes for kept in found.entries().values())
    assert 0 < held < example_bytes(F, SPEC)
    assert example_bytes(F, EvidenceSpec(examples=0)) == 0


def test_without_text_the_tables_are_empty() -> None:
    tables = tables_of(None, None)
    assert tables.examples.height == tables.windows.height == tables.counts.height == 0
    assert dict(tables.joined().schema) == JOINED_SCHEMA


def test_silence_gives_only_silent_examples(text, dense) -> None:
    tables = tables_of(fast(text, dense * 0, np.arange(BLOCKS)), text)
    assert set(tables.examples["kind"]) == {"random"}
    assert tables.counts["firing"].sum() == 0


def test_text_of_which_nothing_can_be_shown_gives_no_examples(dense) -> None:
    class Nothing(Text):
        def documents(self, block):
            return np.full(L, -1)

    tables = tables_of(fast(Nothing(), dense, np.arange(BLOCKS)), Nothing())
    assert tables.examples.height == tables.windows.height == 0
    assert tables.counts["windows"].to_list() == [0] * F * 3


def test_nearest_decoders_are_those_of_all_cosines() -> None:
    from reseed.evidence.sampler import nearest_decoders

    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32))
    rows[4] = 0
    unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-9)
    cosines = (unit @ unit.T).fill_diagonal_(-2).numpy()
    found = nearest_decoders(rows, 3)
    got = {
        (latent, int(near)): float(c)
        for latent in range(30)
        for near, c in zip(
            found.near[found.start[latent] : found.start[latent + 1]],
            found.cosine[found.start[latent] : found.start[latent + 1]],
            strict=True,
        )
    }
    want = {
        (latent, int(j)): float(cosines[latent, j])
        for latent in range(30)
        for j in np.argsort(-cosines[latent])[:3]
        if cosines[latent, j] > 0
    }
    assert got == pytest.approx(want)
    assert nearest_decoders(rows[:1], 3).near.size == 0


@pytest.mark.parametrize("size", [0, 1, 3, 50])
def test_the_first_of_each_group_are_those_of_sorting_all(size):
    rng = np.random.default_rng(size)
    group, window = rng.integers(0, 9, 300), rng.permutation(300)
    key = rng.integers(0, 20, 300).astype(np.uint64) << np.uint64(59)
    order = np.lexsort((window, key, group))
    rank = np.concatenate([np.arange(n) for n in np.bincount(group)])
    found = Reservoir.of(11, size, 0)
    for g, k, w in zip(group, key, window, strict=True):
        put(*found[:5], g, k, w, w + 1)
    kept, want = found.entries(), order[rank < size]
    for name, column in (("group", group), ("key", key), ("window", window), ("note", window + 1)):
        np.testing.assert_array_equal(kept[name], column[want])
