"""A trained collaborative filter behind a few calls: ids in, lists of ids out. No web code.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from recsys.cf import CFModel
from recsys.errors import ConfigError, DataError, TrainingError, did_you_mean
from recsys.graph.explanation import Explanation, Node
from recsys.graph.interactions import Interactions, Names
from recsys.metrics.top_items import NO_ITEM, flat_positions, top_items
from recsys.serving.ranked_items import RankedItems
from recsys.serving.recommender_folder import load_recommender
from recsys.serving.vectors import Vectors

Unknown = Literal["error", "popular", "skip"]
"""What to do with users of whom nothing is known."""
Filter = Sequence[Any] | np.ndarray | Callable[[np.ndarray], Any]
"""Which items may be recommended: their ids, a mask of all items (bool), or a function that gets
the ids of all items and gives such a mask."""
History = Sequence[Any] | Mapping[Any, float]
"""Ids of the items that somebody has seen, or their weights by id."""

_BLOCK_BYTES = 8 << 20  # of scores at once; measured for ranking, see recsys.evaluate.ranked_lists


class Recommender:
    """Lists of items for users, for histories, and for items; and why.

    Ids are those of the training data. Equal scores go to the item of the lower number, so a list
    depends on nothing but the model and the question. Several threads may call it at once.

    Args:
        model: Trained; it is put in eval mode.
        seen: What users have seen, left out of their lists; the same users and items as in
            training.
        metadata: What the trainer wrote down.
        version: Of the model, which its vectors then carry; `load` takes it from the folder.

    Raises:
        ConfigError: Model and interactions have different numbers of users or items.
    """

    def __init__(
        self,
        model: CFModel,
        seen: Interactions,
        metadata: Mapping[str, Any] | None = None,
        version: str | None = None,
    ) -> None:
        graph = model.graph
        if (graph.num_users, graph.num_items) != (seen.num_users, seen.num_items):
            raise ConfigError(
                f"the model knows {graph.num_users:,} users and {graph.num_items:,} items, the "
                f"interactions have {seen.num_users:,} and {seen.num_items:,}. Take those it was "
                "trained on."
            )
        self.model = model.eval()
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.version = version
        self.users: Names = seen.users
        """Ids of all users."""
        self.items: Names = seen.items
        """Ids of all items."""
        self._offsets = torch.from_numpy(seen.offsets())
        self._seen = torch.from_numpy(seen.item.astype(np.int64))
        self._matrix = graph.matrix()
        self._degrees = graph.item_degrees()
        self._trained_users = graph.user_degrees() > 0
        if model.knows_unseen_users:
            self._trained_users = torch.ones_like(self._trained_users)
        for names in (self.users, self.items):  # builds the index now, not in a request
            names.numbers(names.values[:1])

    @classmethod
    def load(
        cls,
        directory: Path | str,
        model_class: type[CFModel] | None = None,
        num_threads: int | None = None,
    ) -> Self:
        """Loads a model folder, verified and without running anything it holds.

        Args:
            directory: A run folder or the model folder in it.
            model_class: The model's class, where it is not one of ``recsys.models``.
            num_threads: Threads of torch for one call, in the whole process. 1 is best where a
                server handles many calls at once.

        Raises:
            CheckpointError: The folder is not a sound collaborative filter, or its class is not
                trusted.
        """
        stored = load_recommender(directory, model_class)
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        return cls(stored.model, stored.seen, stored.metadata, stored.version)

    # ------------------------------------------------------------------------------- lists

    def recommend(
        self,
        users: Sequence[Any] | np.ndarray,
        k: int = 10,
        filter: Filter | None = None,
        exclude: Sequence[Any] | np.ndarray | None = None,
        exclude_seen: bool = True,
        unknown: Unknown = "error",
    ) -> RankedItems:
        """The best items of users.

        Args:
            users: Ids.
            k: Length of a list; it is shorter where fewer items are left.
            filter: Items that may be in it: ids, or a function of the ids of all items, or a mask
                of them.
            exclude: Ids that may not be in it.
            exclude_seen: Leaves out what the user has seen.
            unknown: Users that training has not seen: an ``error``, the most ``popular`` items for
                them, or ``skip`` them.

        Raises:
            DataError: A user or item is not known.
            ConfigError: ``k`` or an option is out of range, or the mask has another length.
            TrainingError: A score is NaN.
        """
        asked, numbers = self._asked(users), self.users.numbers(users)
        known = (numbers >= 0) & self._trained_users.numpy()[numbers]
        if not known.all() and unknown == "error":
            self._refuse_user(asked[int(np.flatnonzero(~known)[0])])
        if unknown == "skip":
            asked, numbers = asked[known], numbers[known]
            known = known[known]
        _check_unknown(unknown)

        def block(rows: np.ndarray) -> Tensor:
            chosen = torch.from_numpy(numbers[rows])
            found = torch.empty(len(rows), len(self.items))
            there = torch.from_numpy(known[rows])
            if bool(there.any()):
                found[there] = self.model.scores(chosen[there]).cpu()
            found[~there] = self._degrees.float()
            if exclude_seen:
                self._hide(found, chosen)
            return found

        return self._ranked(asked, "user", block, k, self.mask(filter, exclude), ~known)

    def recommend_for(
        self,
        histories: Mapping[Any, History] | Sequence[History],
        k: int = 10,
        filter: Filter | None = None,
        exclude: Sequence[Any] | np.ndarray | None = None,
        exclude_seen: bool = True,
        unknown: Unknown = "error",
    ) -> RankedItems:
        """The best items of anybody with a history, known or new, without training.

        Fitted models score histories. Models with linear propagation make a vector of it
        (`recsys.cf.EmbeddingModel.folded_in`). Others cannot, and say so.

        Args:
            histories: Items of each, by name or in a sequence (then they are called 0, 1, ...). An
                item counts once.
            k: Length of a list.
            filter: As in `recommend`.
            exclude: As in `recommend`.
            exclude_seen: Leaves out what is in the history.
            unknown: Items that training has not seen, and histories with nothing else: an
                ``error``; ``popular`` and ``skip`` go without the items, and give a history of
                nothing else the most popular items, or leave it out.

        Raises:
            DataError: An item is not known, or a history has none.
            ConfigError: The model cannot do it, or an option is out of range.
        """
        _check_unknown(unknown)
        names, given = _named(histories, "histories")
        matrix = self._histories(names, given, unknown)
        known = np.diff(matrix.indptr) > 0
        asked = self._asked(names)
        if unknown == "skip":
            asked, matrix, known = asked[known], matrix[known], known[known]

        def block(rows: np.ndarray) -> Tensor:
            part, there = matrix[rows], torch.from_numpy(known[rows])
            found = torch.empty(len(rows), len(self.items))
            if bool(there.any()):
                with torch.inference_mode():
                    found[there] = self.model.scores_of(part[known[rows]]).cpu()
            found[~there] = self._degrees.float()
            if exclude_seen:
                found[
                    np.repeat(np.arange(len(rows)), np.diff(part.indptr)), part.indices
                ] = -torch.inf
            return found

        return self._ranked(asked, "user", block, k, self.mask(filter, exclude), ~known)

    def recommend_texts(
        self,
        texts: Mapping[Any, str] | Sequence[str],
        k: int = 10,
        filter: Filter | None = None,
        exclude: Sequence[Any] | np.ndarray | None = None,
    ) -> RankedItems:
        """The best items of anybody with a text, by a model that reads texts (SESA).

        Args:
            texts: Of each, by name or in a sequence (then they are called 0, 1, ...).
            k: Length of a list.
            filter: As in `recommend`.
            exclude: As in `recommend`.

        Raises:
            DataError: An item is not known.
            ConfigError: The model reads no texts, one is not a text, or an option is out of range.
        """
        names, given = _named(texts, "texts")
        for name, text in zip(names, given):
            if not isinstance(text, str):
                raise ConfigError(f"texts: expected a text of {name!r}, got {type(text).__name__}.")

        def block(rows: np.ndarray) -> Tensor:
            return self.model.scores_of_texts([given[row] for row in rows.tolist()]).cpu()

        asked, nobody = self._asked(names), np.zeros(len(names), bool)
        return self._ranked(asked, "user", block, k, self.mask(filter, exclude), nobody)

    def similar_items(
        self,
        items: Sequence[Any] | np.ndarray,
        k: int = 10,
        filter: Filter | None = None,
        exclude: Sequence[Any] | np.ndarray | None = None,
    ) -> RankedItems:
        """The items most like others: by the model's weights, or cosines of its vectors.

        Args:
            items: Ids.
            k: Length of a list.
            filter: As in `recommend`.
            exclude: As in `recommend`.

        Raises:
            DataError: An item is not known, or was never seen in training.
            ConfigError: The model cannot say, or an option is out of range.
        """
        asked, numbers = self._asked(items), self._items(items)

        def block(rows: np.ndarray) -> Tensor:
            chosen = torch.from_numpy(numbers[rows])
            found = self.model.similarities(chosen).clone()
            found[torch.arange(len(rows)), chosen] = -torch.inf
            return found

        nobody = np.zeros(len(asked), bool)
        return self._ranked(asked, "item", block, k, self.mask(filter, exclude), nobody)

    def mask(
        self, filter: Filter | None = None, exclude: Sequence[Any] | np.ndarray | None = None
    ) -> np.ndarray:
        """Which items may be recommended, to be given as ``filter`` again and again.

        Args:
            filter: As in `recommend`.
            exclude: As in `recommend`.

        Returns:
            (I,) bool, by item number: the order of ``items.values``.

        Raises:
            DataError: An id is not known.
            ConfigError: A mask of another length.
        """
        allowed = np.ones(len(self.items), bool)
        if callable(filter):
            allowed = self._checked(np.asarray(filter(self.items.values)))
        elif filter is not None:
            given = np.asarray(filter)
            if given.dtype == bool:
                allowed = self._checked(given)
            else:
                allowed = np.zeros(len(self.items), bool)
                allowed[self._known("filter", filter)] = True
        if exclude is not None:
            allowed = allowed.copy()
            allowed[self._known("exclude", exclude)] = False
        return allowed

    # --------------------------------------------------------------------------------- why

    def explain(
        self,
        user: Any,
        item: Any,
        k: int | None = 5,
        history: History | None = None,
        text: str | None = None,
    ) -> Explanation:
        """Why a user may want an item.

        Args:
            user: Id; None for somebody new, with a history or a text.
            item: Id.
            k: Most reasons; what the others give is in the rest. None for all.
            history: Of somebody new.
            text: Of somebody new, for a model that reads texts (SESA).

        Raises:
            DataError: The user or an item is not known.
            ConfigError: The model cannot explain, or not one of user, history and text is given.
        """
        ways = {"user": user, "history": history, "text": text}
        if sum(value is not None for value in ways.values()) != 1:
            raise ConfigError(
                f"explain: expected one of {', '.join(ways)}, not several and not none."
            )
        if k is not None and k < 1:
            raise ConfigError(f"k: expected at least 1, got {k}.")
        wanted = int(self._items([item])[0])
        if text is not None:
            found = self.model.explain_text(text, wanted)
        elif history is not None:
            row = self._histories(["history"], [history], "error")
            found = self.model.explain(wanted, row, None)
        else:
            number = int(self.users.numbers([user])[0])
            if number < 0 or not self._trained_users[number]:
                self._refuse_user(user)
            found = self.model.explain(wanted, self._matrix[[number]], number)
        found = found if k is None else found.first(k)
        return found.named(self.items.values[wanted], self._id_of)

    # ----------------------------------------------------------------------------- vectors

    def vectors(self, kind: Literal["item", "user"] = "item") -> Vectors:
        """Vectors of items or users; the dot product of a user's and an item's is the score.

        Args:
            kind: Of which.

        Raises:
            ConfigError: The model's scores are no dot products.
        """
        found = [vectors.cpu() for vectors in self.model.vectors()]
        few = torch.arange(min(4, len(self.users)))
        if not torch.allclose(self.model.scores(few).cpu(), found[0][few] @ found[1].T, atol=1e-4):
            raise ConfigError(
                f"{type(self.model).__name__}: scores are no dot products of its vectors, so an "
                "index of vectors would rank differently."
            )
        names = self.items if kind == "item" else self.users
        return Vectors(names.values, found[kind == "item"].numpy(), version=self.version)

    def export_vectors(self, path: Path | str, kind: Literal["item", "user"] = "item") -> Path:
        """Writes ids and vectors to a file, say for an index of nearest neighbours.

        Args:
            path: A ``.parquet`` or ``.safetensors`` file, see `recsys.serving.vectors.Vectors`.
            kind: Of which.

        Returns:
            The path.

        Raises:
            ConfigError: The model's scores are no dot products, or another ending.
        """
        return self.vectors(kind).write(path)

    def vectors_of(
        self, new: Mapping[Any, Sequence[Any]], kind: Literal["item", "user"] = "item"
    ) -> Vectors:
        """Vectors of new items by the users who have them, or of new users by their items.

        Scored against `vectors` like those that were trained. Only models with linear propagation
        have them.

        Args:
            new: Ids of known users by the id of a new item, or of known items by that of a user.
            kind: What is new.

        Raises:
            DataError: An id is not known, or nothing is given for a new one.
            ConfigError: The model cannot.
        """
        folded = getattr(self.model, "folded_in", None)
        if folded is None:
            raise ConfigError(
                f"{type(self.model).__name__} has no vectors"
                + (" of new items. Train it again with them." if kind == "item" else ". For lists "
                   "of new users use `recommend_for`.")
            )  # fmt: skip
        if kind == "user":
            rows = self._histories(list(new), list(new.values()), "error")
        else:
            rows = self._rows(list(new), list(new.values()), self.users, "user")
        return Vectors(self._asked(list(new)), folded(rows, kind).numpy(), version=self.version)

    # ----------------------------------------------------------------------------- private

    def _ranked(
        self,
        asked: np.ndarray,
        kind: Literal["user", "item"],
        block: Callable[[np.ndarray], Tensor],
        k: int,
        allowed: np.ndarray,
        by_popularity: np.ndarray,
    ) -> RankedItems:
        """Lists in blocks of users; ``block`` gives scores that may be changed."""
        if k < 1:
            raise ConfigError(f"k: expected at least 1, got {k}.")
        columns = None if allowed.all() else torch.from_numpy(np.flatnonzero(allowed))
        width = len(allowed) if columns is None else len(columns)
        numbers = np.full((len(asked), min(k, width)), NO_ITEM, np.int64)
        scores = np.zeros(numbers.shape, np.float32)
        step = max(1, _BLOCK_BYTES // (4 * len(allowed)))
        for start in range(0, len(asked) if width else 0, step):
            rows = np.arange(start, min(start + step, len(asked)))
            with torch.inference_mode():
                found = block(rows)
                found = found if columns is None else found[:, columns]
                values, items = top_items(found, numbers.shape[1])
            if bool(values.isnan().any()):
                row = int(values.isnan().any(1).nonzero()[0, 0])
                raise TrainingError(
                    f"the scores for {asked[start + row]!r} are NaN. The model is not usable: "
                    "train it again with a lower learning rate."
                )
            there = items != NO_ITEM
            items = items if columns is None else columns[items.clamp(min=0)]
            numbers[rows] = torch.where(there, items, NO_ITEM).numpy()
            scores[rows] = torch.where(there, values, 0.0).numpy()
        return RankedItems(asked, kind, numbers, scores, by_popularity, self.items.values)

    def _hide(self, scores: Tensor, users: Tensor) -> None:
        """Seen items get -inf in place; users of number -1 have seen nothing."""
        there = (users >= 0).nonzero()[:, 0]
        flat = flat_positions(users[there], self._offsets, self._seen, len(self.items))
        scores[there[flat // len(self.items)], flat % len(self.items)] = -torch.inf

    def _histories(self, names: list[Any], given: list[History], unknown: Unknown) -> csr_array:
        """Histories as rows; what training has not seen is left out unless it is an error."""
        rows = self._rows(names, given, self.items, "item", unknown != "error")
        untrained = self._degrees.numpy()[rows.indices] == 0
        if self.model.knows_unseen_items:
            untrained[:] = False
        if unknown == "error":
            if untrained.any():
                item = self.items.values[rows.indices[untrained]].tolist()[0]
                raise DataError(
                    f"item {item!r} was not seen in training, so it says nothing of a user. Leave "
                    "it out, or set unknown='skip' or 'popular'."
                )
            return rows
        rows.data[untrained] = 0
        rows.eliminate_zeros()
        return rows

    def _rows(
        self,
        asked: list[Any],
        given: list[Any],
        names: Names,
        what: str,
        lenient: bool = False,
    ) -> csr_array:
        parts, counts = [np.zeros(0, np.int64)], []
        values = [np.zeros(0, np.float32)]
        for name, ids in zip(asked, given):
            if isinstance(ids, str | bytes):
                raise ConfigError(f"{name!r}: expected a list of {what} ids, got the text {ids!r}.")
            weights = list(ids.values()) if isinstance(ids, Mapping) else [1.0] * len(ids)
            found = names.numbers(list(ids)) if lenient else names.require(list(ids), what)
            if not lenient and not len(found):
                raise DataError(f"{name!r}: expected at least one {what}, got none.")
            known = np.asarray(weights, np.float32)[found >= 0]
            found, first = np.unique(found[found >= 0], return_index=True)
            if not (np.isfinite(known).all() and (known > 0).all()):
                raise DataError(f"{name!r}: expected weights above 0.")
            parts.append(found)
            values.append(known[first])
            counts.append(len(found))
        ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        cells = (np.concatenate(values), np.concatenate(parts), ends)
        return csr_array(cells, shape=(len(given), len(names)))

    def _items(self, items: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Numbers of items of which something is known."""
        numbers = self.items.require(self._asked(items), "item")
        if not self.model.knows_unseen_items:
            empty = self._degrees.numpy()[numbers] == 0
            if empty.any():
                item = self.items.values[numbers[empty]].tolist()[0]
                raise DataError(
                    f"item {item!r} was not seen in training, so nothing is known of it."
                )
        return numbers

    def _known(self, name: str, ids: Any) -> np.ndarray:
        try:
            return self.items.require(self._asked(ids), f"{name}: item")
        except DataError as error:
            raise DataError(
                f"{error} For lists with ids that training has not seen give a function, say "
                "filter=lambda ids: np.isin(ids, allowed)."
            ) from None

    def _checked(self, mask: np.ndarray) -> np.ndarray:
        if mask.dtype != bool or mask.shape != (len(self.items),):
            raise ConfigError(
                f"filter: expected a mask of all {len(self.items):,} items (bool), got "
                f"{mask.shape} {mask.dtype}."
            )
        return mask

    def _asked(self, ids: Any) -> np.ndarray:
        if isinstance(ids, str | bytes):
            raise ConfigError(f"expected a list of ids, got the text {ids!r}. Write [{ids!r}].")
        values = list(ids)
        found = np.empty(len(values), object)
        found[:] = values
        return found

    def _refuse_user(self, user: Any) -> None:
        if self.users.numbers([user])[0] >= 0:
            raise DataError(
                f"user {user!r} has no training interaction, so nothing is known of them. Give "
                "their items to `recommend_for`, or set unknown='popular' or 'skip'."
            )
        hint = did_you_mean(str(user), [str(value) for value in self.users.values[:10_000]])
        raise DataError(
            f"user {user!r} is not known. {hint} For new users give their items to "
            "`recommend_for`, or set unknown='popular' or 'skip'."
        )

    def _id_of(self, node: Node) -> Any:
        if node.kind == "entity":
            knowledge = self.model.graph.knowledge
            return node.id if knowledge is None else knowledge.entities.values[node.id]
        if node.kind == "concept":
            about = self.model.graph.descriptions
            return node.id if about is None else about.concepts.values[node.id]
        names = self.users if node.kind == "user" else self.items
        return names.values[node.id]


def _check_unknown(unknown: str) -> None:
    if unknown not in ("error", "popular", "skip"):
        raise ConfigError(f"unknown: expected error, popular or skip, got {unknown!r}.")


def _named(given: Mapping[Any, Any] | Sequence[Any], what: str) -> tuple[list[Any], list[Any]]:
    """Names, numbers where there are none, and what belongs to each."""
    if isinstance(given, str | bytes):
        raise ConfigError(f"{what}: expected one of each, by name or in a list, got one text.")
    if isinstance(given, Mapping):
        return list(given), list(given.values())
    return list(range(len(given))), list(given)
