"""What a server may do to us, and what becomes of it."""

import json
import math
import threading
import time
from urllib.parse import quote

import httpx
import pytest

from reseed.errors import ModelError, SpecError
from reseed.interpretation.models import BilledFailure
from reseed.interpretation.models.chat import read_reply
from reseed.interpretation.prompts.replies import whole_characters
from reseed.interpretation.records import Failure, Message, Reply, Request

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def test_a_good_server(serve, connect, question, hostile):
    server = serve(lambda text, times: hostile.completion(text.upper()))
    model = connect(server.url)
    messages = (Message(role="system", content="be brief"), Message(role="user", content="hé"))
    reply = model.reply(Request(messages=messages, max_tokens=9, temperature=0.5, seed=3))
    assert reply == Reply(text="HÉ", prompt_tokens=7, reply_tokens=3)
    assert model.name == "m"
    sent = server.payloads[0]
    assert sent["messages"][0] == {"role": "system", "content": "be brief"}
    assert (sent["model"], sent["max_tokens"], sent["temperature"], sent["seed"]) == (
        "m",
        9,
        0.5,
        3,
    )
    assert "response_format" not in sent
    assert "logprobs" not in sent
    assert "authorization" not in server.headers[0]


def test_log_probabilities(serve, connect, question, hostile):
    content = [
        {
            "token": "yes",
            "logprob": -0.1,
            "top_logprobs": [
                {"token": "yes", "logprob": -0.1},
                {"token": "no", "logprob": None},
            ],
        }
    ]
    server = serve(lambda *_: hostile.completion("yes", logprobs={"content": content}))
    reply = connect(server.url).reply(question("?", top_logprobs=2))
    assert server.payloads[0]["logprobs"] is True
    assert server.payloads[0]["top_logprobs"] == 2
    (choice,) = reply.choices
    assert (choice.token, choice.logprob) == ("yes", -0.1)
    assert choice.alternatives == {"yes": -0.1, "no": -9999.0}


# -- what may pass is tried again ------------------------------------------------------------------

