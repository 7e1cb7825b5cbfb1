import pytest
from hypothesis import given
from hypothesis import strategies as st

from reseed.interpretation.prompts.windows import active_tokens, listing, mark, one_line, tenths
from reseed.interpretation.records import Example


def example(tokens, activations):
    return Example(
        split="score",
        kind="firing",
        tokens=tuple(tokens),
        activations=tuple(activations),
        document=0,
        block=0,
        position=0,
    )


def test_runs_of_active_tokens_are_joined():
    words = ("and", " he", " was", " over", " the", " moon", " to", " find")
    assert mark(words, [3, 4, 5, 7]) == "and he was<< over the moon>> to<< find>>"
    assert mark(words, []) == "and he was over the moon to find"
    assert mark((), []) == ""


def test_the_threshold_is_a_share_of_the_window():
    one = example("abcd", [0.0, 2.9, 3.1, 10.0])
    assert active_tokens(one) == [2, 3]
    assert active_tokens(one, 0.0) == [1, 2, 3]
    assert active_tokens(example("ab", [0.0, 0.0])) == []


def test_strengths_are_rounded_up_to_tenths():
    assert [tenths(v, 1.0) for v in (0.0, 1e-6, 0.1, 0.3, 0.31, 0.999, 1.0)] == [
        0, 1, 1, 3, 4, 10, 10,
    ]  # fmt: skip
    for wrong in ((1.1, 1.0), (-0.1, 1.0), (0.0, 0.0), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="not between"):
            tenths(*wrong)


@given(st.integers(1, 10), st.floats(1e-3, 1e3))
def test_tenths_of_whole_tenths_are_exact(n, largest):
    assert tenths(min(n * largest / 10, largest), largest) == n


def test_the_listing_has_the_strongest_in_the_order_of_the_text():
    one = example(("a", "b\n", "c"), [5.0, 10.0, 2.0])
    assert listing(one, [0, 1, 2], 10.0) == '("a", 5), ("b\\n", 10), ("c", 2)'
    assert listing(one, [0, 1, 2], 10.0, limit=2) == '("a", 5), ("b\\n", 10)'


@given(st.lists(st.text(max_size=6), max_size=8), st.data())
def test_a_window_is_one_line_and_its_marks_are_the_only_ones(tokens, data):
    places = data.draw(st.sets(st.sampled_from(range(len(tokens))))) if tokens else set()
    tokens = [t.replace("<", "(").replace(">", ")") for t in tokens]
    text = mark(tokens, places)
    assert text.count("<<") == text.count(">>")
    assert len(text.splitlines()) <= 1
    assert text.replace("<<", "").replace(">>", "") == one_line("".join(tokens))


def test_delimiters_of_the_text_are_no_marks():
    assert mark(("cout", " <<", " x", " >>"), [2]) == "cout ‹‹<< x>> ››"
