"""What settings near a file say of an SAE's rule, whoever wrote them.

Many files hold arrays alone, whose names tell of a class, and lie beside settings of a training
that made another one of it. A format without settings of its own asks here, and refuses to read a
file as one rule where settings say another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reseed.errors import SpecError, StoreError
from reseed.formats.containers.arrays import Arrays
from reseed.formats.files import Files
from reseed.records import SAEArrays

_STEMS = (
    "config", "cfg", "hyperparams", "hparams", "args", "settings", "metadata",
    "sae_config", "sae_cfg", "final_config",
)  # fmt: skip

_ENDINGS = (".json", ".yaml", ".yml")

_LARGEST_YAML = 2**20

_DEEPEST = 4

_RULE_KEYS = frozenset(
    (
        "activation", "activation_fn", "activation_fn_str", "activation_function",
        "activation_type", "act_fn", "act", "nonlinearity", "architecture", "arch",
        "sae_type", "sae_class", "sae_architecture", "model_type", "model_class",
        "dict_class", "trainer_class", "autoencoder_class", "class", "class_name", "type",
        "kind", "variant", "rule", "sparsity", "sparsity_type", "encoder_type", "cls",
    )
)  # fmt: skip

_K_KEYS = frozenset(
    (
        "k", "top_k", "topk", "k_active", "k_sparse", "num_active", "n_active", "sparsity_k",
    )
)  # fmt: skip

_D_KEYS = frozenset(("activation_dim", "act_size", "d_in"))

_F_KEYS = frozenset(("dict_size", "d_sae", "num_latents", "n_latents"))

_OF_A_MODEL = frozenset(("architectures", "vocab_size", "num_hidden_layers", "n_layer"))
"""Keys of a table that describes a language model, whose activation is not the SAE's."""

_RELU = frozenset(("relu", "vanilla", "standard", "autoencoder", "autoencodernew", "nnrelu"))

_PARTS = {
    "abstopk": "abstopk", "batchtopk": "batchtopk", "topk": "topk", "ksparse": "topk",
    "groupmax": "groupmax", "jumprelu": "jumprelu", "gated": "gated",
    "matchingpursuit": "matching_pursuit",
}  # fmt: skip
"""Part of a word to the rule it stands for; the first that fits."""

_OTHER = frozenset(
    (
        "gelu", "silu", "swish", "tanh", "sigmoid", "leakyrelu", "softplus", "elu", "selu",
        "softmax", "prelu",
    )
)  # fmt: skip
"""Activations that no SAE here has."""

