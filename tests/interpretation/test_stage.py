"""Explaining and scoring a study: a model that knows the toy's features, one that guesses."""

import contextlib
import io
import json
import random
import re
import shutil
import signal
import socket
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import polars as pl
import pytest
from tests.processes import RESEED, child, children, until

pytest.importorskip("torch", reason="training needs torch")

import reseed
from reseed.errors import ReseedError, SpecError, StoreError
from reseed.events import Events
from reseed.evidence.tables import WINDOWS
from reseed.interpretation.models import Scripted
from reseed.interpretation.models.asker import JournaledAsker
from reseed.interpretation.models.journal import Journal, entries
from reseed.interpretation.records import Failure
from reseed.interpretation.results import chosen_groups, read_explained
from reseed.interpretation.select.stage import select
from reseed.interpretation.similarity import comparison
from reseed.interpretation.stage import explain, score, stage
from reseed.pipeline.work import work
from reseed.runs import evidence_name, explanations_name, scores_name
from reseed.spec.interpretation import InterpretationSpec
from reseed.store import Store
from reseed.study import Study

FEATURE = re.compile(r"f(\d+)")
SERVER = {"explainer": {"model": "m", "base_url": "http://127.0.0.1:9/v1"}}


def numbered(text, label):
    return re.findall(rf"^{label} ?: ?(.*)$", text, re.MULTILINE)


def common(texts):
    """The feature in most of these texts."""
    counts = Counter(f for text in texts for f in set(FEATURE.findall(text)))
    return counts.most_common(1)[0][0] if counts else "0"


def truth(request):
    """The right answer, from the names of features in the text."""
    asked = request.messages[-1].content
    if request.purpose == "explain":
        marked = re.findall(r"<<(.*?)>>", asked)
        return json.dumps({"explanation": f"feature f{common(marked)}"})
    texts = numbered(asked, r"\d+")
    if request.purpose == "intruder":
        texts = [" ".join(re.findall(r"<<(.*?)>>", text)) for text in texts]
        best = common(texts)
        alone = [n for n, text in enumerate(texts) if best not in FEATURE.findall(text)]
        return json.dumps({"intruder": alone[0] if alone else 0})
    said = FEATURE.findall(asked.split("\n1:")[0].split("\n0:")[0])
    feature = said[-1] if said else "-1"
    if request.purpose.startswith("fuzzing"):
        texts = [" ".join(re.findall(r"<<(.*?)>>", text)) for text in texts]
    return json.dumps({"answers": [int(feature in FEATURE.findall(text)) for text in texts]})


