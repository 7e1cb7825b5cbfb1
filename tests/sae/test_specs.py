"""Options that an architecture cannot have are refused with its name."""

import pytest

from reseed.errors import SpecError
from reseed.sae.architectures import ARCHITECTURES
from reseed.spec.refusals import read_spec

NEEDED = {
    "transcoder": {"target": "y"},
    "skip_transcoder": {"target": "y"},
    "crosscoder": {"parts": [4, 4]},
    "groupmax": {"k": 4},
    "matryoshka": {"prefixes": [0.5]},
}
OPTIONS = {
    "end_to_end": {},
    "mutual": {},
    "aligned": True,
    "weight_l2": 0.1,
    "tied_init": True,
    "k_start": 8,
    "k_share": 0.5,
    "lr": 1.0,
    "init": "data",
    "init_noise": 0.1,
    "init_sha256": "0" * 64,
    "center": True,
    "optimizer": "muon",
    "lr_schedule": "cosine",
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_does_not_go_together_is_refused(name):
    given = {
        "latents": 16,
        **({"k": 4} if "k" in ARCHITECTURES[name].settings.model_fields else {}),
    }
    given |= NEEDED.get(name, {})
    spec = read_spec(ARCHITECTURES[name].settings, given, "test")
    assert spec.without <= set(OPTIONS)
    for option in spec.without:
        with pytest.raises(SpecError, match=f"{option} does not go together with {name}"):
            read_spec(ARCHITECTURES[name].settings, given | {option: OPTIONS[option]}, "test")


def test_each_architecture_can_be_trained_through_the_subject_or_says_not():
    """Those that can give a reconstruction that gradients flow through."""
    able = {name for name, kind in ARCHITECTURES.items() if _takes(kind.settings, name)}
    assert able == {
        "topk", "batchtopk", "jumprelu", "gated", "relu", "panneal", "groupmax", "transcoder",
        "skip_transcoder",
    }  # fmt: skip


def _takes(kind, name):
    given = {"latents": 16, **({"k": 4} if "k" in kind.model_fields else {})}
    return "end_to_end" not in read_spec(kind, given | NEEDED.get(name, {}), "test").without
