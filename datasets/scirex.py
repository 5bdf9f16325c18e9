"""SciREX: full papers on machine learning with their tasks, data sets, metrics and methods.

306 papers (the training part of 438). A paper's labels are the entities of its results (relations
of a task, a material, a metric and a method). Pairs of papers that share a label: task 1,170 (127
labels), dataset 928 (345), metric 2,623 (150), method 6 (443). Files: ``train_docs/*.json``, or one
``*.jsonl``. Source: github.com/allenai/SciREX. Licence: Apache 2.0 for the repository; the papers
are of their authors. Split: by paper, at random by seed.

Text of a paper: its first ``num_words`` words, which are title and abstract, tokens with blanks
between.

Traps:
    - A method is nearly always the paper's own: 6 pairs are nothing to learn or judge by, so the
      aspect is left out unless it is named.
    - Names are normalized by Papers With Code, not by us: ``F1`` and ``F1_score`` are two labels.
    - One label of a metric (accuracy) joins most pairs: see ``rule.max_items``.

Stability: caller
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from recsys.data.files import needed_path
from recsys.errors import DataError
from recsys.graph.aspect_dataset import AspectDataset
from recsys.graph.aspects import AspectTable, aspect_table

_ADVICE = (
    "Get release_data.tar.gz (or docs/train_docs) of https://github.com/allenai/SciREX, unpack it, "
    "and set `path` to the folder."
)
_KEYS = {"task": "Task", "dataset": "Material", "metric": "Metric", "method": "Method"}


class SciREX(AspectDataset):
    """Papers and what they are about.

    Args:
        config: Where the files are, which aspects, and how to split.

    Raises:
        DataError: From `table`: files are missing, cut or malformed.

    Source:
        Jain et al., "SciREX: A Challenge Dataset for Document-Level Information Extraction", ACL
        2020; aspects as in Ostendorff et al., "Specialized Document Embeddings for Aspect-based
        Similarity of Research Papers", JCDL 2022, who use Papers With Code.
    """

    homepage = "https://github.com/allenai/SciREX"
    licence = "Apache 2.0 (repository); the papers are of their authors"

    class Config(AspectDataset.Config):
        """Where the files are, which aspects, and how to split."""

        path: str | None = None
        """Folder with ``train_docs/*.json``, ``*.json`` or ``*.jsonl``."""
        aspects: tuple[Literal["task", "dataset", "metric", "method"], ...] = (
            "task", "dataset", "metric",
        )  # fmt: skip
        """Which aspects."""
        num_words: int = Field(default=336, ge=1)
        """Words of the beginning that are the text."""

    config: Config

    def table(self, cache_dir: Path) -> AspectTable:
        """Reads the papers, one by one."""
        del cache_dir
        path = Path(needed_path(self.config.path, "SciREX", _ADVICE)).expanduser()
        texts: dict[str, str] = {}
        items: list[str] = []
        aspects: list[str] = []
        labels: list[str] = []
        for file, row, paper in _papers(path):
            try:
                name, words = str(paper["doc_id"]), paper["words"][: self.config.num_words]
                found = [(aspect, str(relation[_KEYS[aspect]]))
                         for relation in paper["n_ary_relations"] for aspect in self.config.aspects
                         if relation.get(_KEYS[aspect])]  # fmt: skip
                text = " ".join(words)
            except (KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f"expected a paper with doc_id, words and n_ary_relations, got: {error!r}. "
                    "Fetch it anew.", file=str(file), row=row,
                )  from None  # fmt: skip
            if name in texts:
                raise DataError(f"paper {name} is there twice.", file=str(file), row=row)
            texts[name] = text
            for aspect, label in sorted(set(found)):
                items.append(name)
                aspects.append(aspect)
                labels.append(label)
        return aspect_table(texts, items, aspects, labels, self.config.rule, self.config.aspects)


def _papers(path: Path) -> Iterator[tuple[Path, int | None, Any]]:
    """File, line and content of every paper."""
    folder = path / "train_docs" if (path / "train_docs").is_dir() else path
    files = sorted(folder.glob("*.json")) + sorted(folder.glob("*.jsonl"))
    if not files:
        raise DataError(f"expected `*.json` or `*.jsonl` in {folder}. {_ADVICE}")
    for file in files:
        with file.open("rb") as stream:
            whole = file.suffix == ".json"
            for row, line in enumerate([stream.read()] if whole else stream):
                if not line.strip():
                    continue
                try:
                    yield file, None if whole else row + 1, json.loads(line)
                except ValueError as error:
                    raise DataError(
                        f"expected JSON, got: {error}. Is the file complete?", file=str(file),
                        row=None if whole else row + 1,
                    )  from None  # fmt: skip
