"""A trained sparse autoencoder, ready to encode and decode in raw activation units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from reseed.errors import SpecError, SubjectError
from reseed.notebook.doors import door
from reseed.notebook.markup import html_table
from reseed.records import SAEArrays, check_rule
from reseed.sae import Tensor, np, torch
from reseed.sae import codes as kernels
from reseed.sae.codes import Codes

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray
    from plotly.graph_objects import Figure
    from torch import nn

Rows: TypeAlias = "Tensor | NDArray[Any]"
_LEAST_DEVIATION = 1e-5
_NUMBERS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold", "W_skip")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SAE:
    """A sparse autoencoder of F latents on D dimensions; rows of both matrices are latents.

    `reconstruct(x) = encode(x) @ W_dec + b_dec`, where the codes come from the pre-activations
    `(x - b_dec) @ W_enc.T + b_enc` by the activation rule. A transcoder reads D dimensions and
    writes E; for all else E = D. The rules are described at `reseed.records.SAEArrays`.

    Args:
        W_enc: `[F, D]`.
        W_dec: `[F, E]`.
        b_enc: `[F]`.
        b_dec: `[E]`.
        activation: the rule as JSON, e.g. `{"kind": "topk", "k": 32}`.
        threshold: `[F]`, for jumprelu.
        W_skip: `[E, D]`, of a skip transcoder.
        centred: whether `b_dec` is subtracted from the input.
        normalised: whether rows are normalised one by one, and reconstructions scaled back.
        about: where it comes from; free-form JSON.
    """

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    activation: Mapping[str, Any]
    threshold: Tensor | None = None
    W_skip: Tensor | None = None
    centred: bool = True
    normalised: bool = False
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def latents(self) -> int:
        """F."""
        return self.W_enc.shape[0]

    @property
    def dimensions(self) -> int:
        """D."""
        return self.W_enc.shape[1]

    def __repr__(self) -> str:
        rule = ", ".join(f"{v}" for v in self.activation.values())
        return f"SAE({self.latents} latents, {self.dimensions} dimensions, {rule})"

    def _repr_html_(self) -> str:
        """Sizes and rule, and where a study measured it, held-out numbers beside chance."""
        return html_table(repr(self), about_rows(self.about), "as `about` says")

    def pre_activations(self, x: Rows) -> Tensor:
        """`[N, D] -> [N, F]`."""
        return self._pre(self._scaled(self._rows(x))[0])

    def encode_sparse(self, x: Rows) -> Codes:
        """Codes of rows `[N, D]` with K entries each: the k of the rule, or the most that fire."""
        return self._codes(self._scaled(self._rows(x))[0])

    def encode(self, x: Rows) -> Tensor:
        """Codes `[N, F]` of rows `[N, D]`; leading dimensions of any number are kept."""
        rows = torch.as_tensor(x)
        flat = self._scaled(self._rows(rows.reshape(-1, rows.shape[-1])))[0]
        if self.activation["kind"] in ("topk", "matching_pursuit"):
            codes = kernels.dense(self._codes(flat), self.latents)
        else:
            codes = kernels.apply(self._pre(flat), self.activation, self.threshold)
        return codes.reshape(*rows.shape[:-1], self.latents)

    def decode(self, codes: Rows) -> Tensor:
        """Rows `[N, E]` of dense codes `[N, F]`.

        Without what skips the codes, and in the units of normalised rows where the SAE reads such;
        `reconstruct` has both.
        """
        dense = torch.as_tensor(codes, dtype=self.W_dec.dtype, device=self.W_dec.device)
        return dense @ self.W_dec + self.b_dec

    def decode_sparse(self, codes: Codes) -> Tensor:
        """Rows `[N, E]` of sparse codes; see `decode`."""
        return kernels.decode(codes, self.W_dec) + self.b_dec

    def reconstruct(self, x: Rows) -> Tensor:
        """What the SAE makes of rows, `[N, D] -> [N, E]`, in raw activation units."""
        every = torch.as_tensor(x)
        rows = self._rows(every.reshape(-1, every.shape[-1]))
        out = self.rebuild(rows, self.encode_sparse(rows))
        return out.reshape(*every.shape[:-1], self.W_dec.shape[1])

    def rebuild(self, x: Rows, codes: Codes) -> Tensor:
        """`reconstruct` of rows `[N, D]` where their codes are there already: `[N, E]`."""
        scaled, mean, deviation = self._scaled(self._rows(x))
        out = self.decode_sparse(codes)
        if self.W_skip is not None:
            out = out + scaled @ self.W_skip.T
        return out * deviation + mean

    def _rows(self, x: Rows) -> Tensor:
        rows = torch.as_tensor(x, dtype=self.W_enc.dtype, device=self.W_enc.device)
        if rows.ndim < 1 or rows.shape[-1] != self.dimensions:
            raise SpecError(
                f"this SAE reads rows of {self.dimensions} dimensions, these have shape "
                f"{tuple(rows.shape)}; is it the right site?"
            )
        refuse_bad(rows, "what this SAE is to read")
        return rows

    def _scaled(self, rows: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """Rows as the encoder sees them, their means and their deviations."""
        if not self.normalised:
            return rows, 0.0, 1.0
        mean = rows.mean(dim=-1, keepdim=True)
        deviation = rows.std(dim=-1, keepdim=True)
        return (rows - mean) / (deviation + _LEAST_DEVIATION), mean, deviation

    def _centred(self, scaled: Tensor) -> Tensor:
        return scaled - self.b_dec if self.centred else scaled

    def _pre(self, scaled: Tensor) -> Tensor:
        return self._pre_of(self._centred(scaled))

    def _pre_of(self, centred: Tensor) -> Tensor:
        return centred @ self.W_enc.T + self.b_enc

    def _codes(self, scaled: Tensor) -> Codes:
        if self.activation["kind"] == "topk":
            return self._top_codes(self._centred(scaled), self.activation["k"])
        if self.activation["kind"] == "matching_pursuit":
            k = self.activation["k"]
            return kernels.top_codes(kernels.pursue(self._centred(scaled), self.W_dec, k)[0], k)
        if self.activation["kind"] in ("relu", "jumprelu") and self._loops(scaled):
            from reseed.sae.above import codes_above  # needs numba

            read, bars = (self._centred(scaled), self.W_enc, self.b_enc), self.threshold
            bars = torch.zeros_like(self.b_enc) if bars is None else bars
            return codes_above(*read, bars.clamp(0, torch.finfo(torch.float32).max))
        pre = self._pre(scaled)
        return kernels.codes_of(kernels.apply(pre, self.activation, self.threshold))

    def _top_codes(self, centred: Tensor, k: int) -> Codes:
        read = centred, self.W_enc, self.b_enc
        if self._loops(centred):
            from reseed.sae import encode  # needs numba

            return encode.top_codes(*read, k)
        on_gpu = centred.device.type == "cuda" and self._without_autograd(centred)
        if on_gpu and kernels.triton_runs():
            from reseed.sae import gpu

            return gpu.top_codes(*read, k)
        return kernels.top_codes(self._pre_of(centred), k)

    def _loops(self, rows: Tensor) -> bool:
        """Whether compiled loops may encode."""
        return rows.device.type == "cpu" and self._without_autograd(rows) and kernels.compiles()

    def _without_autograd(self, rows: Tensor) -> bool:
        """Whether kernels apply: in float32, and nobody asks for gradients."""
        tensors = rows, self.W_enc, self.b_enc
        return all(t.dtype == torch.float32 and not t.requires_grad for t in tensors)

    def arrays(self) -> SAEArrays:
        """The same as NumPy arrays."""
        return SAEArrays(**_turned(self, lambda t: t.detach().to("cpu", torch.float32).numpy()))

    # -- as people use it -------------------------------------------------------------------------

    def to(self, device: str | torch.device) -> SAE:
        """The same SAE on another device, e.g. `"cuda"`; this one stays where it is."""
        return replace(self, **_turned(self, lambda t: t.to(device)))

    def as_module(self) -> nn.Module:
        """A `torch.nn.Module` with `encode`, `decode` and `forward` (`reconstruct`).

        Its parameters are copies that take gradients; see `reseed.sae.torch_module.SAEModule`.
        """
        return door("SAEModule")(self)

    def spliced(
        self,
        model: nn.Module,
        site: str | None = None,
        *,
        target: str | None = None,
        edit: Callable[[Tensor], Tensor] | None = None,
        keep_error: bool = False,
        layout: str = "features_last",
    ) -> AbstractContextManager[None]:
        """A context in which a model computes with this SAE's reconstructions at a site.

        Arguments and errors as in `reseed.subjects.language.splice.spliced`.

        Example:
            with sae.spliced(model, "layers.6.mlp", edit=lambda codes: codes * keep):
                logits = model(ids).logits
        """
        how = {"target": target, "edit": edit, "keep_error": keep_error, "layout": layout}
        return door("spliced")(self, model, site, **how)

    def save(self, path: str | PathLike[str], *, format: str = "reseed", **options: Any) -> None:
        """Write it in a format, e.g. `"saelens"`: `reseed.save` with the SAE first."""
        door("save")(self, path, format=format, **options)

    def plot(self) -> Figure:
        """How each latent's encoder and decoder row agree, beside chance; a Plotly figure."""
        return door("plot_sae")(self)


