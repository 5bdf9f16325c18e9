"""BundleRec: bundles that people saw in shopping sessions, with titles, categories and intents.

Electronic: 888 users, 3,499 items, 1,750 bundles in 893 sessions (2 to 10 items, mean 3.52), 6,165
pairs of bundles and items, 1,750 of users and bundles, 6,165 rows of users and items (4,461
different pairs). The folders clothing and food have the same form. Source:
github.com/BundleRec/bundle_recommendation (``dataset/electronic``); sessions and titles are of
Amazon's reviews. Licence: none stated.

Split: ours, at random by session with ``completion.seed`` (7 by default): all bundles of a session
are in one part, for users' bundles and for bundles to complete alike. Intents are the texts of
bundles, titles those of items.

No leak: every row of ``user_item.csv`` comes from a bundle (the file is users' bundles joined with
their items, counted: the 4,461 pairs are the same), so a row tells which items are together in its
bundle. Pairs are kept where a bundle of a training session explains them; the others are left out
and counted (``pairs_of_held_out_sessions``).

Traps:
    - With nearly as many bundles as pairs, users' bundles say nothing about held-out ones: all are
      cold. It is a set for completion, not for recommending bundles.
    - Categories are separated by commas and not quoted: a name with a comma becomes two.
    - 20 bundles repeat another's items: `BundleCompletion.report` counts those held out.
    - An intent was written by people who saw the bundle: it tells held-out items. Give it to a
      model only where the task gives it too.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from recsys.data.files import find_file, needed_path
from recsys.data.source import Source
from recsys.errors import DataError
from recsys.graph.bundle_assembly import BundleNames, assemble
from recsys.graph.bundle_completion import BundleCompletion, CompletionRule, split_completion
from recsys.graph.bundle_dataset import BundleDataset
from recsys.graph.bundles import BundleData
from recsys.graph.interactions import Names
from recsys.graph.log_reader import read_columns_of

_ADVICE = (
    "Get a folder of https://github.com/BundleRec/bundle_recommendation (dataset/electronic, "
    "clothing or food), and set `path` to it."
)


class BundleRec(BundleDataset):
    """Bundles of sessions.

    Args:
        config: Where the files are, and how to split.

    Raises:
        DataError: From `bundle_data`: files are missing, cut or malformed.

    Source:
        Sun et al., "Revisiting Bundle Recommendation: Datasets, Tasks, Challenges and Opportunities
        for Intent-aware Product Bundling", SIGIR 2022.
    """

    homepage = "https://github.com/BundleRec/bundle_recommendation"
    licence = "none stated by the repository"

    class Config(BundleDataset.Config):
        """Where the files are, and how to split."""

        path: str | None = None
        """Folder with the files."""
        completion: CompletionRule = CompletionRule(valid=0.1, test=0.2, seed=7)
        """How sessions are split, for users' bundles too, and how many items are given."""

    config: Config

    def bundle_data(self, cache_dir: Path) -> BundleData:
        """Reads the files; users' bundles are split by session."""
        return self._read(cache_dir)[0]

    def completion(self, cache_dir: Path) -> BundleCompletion:
        """Bundles of training sessions, and bundles of the others to complete."""
        data, found = self._read(cache_dir)
        return dataclasses.replace(
            found, user_item=data.user_item, item_texts=data.item_texts,
            item_categories=data.item_categories,
        )  # fmt: skip

    def _read(self, cache_dir: Path) -> tuple[BundleData, BundleCompletion]:
        del cache_dir
        path = needed_path(self.config.path, "BundleRec", _ADVICE)
        content = _ids(path, "bundle_item.csv", "bundle ID", "item ID")
        taken = _ids(path, "user_bundle.csv", "user ID", "bundle ID")
        texts = _texts(path, "item_titles.csv", "item ID", "titles")
        categories = _texts(path, "item_categories.csv", "item ID", "categories")
        intents = _texts(path, "bundle_intent.csv", "bundle ID", "intent")
        items = Names(np.array(sorted(texts), np.int64))
        names = BundleNames(None, None, items)
        whole = assemble({"train": taken}, content, None, names)
        bundles = whole.bundles
        groups = _sessions(path, bundles.bundles)
        completion = split_completion(bundles, self.config.completion, groups)
        held = {name: part.given.bundles.values for name, part in completion.held_out()}
        parts = {name: _rows(taken, np.isin(taken[1], ids)) for name, ids in held.items()}
        every = np.concatenate([*held.values(), np.zeros(0, np.int64)])
        parts["train"] = _rows(taken, ~np.isin(taken[1], every))
        alone, left_out = _explained(
            _ids(path, "user_item.csv", "user ID", "item ID"), parts["train"], content
        )
        data = assemble(parts, content, alone, BundleNames(whole.users, bundles.bundles, items))
        report = data.report | {"pairs_of_held_out_sessions": left_out}
        bundle_texts = tuple(intents.get(number, "") for number in bundles.bundles.values.tolist())
        data = dataclasses.replace(
            data, report=report, bundle_texts=bundle_texts,
            item_texts=tuple(texts[number] for number in items.values.tolist()),
            item_categories=tuple(
                _categories(categories.get(number, "[[]]")) for number in items.values.tolist()
            ),
        )  # fmt: skip
        return data, completion