PASSING = {
    "empty body": b"",
    "html": b"<html>busy</html>",
    "list": b"[]",
    "invalid UTF-8": b'{"choices": [{"message": {"content": "\xff\xfe"}}]}',
    "cut JSON": b'{"choices": [{"message"',
    "truncated": "truncated",
    "reset": "reset",
    "429": (429, {"Retry-After": "3"}, {"error": {"message": "slow down"}}),
    "500": (500, {}, b"oops"),
    "503": (503, {}, b""),
    "error inside 200": {"error": {"code": 502, "message": "upstream"}},
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again(name, serve, connect, question, hostile, gate):
    server = serve(lambda text, times: PASSING[name] if times < 3 else hostile.completion("ok"))
    model = connect(server.url, gate=gate)
    assert model.reply(question("a")).text == "ok"
    assert len(server.questions) == 3
    assert gate.slept == ([3.0, 3.0] if name == "429" else [])


def test_attempts_are_further_and_further_apart(serve, connect, question, hostile):
    import stamina

    waits = []
    stamina.instrumentation.set_on_retry_hooks([lambda details: waits.append(details.wait_for)])
    server = serve(lambda text, times: (500, {}, b"") if times < 3 else hostile.completion("ok"))
    try:
        assert connect(server.url).reply(question("a")).text == "ok"
    finally:
        stamina.instrumentation.set_on_retry_hooks(None)
    first, second = waits
    assert 0.5 <= first <= 1.0 <= second <= 1.5


def test_one_refusal_slows_all_threads(serve, connect, question, hostile, gate):
    """Others wait too, though they were not refused themselves."""
    limited = (429, {"Retry-After": "5"}, b"")
    server = serve(
        lambda text, times: limited if (text, times) == ("a", 1) else hostile.completion(text)
    )
    model = connect(server.url, gate=gate, retries=1)
    model.reply(question("first"))
    server.behaviour = lambda text, times: (429, {"Retry-After": "5"}, b"")
    assert isinstance(model.reply(question("a")), Failure)
    server.behaviour = lambda text, times: hostile.completion(text)
    slept = list(gate.slept)
    assert model.reply(question("b")).text == "b"
    assert gate.slept == [*slept, 5.0]


@pytest.mark.parametrize("name", PASSING)
def test_what_does_not_pass_is_a_failure_with_its_text(
    name, serve, connect, question, hostile, gate
):
    server = serve(lambda text, _: PASSING[name] if text == "bad" else hostile.completion("ok"))
    model = connect(server.url, gate=gate)
    assert model.reply(question("good")).text == "ok"
    failure = model.reply(question("bad"))
    assert isinstance(failure, Failure)
    assert "3 attempts" in failure.reason
    if name in ("html", "429", "500"):
        assert {"html": "busy", "429": "slow down", "500": "oops"}[name] in failure.text
    assert model.reply(question("good again")).text == "ok"


def test_a_server_that_hangs(serve, connect, question, hostile, gate):
    server = serve(lambda text, _: "hang" if text == "bad" else hostile.completion("ok"))
    model = connect(server.url, timeout=0.3, retries=1, gate=gate)
    assert model.reply(question("good")).text == "ok"
    failure = model.reply(question("bad"))
    assert "nothing came for 0.3 s" in failure.reason
    assert server.questions.count("bad") == 2


@pytest.mark.parametrize("trouble", ["drip", "drip headers", "continue"])
def test_a_deadline_holds_for_the_whole_request(
    trouble, serve, connect, question, hostile, monkeypatch
):
    monkeypatch.setattr("reseed.interpretation.models.server._DEADLINE", 2)
    server = serve(lambda text, _: trouble if text == "bad" else hostile.completion("ok"))
    model = connect(server.url, timeout=0.4)
    assert model.reply(question("good")).text == "ok"
    failure = model.reply(question("bad"))  # without a deadline this would never end
    assert "no whole answer in 0.8 s, though something came" in failure.reason
    assert server.questions.count("bad") == 1
    assert model.reply(question("good again")).text == "ok"


@pytest.mark.parametrize("trouble", ["hang", "drip", (429, {"Retry-After": "250"}, b"")])
def test_closing_calls_off_what_is_under_way(trouble, serve, connect, question, hostile):
    server = serve(lambda text, _: trouble if text == "bad" else hostile.completion("ok"))
    model = connect(server.url, timeout=60.0)
    model.reply(question("good"))
    ended = []

    def ask():
        with pytest.raises(ModelError, match="was closed"):
            model.reply(question("bad"))
        ended.append(True)

    thread = threading.Thread(target=ask)
    thread.start()
    while "bad" not in server.questions:
        time.sleep(0.01)
    time.sleep(0.2)
    model.close()
    thread.join(5)
    assert ended
    with pytest.raises(ModelError, match="was closed"):
        model.reply(question("late"))


def test_a_huge_answer_is_not_read(serve, connect, question, hostile, gate):
    server = serve(lambda text, _: "huge" if text == "bad" else hostile.completion("ok"))
    model = connect(server.url, max_reply_bytes=100_000, gate=gate)
    failure = model.reply(question("bad"))
    assert "longer than max_reply_bytes = 100000" in failure.reason
    assert isinstance(failure, BilledFailure)
    assert server.questions == ["bad"]
    assert model.reply(question("good")).text == "ok"


USELESS = {
    "no choices": {"id": "x"},
    "empty choices": {"choices": []},
    "choices of nothing": {"choices": [None]},
    "no message": {"choices": [{"text": "old"}]},
    "parts without text": {"choices": [{"message": {"content": [{"type": "text"}]}}]},
    "no parts": {"choices": [{"message": {"content": []}}]},
    "log-probability of 400 digits": {
        "choices": [
            {
                "message": {"content": "a"},
                "logprobs": {"content": [{"token": "a", "logprob": -(10**400)}]},
            }
        ]
    },
}


@pytest.mark.parametrize("name", USELESS)
def test_missing_fields_are_a_failure_with_the_answer(name, serve, connect, question):
    server = serve(lambda *_: USELESS[name])
    failure = connect(server.url).reply(question("a", top_logprobs=1))
    assert isinstance(failure, BilledFailure)
    assert failure.text


def test_a_refused_question_is_a_failure_of_it_alone(serve, connect, question, hostile):
    long = (400, {}, {"error": {"message": "context length exceeded"}})
    server = serve(lambda text, _: long if text == "long" else hostile.completion("ok"))
    model = connect(server.url)
    failure = model.reply(question("long"))
    assert "HTTP 400" in failure.reason
    assert "context length" in failure.text
    assert server.questions == ["long"]
    assert model.reply(question("short")).text == "ok"


def test_moderation_is_about_one_question(serve, connect, question, hostile):
    flagged = (403, {}, {"error": {"message": "input was flagged by moderation"}})
    server = serve(lambda *_: flagged)
    assert "HTTP 403" in connect(server.url).reply(question("bad")).reason


# -- what will not pass ends the work --------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "key"),
        (402, "credit"),
        (403, "may not"),
        (404, "no model 'm'"),
        (301, "points elsewhere"),
    ],
)
def test_refusals_for_good_stop_at_once(status, words, serve, connect, question):
    server = serve(lambda *_: (status, {}, {"error": {"message": "no\n way"}}))
    with pytest.raises(ModelError) as error:
        connect(server.url).reply(question("a"))
    for part in (words, server.url, f"HTTP {status}", "no\\n way"):
        assert part in str(error.value)
    assert len(server.questions) == 1


