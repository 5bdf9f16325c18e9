"""What a service can be asked: limits of a request, what may be computed together, and how.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from pydantic import BaseModel

from recsys.errors import ConfigError, DataError, did_you_mean
from recsys.retrieval.results import Hits
from recsys.serving.conditions import index_of, search_options
from recsys.serving.limits import ServingLimits
from recsys.serving.ranked_items import RankedItems
from recsys.serving.recommender import Recommender
from recsys.serving.requests import (
    FilteredRequest,
    ItemList,
    ListRequest,
    Lists,
    Predictions,
    PredictRequest,
    RankRequest,
    RecommendRequest,
    Request,
    SearchRequest,
    SetSearchRequest,
    SimilarRequest,
)
from recsys.serving.service_folder import Parts
from recsys.serving.two_stage import Ranked, VersionedStages


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """One kind of request."""

    part: str
    """Of `Parts`, which answers."""
    request: type[Request]
    """What is asked."""
    response: type[BaseModel]
    """What is answered."""
    summary: str
    """In a few words."""
    check: Callable[[Any, ServingLimits], int]
    """Compares with the limits; gives the request's weight in a batch."""
    key: Callable[[Any], Hashable]
    """Only requests of equal keys are computed together."""
    run: Callable[[Parts, list[Any]], Sequence[BaseModel]]
    """Answers requests of one key."""
    rows: str = ""
    """Field with the rows that errors are about."""

    def place(self, request: Any, row: int) -> tuple[str, Any]:
        """Where a row of an error is in the request.

        Args:
            request: The request.
            row: Counted from 1.

        Returns:
            Its place, and its content.
        """
        found = getattr(request, self.rows, None)
        if isinstance(found, list) and row <= len(found):
            return f"{self.rows}.{row - 1}", found[row - 1]
        return self.rows, found


# ------------------------------------------------------------------------------------- limits


def _at_most(what: str, got: int, most: int) -> None:
    if got > most:
        raise ConfigError(f"{what}: expected at most {most:,}, got {got:,}. Ask for less.")


def _check_list(request: ListRequest, limits: ServingLimits) -> None:
    _at_most("k", request.k, limits.max_k)
    _at_most("only", len(request.only or ()), limits.max_ids)
    _at_most("exclude", len(request.exclude or ()), limits.max_ids)


def _check_predict(request: PredictRequest, limits: ServingLimits) -> int:
    _at_most("rows", len(request.rows), limits.max_rows)
    return len(request.rows)


def _check_recommend(request: RecommendRequest, limits: ServingLimits) -> int:
    _check_list(request, limits)
    histories = request.histories or []
    _at_most("users", len(request.users or ()), limits.max_rows)
    _at_most("histories", len(histories), limits.max_rows)
    _at_most("items of histories", sum(map(len, histories)), limits.max_ids)
    _at_most("texts", len(request.texts or ()), limits.max_rows)
    return len(request.users or histories or request.texts or ())


def _check_similar(request: SimilarRequest, limits: ServingLimits) -> int:
    _check_list(request, limits)
    _at_most("items", len(request.items), limits.max_rows)
    return len(request.items)


def _check_search(request: SearchRequest, limits: ServingLimits) -> int:
    _check_list(request, limits)
    _at_most("queries", len(request.queries), limits.max_rows)
    return len(request.queries)


def _check_sets(request: SetSearchRequest, limits: ServingLimits) -> int:
    _check_list(request, limits)
    vectors = sum(map(len, request.queries))
    _at_most("queries", len(request.queries), limits.max_rows)
    _at_most("vectors of queries", vectors, limits.max_rows)
    _at_most("candidates", request.candidates, limits.max_candidates)
    return max(vectors, len(request.queries))


def _check_rank(request: RankRequest, limits: ServingLimits) -> int:
    _check_list(request, limits)
    if request.items is not None:
        _at_most("items", len(request.items), limits.max_candidates)
        return len(request.items)
    _at_most("candidates", request.candidates, limits.max_candidates)
    return request.candidates


# ------------------------------------------------------------------------ what goes together


def _kind(value: Any) -> Hashable:
    """What decides how a column is read: types, and whether numbers are whole."""
    if isinstance(value, float):
        return ("float", value.is_integer())
    if isinstance(value, list):
        return ("list", _kinds(value))
    return type(value).__name__


def _kinds(values: Iterable[Any]) -> frozenset[Hashable]:
    return frozenset(_kind(value) for value in values)


