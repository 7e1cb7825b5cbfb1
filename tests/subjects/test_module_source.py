import sys

import pytest
import torch
from torch import nn

import reseed
from reseed.errors import SpecError, SubjectError
from reseed.spec.subject import ModuleSpec, subject_beside
from reseed.subjects.module import ModuleSource
from reseed.subjects.networks.factory import open_factory


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, 5)
        self.drop = nn.Dropout(0.5)
        self.pool = nn.Linear(5, 4)

    def forward(self, x, shift=0.0):
        x = self.drop(self.first(x)) + shift
        return self.pool(x.mean(1))


def batches(*sizes):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(n, 7, 3, generator=draw) for n in sizes]


def test_outputs_of_any_shape_become_rows():
    net, inputs = Net(), batches(4, 4, 2)
    source = ModuleSource(net, ["first"], inputs)
    assert source.sites == {"first": 5}
    assert source.rows.tolist() == [28, 28, 14]
    got = source.read([2, 0])["first"]
    assert torch.equal(
        got, torch.cat([net.first(x).reshape(-1, 5) for x in (inputs[2], inputs[0])])
    )
    assert not got.requires_grad
    assert source.read([])["first"].shape == (0, 5)


def test_reading_twice_gives_the_same_since_the_module_is_in_eval_mode():
    source = ModuleSource(Net().train(), ["pool"], batches(4))
    assert torch.equal(source.read([0])["pool"], source.read([0])["pool"])


def test_positional_and_keyword_inputs():
    (x,) = batches(4)
    shift = torch.ones(4, 1, 1)
    first = ModuleSource(Net(), ["pool"], [(x, shift)]).read([0])["pool"]
    second = ModuleSource(Net(), ["pool"], [{"shift": shift, "x": x}]).read([0])["pool"]
    assert torch.equal(first, second)


def test_what_cannot_work_is_told():
    with pytest.raises(SubjectError, match="unequal numbers of rows .*first: 28, pool: 4"):
        ModuleSource(Net(), ["p*", "first"], batches(4))
    with pytest.raises(SpecError, match="batches is a generator"):
        ModuleSource(Net(), ["first"], (x for x in batches(4)))
    with pytest.raises(SpecError, match="empty"):
        ModuleSource(Net(), ["first"], [])
    uneven = [torch.zeros(2, 7, 3), torch.zeros(2, 6, 3)]
    with pytest.raises(SubjectError, match=r"batch 1 gives \[12, 5\]"):
        ModuleSource(Net(), ["first"], uneven).read([1])
    bad = batches(4, 4)
    bad[1][2, 0] = float("inf")
    with pytest.raises(SubjectError, match=r"row 14 of batch \(block\) 1"):
        ModuleSource(Net(), ["first"], bad).read([0, 1])


