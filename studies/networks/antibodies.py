"""The subject of studies/antibodies.toml: a net that numbers antibodies, and sequences for it.

The net is the encoder of ANARCII (package anarcii, BSD-3): one of its files is read as a module of
torch, nothing else of the package is imported. The package ships no sequences. They are made here,
from human germline genes that the package anarci (BSD-3) has, read as data: a V and a J gene of one
chain, residues drawn at random where the D segment would be, and point mutations. They are no
observed antibodies: there is no selection, no hot spot of mutation and no pairing in them.
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reseed.errors import SpecError

SEQUENCES, TOGETHER, SEED = 4_000, 32, 0
LETTERS = "ACDEFGHIKLMNPQRSTVWXY"
FIRST = 4  # ids of PAD, SOS, EOS and SKIP come before those of the letters
CHAINS = {"H": 0.5, "K": 0.25, "L": 0.25}
JUNCTION = "GYSDRTAWVNLPEFHIKQ"  # the first three three times as likely
CDR = {"CDR1": (27, 38), "CDR2": (56, 65), "CDR3": (105, 117)}
MUTATED = {True: 0.10, False: 0.03}
"""Share of residues that are mutated, inside CDR1 and CDR2 and elsewhere."""


@dataclass(frozen=True)
class Antibody:
    """A variable domain, with what is known of each of its residues."""

    letters: str
    positions: list[int]
    """in the numbering of IMGT, 1 to 128"""
    chain: str
    family: str
    """of the V gene: IGHV3"""


def folder_of(package: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SpecError(
            f"studies/antibodies.toml needs the package {package}. Its files are read, so what it "
            "asks for is not needed: pip install --no-deps anarcii==2.0.8 anarci==2026.2.13.2"
        )
    return Path(spec.submodule_search_locations[0])


def germlines() -> dict[str, Any]:
    """V or J, chain, species, gene to its residues at the 128 positions, `-` for none."""
    tree = ast.parse((folder_of("anarci") / "germlines.py").read_text("utf-8"))
    assigned = next(node for node in tree.body if isinstance(node, ast.Assign))
    return ast.literal_eval(assigned.value)


def antibodies(count: int = SEQUENCES, seed: int = SEED) -> list[Antibody]:
    """Domains made of human germline genes; the same for the same seed."""
    genes, rng = germlines(), np.random.default_rng(seed)
    weights = np.array([3.0] * 3 + [1.0] * (len(JUNCTION) - 3))
    return [_antibody(genes, rng, weights / weights.sum()) for _ in range(count)]


def _antibody(genes: dict[str, Any], rng: np.random.Generator, weights: Any) -> Antibody:
    chain = str(rng.choice(list(CHAINS), p=list(CHAINS.values())))
    v, j = (genes[kind][chain]["human"] for kind in "VJ")
    name = str(rng.choice(sorted(v)))
    begin = [(at + 1, x) for at, x in enumerate(v[name]) if x != "-"]
    end = [(at + 1, x) for at, x in enumerate(j[str(rng.choice(sorted(j)))]) if x != "-"]
    middle = int(rng.integers(4, 15) if chain == "H" else rng.integers(0, 3))
    between = np.linspace(begin[-1][0] + 1, max(end[0][0] - 1, begin[-1][0] + 1), middle)
    drawn = rng.choice(list(JUNCTION), size=middle, p=weights)
    residues = [*begin, *zip(between.round().astype(int).tolist(), drawn, strict=True), *end]
    letters = [_mutated(at, str(x), rng) for at, x in residues]
    family = name.partition("-")[0].partition("/")[0]
    return Antibody("".join(letters), [at for at, _ in residues], chain, family)


def _mutated(position: int, letter: str, rng: np.random.Generator) -> str:
    inside = any(a <= position <= b for region, (a, b) in CDR.items() if region != "CDR3")
    if letter == "C" or rng.random() >= MUTATED[inside]:
        return letter  # the two cysteines hold the fold
    return str(rng.choice([x for x in LETTERS if x not in ("X", "C", letter)]))


class Encoder(nn.Module):
    """ANARCII's encoder; rows are residues, without the tokens around a sequence."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`[B, L]` ids to `[B, L, 128]`; `attention_mask` says which positions are residues."""
        return self.encoder(ids, ids == 0)


def net_file() -> ModuleType:
    """The file of the package that has the classes of the net."""
    path = folder_of("anarcii") / "inference" / "model.py"
    spec = importlib.util.spec_from_file_location("anarcii_net", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def whole_net() -> nn.Module:
    """ANARCII for antibodies, encoder and decoder of two layers, with its weights."""
    net, cpu = net_file(), torch.device("cpu")
    sizes = (128, 2, 4, 512, 0.25, cpu)
    whole = net.S2S(net.Encoder(25, *sizes), net.Decoder(136, *sizes), 0, 0, cpu)
    path = folder_of("anarcii") / "models" / "antibody" / "antibody_4_2_128_512.pt"
    whole.load_state_dict(torch.load(path, map_location=cpu, weights_only=True))
    return whole.eval()


def batch_of(some: list[Antibody]) -> dict[str, Tensor]:
    """Ids `[B, L]` with SOS and EOS around each sequence, and where its residues are."""
    longest = 2 + max(len(one.letters) for one in some)
    ids = torch.zeros(len(some), longest, dtype=torch.long)
    residues = torch.zeros_like(ids)
    for row, one in enumerate(some):
        n = len(one.letters)
        ids[row, 1 : n + 1] = torch.tensor([FIRST + LETTERS.index(x) for x in one.letters])
        ids[row, 0], ids[row, n + 1], residues[row, 1 : n + 1] = 1, 2, 1
    return {"ids": ids, "attention_mask": residues}


def build() -> tuple[nn.Module, list[dict[str, Tensor]], None, list[str]]:
    """The encoder, its batches, and the chain and V family of each sequence."""
    every = antibodies()
    batches = [batch_of(every[at : at + TOGETHER]) for at in range(0, len(every), TOGETHER)]
    encoder = whole_net().get_submodule("encoder")
    return Encoder(encoder), batches, None, [f"{one.chain} {one.family}" for one in every]