def _columns(rows: Sequence[Mapping[str, Any]]) -> Hashable:
    """Columns by how they are read: one that mixes types is read otherwise than one that does not.

    So requests that differ in this are not computed together.
    """
    names = {name for row in rows for name in row}
    return frozenset((name, _kinds(row.get(name) for row in rows)) for name in names)


def _lonely(request: ListRequest) -> Hashable:
    """Requests with filters are computed alone, as each needs a look at all items."""
    plain = request.only is None and request.exclude is None
    if isinstance(request, FilteredRequest):
        plain = plain and request.where is None
    return None if plain else id(request)


def _key_recommend(request: RecommendRequest) -> Hashable:
    kinds = _kinds(request.users or []), _kinds(i for h in request.histories or [] for i in h)
    way = request.users is None, request.texts is None
    flags = way, request.k, request.exclude_seen, request.unknown
    return flags, kinds, _lonely(request)


def _key_similar(request: SimilarRequest) -> Hashable:
    return request.k, _kinds(request.items), _lonely(request)


def _key_search(request: SearchRequest) -> Hashable:
    widths = frozenset(len(query) for query in request.queries)
    options = request.k, request.cutoff, request.min_results, request.version
    return options, widths, _lonely(request)


def _key_sets(request: SetSearchRequest) -> Hashable:
    options = request.k, request.candidates, request.version, request.cutoff, request.min_results
    return options, _lonely(request)


def _key_rank(request: RankRequest) -> Hashable:
    asks = request.user is None, len(request.query or ()), request.items is None
    kinds = _kinds([request.user]), _kinds(request.items or []), _columns([request.row])
    options = request.k, request.candidates, request.version, request.cutoff, request.min_results
    return asks, kinds, options, _lonely(request)


# ------------------------------------------------------------------------------------ answers


def _predict(parts: Parts, requests: list[PredictRequest]) -> list[Predictions]:
    ranker = parts.ranker
    assert ranker is not None
    found = ranker.predict([row for request in requests for row in request.rows])
    ends = np.cumsum([len(request.rows) for request in requests])[:-1]
    tasks = list(ranker.tasks)
    return [
        Predictions(artefact=parts.artefact, tasks=tasks, predictions=part.tolist())
        for part in np.split(found, ends)
    ]


def _options(model: Recommender, request: RecommendRequest | SimilarRequest) -> dict[str, Any]:
    only, exclude = (_items(model, request, name) for name in ("only", "exclude"))
    return {"k": request.k, "filter": only, "exclude": exclude}


def _items(
    model: Recommender, request: RecommendRequest | SimilarRequest, name: str
) -> list[Any] | None:
    """Ids of ``only`` or ``exclude``, without those that training has not seen."""
    ids = getattr(request, name)
    if ids is None:
        return None
    known = model.items.numbers(ids) >= 0
    if request.unknown_items == "error" and not known.all():
        missing = ids[int(np.flatnonzero(~known)[0])]
        hint = did_you_mean(str(missing), [str(value) for value in model.items.values[:10_000]])
        raise DataError(
            f"{name}: item {missing!r} is not known. {hint} To have such items left out of account "
            'give unknown_items="ignore".'
        )
    return [value for value, there in zip(ids, known) if there]


def _recommend(parts: Parts, requests: list[RecommendRequest]) -> list[Lists]:
    model, first = parts.recommender, requests[0]
    assert model is not None
    options = _options(model, first)
    if first.texts is not None:
        asked = [request.texts or [] for request in requests]
        found = model.recommend_texts([text for texts in asked for text in texts], **options)
        return _cut(parts, found, [len(one) for one in asked])
    options |= {"exclude_seen": first.exclude_seen, "unknown": first.unknown}
    if first.users is not None:
        asked = [request.users or [] for request in requests]
        found = model.recommend([user for users in asked for user in users], **options)
    else:
        asked = [request.histories or [] for request in requests]
        found = model.recommend_for([list(h) for histories in asked for h in histories], **options)
    return _cut(parts, found, [len(one) for one in asked])


def _similar(parts: Parts, requests: list[SimilarRequest]) -> list[Lists]:
    model = parts.recommender
    assert model is not None
    asked = [item for request in requests for item in request.items]
    found = model.similar_items(asked, **_options(model, requests[0]))
    return _cut(parts, found, [len(request.items) for request in requests])


