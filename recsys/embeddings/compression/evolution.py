"""Evolutionary search for one small number a table.

Stability: internal
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from pydantic import Field

from recsys.schema import Frozen

Genes = tuple[int, ...]
_TRIES = 100  # to draw a candidate that was not seen before


class Evolution(Frozen):
    """How to search: every generation changes and crosses its best candidates."""

    generations: int = Field(default=30, ge=0)
    """Rounds after the first, random one."""
    mutations: int = Field(default=10, ge=0)
    """New candidates a generation, each one of the best with some numbers drawn anew."""
    crossovers: int = Field(default=10, ge=0)
    """New candidates a generation, each the start of one of the best and the end of another."""
    elite: int = Field(default=5, ge=1)
    """The best candidates so far, which survive and have offspring."""
    mutation_rate: float = Field(default=0.1, gt=0, le=1)
    """Chance of every number to be drawn anew."""

    def run(
        self,
        limits: Sequence[int],
        fitness: Callable[[Genes], float],
        fits: Callable[[Genes], bool],
        seed: int,
        say: Callable[[str], None],
    ) -> Genes:
        """Searches numbers ``1 <= g_i <= limits[i]``.

        Nothing is judged twice. The first generation has the largest candidate and random ones.

        Args:
            limits: Largest numbers.
            fitness: Higher is better.
            fits: Whether a candidate is allowed. Smaller numbers must be no worse, and all ones
                are always allowed.
            seed: Of the draws.
            say: Told about progress.

        Returns:
            The best; the smaller sum where two are equal.

        Example:
            >>> Evolution(generations=60).run(
            ...     [8, 8], lambda g: -abs(g[0] - 3) - abs(g[1] - 6), lambda g: True, 1,
            ...     lambda text: None)
            (3, 6)
        """
        draw = random.Random(seed)
        scores: dict[Genes, float] = {}
        size = max(1, self.mutations + self.crossovers)
        largest = _shrunk(list(limits), fits, draw)
        fresh = [largest, *(self._random(limits, fits, draw) for _ in range(size - 1))]
        elite: list[Genes] = []
        for generation in range(self.generations + 1):
            for genes in fresh:
                if genes not in scores:
                    scores[genes] = fitness(genes)
            ranked = sorted(scores, key=lambda genes: (-scores[genes], sum(genes), genes))
            elite = ranked[: self.elite]
            say(
                f"search {generation}/{self.generations}: best {scores[elite[0]]:.5f} of "
                f"{len(scores):,}, mean {sum(elite[0]) / len(limits):.1f}"
            )
            fresh = self._offspring(elite, scores, limits, fits, draw)
        return elite[0]

    def _offspring(
        self,
        elite: Sequence[Genes],
        seen: dict[Genes, float],
        limits: Sequence[int],
        fits: Callable[[Genes], bool],
        draw: random.Random,
    ) -> list[Genes]:
        """New candidates; fewer where the search space runs out."""
        found: list[Genes] = []
        for wanted, make in ((self.mutations, self._mutated), (self.crossovers, self._crossed)):
            tries, made = _TRIES, 0
            while made < wanted and tries:
                tries -= 1
                genes = _shrunk(make(elite, limits, draw), fits, draw)
                if genes not in seen and genes not in found:
                    found.append(genes)
                    made += 1
        return found

    def _random(
        self, limits: Sequence[int], fits: Callable[[Genes], bool], draw: random.Random
    ) -> Genes:
        return _shrunk([draw.randint(1, limit) for limit in limits], fits, draw)

    def _mutated(
        self, elite: Sequence[Genes], limits: Sequence[int], draw: random.Random
    ) -> list[int]:
        parent = draw.choice(elite)
        return [
            draw.randint(1, limit) if draw.random() < self.mutation_rate else gene
            for gene, limit in zip(parent, limits)
        ]

    def _crossed(
        self, elite: Sequence[Genes], limits: Sequence[int], draw: random.Random
    ) -> list[int]:
        del limits
        one, other = draw.choice(elite), draw.choice(elite)
        point = draw.randint(0, len(one))
        return [*one[:point], *other[point:]]


def _shrunk(genes: list[int], fits: Callable[[Genes], bool], draw: random.Random) -> Genes:
    """Takes 1 off random numbers until the candidate is allowed."""
    while not fits(tuple(genes)):
        large = [i for i, gene in enumerate(genes) if gene > 1]
        if not large:
            break
        genes[draw.choice(large)] -= 1
    return tuple(genes)