def test_a_wait_that_is_too_long_stops(serve, connect, question, gate):
    server = serve(lambda *_: (429, {"Retry-After": "7200"}, b""))
    with pytest.raises(ModelError, match="asks to wait 7200 s .HTTP 429., longer than max_wait"):
        connect(server.url, gate=gate).reply(question("a"))


def test_nobody_there(connect, question, gate):
    model = connect("http://127.0.0.1:9/v1", gate=gate)
    with pytest.raises(ModelError, match="The first question got nowhere"):
        model.reply(question("a"))


def test_a_server_that_dies_stops_the_work(serve, connect, question, hostile, gate):
    server = serve(lambda text, _: hostile.completion("ok") if text == "a" else "reset")
    model = connect(server.url, retries=0, gate=gate)
    model.reply(question("a"))
    assert all(isinstance(model.reply(question(f"b{i}")), Failure) for i in range(7))
    with pytest.raises(ModelError, match="8 questions in a row"):
        model.reply(question("b8"))


def test_limits_of_headers_hold_the_next_question(serve, connect, question, hostile, gate):
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2s"}
    server = serve(lambda *_: (200, headers, hostile.completion("ok")))
    model = connect(server.url, gate=gate)
    model.reply(question("a"))
    assert gate.slept == []
    model.reply(question("b"))
    assert gate.slept == [62.0]


# -- schemas ---------------------------------------------------------------------------------------