def guess(request):
    rng = np.random.default_rng(abs(hash(request.messages[-1].content)) % 2**32)
    if request.purpose == "explain":
        return json.dumps({"explanation": f"feature f{rng.integers(24)}"})
    if request.purpose == "intruder":
        return json.dumps({"intruder": int(rng.integers(5))})
    count = request.schema["properties"]["answers"]["minItems"]
    return json.dumps({"answers": rng.integers(2, size=count).tolist()})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Three runs on a toy whose samples are read as text; latents are true features, mostly."""
    from reseed.spec.refusals import read_spec
    from reseed.spec.study import StudySpec
    from reseed.study import Study

    data = {
        "subject": {
            "kind": "toy", "features": 24, "dimensions": 48, "active": 2.0, "zipf": 0.3,
            "noise": 0.0, "block": 128,
        },
        "activations": {"sites": ["toy"], "tokens": 24_000, "held_out": 0.3},
        "sae": [{"architecture": "relu", "latents": 32, "penalty": 0.1, "lr": 5e-3}],
        "seeds": {"init": [0, 1, 2]},
        "training": {"tokens": 120_000, "batch": 256, "threads": 1},
        "evidence": {"toy_text": True, "window": 4, "contexts": 2},
        "stability": {"null_draws": 1},
    }  # fmt: skip
    made = Study(read_spec(StudySpec, data, "test"), tmp_path_factory.mktemp("explained"))
    reseed.run(made, progress=False)
    return made


def spec(**changes):
    given = {"per_kind": 6, "examples": 10, "random_latents": 4, **SERVER, **changes}
    return InterpretationSpec.model_validate(given)


def fake(answer):
    """Everything to one scripted model, without a journal."""
    model = Scripted(answer)

    class Asker:
        name = "fake"

        def ask(self, requests):
            return [model.reply(request) for request in requests]

    return (lambda _, __: Asker()), model


@pytest.fixture(scope="module")
def scored(study):
    (group,) = chosen_groups(study, None)
    asker_of, _ = fake(truth)
    return stage(study, Events(), group, spec=spec(), asker_of=asker_of)


def means(table, control=None):
    mine = table.filter(pl.col("control").eq_missing(pl.lit(control)))
    return dict(mine.group_by("scorer").agg(pl.col("value").mean()).iter_rows())


def test_a_model_that_knows_the_features_scores_near_one_and_controls_do_not(scored):
    explained, found = scored
    kinds = Counter(explained.table["kind"])
    assert kinds["random"] <= 4
    assert kinds["partner"] > 0
    assert explained.table["explanation"].is_not_null().all()
    assert set(found.table["scorer"]) == {"detection", "fuzzing", "intruder"}
    # what comes back is a feature of the toy; an orphan may be none
    whole = explained.table.filter(kind="reproducible").select("run", "latent")
    real = means(found.table.join(whole, on=["run", "latent"], how="semi"))
    shuffled, random = (means(found.table, c) for c in ("shuffled", "random"))
    assert real["detection"] > 0.9
    assert real["fuzzing"] > 0.9
    assert real["intruder"] > 0.85
    assert shuffled["detection"] < 0.65
    assert "intruder" not in shuffled, "it needs no explanation, so none is exchanged"
    assert random["detection"] < 0.75
    assert found.functional["says"]
    for one in found.comparison["scorers"]:
        assert {"shuffled", "random"} >= set(one["controls"])
        assert one["says"]
        assert one["failed_questions"] == 0


def test_the_table_of_latents_has_what_was_said(study, scored):
    told = study.latents
    rows = told.filter(pl.col("explanation").is_not_null())
    asked = scored[0].table.filter(pl.col("kind") != "random")
    assert len(told) == 3 * 32
    assert len(rows) == len(asked.unique(["run", "latent"]))
    assert rows["score_detection"].drop_nulls().len() > 5
    out = study.folder.parent / "latents.parquet"
    reseed.export(study, out, where="explanation IS NOT NULL", overwrite=True)
    assert pl.read_parquet(out)["explanation"].to_list() == rows["explanation"].to_list()


def test_examples_of_explaining_and_scoring_share_no_document(study, scored):
    from reseed.interpretation.examples import ExampleSets, check_disjoint, latents_in

    of = latents_in(scored[0].table.filter(kind="reproducible"))
    examples = ExampleSets(study.store, of)
    for latent in of:
        shown = examples.to_explain(latent, spec()).examples
        asked = examples.to_score(latent, "score", spec()).examples
        assert shown
        assert asked
        check_disjoint(shown, asked)
        kinds = Counter(one.kind for one in asked)
        assert kinds["firing"] == kinds["random"] + kinds["neighbour"] == 10


def with_a_leak(study, folder, splits):
    """A copy of the study in which the windows of these splits are all of one document."""
    shutil.copytree(study.folder, folder)
    copy = type(study)(study.spec, folder)
    for run in {latent["run"] for latent in study.latents.select("run").iter_rows(named=True)}:
        name = evidence_name(run)
        made_from = json.loads((folder / name / "piece.json").read_text())["made_from"]
        windows = study.store.table(name, WINDOWS).with_columns(
            pl.when(pl.col("split").is_in(splits))
            .then(pl.lit(7).cast(pl.Int64))
            .otherwise(pl.col("document"))
            .alias("document")
        )
        with copy.store.piece(name, made_from) as building:
            shutil.copytree(study.folder / name, building, dirs_exist_ok=True)
            (building / "piece.json").unlink()
            windows.write_parquet(building / WINDOWS)
    return copy


@pytest.mark.parametrize("door", ["explain", "score", "refine"])
def test_a_planted_leak_is_refused_before_anything_is_asked(study, scored, tmp_path, door):
    """Of what was explained and what is scored; and of what a refinement is judged on."""
    splits = ["score", "judge"] if door == "refine" else ["explain", "score"]
    leaking = with_a_leak(study, tmp_path / "leaking", splits)
    (group,) = chosen_groups(leaking, None)
    asker_of, model = fake(truth)
    call = score if door == "score" else explain
    refine = {"branch": 1, "keep": 1, "depth": 1, "budget": 30}
    settings = spec(seed=11, **({"refine": refine} if door == "refine" else {}))
    with pytest.raises(SpecError, match=r"document 7 is among .*, so the score would reward"):
        call(leaking, Events(), group, spec=settings, asker_of=asker_of)
    assert model.asked == []
    # without the leak the same call goes through
    whole = type(study)(study.spec, shutil.copytree(study.folder, tmp_path / "whole"))
    call(whole, Events(), group, spec=settings, asker_of=asker_of)
    assert model.asked


def test_a_model_that_guesses_scores_at_chance(study):
    (group,) = chosen_groups(study, None)
    asker_of, _ = fake(guess)
    other = spec(seed=1, controls=[])
    explain(study, Events(), group, spec=other, asker_of=asker_of)
    found = score(study, Events(), group, spec=other, asker_of=asker_of)
    for scorer, chance in (("detection", 0.5), ("fuzzing", 0.5), ("intruder", 0.2)):
        values = found.table.filter(scorer=scorer)["value"].drop_nulls()
        error = values.std() / len(values) ** 0.5
        assert abs(values.mean() - chance) < 4 * error + 0.02


def test_a_judge_that_answers_alike_is_told(study, tmp_path):
    (group,) = chosen_groups(study, None)
    for reply, alike in ((lambda _: '{"intruder": 1}', True), (truth, False)):
        other = spec(seed=7 + alike, scorers=["intruder"])
        explain(study, Events(), group, spec=other, asker_of=fake(truth)[0])
        with JournaledAsker(Scripted(reply), Journal(tmp_path / f"{alike}.jsonl")) as asker:
            found = score(study, Events(), group, spec=other, asker_of=lambda *_, a=asker: a)
        said = [says for says in found.comparison["unscored"] if "answers alike" in says]
        assert len(said) == alike
        assert not alike or "replies are '{\"intruder\": 1}'" in said[0]


def test_nothing_is_asked_twice_even_if_all_results_are_lost(study, tmp_path):
    (group,) = chosen_groups(study, None)
    model = Scripted(truth)

    def asker_of(_, purpose):
        return JournaledAsker(model, Journal(tmp_path / f"{purpose}.jsonl"))

    def once():
        opened = []

        def keep(model_spec, purpose):
            opened.append(asker_of(model_spec, purpose))
            return opened[-1]

        try:
            explain(study, Events(), group, spec=spec(seed=2), asker_of=keep)
            return score(study, Events(), group, spec=spec(seed=2), asker_of=keep).table
        finally:
            for one in opened:
                one.close()

    first = once()
    asked = len(model.asked)
    assert asked > 50
    assert once().equals(first), "the result is read"
    for name in ("explanations", "scores"):
        shutil.rmtree(study.folder / name)
    assert once().equals(first)
    assert len(model.asked) == asked


def test_questions_without_an_answer_are_asked_again_and_no_others(study, tmp_path):
    (group,) = chosen_groups(study, None)
    down, count = [True], [0]

    def flaky(request):
        count[0] += 1
        if down[0] and count[0] % 3 == 0:
            return Failure(reason="no usable answer: HTTP 503")
        return truth(request)

    model = Scripted(flaky)

    def once(door):
        model.asked.clear()
        journal = Journal(tmp_path / f"{door.__name__}.jsonl")
        with JournaledAsker(model, journal) as asker:
            made = door(study, Events(), group, spec=spec(seed=5), asker_of=lambda *_: asker)
        return sum(used["failed"] for used in made.accounts.values()), len(model.asked)

    for door in (explain, score):
        down[0] = True
        failed, _ = once(door)
        assert failed > 2
        down[0] = False
        assert once(door) == (0, failed), "those alone that failed"
        assert once(door)[1] == 0, "then the result is read"


def test_replies_that_are_no_answers_are_failures_and_lose_nothing(study):
    (group,) = chosen_groups(study, None)
    broken = iter(["", "I think so!", '{"answers": [1]}', "[" * 2000, '{"explanation": 7}'] * 10**5)
    asker_of, _ = fake(lambda _: next(broken))
    bad = spec(seed=3)
    explained = explain(study, Events(), group, spec=bad, asker_of=asker_of)
    failed = explained.table.filter(pl.col("explanation").is_null())
    assert failed["failure"].is_not_null().all()
    assert failed["reply"].is_not_null().any(), "what came is kept"
    found = score(study, Events(), group, spec=bad, asker_of=asker_of)
    lost = found.table.filter(pl.col("value").is_null())
    assert lost["failure"].is_not_null().all()
    assert len(found.table.filter(pl.col("control").is_null(), scorer="detection")) <= 18


def test_refining_and_other_scorers_go_through(study, scored):
    (group,) = chosen_groups(study, None)
    asker_of, _ = fake(lambda r: truth(r) if r.purpose != "refine" else '{"explanation": "f1"}')
    words = {"kind": "words", "dimensions": 64}
    more = spec(
        seed=4,
        per_kind=2,
        refine={"branch": 1, "keep": 1, "depth": 1, "budget": 30},
        embedder=words,
        scorers=["detection", "embedding", "example_embedding", "simulation"],
        controls=["shuffled"],
    )
    explained = explain(study, Events(), group, spec=more, asker_of=asker_of)
    assert "refining" in explained.gain
    found = score(study, Events(), group, spec=more, asker_of=asker_of)
    assert set(found.table["scorer"]) == set(more.scorers)
    assert found.comparison["similarity"] is not None


def test_a_scorer_without_a_score_is_told(study, scored):
    (group,) = chosen_groups(study, None)
    explained, found = scored
    lost = found.table.with_columns(
        value=pl.when(pl.col("scorer") == "intruder").then(None).otherwise(pl.col("value")),
        failure=pl.lit("3 windows"),
    )
    told = comparison(study.latent_table(group), explained.table, lost, None)
    assert "intruder" not in [one["scorer"] for one in told["scorers"]]
    (says,) = told["unscored"]
    assert says.startswith("intruder: none of ")
    assert says.endswith("mostly: 3 windows")
    assert found.comparison["unscored"] == []


def test_what_cannot_be_is_refused_before_anything_is_asked(study, tmp_path):
    (group,) = chosen_groups(study, None)
    with pytest.raises(ValueError, match=r"interpretation.embedder"):
        spec(scorers=["embedding"])
    with pytest.raises(ValueError, match="examples = 3 are too few"):
        spec(examples=3)
    with pytest.raises(ValueError, match="needs prices"):
        spec(budget={"max_cost": 1})
    with pytest.raises(SpecError, match="no group"):
        chosen_groups(study, "nothing")
    with pytest.raises(StoreError, match="reseed explain"):
        read_explained(study, replace(group, name="other"))
    asker_of, _ = fake(truth)
    with pytest.raises(SpecError, match="writes no text"):
        explain(study, Events(), group, spec=spec(seed=9, top_logits=True), asker_of=asker_of)
    with pytest.raises(ReseedError):
        select(study, Events(), "no-such-run", "*", 3)


class Server(BaseHTTPRequestHandler):
    """Answers as an OpenAI-compatible server does, with the truth."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        from reseed.interpretation.records import Message, Request

        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        messages = tuple(Message(**one) for one in body["messages"])
        shape = body["response_format"]["json_schema"]["schema"]["properties"]
        purpose = {"explanation": "explain", "intruder": "intruder"}.get(next(iter(shape)))
        if purpose is None:
            purpose = "fuzzing" if "<<" in messages[-1].content else "detection"
        text = truth(Request(messages=messages, purpose=purpose))
        said = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        reply = {"choices": [said], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}
        out = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(out)))
        self.end_headers()
        self.wfile.write(out)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    one = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=one.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{one.server_port}/v1"
    one.shutdown()
    one.server_close()
    thread.join()