def _cut(parts: Parts, found: RankedItems, counts: list[int]) -> list[Lists]:
    lists = [
        ItemList(
            items=[item for item, _ in found[row]],
            scores=[score for _, score in found[row]],
            by_popularity=bool(found.by_popularity[row]),
        )
        for row in range(len(found))
    ]
    return _shared(parts, lists, counts)


def _shared(parts: Parts, lists: list[ItemList], counts: list[int]) -> list[Lists]:
    ends = np.cumsum(counts).tolist()
    return [
        Lists(artefact=parts.artefact, lists=lists[end - count : end])
        for count, end in zip(counts, ends)
    ]


def _search(parts: Parts, requests: list[SearchRequest]) -> list[Lists]:
    first = requests[0]
    assert parts.index is not None
    index = index_of(parts.index, first.version)
    queries = [query for request in requests for query in request.queries]
    if len({len(query) for query in queries}) > 1:
        raise DataError(f"`queries` must have {index.dim} values each, got several lengths.")
    found = index.search(
        np.array(queries, np.float64), first.k, cutoff=first.cutoff, min_results=first.min_results,
        **search_options(index, first),
    )  # fmt: skip
    return _shared(parts, list(map(_found, found)), [len(r.queries) for r in requests])


def _search_sets(parts: Parts, requests: list[SetSearchRequest]) -> list[Lists]:
    index, first = parts.sets, requests[0]
    assert index is not None
    queries = [query for request in requests for query in request.queries]
    found = index.search(
        queries, first.k, cutoff=first.cutoff, min_results=first.min_results,
        candidates=first.candidates, **search_options(index.index, first),
    )  # fmt: skip
    return _shared(parts, list(map(_found, found)), [len(r.queries) for r in requests])


def _found(hits: Hits) -> ItemList:
    chances = hits.probabilities
    if chances is not None:
        chances = [None if np.isnan(chance) else chance for chance in chances.tolist()]
    return ItemList(
        items=hits.ids.tolist(),
        scores=hits.scores.tolist(),
        probabilities=chances,
        by_popularity=hits.fallback,
    )


def _rank(parts: Parts, requests: list[RankRequest]) -> list[Lists]:
    first, stages = requests[0], parts.two_stage
    assert stages is not None
    if isinstance(stages, VersionedStages):
        given = first.items is not None and first.version is None
        stages = stages.newest if given else stages.of(first.version)
    rows = [request.row for request in requests]
    if first.items is not None:
        if first.version not in (None, stages.index.version):
            raise DataError(
                f"version: expected {stages.index.version!r} of the index, got {first.version!r}."
            )
        items = [request.items or [] for request in requests]
        found = stages.rank_items(rows, items, first.k)
    else:
        if first.user is not None:
            queries = stages.vectors_of([request.user for request in requests])
        else:
            queries = np.array([request.query for request in requests], np.float64)
        found = stages.rank(
            queries, rows, first.k, first.candidates, cutoff=first.cutoff,
            min_results=first.min_results, **search_options(stages.index, first),
        )  # fmt: skip
    return _shared(parts, [_listed(one) for one in found], [1] * len(requests))


def _listed(one: Ranked) -> ItemList:
    return ItemList(items=one.ids.tolist(), scores=one.probabilities.tolist())


def _any(function: Callable[..., Any]) -> Callable[..., Any]:
    return cast(Callable[..., Any], function)


OPERATIONS: dict[str, Operation] = {
    "predict": Operation(
        "ranker", PredictRequest, Predictions, "Probabilities of rows.",
        _check_predict, lambda request: _columns(request.rows), _any(_predict), "rows",
    ),
    "recommend": Operation(
        "recommender", RecommendRequest, Lists, "Lists of items for users.",
        _check_recommend, _key_recommend, _any(_recommend),
    ),
    "similar": Operation(
        "recommender", SimilarRequest, Lists, "Lists of items like others.",
        _check_similar, _key_similar, _any(_similar),
    ),
    "search": Operation(
        "index", SearchRequest, Lists, "Items near to vectors.",
        _check_search, _key_search, _any(_search),
    ),
    "search_sets": Operation(
        "sets", SetSearchRequest, Lists, "Sets of items near to sets of vectors.",
        _check_sets, _key_sets, _any(_search_sets),
    ),
    "rank": Operation(
        "two_stage", RankRequest, Lists, "Candidates of the index, ordered by the ranker.",
        _check_rank, _key_rank, _any(_rank), "row",
    ),
}  # fmt: skip
"""By name."""
