"""One site under the names of several libraries."""

import pytest

import reseed
from reseed.formats.site_names import lens_name, place_of, same_model, same_site

SAME = [
    ("blocks.6.hook_mlp_out", "layers.6.mlp"),
    ("blocks.6.hook_mlp_out", "transformer.h.6.mlp"),
    ("blocks.6.hook_mlp_out", "model.layers.6.mlp.output"),
    ("blocks.6.hook_resid_post", "blocks.7.hook_resid_pre"),
    ("blocks.6.hook_resid_post", "h.6"),
    ("blocks.6.hook_resid_pre", "gpt_neox.layers.6:in"),
    ("blocks.6.hook_resid_post", "resid_post_layer_6"),
    ("model.layers.6.output", "model.layers.6"),
    ("blocks.0.attn.hook_z", "model.layers.0.self_attn.o_proj.input"),
    ("blocks.3.hook_attn_out", "h.3.attn"),
    ("layers.3.mlp.down_proj", "layers.3.mlp"),
    ("blocks.3.hook_attn_out", "model.layers.3.self_attn.o_proj"),
    ("blocks.3.hook_attn_out", "gpt_neox.layers.3.attention"),
]
OTHER = [
    ("blocks.6.hook_resid_post", "blocks.6.hook_resid_pre"),
    ("layers.6.mlp", "layers.16.mlp"),
    ("layers.6", "layers.6.mlp"),
    ("blocks.6.hook_resid_mid", "blocks.6.hook_resid_post"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_names_for_one_site(a, b) -> None:
    assert same_site(a, b) is True
    assert lens_name(a) == lens_name(b)
    assert place_of(lens_name(a)) == place_of(a)


@pytest.mark.parametrize(("a", "b"), OTHER)
def test_names_for_two_sites(a, b) -> None:
    assert same_site(a, b) is False


def test_names_that_are_not_known() -> None:
    assert same_site("x.y", "x.y") is True
    assert same_site("x.y", "layers.6") is None
    assert lens_name("x.y") == "x.y"


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("gpt2", "gpt2-small", True),
        ("openai-community/gpt2", "gpt2-small", True),
        ("EleutherAI/pythia-70m-deduped", "pythia-70m-deduped", True),
        ("meta-llama/Meta-Llama-3.1-8B", "Llama-3.1-8B", True),
        ("/models/gemma-2-2b/", "google/gemma-2-2b", True),
        ("gpt2", "gpt2-medium", False),
        ("gemma-2-2b", "gemma-2-2b-it", False),
        ("pythia-70m", "pythia-70m-deduped", False),
    ],
)
def test_names_of_models(a, b, same) -> None:
    assert same_model(a, b) is same


def warned(tmp_path, make, first, second):
    for name, about in (("a", first), ("b", second)):
        reseed.save(make("topk", F=40, about=about), tmp_path / name)
    return " ".join(reseed.compare(tmp_path / "a", tmp_path / "b").warnings)


def test_compare_warns_of_two_sites_and_not_of_two_names(tmp_path, make) -> None:
    def of(site, subject="gpt2"):
        return {"site": site, "subject": subject}

    two_names = of("blocks.6.hook_resid_post"), of("h.7:in", "gpt2-small")
    assert "seeds" not in warned(tmp_path / "one", make, *two_names)
    two_sites = of("h.6"), of("h.7")
    assert "not about seeds" in warned(tmp_path / "two", make, *two_sites)
    assert "if these are not two names" in warned(tmp_path / "x", make, of("my.site"), of("h.7"))