def _ids(path: str, name: str, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
    """Two columns of whole numbers."""
    file = find_file(path, [name], _ADVICE)
    rows = read_columns_of(Source(files=(str(file),), format="csv"), (first, second))
    return rows.counts(first), rows.counts(second)


def _texts(path: str, name: str, key: str, value: str) -> dict[int, str]:
    """A text of every number."""
    file = find_file(path, [name], _ADVICE)
    rows = read_columns_of(Source(files=(str(file),), format="csv"), (key, value))
    keys = rows.counts(key).tolist()
    if len(set(keys)) < len(keys):
        raise DataError(f"`{key}` has a number twice. Fetch the file anew.", file=str(file))
    return dict(zip(keys, [text or "" for text in rows.columns[value].to_pylist()]))


def _sessions(path: str, bundles: Names) -> np.ndarray:
    """The session of every bundle."""
    session, bundle = _ids(path, "session_bundle.csv", "session ID", "bundle ID")
    found = np.full(len(bundles), -1, np.int64)
    found[bundles.require(bundle, "bundle of session_bundle.csv")] = session
    if (found < 0).any():
        raise DataError(
            f"bundle {bundles.values[int(np.argmin(found))]} has no session. Fetch "
            "session_bundle.csv anew."
        )
    return found


def _rows(pairs: tuple[np.ndarray, np.ndarray], kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return pairs[0][kept], pairs[1][kept]


def _explained(
    pairs: tuple[np.ndarray, np.ndarray],
    taken: tuple[np.ndarray, np.ndarray],
    content: tuple[np.ndarray, np.ndarray],
) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """The pairs of a user and an item that a bundle taken by the user holds; number left out."""
    inside: dict[int, list[int]] = {}
    for bundle, item in zip(content[0].tolist(), content[1].tolist()):
        inside.setdefault(bundle, []).append(item)
    known = {
        (user, item)
        for user, bundle in zip(taken[0].tolist(), taken[1].tolist())
        for item in inside.get(bundle, ())
    }
    every = set(zip(pairs[0].tolist(), pairs[1].tolist()))
    kept = np.array(sorted(every & known), np.int64).reshape(-1, 2)
    return (kept[:, 0], kept[:, 1]), len(every - known)


def _categories(text: str) -> tuple[str, ...]:
    """Names of ``[[A,B],[A,C]]``, each once, in their order."""
    if not (text.startswith("[[") and text.endswith("]]")):
        raise DataError(f"expected categories as [[A,B],[C]], got {text[:40]!r}.")
    names = text[2:-2].replace("],[", ",").split(",")
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
