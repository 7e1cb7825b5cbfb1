"""A language model to whose activations a direction can be added while it writes.

L tokens of a prompt, D dimensions of the site, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reseed.errors import SpecError
from reseed.interpretation.models import Numbers, Steerable
from reseed.interpretation.models.causal import device_of, subject_with_head, write
from reseed.seeds import generator
from reseed.spec.subject import SubjectSpec
from reseed.subjects.sites import resolve_sites


def steered(subject: SubjectSpec, sites: Collection[str]) -> dict[str, Steerable]:
    """Site to the subject steered there, one model in memory; errors of `subject_with_head`."""
    model = subject_with_head(subject)
    return {site: SteeredModel(model.model, model.wrapped, site, ends=model.ends) for site in sites}


class SteeredModel:
    """A transformers model with head, steered at one site (a `Steerable`).

    Text is sampled with the same random numbers with and without steering (the Gumbel trick), so
    that the two texts of a prompt differ by the steering alone.

    Args:
        model: e.g. a `LlamaForCausalLM`; put into eval mode.
        tokenizer: of transformers, that belongs to it.
        site: what is steered, relative to the body of the model, e.g. `layers.6`; `:in` for what
            that module is given.
        new_tokens: how many are written after a prompt.
        temperature: of sampling; 0 takes the most probable token.
        seed: of sampling.
        ends: ids that end a text; that of the tokenizer if left out.

    Raises:
        SpecError: if the model has no such site, or the site is a pattern of several.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        site: str,
        *,
        new_tokens: int = 32,
        temperature: float = 1.0,
        seed: int = 0,
        ends: Collection[int] | None = None,
    ) -> None:
        self.model: nn.Module = model.eval()
        self.tokenizer = tokenizer
        self._body: nn.Module = model.base_model
        sites = resolve_sites(self._body, [site])
        if len(sites) != 1:
            raise SpecError(f"site {site!r} means {len(sites)} places; steering takes one")
        self.site = sites[0]
        self.new_tokens = new_tokens
        self.temperature = temperature
        self.seed = seed
        self._ends = {tokenizer.eos_token_id} if ends is None else set(ends)

    def generate(
        self, prompts: Sequence[str], direction: Numbers | None, strength: float
    ) -> list[str]:
        """See `Steerable`."""
        with self._steered(direction, strength):
            return [self._continue(number, text) for number, text in enumerate(prompts)]

    def kl(self, prompts: Sequence[str], direction: Numbers, strength: float) -> float:
        """Mean KL(steered || clean) over the positions of the prompts, in nats."""
        total, positions = 0.0, 0
        for text in prompts:
            ids = self._ids(text)
            clean = self._logprobs(ids)
            with self._steered(direction, strength):
                steered = self._logprobs(ids)
            total += float((steered.exp() * (steered - clean)).sum())
            positions += len(ids)
        return total / positions if positions else float("nan")

    def _ids(self, text: str) -> list[int]:
        """L ids; a text without tokens begins with whatever token the model begins with."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        start = self.tokenizer.bos_token_id
        return ids or [self.tokenizer.eos_token_id if start is None else start]

    @torch.no_grad()
    def _logprobs(self, ids: Sequence[int]) -> Tensor:
        """[L, V] of the next token."""
        tokens = torch.tensor([ids], dtype=torch.int64, device=device_of(self.model))
        logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits[0]
        return torch.log_softmax(logits.to(torch.float64), dim=-1)

    @torch.no_grad()
    def _continue(self, number: int, text: str) -> str:
        draw = generator("steered-text", self.seed, number)
        written: list[int] = []

        def pick(logits: Tensor) -> int | None:
            noise = draw.gumbel(size=logits.shape[0])
            if self.temperature == 0:
                token = int(logits.argmax())
            else:
                values = logits.to(torch.float64).cpu().numpy() / self.temperature
                token = int((values + noise).argmax())
            if token in self._ends:
                return None
            written.append(token)
            return token

        write(self.model, self._ids(text), pick, self.new_tokens)
        decoded: str = self.tokenizer.decode(written, skip_special_tokens=True)
        return decoded

    @contextmanager
    def _steered(self, direction: Numbers | None, strength: float) -> Generator[None]:
        """Add the direction at every position of the site while the block runs."""
        if direction is None:
            yield
            return
        path, _, suffix = self.site.partition(":")
        part = self._body.get_submodule(path)
        shift = torch.from_numpy(np.asarray(direction, np.float64) * strength)

        def after(_: nn.Module, __: Any, output: Any) -> Any:
            return _shifted(output, shift, self.site)

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (_shifted(args[0], shift, self.site), *args[1:]), kwargs
            name = next(key for key, value in kwargs.items() if isinstance(value, Tensor))
            return args, {**kwargs, name: _shifted(kwargs[name], shift, self.site)}

        handle = (
            part.register_forward_pre_hook(before, with_kwargs=True)
            if suffix == "in"
            else part.register_forward_hook(after)
        )
        try:
            yield
        finally:
            handle.remove()


def _shifted(value: Any, shift: Tensor, site: str) -> Any:
    """The first tensor of what passes a site, with the direction added at every position."""
    if isinstance(value, tuple):
        first, *rest = value
        return (_shifted(first, shift, site), *rest)
    if not isinstance(value, Tensor) or value.shape[-1] != len(shift):
        width = value.shape[-1] if isinstance(value, Tensor) else type(value).__name__
        raise SpecError(f"site {site!r} has the width {width}, the direction {len(shift)}")
    return value + shift.to(value.device, value.dtype)
