"""What can be searched for: metrics of the validation split by kind of model, bytes and time.

Stability: caller
"""

from __future__ import annotations

import re
from typing import Literal

from recsys.errors import ConfigError, did_you_mean
from recsys.metrics.ranking import RANKING_METRICS

Direction = Literal["maximize", "minimize"]
METRICS: dict[str, Direction] = {
    "auc": "maximize",
    "grouped_auc": "maximize",
    "pr_auc": "maximize",
    "logloss": "minimize",
    "normalized_entropy": "minimize",
}
"""Of models that predict clicks. Collaborative filters have those of `recsys.metrics.ranking` at a
cut-off, ``ndcg@20``, all of them to be maximized."""
COSTS: dict[str, Direction] = {"bytes": "minimize", "lookup_us": "minimize"}
"""``bytes`` are of the tables as they are served, ``lookup_us`` microseconds to look up all
features of a row in them, in batches of 4,096."""
_RANKING = re.compile(rf"^({'|'.join(RANKING_METRICS)})@([1-9][0-9]*)$")


def cut_off(name: str) -> int | None:
    """The length of the lists that a ranking metric judges; None for other objectives.

    Args:
        name: Of an objective.

    Example:
        >>> cut_off("ndcg@20"), cut_off("auc")
        (20, None)
    """
    found = _RANKING.match(name)
    return None if found is None else int(found[2])


def direction_of(name: str) -> Direction:
    """Whether more or less of an objective is better.

    Args:
        name: Of it.

    Raises:
        ConfigError: There is no such objective.
    """
    known: dict[str, Direction] = {**METRICS, **COSTS}
    if cut_off(name) is not None:
        return "maximize"
    if name in known:
        return known[name]
    stem, _, k = name.partition("@")
    if stem in RANKING_METRICS:
        raise ConfigError(
            f"objectives: `{name}` needs the length of the lists, say `{stem}@20`, got "
            f"{k or 'none'!r}."
        )
    lists = [f"{metric}@{k or 20}" for metric in RANKING_METRICS]
    raise ConfigError(
        f"objectives: there is no objective `{name}`. {did_you_mean(name, [*known, *lists])}"
    )