def test_factory(tmp_path, monkeypatch):
    (tmp_path / "my_subject.py").write_text(
        "import torch\n"
        "def make(): return torch.nn.Sequential(torch.nn.Linear(3, 2)), [torch.zeros(4, 3)]\n"
        "def wrong(): return 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = ModuleSpec(kind="module", factory="my_subject:make")
    made = open_factory(spec)
    assert ModuleSource(made.module, ["0"], made.batches).sites == {"0": 2}
    assert made.show is made.labels is None
    for factory, message in {
        "my_subject": "not of the form",
        "no_such_subject:make": "name its file",
        "my_subject:mkae": "did you mean 'make'",
        "my_subject:wrong": "gave int",
    }.items():
        with pytest.raises(SpecError, match=message):
            open_factory(spec.model_copy(update={"factory": factory}))
    sys.modules.pop("my_subject")


def test_a_factory_may_be_a_file_beside_the_study(tmp_path, monkeypatch):
    (tmp_path / "parts.py").write_text("import torch\nLAYER = torch.nn.Linear(3, 2)\n")
    (tmp_path / "net.py").write_text(
        "import torch\nfrom dataclasses import dataclass\nfrom parts import LAYER\n"
        "@dataclass\nclass Size:\n    side: 'int' = 2\n"
        "def build():\n    from parts import LAYER as again\n    assert again is LAYER\n"
        "    show = lambda sample: torch.full((Size().side, 2, 3), sample).byte().numpy()\n"
        "    return torch.nn.Sequential(LAYER), [torch.zeros(4, 3)], show, list('abcd')\n"
        "def late():\n    return torch.nn.Linear(1, 1), [], 3\n"
    )
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir("/")
    spec = ModuleSpec(kind="module", factory="net.py:build")
    made = open_factory(subject_beside(spec, tmp_path))
    assert made.labels == ["a", "b", "c", "d"]
    assert made.show(3).shape == (2, 2, 3)
    assert made.show(3).max() == 3
    assert str(tmp_path) not in sys.path
    sys.modules.pop("parts")
    for factory, message in {
        f"{tmp_path}/nett.py:build": "no file .*nett.py; did you mean 'net.py'",
        f"{tmp_path}/net.py:biuld": "did you mean 'build'",
        f"{tmp_path}/net.py:late": "3 as show, no function",
        f"{tmp_path}/broken.py:build": "broken.py ends with ZeroDivisionError",
    }.items():
        with pytest.raises(SpecError, match=message):
            open_factory(spec.model_copy(update={"factory": factory}))
    sys.modules.pop("parts", None)


class Masked(torch.nn.Module):
    """A layer for each position, and one for each sample."""

    def __init__(self):
        super().__init__()
        self.embed, self.pooled = torch.nn.Embedding(20, 4), torch.nn.Linear(4, 4)
        self.decoder = torch.nn.Embedding(20, 4)

    def forward(self, input_ids, decoder_input_ids=None, **_):
        x = self.embed(input_ids)
        if decoder_input_ids is not None:
            self.decoder(decoder_input_ids)
        return self.pooled(x.mean(1))


IDS = torch.arange(10).reshape(2, 5)
REAL = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]])


@pytest.mark.parametrize(
    "mask",
    [
        {"attention_mask": REAL},
        {"attention_mask": REAL.bool()},
        {"attention_mask": REAL.float()},
        {"key_padding_mask": REAL == 0},
        {"src_key_padding_mask": REAL == 0},
    ],
)
def test_padding_gives_no_rows(mask):
    net = Masked()
    second = {name: m[:1, 2:] for name, m in mask.items()}
    batches = [{"input_ids": IDS, **mask}, {"input_ids": IDS[:1, :3], **second}]
    source = ModuleSource(net, ["embed"], batches)
    assert source.rows.tolist() == [7, 3]
    assert source.padding == 3
    real = [*IDS[REAL.bool()], *IDS[:1, :3][REAL[:1, 2:].bool()]]
    assert torch.equal(source.read([0, 1])["embed"], net.embed.weight[torch.stack(real)])
    assert len(reseed.harvest(net, ["embed"], batches)["embed"]) == 10


def test_masks_speak_of_positions_only():
    net = Masked()
    assert ModuleSource(net, ["pooled"], [{"input_ids": IDS, "attention_mask": REAL}]).rows == [2]
    four = REAL[:, None, None, :]  # what attention is given is no list of positions
    assert ModuleSource(net, ["embed"], [{"input_ids": IDS, "attention_mask": four}]).rows == [10]
    both = {"input_ids": IDS, "attention_mask": REAL, "decoder_input_ids": IDS}
    assert ModuleSource(net, ["decoder"], [both]).rows == [10]
    own = both | {"decoder_attention_mask": REAL.flip(0)}
    rows = ModuleSource(net, ["decoder"], [own]).read([0])["decoder"]
    assert torch.equal(rows, net.decoder.weight[IDS[REAL.flip(0).bool()]])
    with pytest.raises(SubjectError, match="batch 1 has no mask of padding"):
        ModuleSource(net, ["embed"], [{"input_ids": IDS, "attention_mask": REAL}, IDS])