def with_server(study, folder, server):
    """A copy of the study's folder whose TOML names a server."""
    shutil.copytree(study.folder, folder, ignore=shutil.ignore_patterns("scores", "explanations"))
    lines = []
    for name, table in study.spec.model_dump(mode="json", exclude_unset=True).items():
        for one in table if isinstance(table, list) else [table]:
            lines.append(f"[[{name}]]" if isinstance(table, list) else f"[{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in one.items()]
    lines += ["[interpretation]", "per_kind = 4", "examples = 6", "random_latents = 3"]
    lines += ["[interpretation.explainer]", 'model = "truth"', f"base_url = {json.dumps(server)}"]
    (folder / "study.toml").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_ends_explain_though_the_server_is_silent(study, tmp_path, signum, code):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        folder = with_server(study, tmp_path / "study", url)
        silent.settimeout(200)
        with (
            child(*RESEED, "explain", folder, "--quiet") as process,
            silent.accept()[0] as connection,
        ):
            connection.recv(1)
            process.send_signal(signum)
            message, _ = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in message
    assert "the same command continues" in message


def test_the_commands_explain_score_and_report(study, server, cli, tmp_path):
    """Through a real server on this machine, from a study's folder with its TOML."""
    folder = with_server(study, tmp_path / "study", server)
    dry = cli("explain", folder, "--dry")
    assert dry.returncode == 0, dry.stderr
    assert "detection" in dry.stdout
    assert not (folder / "journals").exists()
    told = cli("explain", folder, "--quiet")
    assert told.returncode == 0, told.stderr
    assert "feature f" in told.stdout
    told = cli("score", folder, "--quiet")
    assert told.returncode == 0, told.stderr
    assert "orphan" in told.stdout
    page = (folder / "report.html").read_text()
    assert "feature f" in page
    assert "Explanations" in page
    assert cli("score", folder, "--quiet").returncode == 0
    with reseed.Study.load(folder).store.lock("reseed run in another window"):
        for command in ("explain", "score"):  # all is there: only the page would be written
            busy = cli(command, folder, "--quiet")
            assert busy.returncode == 3
            assert "reseed run in another window" in " ".join(busy.stderr.split())
    assert (folder / "report.html").read_text() == page


def test_a_plan_counts_what_would_be_asked(study):
    from reseed.interpretation.costs import cost_sentences

    priced = {"model": "m", "base_url": "http://127.0.0.1:9/v1", "prices": {"prompt": 1.0}}
    asked = study.spec.model_copy(update={"interpretation": spec(explainer=priced)})
    (told,) = cost_sentences(type(study)(asked, study.folder))
    assert "calls" in told
    assert "cost" in told
    assert cost_sentences(study) == []


# -- by processes that share a study ---------------------------------------------------------------


class Counted:
    """A server that knows the truth, counts what it is asked, and may hold its replies back."""

    def __init__(self, most):
        self.asked, self.lock, self.most = Counter(), threading.Lock(), most
        self.held, self.let_go = threading.Event(), threading.Event()
        outer = self

        class Handler(Server):
            def do_POST(self):
                length = int(self.headers["content-length"])
                body = self.rfile.read(length)
                with outer.lock:
                    outer.asked[asked_in(json.loads(body))] += 1
                    count = outer.asked.total()
                if outer.most is not None and count > outer.most and not outer.let_go.is_set():
                    outer.held.set()
                    outer.let_go.wait(200)
                self.rfile = io.BytesIO(body)
                super().do_POST()

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self.server = Quiet(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@contextlib.contextmanager
def counted(most=None):
    one = Counted(most)
    yield one
    one.let_go.set()
    one.server.shutdown()
    one.server.server_close()


def asked_in(body):
    return json.dumps([body["messages"], body.get("seed")])


def answered_in(folder):
    """What the journals of a study have an answer to, as the server counts it."""
    rows = [row for path in (folder / "journals").glob("*.jsonl") for row in entries(path)]
    return Counter(json.dumps(row["asked"]["messages"][-1]["content"]) for row in rows)


def same_results(folder, other, name, table):
    one, two = (Store(each).table(f"{name}", table) for each in (folder, other))
    return one.equals(two)


def test_a_process_is_killed_and_the_other_asks_only_what_has_no_answer(study, tmp_path):
    """Two processes explain; what the survivor makes is what one process makes."""
    group = explanations_name(chosen_groups(study, None)[0].name)
    with counted() as server:
        alone = with_server(study, tmp_path / "alone", server.url)
        work(Study.load(alone), stage="explain", progress=False)
        every = set(server.asked)
        assert set(server.asked.values()) == {1}
    with counted(most=4) as server:
        folder = with_server(study, tmp_path / "shared", server.url)
        explaining = (*RESEED, "work", folder, "--stage", "explain", "--quiet", "--share")
        with children((*explaining, "1/2"), (*explaining, "2/2")) as (first, second):
            until(server.held.is_set, first, second)
            first.kill()
            first.wait()
            known = answered_in(folder)
            server.let_go.set()
            said, _ = second.communicate(timeout=200)
        assert second.returncode == 0, said
        assert set(server.asked) == every
        twice = {asked for asked, count in server.asked.items() if count > 1}
        assert not known.keys() & {json.dumps(json.loads(a)[0][-1]["content"]) for a in twice}
        assert set(answered_in(folder).values()) == {1}
        before = server.asked.total()
        explained = read_explained(Study.load(folder), chosen_groups(study, None)[0])
        assert explained.accounts["explain"]["asked"] == 0
        work(Study.load(folder), stage="explain", progress=False)
        assert server.asked.total() == before
    assert same_results(folder, alone, group, "explanations.parquet")


@pytest.mark.slow
def test_shares_are_explained_and_scored_over_many_kills(study, tmp_path):
    """Processes are killed at random while they explain and score, and started again."""
    group, draw = chosen_groups(study, None)[0].name, random.Random(0)
    with counted() as server:
        alone = with_server(study, tmp_path / "alone", server.url)
        for stage_of in ("explain", "score"):
            work(Study.load(alone), stage=stage_of, progress=False)
        every = set(server.asked)
    with counted() as server:
        folder = with_server(study, tmp_path / "shared", server.url)
        known, lost = Counter(), 0
        for stage_of in ("explain", "score"):
            shared = (*RESEED, "work", folder, "--stage", stage_of, "--quiet", "--share")
            for kill in (True, True, True, False):
                with children(*((*shared, f"{i}/3") for i in (1, 2, 3))) as processes:
                    if not kill:
                        ends = [process.communicate(timeout=280)[0] for process in processes]
                        assert [process.returncode for process in processes] == [0] * 3, ends
                        break
                    wanted = server.asked.total() + draw.randint(1, 12)
                    until(
                        lambda wanted=wanted, processes=processes: (
                            server.asked.total() >= wanted
                            or all(process.poll() is not None for process in processes)
                        )
                    )
                known = answered_in(folder)
                assert set(known.values()) <= {1}
        assert set(server.asked) == every
        lost = server.asked.total() - len(every)
        assert lost <= 6 * 3 * 8  # what was under way at each kill
    for name, table in (
        (explanations_name(group), "explanations.parquet"),
        (scores_name(group), "scores.parquet"),
    ):
        assert same_results(folder, alone, name, table)