def about_rows(about: Mapping[str, Any]) -> list[dict[str, object]]:
    """What `about` says in plain values, a row each; tables in it a row for each of their keys."""
    rows: list[dict[str, object]] = []
    for key, value in about.items():
        if isinstance(value, str | int | float | bool):
            rows.append({"what": key, "value": value})
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                if isinstance(inner, str | int | float | bool | list):
                    rows.append({"what": f"{key}: {name}", "value": inner})
    return rows


def refuse_bad(rows: Tensor, what: str, first: int = 0) -> None:
    """Refuse rows `[N, D]` with NaN or infinity: of many rules, finite codes would come out.

    Raises:
        SubjectError: naming the row, counted from `first`, and the column.
    """
    # a sum over NaN or infinity is never finite, and reads the memory only once
    if not rows.numel() or torch.isfinite(rows.detach().sum()):
        return
    flat = rows.detach().reshape(-1, rows.shape[-1])
    bad = ~torch.isfinite(flat)
    if not bool(bad.any()):
        return
    row, column = divmod(int(bad.to(torch.uint8).argmax()), flat.shape[1])
    others = int(bad.sum()) - 1
    raise SubjectError(
        f"{what}: row {first + row}, column {column} is {float(flat[row, column])} as "
        f"{str(rows.dtype).removeprefix('torch.')}"
        + (f", and so are {others:,} other numbers" if others else "")
        + "; take such rows out, or find what made them"
    )


def from_arrays(arrays: SAEArrays) -> SAE:
    """The SAE that these arrays describe, on the CPU in float32."""
    check_rule(arrays.activation, len(arrays.W_enc), arrays.threshold, "this SAE")

    return SAE(**_turned(arrays, lambda a: torch.from_numpy(np.array(a, dtype=np.float32))))


def _turned(sae: SAE | SAEArrays, turn: Callable[[Any], Any]) -> dict[str, Any]:
    """The fields of an SAE by name, its matrices and vectors turned."""
    values = {field.name: getattr(sae, field.name) for field in fields(sae)}
    return values | {n: turn(values[n]) for n in _NUMBERS if values[n] is not None}
