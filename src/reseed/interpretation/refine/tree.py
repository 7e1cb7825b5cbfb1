"""The search over one latent's explanations, as steps that say what they want asked or scored."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Literal, cast

from reseed.interpretation.prompts.replies import read_explanation
from reseed.interpretation.records import Example, Explanation, Failure, Item, Reply, Request, Score
from reseed.interpretation.refine.prompt import Mistake, normal, refine_request
from reseed.interpretation.refine.records import Node, Refined
from reseed.seeds import digest, generator
from reseed.spec.interpretation import RefineSpec

Mistakes = Callable[[Item], Sequence[Mistake]]
"""What an explanation got wrong of the examples of an item that was scored just before."""

Asked = list[Request] | list[Item]
"""Questions, or what is to be scored; never empty."""

Steps = Generator[Asked, list[Reply | Failure] | list[Score | Failure], Refined | Failure]

_Level = Generator[Asked, list[Reply | Failure] | list[Score | Failure], list[Node]]

_Walk = Generator[Asked, list[Reply | Failure] | list[Score | Failure], None]


class Search:
    """A tree search under a budget.

    Args:
        start: with examples of the split "score"; it has an explanation.
        judge: examples of the split "judge"; nothing of them steers the search.
        model: name of the refiner.
        spec: the search.
        mistakes: see `reseed.interpretation.refine.stage.refine_all`.
        calls_to_score: calls of scoring one item.
    """

    def __init__(
        self,
        start: Item,
        judge: Sequence[Example],
        model: str,
        spec: RefineSpec,
        mistakes: Mistakes | None,
        calls_to_score: int,
    ) -> None:
        assert start.explanation is not None
        self._start, self._judge, self._model, self._spec = start, tuple(judge), model, spec
        self._mistakes, self._cost = mistakes, calls_to_score
        self._first = start.explanation
        self._settings = digest([spec.model_dump(mode="json"), start.explanation.settings], 16)
        self._nodes: list[Node] = []
        self._known = {normal(start.explanation.text)}
        self._failures: list[Failure] = []
        self._calls = self._duplicates = 0

    def run(self) -> Steps:
        """The whole search and its judgement."""
        root = yield from self._scored([(None, self._first)])
        if isinstance(root[0].score, Failure):
            failed = root[0].score
            return Failure(
                reason=f"the explanation to start from has no score: {failed.reason}",
                text=failed.text,
            )
        if self._spec.order == "breadth":
            yield from self._breadth(root)
        else:
            yield from self._depth(root[0])
        ended = self._ended
        path = self._path()
        items = [self._item(node.explanation, self._judge) for node in path]
        scores = cast("list[Score | Failure]", (yield items))
        return Refined(
            of=self._start.of,
            nodes=tuple(self._nodes),
            best=path[-1],
            judged={node.number: score for node, score in zip(path, scores, strict=True)},
            calls=self._calls,
            judge_calls=len(path) * self._cost,
            duplicates=self._duplicates,
            failures=tuple(self._failures),
            ended=ended,
        )

    # -- the two orders --------------------------------------------------------------------------

    def _breadth(self, level: list[Node]) -> _Walk:
        for _ in range(self._spec.depth):
            if self._stops or not level:
                return
            level = self._kept((yield from self._expanded(level)))

    def _depth(self, node: Node) -> _Walk:
        if node.depth >= self._spec.depth or self._stops:
            return
        for child in self._kept((yield from self._expanded([node]))):
            yield from self._depth(child)

    def _kept(self, children: list[Node]) -> list[Node]:
        scored = [node for node in children if isinstance(node.score, Score)]
        return sorted(scored, key=lambda node: (-node.value, node.number))[: self._spec.keep]

    # -- growing ---------------------------------------------------------------------------------

    @property
    def _room(self) -> int:
        """Children that the budget still allows."""
        return (self._spec.budget - self._calls) // (1 + self._cost)

    @property
    def _ended(self) -> Literal["enough", "budget", "searched"]:
        enough = self._spec.enough
        if enough is not None and max(node.value for node in self._nodes) >= enough:
            return "enough"
        return "budget" if self._room < 1 else "searched"

    @property
    def _stops(self) -> bool:
        return self._ended != "searched"

    def _expanded(self, parents: list[Node]) -> _Level:
        """New explanations from each of these, scored; each parent gets its turn first."""
        turns = [(parent, b) for b in range(self._spec.branch) for parent in parents]
        turns = turns[: self._room]
        replies = cast("list[Reply | Failure]", (yield [self._request(p, b) for p, b in turns]))
        self._calls += len(turns)
        fresh: list[tuple[int | None, Explanation]] = []
        for (parent, _), reply in zip(turns, replies, strict=True):
            read = reply if isinstance(reply, Failure) else read_explanation(reply.text)
            if isinstance(read, Failure):
                self._failures.append(read)
                continue
            text, _ = read
            if not normal(text) or normal(text) in self._known:
                self._duplicates += 1
            else:
                self._known.add(normal(text))
                fresh.append((parent.number, self._explanation(text)))
        return (yield from self._scored(fresh)) if fresh else []

    def _scored(self, fresh: list[tuple[int | None, Explanation]]) -> _Level:
        items = [self._item(one, self._start.examples) for _, one in fresh]
        scores = cast("list[Score | Failure]", (yield items))
        first = len(self._nodes)
        for (parent, explanation), score in zip(fresh, scores, strict=True):
            self._calls += self._cost
            if isinstance(score, Failure):
                self._failures.append(score)
            self._nodes.append(
                Node(
                    number=len(self._nodes),
                    parent=parent,
                    depth=0 if parent is None else self._nodes[parent].depth + 1,
                    explanation=explanation,
                    score=score,
                    calls=self._calls,
                )
            )
        return self._nodes[first:]

    def _explanation(self, text: str) -> Explanation:
        return Explanation(of=self._start.of, text=text, model=self._model, settings=self._settings)

    def _item(self, explanation: Explanation, examples: Sequence[Example]) -> Item:
        return Item(of=self._start.of, explanation=explanation, examples=tuple(examples))

    def _request(self, parent: Node, branch: int) -> Request:
        return refine_request(
            parent.explanation.text,
            self._critique(parent, branch),
            branch=branch,
            temperature=self._spec.temperature,
            max_tokens=self._spec.max_tokens,
        )

    def _critique(self, parent: Node, branch: int) -> list[Mistake]:
        """Mistakes of both kinds; every branch draws its own, so that children differ."""
        item = self._item(parent.explanation, self._start.examples)
        found = [] if self._mistakes is None else list(self._mistakes(item))
        if not found:
            found = [Mistake(one, None) for one in self._start.examples]
        of = self._start.of
        key = (of.run, of.latent, normal(parent.explanation.text), branch)
        order = generator("refine-critique", *key).permutation(len(found))
        half = (self._spec.shown + 1) // 2
        sides = [[found[i] for i in order if found[i].fires is fires] for fires in (True, False)]
        few = min(len(sides[0]), half), min(len(sides[1]), half)
        spare = self._spec.shown - sum(few)
        return sides[0][: few[0] + spare] + sides[1][: few[1] + spare][: self._spec.shown - few[0]]

    def _path(self) -> list[Node]:
        """The explanations that were the best for a while, in turn."""
        path = [self._nodes[0]]
        for node in self._nodes[1:]:
            if node.value > path[-1].value:
                path.append(node)
        return path
