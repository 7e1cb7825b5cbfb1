"""Shares of questions: each asked once over all, answers of others read, budgets kept together."""

from contextlib import ExitStack

import pytest

from reseed.events import Events
from reseed.interpretation.models import Scripted
from reseed.interpretation.models import asker as asker_module
from reseed.interpretation.models.journal import Journal, question_key
from reseed.interpretation.models.limits import Spent, portion
from reseed.interpretation.models.of_study import JOURNALS, Share, opener, share_of, share_opener
from reseed.interpretation.records import Failure
from reseed.spec.llm import BudgetSpec, ServerSpec
from reseed.store import Store

SPEC = ServerSpec(model="m", base_url="http://127.0.0.1:9/v1")


@pytest.fixture
def model(monkeypatch):
    scripted = Scripted(lambda request: request.messages[-1].content.upper(), name="m")
    monkeypatch.setattr(asker_module, "open_model", lambda spec: scripted)
    return scripted


def asked(store, requests, share, budget=None):
    with ExitStack() as open_now:
        opened = share_opener(store, budget or BudgetSpec(), Events(), open_now, share)
        asker = opened(SPEC, "explain")
        return asker.ask(requests), asker.answered, asker.left


@pytest.mark.parametrize("of", [1, 3])
def test_each_question_is_asked_by_one_share(model, tmp_path, question, of):
    store, requests = Store(tmp_path), [question(f"q{i % 30}") for i in range(40)]
    keys = {question_key("m", request) for request in requests}
    for number in range(1, of + 1):
        said, count, left = asked(store, requests, Share(number, of, f"process{number}"))
        mine = {key for key in keys if share_of(key, of) == number}
        assert count == len(mine)
        assert left == {key for key in keys if share_of(key, of) > number}
        assert all(isinstance(s, Failure) == (question_key("m", r) in left)
                   for s, r in zip(said, requests, strict=True))  # fmt: skip
    assert not left
    assert [reply.text for reply in said] == [f"Q{i % 30}" for i in range(40)]
    assert len(model.asked) == 30
    with ExitStack() as open_now:
        asker = opener(store, BudgetSpec(), Events(), open_now)(SPEC, "explain")
        assert asker.ask(requests) == said
    assert len(model.asked) == 30


def test_a_look_asks_nothing(model, tmp_path, question):
    _, count, left = asked(Store(tmp_path), [question("a")], Share(0, 2, "p"))
    assert (count, len(left), model.asked) == (0, 1, [])


def test_shares_keep_to_the_budget_together(model, tmp_path, question):
    store, budget = Store(tmp_path), BudgetSpec(max_calls=12)
    requests = [question(f"q{i}") for i in range(60)]
    for number in range(1, 4):
        asked(store, requests, Share(number, 3, f"p{number}"), budget)
    assert 4 <= len(model.asked) <= 12


def test_a_portion_is_of_what_is_left():
    budget = BudgetSpec(max_calls=10, max_cost=3.0)
    spent = Spent(calls=4, tokens=5, cost=4.0)
    assert portion(budget, spent, 3).model_dump() == {
        "max_calls": 6, "max_tokens": None, "max_cost": 3.0,
    }  # fmt: skip
    assert portion(budget, Spent(), 1) == budget


def test_a_last_line_that_another_process_left_torn_is_left_out(tmp_path):
    folder = tmp_path / JOURNALS
    with Journal(folder / "explain.one.jsonl") as journal:
        journal.add("a", {"q": 1}, answer={"text": "x"}, model="m")
        journal.add("b", {"q": 2}, answer={"text": "y"}, model="m")
    data = journal.path.read_bytes()
    journal.path.write_bytes(data[:-5])
    with Journal(folder / "explain.two.jsonl") as other:
        assert ("a" in other, "b" in other, other.torn) == (True, False, 0)
    with Journal(folder / "score.jsonl") as score:
        assert "a" not in score
    assert journal.path.read_bytes() == data[:-5]
