"""What a study may say about models, and what must not be shown of it."""

import pytest
from pydantic import ValidationError

from reseed.errors import SpecError
from reseed.interpretation.models.asker import open_asker
from reseed.interpretation.models.embedding import HashedWords, open_embedder
from reseed.spec.llm import ClientSpec, LocalSpec, Prices, ServerSpec
from reseed.spec.refusals import read_spec

SERVER = {"kind": "server", "model": "m", "base_url": "http://127.0.0.1:8000/v1/"}


def read(**tables):
    return read_spec(ClientSpec, tables, "study.toml")


def test_a_server_with_prices_and_budget():
    spec = read(
        model={**SERVER, "key_env": "MY_KEY", "prices": {"prompt": 0.5, "reply": 2}},
        budget={"max_cost": 3},
        embedder={"kind": "words"},
    )
    assert isinstance(spec.model, ServerSpec)
    assert spec.model.base_url == "http://127.0.0.1:8000/v1"
    assert spec.model.prices.cost(1_000_000, 500_000) == 1.5
    assert isinstance(open_embedder(spec.embedder), HashedWords)
    assert "MY_KEY" in str(spec.model_dump(mode="json"))  # the name, of use to a reader


def test_a_local_model():
    spec = read(model={"kind": "local", "model": "package:x/y.gguf"})
    assert spec.model == LocalSpec(kind="local", model="package:x/y.gguf")
    assert spec.budget.max_calls is None


SECRET = "sk-or-v1-abcdef"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({**SERVER, "key_env": SECRET}, "name of an environment variable"),
        ({**SERVER, "key": SECRET}, "unknown key; did you mean 'key_env'?"),
        ({**SERVER, "base_url": f"https://me:{SECRET}@x.org/v1"}, "no user and password"),
        ({"model": "m", "key_env": SECRET}, "kind"),
    ],
)
def test_a_pasted_key_is_not_shown_back(model, words):
    with pytest.raises(SpecError) as error:
        read(model=model)
    assert words in str(error.value)
    assert SECRET not in str(error.value)


def test_python_does_not_show_it_either():
    with pytest.raises(ValidationError) as error:
        ServerSpec(model="m", base_url="http://x/v1", key_env=SECRET)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"model": {**SERVER, "base_url": "x.org/v1"}}, "a URL like http"),
        *(
            ({"model": {**SERVER, "base_url": url}}, "name or number of a machine")
            for url in (
                "http://[::1/v1",
                "http://127.0.0.1:abc/v1",
                "http://127.0.0.1:99999/v1",
                "http://a..b/v1",
                "http://a...",
                "http://xn--/v1",
                f"http://{'a' * 70}.org/v1",
                "http://:80/v1",
            )
        ),
        ({"model": SERVER, "budget": {"max_cost": 1}}, "max_cost needs model.prices"),
        ({"model": SERVER, "budget": {"max_calls": 0}}, "max_calls"),
        ({"model": {**SERVER, "concurency": 3}}, "did you mean 'concurrency'?"),
        ({"model": {"kind": "cloud", "model": "m"}}, "known are: server, local"),
    ],
)
def test_bad_settings_are_named(tables, words):
    with pytest.raises(SpecError) as error:
        read(**tables)
    assert words in str(error.value)


@pytest.mark.parametrize("url", ["http://[::1]:80/v1", "https://müller.de", "http://x_y:8000/v1"])
def test_good_urls_are_taken(url):
    assert ServerSpec(model="m", base_url=url).base_url == url


def test_prices_may_be_of_one_kind():
    assert Prices(reply=3.0).cost(10**9, 0) == 0.0


def test_specs_and_server_need_no_torch(python, tmp_path):
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'tokenizers', 'gguf'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from reseed.interpretation.models.asker import open_asker\n"
        "from reseed.interpretation.models.embedding import open_embedder\n"
        "from reseed.spec.llm import ServerSpec, WordsSpec\n"
        "spec = ServerSpec(model='m', base_url='http://127.0.0.1:1/v1')\n"
        f"open_asker(spec, Path({str(tmp_path / 'j')!r})).close()\n"
        "print(open_embedder(WordsSpec(kind='words')).embed(['a']).shape)\n"
    )
    done = python("-c", code)
    assert done.stdout == "(1, 4096)\n", done.stderr


def test_a_key_that_is_not_set_opens_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    spec = ServerSpec(model="m", base_url="http://x/v1", key_env="MY_KEY")
    with pytest.raises(SpecError, match="MY_KEY"):
        open_asker(spec, tmp_path / "journal.jsonl")
    assert not (tmp_path / "journal.jsonl").exists()