_SAME = {"jumprelu": ("jumprelu", "gated", "batchtopk")}
"""Rule as read to what settings may call it; itself, where nothing stands here. With its threshold
BatchTopK is a JumpReLU, and so is a gated SAE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsNear:
    """Rules that settings name, and the k; each with the place where it stands."""

    rules: dict[str, str] = field(default_factory=dict[str, str])
    ks: dict[int, str] = field(default_factory=dict[int, str])
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    """every plain setting by its last name"""

    def rule(self) -> tuple[str, int | None] | None:
        """The rule and its k; None if nothing is said.

        Raises:
            SpecError: if several are, and they do not go together.
        """
        rules = [rule for rule in self.rules if rule != "relu"] or list(self.rules)
        if "batchtopk" in rules:
            rules = [rule for rule in rules if rule != "topk"]
        ks = list(self.ks)
        if len(rules) > 1 or (len(ks) > 1 and rules != ["relu"]):
            raise SpecError(f"settings say several things of one SAE: {self.quoted()}")
        if not rules and not ks:
            return None
        return (rules[0] if rules else "topk"), (ks[0] if ks else None)

    def quoted(self) -> str:
        """The settings of the rule and where they stand, for messages."""
        return "; ".join([*self.rules.values(), *self.ks.values()])

    def check(self, path: Path, sae: SAEArrays, because: str) -> None:
        """Refuse a file that is read as another rule than settings say, or with other sizes.

        Args:
            path: of the file, for the message.
            sae: as it is read.
            because: why it is read so.

        Raises:
            SpecError: naming the setting of the rule.
            StoreError: naming the setting of the size.
        """
        self._check_sizes(path, sae)
        rule, activation = self.rule(), sae.activation
        if rule is None:
            return
        kind, k = str(activation["kind"]), activation.get("k")
        if rule[0] in _SAME.get(kind, (kind,)) and (rule[1] == k or None in (rule[1], k)):
            return
        name = kind if k is None else f"{kind} with k = {k}"
        raise SpecError(
            f"{path} would be read as {name}, {because}, but settings beside it say otherwise: "
            f"{self.quoted()}. Are they of this SAE? If so, say how it computes its codes: "
            "--format home_made --read rule=topk --read k=8 --read centred=true (or what it is)."
        )

    def _check_sizes(self, path: Path, sae: SAEArrays) -> None:
        for keys, size in ((_D_KEYS, sae.W_enc.shape[1]), (_F_KEYS, len(sae.W_enc))):
            for key in keys & self.values.keys():
                value = self.values[key]
                if type(value) is int and value not in (0, size):
                    raise StoreError(
                        f"{path} has {size} where its settings say {key} = {value}: settings and "
                        "weights of different SAEs were mixed"
                    )


def settings_near(files: Files, held: Arrays | None = None) -> SettingsNear:
    """The settings in JSON and YAML near a file, and in the file itself.

    Raises:
        StoreError: if settings are there and cannot be read.
    """
    out = SettingsNear()
    inside = {} if held is None else {**held.metadata, **held.beside}
    label = "" if held is None else held.path.name
    for name, table in [(label, inside), *_near(files)]:
        for place, key, value in _walk(table):
            _note(out, f"{name}: {place} = {value!r}", key, value)
    return out


def _near(files: Files) -> Iterator[tuple[str, Mapping[str, Any]]]:
    own = [files.path.stem.partition(".")[0]] if files.is_file else []
    stems = [*own, *(f"{stem}_{more}" for stem in own for more in ("config", "cfg")), *_STEMS]
    names = [stem + ending for stem in stems for ending in _ENDINGS]
    there = [name for name in names if files.has(name)]
    if not there:  # checkpoints and layers lie below the settings of their training
        there = [name for name in (f"../{stem}.json" for stem in _STEMS) if files.has(name)]
    for name in there:
        yield name, files.json(name) if name.endswith(".json") else _yaml(files.folder / name)


def _yaml(path: Path) -> dict[str, Any]:
    """The `key: value` lines of a YAML file, whatever they are indented; enough for a rule."""
    try:
        if path.stat().st_size > _LARGEST_YAML:
            raise ValueError("it has more than 1 MiB, no settings are that long")
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is no YAML that can be read: {error}") from error
    pairs = (re.fullmatch(r"[\s-]*(\w+)\s*:\s*([^#]*?)\s*(#.*)?", line) for line in lines)
    return {pair[1]: pair[2].strip("'\"") for pair in pairs if pair and pair[2]}


def _walk(table: Mapping[str, Any], above: str = "", depth: int = 0) -> Iterator[Any]:
    """(place, key, plain value) of a table and the tables in it."""
    if _OF_A_MODEL & set(table) or depth > _DEEPEST:
        return
    for key, value in table.items():
        place = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _walk(
                value.held if isinstance(value, Arrays) else value, f"{place}.", depth + 1
            )
        elif isinstance(value, str | int | float):
            yield place, str(key).lower(), value


def _note(out: SettingsNear, place: str, key: str, value: Any) -> None:
    out.values.setdefault(key, value)
    if key in _RULE_KEYS and isinstance(value, str) and (kind := kind_of(value)):
        out.rules.setdefault(kind, place)
    natural = not isinstance(value, bool) and re.fullmatch(r"\d{1,9}(\.0+)?", str(value))
    if key in _K_KEYS and natural and float(value) >= 1:
        out.ks.setdefault(int(float(value)), place)


def kind_of(word: str) -> str | None:
    """The rule that a word stands for, e.g. of `"AutoEncoderTopK"`; None if it is none."""
    letters = re.sub(r"[^a-z]", "", word.lower())
    for part, kind in _PARTS.items():
        if part in letters:
            return kind
    if letters in _RELU or letters.startswith("standardtrainer"):
        return "relu"
    return letters if letters in _OTHER else None
