"""Which model answers questions, which one embeds texts, and what may be spent. Without torch."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from reseed.records import NOT_SHOWN, Spec

Money = Annotated[float, Field(ge=0)]

Count = Annotated[int, Field(ge=1)]

_LIMIT = 4 * 2**20


class Prices(Spec):
    """What a million tokens cost, in any one currency."""

    prompt: Money = 0.0
    """Of what is asked."""
    reply: Money = 0.0
    """Of what is answered."""

    def cost(self, prompt_tokens: int, reply_tokens: int) -> float:
        """Of one reply, in the currency of the prices."""
        return (prompt_tokens * self.prompt + reply_tokens * self.reply) / 1e6


class BudgetSpec(Spec):
    """What may be spent, over the life of a journal; left out, there is no limit."""

    max_calls: Count | None = None
    """Questions answered."""
    max_tokens: Count | None = None
    """Of prompts and replies together."""
    max_cost: Money | None = None
    """In the currency of the prices."""


class Connection(Spec):
    """An OpenAI-compatible server and how patient to be with it."""

    model_config = ConfigDict(hide_input_in_errors=True)

    model: str
    """As the server calls it."""
    base_url: str
    """Up to and with `/v1`, e.g. `"http://127.0.0.1:8000/v1"`."""
    key_env: str | None = None
    """Name of the environment variable with the key. The key itself stands in no file."""
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds without a byte after which a request is given up and tried again."""
    retries: Annotated[int, Field(ge=0)] = 5
    """Further attempts after what may pass: 429, 5xx, a time-out, a lost connection."""
    max_wait: Annotated[float, Field(ge=0)] = 300.0
    """Seconds; a server that asks to wait longer ends the work, which can be continued later."""
    max_reply_bytes: Annotated[int, Field(ge=1024)] = _LIMIT
    """A longer answer is refused while it arrives."""

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        if "@" in url:
            raise PydanticCustomError(
                NOT_SHOWN, "no user and password in the URL; name a variable in key_env instead"
            )
        if not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", url):
            raise ValueError("a URL like http://127.0.0.1:8000/v1, without ? and #, is needed")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
            host.encode("idna").decode("idna")
        except ValueError:
            host, port = "", None
        if not host or port == 0:
            raise ValueError("a URL with the name or number of a machine, and a port if need be")
        return url.rstrip("/")

    @field_validator("key_env")
    @classmethod
    def _name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):
            raise PydanticCustomError(
                NOT_SHOWN,
                "the name of an environment variable in capitals is needed, e.g. "
                "OPENROUTER_API_KEY; never the key itself",
            )
        return name


class ServerSpec(Connection):
    """A chat model behind an OpenAI-compatible server: vLLM, llama.cpp, OpenRouter, ..."""

    kind: Literal["server"] = "server"
    concurrency: Annotated[int, Field(ge=1, le=512)] = 8
    """Questions under way at once."""
    structured: bool = True
    """Whether to ask the server to hold replies to a JSON schema; one that cannot is asked
    without."""
    prices: Prices | None = None
    """Left out, the cost is what the server says, or 0."""


class LocalSpec(Spec):
    """A chat model in this process, through transformers."""

    kind: Literal["local"]
    model: str
    """A hub name, a local folder, a GGUF file, or `package:NAME/path/file.gguf`."""
    revision: str | None = None
    """Of a hub name."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """In which it computes."""
    device: str = "cpu"
    """`"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`."""


ModelSpec = Annotated[ServerSpec | LocalSpec, Field(discriminator="kind")]


class ServerEmbedderSpec(Connection):
    """Embeddings from an OpenAI-compatible server."""

    kind: Literal["server"] = "server"
    batch: Count = 64
    """Texts in one request."""


class SentenceModelSpec(Spec):
    """A sentence model in this process, through transformers."""

    kind: Literal["local"]
    model: str
    """A hub name, a local folder, or `package:NAME/path`."""
    device: str = "cpu"
    batch: Count = 32
    """Texts in one forward pass."""


class WordsSpec(Spec):
    """Bags of words, hashed: no model at all. It sees shared words, not meaning."""

    kind: Literal["words"]
    dimensions: Annotated[int, Field(ge=2)] = 4096


EmbedderSpec = Annotated[
    ServerEmbedderSpec | SentenceModelSpec | WordsSpec, Field(discriminator="kind")
]


class ClientSpec(Spec):
    """A model to ask and what may be spent on it, as a table of a study."""

    model: ModelSpec
    budget: BudgetSpec = BudgetSpec()
    embedder: EmbedderSpec | None = None
    """For what compares texts; left out, that is not done."""

    @model_validator(mode="after")
    def _money_has_prices(self) -> ClientSpec:
        known = isinstance(self.model, ServerSpec) and self.model.prices is not None
        if self.budget.max_cost is not None and not known:
            raise ValueError("max_cost needs model.prices, without which nothing has a cost")
        return self
