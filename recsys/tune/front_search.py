"""Evolution of a front: a metric against bytes that are known beforehand.

Source:
    Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", 2002, sections III-A
    to III-C: fronts, crowding, parents by tournaments, the best of parents and children survive.
    Mutation and crossover of Lyu et al., "OptEmbed", CIKM 2022, section 3.3, as in
    `recsys.embeddings.compression.evolution`. Different: a child that is too large is made smaller,
    and nothing is judged twice.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping, Sequence

from recsys.embeddings.compression.evolution import Evolution
from recsys.errors import BudgetInfeasible
from recsys.tune.halving import crowding, fronts

Genes = tuple[int, ...]
"""The position of every table's width among its widths, narrowest first."""
_TRIES = 100  # to draw a candidate that was not seen before


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes of candidates, as a sum over genes.

    Args:
        rest: Bytes that do not depend on the genes.
        costs: Bytes of every value of every gene.

    Example:
        >>> Sizes(10, ((4, 8), (100, 60))).of((1, 0))
        118
    """

    rest: int
    costs: tuple[tuple[int, ...], ...]

    def of(self, genes: Genes) -> int:
        """Bytes of a candidate.

        Args:
            genes: It.
        """
        return self.rest + sum(costs[gene] for gene, costs in zip(genes, self.costs, strict=True))

    @property
    def least(self) -> int:
        """The fewest bytes of any candidate."""
        return self.rest + sum(map(min, self.costs))


class FrontSearch:
    """Searches genes for the highest score at any number of bytes.

    The first generation has the candidates that give every table the same width, and random ones:
    some narrow, some wide, so that bytes are spread.

    Args:
        sizes: Bytes of every candidate; a wider table may be the smaller one.
        most: Most bytes; None for any.
        evolution: How long and how; ``elite`` is the population that survives a generation.

    Raises:
        BudgetInfeasible: Nothing is small enough.

    Example:
        >>> search = FrontSearch(Sizes(0, ((1, 2, 3), (10, 20, 30))), 32, Evolution(elite=8))
        >>> scores = search.run(lambda genes: genes[0] + genes[1] / 10, 1, lambda text: None)
        >>> search.front(scores)
        [(0, 0), (1, 0), (2, 0), (2, 1)]
    """

    def __init__(self, sizes: Sizes, most: int | None, evolution: Evolution) -> None:
        if most is not None and sizes.least > most:
            raise BudgetInfeasible(
                f"at most {most:,} bytes are allowed, and the smallest tables in this space take "
                f"{sizes.least:,}. Raise the limit, or search narrower widths.",
                sizes.least,
            )
        self.sizes, self.most, self.evolution = sizes, most, evolution

    def run(
        self, judge: Callable[[Genes], float], seed: int, say: Callable[[str], None]
    ) -> dict[Genes, float]:
        """All candidates that were judged, with their scores.

        Args:
            judge: Higher is better. Never called twice with the same genes.
            seed: Of the draws.
            say: Told about progress.
        """
        draw = random.Random(seed)
        scores: dict[Genes, float] = {}
        parents: list[Genes] = []
        fresh = self._first(draw)
        for generation in range(self.evolution.generations + 1):
            for genes in fresh:
                scores[genes] = judge(genes)
            parents = self._best([*parents, *fresh], scores)
            found = self.front(scores)
            say(
                f"widths {generation}/{self.evolution.generations}: {len(scores):,} judged, "
                f"{len(found)} on the front, "
                f"{scores[found[0]]:.5f} at {self.sizes.of(found[0]):,} bytes to "
                f"{scores[found[-1]]:.5f} at {self.sizes.of(found[-1]):,}"
            )
            fresh = self._offspring(parents, scores, draw)
            if not fresh:
                break
        return scores

    def front(self, scores: Mapping[Genes, float]) -> list[Genes]:
        """Candidates that no other beats, the smallest first; one of those that are equal.

        Args:
            scores: By candidate.
        """
        found: list[Genes] = []
        for genes in sorted(
            scores, key=lambda genes: (self.sizes.of(genes), -scores[genes], genes)
        ):
            if not found or scores[genes] > scores[found[-1]]:
                found.append(genes)
        return found

    # ------------------------------------------------------------------------------- selection

    def _best(self, candidates: Iterable[Genes], scores: Mapping[Genes, float]) -> list[Genes]:
        """The population, best first: by front, then the loneliest of a front."""
        pool = list(dict.fromkeys(candidates))
        points = [(float(self.sizes.of(genes)), -scores[genes]) for genes in pool]
        found: list[Genes] = []
        for front in fronts(points):
            lonely = crowding([points[i] for i in front])
            order = sorted(range(len(front)), key=lambda i: (-lonely[i], pool[front[i]]))
            found += [pool[front[i]] for i in order]
            if len(found) >= self.evolution.elite:
                break
        return found[: self.evolution.elite]

    # ------------------------------------------------------------------------------- candidates

    def _first(self, draw: random.Random) -> list[Genes]:
        limits = [len(costs) for costs in self.sizes.costs]
        found = [self._shrunk([min(level, n - 1) for n in limits], draw)
                 for level in range(max(limits))]  # fmt: skip
        found.append(tuple(costs.index(min(costs)) for costs in self.sizes.costs))
        wanted = max(len(found), self.evolution.mutations + self.evolution.crossovers)
        for _ in range(wanted - len(found)):
            bend = 2 ** draw.uniform(-2, 2)
            genes = [min(n - 1, int(n * draw.random() ** bend)) for n in limits]
            found.append(self._shrunk(genes, draw))
        return list(dict.fromkeys(found))

    def _offspring(
        self, parents: Sequence[Genes], seen: Mapping[Genes, float], draw: random.Random
    ) -> list[Genes]:
        """New candidates; fewer where the search space runs out."""
        found: dict[Genes, None] = {}
        evolution = self.evolution
        for wanted, make in (
            (evolution.mutations, self._mutated),
            (evolution.crossovers, self._crossed),
        ):
            tries, made = _TRIES, 0
            while made < wanted and tries:
                tries -= 1
                genes = self._shrunk(make(parents, draw), draw)
                if genes not in seen and genes not in found:
                    found[genes] = None
                    made += 1
        return list(found)

    def _mutated(self, parents: Sequence[Genes], draw: random.Random) -> list[int]:
        return [
            draw.randrange(len(costs)) if draw.random() < self.evolution.mutation_rate else gene
            for gene, costs in zip(_one_of(parents, draw), self.sizes.costs)
        ]

    def _crossed(self, parents: Sequence[Genes], draw: random.Random) -> list[int]:
        one, other = _one_of(parents, draw), _one_of(parents, draw)
        point = draw.randint(0, len(one))
        return [*one[:point], *other[point:]]

    def _shrunk(self, genes: list[int], draw: random.Random) -> Genes:
        """Takes random genes to their next smaller value until the candidate is allowed."""
        while self.most is not None and self.sizes.of(tuple(genes)) > self.most:
            smaller = [
                (i, max((c, g) for g, c in enumerate(costs) if c < costs[genes[i]])[1])
                for i, costs in enumerate(self.sizes.costs)
                if costs[genes[i]] > min(costs)
            ]
            position, gene = draw.choice(smaller)
            genes[position] = gene
        return tuple(genes)


def _one_of(parents: Sequence[Genes], draw: random.Random) -> Genes:
    """The better of two at random; parents are in order."""
    return parents[min(draw.randrange(len(parents)), draw.randrange(len(parents)))]
