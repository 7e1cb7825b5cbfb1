"""Asking through a journal: nothing twice, nothing lost, in order."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest
from tests.processes import child, until

from reseed.errors import BudgetError, ModelError
from reseed.events import Events
from reseed.interpretation.models import BilledFailure, Scripted
from reseed.interpretation.models import asker as asker_module
from reseed.interpretation.models.asker import JournaledAsker
from reseed.interpretation.models.journal import Journal, entries, question_key, reply_from
from reseed.interpretation.records import Failure, Message, Reply, Request, TokenChoice
from reseed.spec.llm import BudgetSpec, Prices


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


@pytest.fixture
def asker(path):
    """Opens askers on one journal, one after the other."""
    opened = []

    def make(model, **settings):
        for old in opened:
            old.close()
        opened.append(JournaledAsker(model, Journal(path), **settings))
        return opened[-1]

    yield make
    for old in opened:
        old.close()


def loud(request):
    return request.messages[-1].content.upper()


def texts(answers):
    return [answer.text for answer in answers]


def test_order_and_equal_questions(asker, question):
    barrier = threading.Barrier(4, timeout=10)

    def slow(request):
        if request.messages[-1].content != "q0":  # the first is asked alone
            barrier.wait()
            time.sleep(0.002 * (9 - int(request.messages[-1].content[1])))
        return loud(request)

    model = Scripted(slow)
    asked = [question(f"q{i % 9}", purpose="p") for i in range(18)]
    assert texts(asker(model, concurrency=4).ask(asked)) == [f"Q{i % 9}" for i in range(18)]
    assert len(model.asked) == 9
    assert model.asked[0].messages[0].content == "q0"


def test_a_rerun_asks_nothing(asker, question):
    asked = [question(text, top_logprobs=1) for text in "abc"]
    first = asker(Scripted(loud)).ask(asked)
    again = Scripted(loud)
    assert asker(again).ask([*asked, question("a")])[:3] == first
    assert [request.top_logprobs for request in again.asked] == [0]  # another question
    other = Scripted(loud, name="other model")
    asker(other).ask(asked)
    assert len(other.asked) == 3


def test_what_makes_a_question():
    base = Request(messages=(Message(role="user", content="é"),))
    key = question_key("m", base)
    assert key == question_key("m", replace(base, purpose="explain"))
    assert key == question_key("m", replace(base, seed=1))  # greedy: no draw to tell apart
    warm = replace(base, temperature=1.0)
    different = [
        replace(base, messages=(Message(role="system", content="é"),)),
        replace(base, max_tokens=1),
        replace(base, top_logprobs=5),
        replace(base, schema={"type": "object"}),
        warm,
        replace(warm, seed=1),
    ]
    assert len({key, question_key("n", base), *(question_key("m", r) for r in different)}) == 8


def test_replies_survive_the_journal_exactly(asker, question):
    choices = (TokenChoice(token="\ud800é\n", logprob=-0.1, alternatives={"a": -1 / 3}),)
    reply = Reply(
        text="ab\u2028\x00", prompt_tokens=3, reply_tokens=2, finish="length", choices=choices
    )
    assert reply_from(asdict(reply)) == reply

    class Fixed:
        name = "fixed"

        def reply(self, request):
            return reply

    assert asker(Fixed()).ask([question("a")]) == [reply]
    assert asker(Scripted(loud, name="fixed")).ask([question("a")]) == [reply]


def test_failures_are_given_and_asked_again(asker, question):
    failing = Scripted(lambda r: Failure(reason="busy") if "b" in loud(r).lower() else loud(r))
    one = asker(failing)
    a, b, c = one.ask([question(text, purpose="p") for text in "abc"])
    assert (a.text, b.reason, c.text) == ("A", "busy", "C")
    account = one.accounts()["p"]
    assert (account.asked, account.failed, account.remembered) == (2, 1, 0)
    well = Scripted(loud)
    two = asker(well)
    assert texts(two.ask([question(text, purpose="p") for text in "abc"])) == ["A", "B", "C"]
    assert [r.messages[0].content for r in well.asked] == ["b"]
    account = two.accounts()["p"]
    assert (account.asked, account.failed, account.remembered) == (1, 0, 2)
    assert account.prompt_tokens == 3


def test_useless_replies_are_replies(asker, question):
    useless = ["", "prose about nothing", "[1, 0", "x" * 100_000]
    asked = [question(str(i)) for i in range(4)]
    first = asker(Scripted(lambda r: useless[int(loud(r))])).ask(asked)
    assert texts(first) == useless
    never = Scripted(lambda r: pytest.fail("asked again"))
    assert asker(never).ask(asked) == first


def test_a_logprob_that_is_no_number_is_a_failure(asker, question, path):
    class Odd:
        name = "odd"

        def reply(self, request):
            choice = TokenChoice(token="a", logprob=math.nan)
            return Reply(text="a", prompt_tokens=1, reply_tokens=1, choices=(choice,))

    (failure,) = asker(Odd()).ask([question("a")])
    assert "not finite" in failure.reason
    (row,) = entries(path)
    assert (row["failure"]["prompt_tokens"], row.get("answer")) == (1, None)


# -- money -----------------------------------------------------------------------------------------

PRICES = Prices(prompt=2.0, reply=10.0)


def test_costs_by_purpose(asker, question):
    model = asker(Scripted(lambda r: "x" * 40), prices=PRICES)  # ten tokens
    asked = [question("abcd" * 5, purpose="explain"), question("abcd", purpose="score")]
    replies = model.ask([*asked, *asked])
    assert replies[0].cost == pytest.approx((5 * 2 + 10 * 10) / 1e6)
    accounts = model.accounts()
    assert list(accounts) == ["explain", "score"]
    assert accounts["explain"].cost == pytest.approx(110e-6)
    assert (accounts["score"].prompt_tokens, accounts["score"].reply_tokens) == (1, 10)
    later = asker(Scripted(loud), prices=PRICES)
    later.ask(asked)
    assert later.accounts()["explain"].cost == pytest.approx(110e-6)  # as a first run pays
    assert later.accounts()["explain"].asked == 0


@pytest.mark.parametrize(
    "budget",
    [{"max_calls": 4}, {"max_tokens": 4 * 11 + 9}, {"max_cost": 4 * 102e-6 + 1e-6}],
)
@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_budget_stops_and_a_larger_one_goes_on(asker, question, path, budget, concurrency):
    asked = [
        question("abcd"[: i + 1] * 1, max_tokens=10, seed=i, temperature=1.0) for i in range(4)
    ]
    asked += [question("abcd", max_tokens=10, seed=i, temperature=1.0) for i in range(4, 10)]

    def answer(request):
        time.sleep(0.002)
        return "x" * 40

    settings = {"prices": PRICES, "concurrency": concurrency}
    model = Scripted(answer)
    with pytest.raises(BudgetError, match=f"{next(iter(budget))} = ") as error:
        asker(model, budget=BudgetSpec(**budget), **settings).ask(asked)
    done = len(model.asked)
    assert 1 <= done <= 4  # guesses are on the safe side
    assert f"{done} of 10 are answered, {10 - done} are not asked" in str(error.value)
    assert len(list(entries(path))) == done
    again = Scripted(answer)
    if "max_calls" in budget:
        assert done == 4
        with pytest.raises(BudgetError):  # what the earlier run spent counts
            asker(again, budget=BudgetSpec(**budget), **settings).ask(asked)
        assert again.asked == []
    large = BudgetSpec(**{name: 100 * limit for name, limit in budget.items()})
    assert len(asker(again, budget=large, **settings).ask(asked)) == 10
    assert len(again.asked) == 10 - done


@pytest.mark.parametrize(
    "budget", [{"max_calls": 3}, {"max_tokens": 3 * 24}, {"max_cost": 3 * 150e-6 + 1e-6}]
)
def test_answers_that_cannot_be_used_are_paid_for(asker, question, path, budget):
    """In this run and in the next; they are asked again, though."""
    bad = BilledFailure(reason="no choices", prompt_tokens=10, reply_tokens=20 - 7)
    settings = {"prices": PRICES, "budget": BudgetSpec(**budget)}
    asked = [question(f"q{i}", max_tokens=12, purpose="p") for i in range(9)]
    model = asker(Scripted(lambda request: bad), **settings)
    with pytest.raises(BudgetError):
        model.ask(asked)
    done = len(list(entries(path)))
    assert 2 <= done <= 3
    account = model.accounts()["p"]
    assert (account.failed, account.asked, account.prompt_tokens) == (done, 0, 10 * done)
    assert account.cost == pytest.approx(done * 150e-6)
    never = Scripted(lambda request: pytest.fail("asked"))
    if "max_calls" in budget:
        with pytest.raises(BudgetError, match="max_calls = 3 .3 used."):
            asker(never, **settings).ask(asked)
    well = Scripted(loud)
    asker(well).ask(asked)
    assert len(well.asked) == 9


def test_known_answers_need_no_budget(asker, question):
    asked = [question(text) for text in "abc"]
    asker(Scripted(loud)).ask(asked)
    assert texts(asker(Scripted(loud), budget=BudgetSpec(max_calls=1)).ask(asked)) == [
        "A",
        "B",
        "C",
    ]


# -- stops -----------------------------------------------------------------------------------------


def test_a_refusal_stops_before_anything_else(asker, question):
    def refuse(request):
        raise ModelError("no such model")

    model = Scripted(refuse)
    with pytest.raises(ModelError, match="no such model"):
        asker(model, concurrency=8).ask([question(str(i)) for i in range(50)])
    assert len(model.asked) == 1


def test_a_refusal_in_the_middle_keeps_what_came(asker, question, path):
    def refuse(request):
        if request.messages[0].content == "20":
            raise ModelError("credit is gone")
        return loud(request)

    with pytest.raises(ModelError, match="credit"):
        asker(Scripted(refuse), concurrency=4).ask([question(str(i)) for i in range(50)])
    kept = len(list(entries(path)))
    assert 17 <= kept <= 30
    rest = Scripted(loud)
    asker(rest, concurrency=4).ask([question(str(i)) for i in range(50)])
    assert len(rest.asked) == 50 - kept


def test_an_error_of_ours_is_not_swallowed(asker, question):
    with pytest.raises(ZeroDivisionError):
        asker(Scripted(lambda r: str(1 // 0))).ask([question("a")])


def test_events_tell_how_far(asker, question):
    class Taken:
        def __init__(self):
            self.seen = []

        def emit(self, kind, fields):
            self.seen.append((kind, fields))

    taken = Taken()
    asker(Scripted(loud), events=Events(taken)).ask([question(c, purpose="explain") for c in "abc"])
    (start, fields), (end, told) = taken.seen
    assert (start, fields) == ("started", {"task": "ask explain", "total": 3, "unit": "questions"})
    assert (end, told["done"]) == ("finished", 3)


def test_an_interrupt_waits_for_what_is_under_way(asker, question, path, monkeypatch):
    monkeypatch.setattr(asker_module, "GRACE_SECONDS", 20.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    under_way = threading.Event()
    main = threading.get_ident()

    def slow(request):
        if request.messages[0].content == "3":
            time.sleep(0.1)
            under_way.set()
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.3)
        return loud(request)

    try:
        with pytest.raises(KeyboardInterrupt):
            asker(Scripted(slow), concurrency=1).ask([question(str(i)) for i in range(9)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert under_way.is_set()
    assert [e["answer"]["text"] for e in entries(path)] == ["0", "1", "2", "3"]


RUN = """
import signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
from pathlib import Path
from reseed.interpretation.models.asker import open_asker
from reseed.spec.llm import ServerSpec
from reseed.interpretation.records import Message, Request
spec = ServerSpec(model="m", base_url=sys.argv[1], concurrency=4, timeout=20.0)
with open_asker(spec, Path(sys.argv[2])) as asker:
    requests = [Request(messages=(Message(role="user", content=f"q{i}"),)) for i in range(40)]
    print(len(asker.ask(requests)), flush=True)
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle_nothing_is_asked_twice(serve, hostile, path, signum):
    """The server holds four questions back when the process is killed: those alone come again."""
    held = threading.Semaphore(0)
    killed = threading.Event()

    def behave(text, times):
        if len(server.questions) > 12 and not killed.is_set():
            held.release()
            killed.wait(240)
            return "reset" if signum == signal.SIGKILL else hostile.completion(text.upper())
        return hostile.completion(text.upper())

    server = serve(behave)
    command = [sys.executable, "-c", RUN, server.url, str(path)]
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with child(*command, env=env) as process:
        for _ in range(4):
            assert held.acquire(timeout=200)
        process.send_signal(signum)
        if signum == signal.SIGINT:
            time.sleep(0.5)
            killed.set()
        process.communicate(timeout=120)
        killed.set()
    assert process.returncode != 0
    first = list(server.questions)
    known = {entry["asked"]["messages"][0]["content"] for entry in entries(path)}
    if signum == signal.SIGKILL:
        assert len(known) == 12
    else:  # the four under way came home; a busy machine may let more through before it stops
        assert 16 <= len(known) < 40
    assert known <= set(first)
    server.questions.clear()
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "40\n", done.stderr
    assert sorted(server.questions) == sorted({f"q{i}" for i in range(40)} - known)
    server.questions.clear()
    assert subprocess.run(command, env=env, capture_output=True, timeout=120).stdout == b"40\n"
    assert server.questions == []


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("silence", ["hang", (429, {"Retry-After": "250"}, b"")])
def test_a_silent_server_holds_nobody_back(serve, hostile, path, silence, times):
    """One Ctrl-C leaves after the grace, a second one at once; what came before is kept."""
    server = serve(lambda text, _: hostile.completion("ok") if text == "q0" else silence)
    grace = "from reseed.interpretation.models import asker\nasker.GRACE_SECONDS = "
    code = grace + ("1\n" if times == 1 else "60\n") + RUN
    with child(sys.executable, "-c", code, server.url, path) as process:
        # a refusal may hold back all that were not yet sent
        until(lambda: len(server.questions) >= 2, process)
        for _ in range(times):
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=50)  # below the longer grace
    assert process.returncode != 0
    assert [row["answer"]["text"] for row in entries(path)] == ["ok"]


def test_every_kind_of_trouble_at_once_loses_nothing(serve, hostile, connect, question, path, gate):
    """Each question meets another trouble twice, then a good answer; every answer arrives."""
    troubles = [
        b"",
        b"not json",
        b'{"choices": [{"message": {"content": "\xff"}}]}',
        "truncated",
        "reset",
        (429, {"Retry-After": "1"}, b""),
        (500, {}, b""),
    ]
    asked = [f"q{i}" for i in range(35)]

    def behave(text, times):
        trouble = troubles[int(text[1:]) % len(troubles)]
        return trouble if times <= 2 else hostile.completion(text.upper())

    server = serve(behave)
    with JournaledAsker(connect(server.url, gate=gate), Journal(path), concurrency=4) as asker:
        assert texts(asker.ask([question(text) for text in asked])) == [t.upper() for t in asked]
    assert len(server.questions) == 3 * 35
    with JournaledAsker(connect(server.url), Journal(path)) as asker:
        assert texts(asker.ask([question(text) for text in asked])) == [t.upper() for t in asked]
    assert len(server.questions) == 3 * 35
