"""What can be said about where activations come from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from reseed.records import Spec


class FromSubject(Spec):
    """Activations made for a comparison, by a language model that reads text."""

    model: str
    """A hub name, a local folder, a GGUF file, or `package:NAME/path/file.gguf`."""
    text: str
    """File, folder, glob, `package:NAME/path`, or `datasets:NAME[:SPLIT]`."""
    template: str = "{text}"
    """How a record becomes a document."""
    site: str
    """Module path where all SAEs read, e.g. `layers.6.mlp`."""
    tokens: Annotated[int, Field(ge=1)] = 20_000
    """Rows to run the SAEs on."""
    block: Annotated[int, Field(ge=2)] = 256
    """Tokens in a block."""
