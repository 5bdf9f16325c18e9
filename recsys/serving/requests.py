"""What a `recsys.serving.service.Service` is asked and what it answers, as pydantic models.

Requests are read strictly: unknown fields, numbers as text and numbers that are not finite are
errors. They name ids and columns, never files or classes.

Stability: caller
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator

Id = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | StrictStr
"""Of a user or item: a whole number or text, as in the training data."""
Value = str | float | int | bool
"""A value in a condition."""
Op = Literal["eq", "ne", "lt", "le", "gt", "ge", "in"]
"""How a column and a value are compared; ``in`` takes a list."""


class Request(BaseModel):
    """Base of all requests."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class PredictRequest(Request):
    """Probabilities of rows."""

    rows: list[dict[str, Any]] = Field(min_length=1)
    """One object a row with every column that the model reads; null where a value is missing."""


class ListRequest(Request):
    """What all requests for lists share."""

    k: int = Field(default=10, ge=1)
    """Length of a list."""
    only: list[Id] | None = None
    """Items that may be in it."""
    exclude: list[Id] | None = None
    """Items that may not."""


class KnownItemsRequest(ListRequest):
    """What requests to a collaborative filter share."""

    unknown_items: Literal["error", "ignore"] = "error"
    """What to do about items in ``only`` and ``exclude`` that training has not seen."""


class RecommendRequest(KnownItemsRequest):
    """Lists for users, or for histories or texts of anybody."""

    users: list[Id] | None = Field(default=None, min_length=1)
    """Ids; either these, ``histories`` or ``texts``."""
    histories: list[list[Id]] | None = Field(default=None, min_length=1)
    """Items that each has seen."""
    texts: list[StrictStr] | None = Field(default=None, min_length=1)
    """A text each, for a model that reads texts."""
    exclude_seen: bool = True
    """Leaves out what they have seen."""
    unknown: Literal["error", "popular"] = "error"
    """What to do with users and histories of whom nothing is known."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(given is not None for given in (self.users, self.histories, self.texts)) != 1:
            raise ValueError("expected one of `users`, `histories` and `texts`")
        return self


class SimilarRequest(KnownItemsRequest):
    """Lists of items like others."""

    items: list[Id] = Field(min_length=1)
    """Ids."""


class FilteredRequest(ListRequest):
    """What all requests to an index share."""

    where: dict[str, dict[Op, Value | list[Value]]] | None = None
    """Conditions on columns of the index, all of which must hold: ``{"price": {"lt": 5}}``. With
    ``only`` both must."""
    unknown: Literal["error", "ignore"] = "error"
    """What to do about ids in ``only`` that the index does not have."""
    version: str | None = None
    """Of the model that made the vectors; an index of another one refuses. Where several versions
    are served it says which is asked, and must be given."""
    cutoff: float | None = Field(default=None, ge=0, le=1)
    """Probability of relevance that an item must have; needs an index with an adapter."""
    min_results: int = Field(default=0, ge=0)
    """Items to keep whatever their probability."""


class SearchRequest(FilteredRequest):
    """Items of the highest inner product."""

    queries: list[list[float]] = Field(min_length=1)
    """A vector each."""


class SetSearchRequest(FilteredRequest):
    """Sets of the highest likeness, the sum over the query's vectors of the best in the set."""

    queries: list[list[list[float]]] = Field(min_length=1)
    """Vectors each; one of none is ranked by popularity, where the index knows it."""
    candidates: int = Field(default=100, ge=1)
    """Sets whose exact likeness is taken, at least ``k``."""


class RankRequest(FilteredRequest):
    """Retrieve candidates, then rank them; or rank given ones."""

    user: Id | None = None
    """Whose vector to search with; or ``query``, or neither where ``items`` are given."""
    query: list[float] | None = Field(default=None, min_length=1)
    """The vector to search with."""
    items: list[Id] | None = Field(default=None, min_length=1)
    """Candidates; nothing is retrieved then."""
    row: dict[str, Any] = Field(default_factory=dict)
    """The columns of the ranker that are not the item's."""
    candidates: int = Field(default=500, ge=1)
    """Items to retrieve."""

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if sum(given is not None for given in (self.user, self.query, self.items)) != 1:
            raise ValueError("expected exactly one of `user`, `query` and `items`")
        filters = (self.only, self.exclude, self.where, self.cutoff)
        if self.items is not None and any(given is not None for given in filters):
            raise ValueError("`items` are ranked as they are: expected no filters with them")
        if self.items is None and self.k > self.candidates:
            raise ValueError(f"expected k <= candidates, got {self.k} and {self.candidates}")
        return self


# ------------------------------------------------------------------------------------- answers


class Predictions(BaseModel):
    """Answer to `PredictRequest`."""

    artefact: str
    """What answered: changes with every reload."""
    tasks: list[str]
    """What was predicted."""
    predictions: list[float] | list[list[float]]
    """One a row; with several tasks one a task, for every row."""


class ItemList(BaseModel):
    """Items, best first."""

    items: list[int | str]
    """Ids."""
    scores: list[float]
    """Theirs; of a ranking, probabilities."""
    probabilities: list[float | None] | None = None
    """Of relevance, where the index has an adapter."""
    by_popularity: bool = False
    """Whether nothing was known, so that the most popular items are listed."""


class Lists(BaseModel):
    """Answer to requests for lists."""

    artefact: str
    """What answered: changes with every reload."""
    lists: list[ItemList]
    """In the order of the question."""


class Problem(BaseModel):
    """One thing that is wrong."""

    where: str
    """Place in the request, ``rows.3.price``; empty for all of it."""
    expected: str
    """What would be right, and what to do."""
    got: str
    """What was there, shortened."""


class ErrorAnswer(BaseModel):
    """Answer to whatever cannot be answered."""

    error: str
    """What is wrong, in words."""
    problems: list[Problem] = []
    """Every place, where they are known."""