def test_schemas_are_asked_for(serve, connect, question, hostile):
    server = serve(lambda *_: hostile.completion("{}"))
    connect(server.url).reply(question("a", schema=SCHEMA))
    connect(server.url, structured=False).reply(question("a", schema=SCHEMA))
    form = server.payloads[0]["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["schema"] == SCHEMA
    assert "response_format" not in server.payloads[1]


@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize("takes", ["json_object", "nothing"])
def test_a_server_without_schemas_is_asked_another_way(
    takes, status, serve, connect, question, hostile
):
    def behave(text, times):
        form = server.payloads[-1].get("response_format", {"type": "nothing"})["type"]
        refused = (status, {}, {"error": "Input should be 'text': body, response_format, type"})
        return hostile.completion("{}") if form in (takes, "nothing") else refused

    server = serve(behave)
    model = connect(server.url)
    assert model.reply(question("a", schema=SCHEMA)).text == "{}"
    tried = len(server.payloads)
    assert tried == {"json_object": 2, "nothing": 3}[takes]
    model.reply(question("b", schema=SCHEMA))
    assert len(server.payloads) == tried + 1  # the way is known now


REFUSALS = {
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
    "'max_completion_tokens' instead.",
    "temperature": "`temperature` must be strictly positive",
    "system": "System role not supported",
}


@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize("names", [["max_tokens"], ["temperature"], ["system"], list(REFUSALS)])
def test_a_server_that_wants_to_be_asked_another_way(
    names, status, serve, connect, question, hostile
):
    def behave(text, times):
        sent = server.payloads[-1]
        roles = [message["role"] for message in sent["messages"]]
        for name in names:
            if name in sent or name in roles:
                return (status, {}, {"error": {"message": REFUSALS[name]}})
        return hostile.completion("ok")

    server = serve(behave)
    model = connect(server.url)
    messages = (Message(role="system", content="be brief"), Message(role="user", content="hi"))
    assert model.reply(Request(messages=messages, max_tokens=9)).text == "ok"
    tried = len(server.payloads)
    assert tried == 1 + len(names)
    sent = server.payloads[-1]
    assert sent.get("max_completion_tokens", sent.get("max_tokens")) == 9
    assert model.reply(Request(messages=messages)).text == "ok"
    assert len(server.payloads) == tried + 1  # the manner is known now
    if "system" in names:
        assert sent["messages"] == [{"role": "user", "content": "be brief\n\nhi"}]


def test_a_server_that_refuses_every_question_stops_the_work(serve, connect, question):
    refusal = (400, {}, {"error": {"message": "model 'm' does not chat\x1b[2J"}})
    server = serve(lambda *_: refusal)
    model = connect(server.url)
    assert all(isinstance(model.reply(question(f"b{i}")), Failure) for i in range(7))
    with pytest.raises(
        ModelError, match="refused 8 questions and taken none .*does not chat"
    ) as error:
        model.reply(question("b8"))
    assert "\x1b" not in str(error.value)
    long = (400, {}, {"error": {"message": "maximum context length is 9; max_tokens is too large"}})
    server = serve(lambda *_: long)
    model = connect(server.url)  # about each question: none is asked twice, and nothing stops
    assert all(isinstance(model.reply(question(f"b{i}")), Failure) for i in range(12))
    assert len(server.questions) == 12


# -- keys ------------------------------------------------------------------------------------------

KEY = "sk-very-secret-0123456789"


def test_the_key_is_sent_and_shown_nowhere(serve, connect, question, hostile, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("A_KEY", KEY)
    echo = {"error": {"message": f"Incorrect API key provided: {KEY}"}}
    answers = {"echo": hostile.completion(f"your key is {KEY}"), "400": (400, {}, echo)}
    server = serve(lambda text, _: answers.get(text, (401, {}, echo)))
    model = connect(server.url, key_env="A_KEY")
    assert model.reply(question("echo")).text == "your key is [key]"
    failure = model.reply(question("400"))
    assert "[key]" in failure.text
    with pytest.raises(ModelError) as error:
        model.reply(question("401"))
    assert "$A_KEY" in str(error.value)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    shown = [
        str(error.value),
        repr(model),
        repr(vars(model)),
        str(failure),
    ]
    assert not any(KEY in text for text in [*shown, caplog.text])


@pytest.mark.parametrize("key", [KEY, "sk+or/v1:0123456789=="])
def test_the_key_in_another_spelling_is_hidden_too(
    key, serve, connect, question, hostile, monkeypatch
):
    monkeypatch.setenv("A_KEY", key)
    escaped = "".join(f"\\u{ord(c):04X}" if i % 2 else c for i, c in enumerate(key))
    spellings = ["".join(f"\\u{ord(c):04x}" for c in key), escaped, key.replace("/", "\\/")]
    spellings += [quote(key, safe=""), escaped.replace("\\", "\\\\")]
    for number, spelling in enumerate(spellings):
        body = json.dumps(hostile.completion("KEY")).replace("KEY", spelling).encode()
        answers = {"good": body, "bad": (400, {}, f'{{"error": "{spelling}"}}'.encode())}
        server = serve(lambda text, _, answers=answers: answers[text])
        model = connect(server.url, key_env="A_KEY")
        assert model.reply(question("good")).text == "[key]", number
        assert model.reply(question("bad")).text == '{"error": "[key]"}', number


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALL_PROXY", "foo://me:secret@x.org"), ("SSL_CERT_FILE", "/no/such/file.pem")],
)
def test_an_environment_that_cannot_work_is_named(connect, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SpecError, match=name) as error:
        connect("https://example.org/v1")
    assert "secret" not in str(error.value)


def test_a_missing_key_is_named(connect, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(SpecError, match="NO_SUCH_KEY .* is not set"):
        connect("https://example.org/v1", key_env="NO_SUCH_KEY")
    monkeypatch.setenv("NO_SUCH_KEY", f"{KEY}\nx: y")
    with pytest.raises(SpecError) as error:
        connect("https://example.org/v1", key_env="NO_SUCH_KEY")
    assert KEY not in str(error.value)


def test_errors_of_the_connection_are_a_failure_without_the_key(
    connect, question, monkeypatch, gate
):
    monkeypatch.setenv("A_KEY", KEY)

    def handler(request):
        if b"good" in request.content:
            return httpx.Response(200, json={"choices": [{"message": {"content": "ok"}}]})
        raise httpx.ConnectError(f"cannot connect with {KEY}")

    transport = httpx.MockTransport(handler)
    model = connect("https://x.org/v1", key_env="A_KEY", transport=transport, gate=gate)
    assert model.reply(question("good")).text == "ok"
    failure = model.reply(question("bad"))
    assert "cannot connect with [key]" in failure.reason


# -- reading ---------------------------------------------------------------------------------------


def test_replies_of_odd_but_honest_servers(question):
    ask = question("four")  # one token, by guess

    def read(body, ask=ask):
        return read_reply(body, ask)

    said = {"choices": [{"message": {"content": None, "refusal": "I will not"}}]}
    assert read(said).text == "I will not"
    nothing = {"choices": [{"message": {"content": None}, "finish_reason": "length"}]}
    assert read(nothing) == Reply(text="", prompt_tokens=1, reply_tokens=0, finish="length")
    odd = {"choices": [{"message": {"content": "a\ud83d"}}], "usage": {"prompt_tokens": "many"}}
    assert read(odd).text == "a\ufffd"
    assert read(odd).prompt_tokens == 1
    paid = {"choices": [{"message": {"content": "a"}}], "usage": {"cost": 0.25}}
    assert read(paid).cost == 0.25
    assert read({**paid, "usage": {"cost": 10**400}}).cost == 0.0
    parts = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
    ]
    assert read({"choices": [{"message": {"content": parts}}]}).text == "ab"
    useless = read(
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2, "cost": 0.5}}
    )
    assert (useless.prompt_tokens, useless.reply_tokens, useless.cost) == (9, 2, 0.5)
    assert read({"choices": []}).reply_tokens == ask.max_tokens
    assert read({**paid, "usage": {"cost": math.nan}}).cost == 0.0
    wants = question("x", top_logprobs=1)
    for bad in ({"content": [{"token": "a"}]}, {"content": [{"token": "a", "logprob": math.nan}]}):
        body = {"choices": [{"message": {"content": "a"}, "logprobs": bad}]}
        assert isinstance(read(body, wants), Failure)
        assert read(body).text == "a"  # nobody asked for them


def test_whole_characters():
    assert whole_characters("a\U0001f600é") == "a\U0001f600é"
    assert whole_characters("\ude00\ud83d") == "\ufffd\ufffd"


def test_without_httpx_the_extra_is_named(python):
    code = (
        "import sys; sys.modules['httpx'] = None\n"
        "from reseed.spec.llm import ServerSpec\n"
        "from reseed.interpretation.models.chat import ServerModel\n"
        "try: ServerModel(ServerSpec(model='m', base_url='http://x/v1'))\n"
        "except ImportError as error: assert 'reseed[llm]' in str(error), error\n"
        "else: raise AssertionError\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
