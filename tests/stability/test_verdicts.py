"""One verdict for each latent, by a documented order, from tables made by hand."""

import polars as pl
import pytest

from reseed.matching.beyond.labels import LABELS
from reseed.spec.summary import document_of
from reseed.stability.structure import VERDICTS, StructureTable, structure_summary, verdicts

RUNS = "abcde"


def latents(*rows: tuple[int, bool, bool], runs: str = RUNS) -> pl.DataFrame:
    """Rows of run a: how often matched, alive, dense."""
    return pl.DataFrame(
        [("a", i, *row, len(runs)) for i, row in enumerate(rows)],
        schema=["run", "latent", "n_matched", "alive", "dense", "n_seeds"],
        orient="row",
    )


def table(*rows: tuple[int, str | None, float | None, float | None, float | None]):
    columns = {
        "latent": pl.Int64, "label": pl.String, "explained_3": pl.Float64,
        "subspace_overlap": pl.Float64, "subspace_p": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=columns, orient="row").select(
        pl.lit("a").cast(pl.Categorical).alias("side"), pl.all()
    )


def about(left: int = 0) -> dict:
    return {
        "left_over": left,
        "labels": dict.fromkeys(LABELS, 0),
        "by_chance": {"fit": 0.5, "nearest": 0.1, "gain": 0.0} if left else None,
        "subspaces": {"tested": left, "stable": 0, "by_chance": 0.01 * left},
    }


def against(*tables: pl.DataFrame) -> list[StructureTable]:
    """Tables of run a with each of the others."""
    return [
        StructureTable(("a", other), one, {"a": about(len(one)), "b": about()})
        for other, one in zip(RUNS[1:], tables, strict=False)
    ]


def verdict_of(n_matched: int, *seen: tuple) -> dict:
    """Of a live latent, from (label, explained, overlap, p) in the runs where it is left over."""
    found = verdicts(
        latents((n_matched, True, False)), against(*[table((0, *one)) for one in seen])
    )
    return found.row(0, named=True)


LOW, HIGH = ("novel", 0.2, 0.1, 0.5), ("novel", 0.2, 0.9, 0.001)
SPLIT, MERGED, ABSORBED = ((name, 0.9, 0.1, 0.5) for name in ("split", "merged", "absorbed"))


@pytest.mark.parametrize(
    ("n_matched", "seen", "verdict"),
    [
        (4, [], "feature_stable"),
        (3, [LOW], "feature_stable"),
        (2, [LOW, LOW], "unstable"),  # half is no majority
        (2, [SPLIT, SPLIT], "split"),
        (2, [SPLIT, MERGED], "unstable"),
        (1, [MERGED, MERGED, LOW], "merged"),
        (0, [ABSORBED, ABSORBED, ABSORBED, SPLIT], "absorbed"),
        (0, [SPLIT, SPLIT, LOW, LOW], "unstable"),
        (0, [HIGH, HIGH, HIGH, LOW], "subspace_stable"),
        (0, [HIGH, HIGH, LOW, LOW], "unstable"),  # the upper median
        (3, [HIGH], "feature_stable"),
        (0, [("split", 0.9, 0.9, 0.001)] * 4, "split"),  # the more specific goes first
        (0, [("novel", 0.2, None, None)] * 4, "unstable"),
        (0, [(None, None, None, None)] * 4, "unstable"),
    ],
)
def test_order_of_precedence(n_matched, seen, verdict) -> None:
    assert verdict_of(n_matched, *seen)["verdict"] == verdict


def test_dead_and_dense_go_first_and_every_verdict_is_known() -> None:
    rows = latents((4, False, False), (4, True, True), (0, False, True), (4, True, False))
    found = verdicts(rows, [])
    assert found["verdict"].to_list() == ["dead", "dense", "dead", "feature_stable"]
    assert set(found["verdict"]) <= set(VERDICTS)


def test_the_numbers_beside_it() -> None:
    one = verdict_of(1, ("novel", 0.2, 0.1, 0.5), ("novel", 0.4, 0.3, 0.1), ("novel", 0.6, 0.2, 1))
    assert one["explained_by_3"] == pytest.approx(0.4)
    assert one["subspace_overlap"] == pytest.approx(0.2)
    assert one["subspace_p"] == pytest.approx(0.5)
    assert verdict_of(4)["subspace_p"] is None


def test_columns_and_rows_stay_as_they_were() -> None:
    rows = latents((0, True, False), (4, True, False))
    found = verdicts(rows, against(table((0, *LOW))))
    assert found.columns == [
        *rows.columns, "verdict", "explained_by_3", "subspace_overlap", "subspace_p",
    ]  # fmt: skip
    assert found.select(rows.columns).equals(rows)


def test_both_sides_of_a_pair_speak_for_their_own_run() -> None:
    rows = pl.concat([latents((0, True, False), runs="ab")] * 2).with_columns(
        run=pl.Series(["a", "b"])
    )
    mine = table((0, *SPLIT))
    theirs = table((0, *MERGED)).with_columns(side=pl.lit("b").cast(pl.Categorical))
    both = StructureTable(("a", "b"), pl.concat([mine, theirs]), {"a": about(1), "b": about(1)})
    assert verdicts(rows, [both])["verdict"].to_list() == ["split", "merged"]
    assert verdicts(rows.reverse(), [both])["verdict"].to_list() == ["merged", "split"]


def test_one_run_has_no_verdict_unless_it_needs_no_other() -> None:
    found = verdicts(latents((0, True, False), (0, False, False), runs="a"), [])
    assert found["verdict"].to_list() == [None, "dead"]
    assert found["subspace_p"].dtype == pl.Float64


def test_summary_adds_up_the_pairs() -> None:
    rows = latents((4, True, False), (0, True, False), (0, False, False))
    beyond = against(table((1, *LOW)), table((1, *LOW)))
    found = document_of(structure_summary(verdicts(rows, beyond), beyond))
    assert found["verdicts"] == dict.fromkeys(VERDICTS, 0) | {
        "feature_stable": 1, "unstable": 1, "dead": 1,
    }  # fmt: skip
    assert found["left_over"] == found["subspaces"]["tested"] == 2
    assert found["by_chance"] == {"fit": 0.5, "nearest": 0.1, "gain": 0.0}
    assert structure_summary(verdicts(rows, []), []).by_chance.fit is None
