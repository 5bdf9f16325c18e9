"""MODEL_CARD.md: what the model is, how good it is and how sure that is, how to load it.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.config import Experiment
from recsys.data.prepared import Prepared
from recsys.evaluate.evaluation import Evaluation
from recsys.evaluate.summary import METRIC_ORDER
from recsys.metrics.bootstrap import Interval
from recsys.schema import Schema

_NAMES = {
    "auc": "AUC",
    "grouped_auc": "grouped AUC",
    "pr_auc": "PR-AUC",
    "logloss": "logloss",
    "normalized_entropy": "normalized entropy",
    "calibration": "calibration (sum p / sum y)",
    "ece": "ECE",
}


@dataclasses.dataclass(frozen=True, slots=True)
class CardContent:
    """What a card tells.

    Args:
        experiment: The resolved configuration.
        prepared: The data.
        seed: Of this model.
        evaluations: By split, the one that chose the model first.
        oracle: Best reachable metrics by split, where known.
        table_bytes: By purpose.
        num_parameters: Dense and table parameters.
        facts: More lines, name and text.
        environment: From `recsys.train.environment`.
        pictures: PNG files beside the card.
    """

    experiment: Experiment
    prepared: Prepared
    seed: int
    evaluations: Sequence[Evaluation]
    oracle: Mapping[str, Mapping[str, float]]
    table_bytes: Mapping[str, int]
    num_parameters: Mapping[str, int]
    facts: Mapping[str, str]
    environment: Mapping[str, Any]
    pictures: Sequence[Path]


def write_card(directory: Path, content: CardContent) -> Path:
    """Writes ``MODEL_CARD.md``.

    Args:
        directory: The run folder.
        content: What to tell.
    """
    model = content.experiment.model.class_path.rpartition(".")[2]
    sections = [
        f"# {content.experiment.name or model}",
        _summary(content, model),
        _use(content),
        _data(content.prepared, content.experiment),
        *(_metrics(evaluation, content.oracle) for evaluation in content.evaluations),
        _size(content),
        pictures_section(directory, content.pictures),
        environment_section(content.environment),
    ]
    return write_sections(directory, sections)


def write_sections(directory: Path, sections: Sequence[str]) -> Path:
    """Writes ``MODEL_CARD.md``.

    Args:
        directory: The run folder.
        sections: In Markdown; empty ones are left out.
    """
    path = directory / "MODEL_CARD.md"
    path.write_text("\n\n".join(section for section in sections if section) + "\n")
    return path


def _summary(content: CardContent, model: str) -> str:
    facts = {
        "model": f"`{content.experiment.model.class_path}`",
        "data set": f"`{content.experiment.dataset.class_path}`",
        "seed": str(content.seed),
        **content.facts,
    }
    lines = "\n".join(f"- {name}: {text}" for name, text in facts.items())
    labels = ", ".join(f"`{label.name}`" for label in content.prepared.schema.labels)
    return f"{model} that predicts the probability of {labels} for one row.\n\n{lines}"


def _use(content: CardContent) -> str:
    labels = " and ".join(label.name for label in content.prepared.schema.labels)
    return f"""## Use

Intended: ranking and pricing by the probability of {labels}, on rows drawn like the training rows.
Not intended: rows of another source or a much later time without a new evaluation (see the
calibration below); decisions about persons that have legal or similar effect.

```python
from recsys.serving.predictor import Predictor

predictor = Predictor.load("model")      # the folder beside this file
predictor.predict(rows)                  # dict, list of dicts, DataFrame or Arrow table
```"""


def _data(prepared: Prepared, experiment: Experiment) -> str:
    rows = table(
        ["split", "rows"], [[name, f"{count:,}"] for name, count in prepared.split_rows.items()]
    )
    counts = "".join(
        f"\n{n:,} {what.replace('_', ' ')}." for what, n in prepared.counts.items() if n
    )
    return f"""## Data

Fingerprint of the raw files, schema and splits: `{prepared.fingerprint}`.
Bad rows: {experiment.prepare.on_bad_rows}.{counts}

{rows}

{_schema(prepared.schema)}"""


def _schema(schema: Schema) -> str:
    sizes = schema.num_embeddings()
    rows = []
    for feature in schema.features:
        table_name = getattr(feature, "table_name", "")
        rows.append([
            f"`{feature.name}`", feature.kind, table_name and f"{sizes[table_name]:,}",
        ])  # fmt: skip
    roles = {"weight": schema.weight, "group": schema.group, "time": schema.timestamp}
    named = ", ".join(f"{role} `{column}`" for role, column in roles.items() if column)
    return table(["feature", "kind", "rows of its table"], rows) + (
        f"\n\nOther columns: {named}." if named else ""
    )


def _metrics(evaluation: Evaluation, oracle: Mapping[str, Mapping[str, float]]) -> str:
    parts = [f"## Metrics on {evaluation.name} ({evaluation.rows:,} rows)"]
    best = oracle.get(evaluation.name, {})
    for task, report in evaluation.reports.items():
        intervals = evaluation.intervals.get(task, {})
        rows = []
        for name in METRIC_ORDER:
            if name not in report.values:
                continue
            cells = [_NAMES[name], _number(report.values[name]), _interval(intervals.get(name))]
            cells += [_number(best[name]) if name in best else ""] if best else []
            rows.append([*cells, report.notes.get(name, "")])
        heading = ["metric", "value", "95 % interval", *(["oracle"] if best else []), "note"]
        parts.append(f"Task `{task}`, {report.rate:.4%} positive.\n\n" + table(heading, rows))
    if evaluation.intervals:
        unit = "groups" if evaluation.predictions.groups is not None else "rows"
        parts.append(
            f"Intervals: bootstrap over {unit} of this split; they do not cover the choice of seed."
        )
    for title, slices in evaluation.slices.items():
        rows = [
            [f"`{row.value}`", f"{row.rows:,}", f"{row.rate:.4f}",
             *map(_number, (row.auc, row.logloss, row.calibration))]
            for row in slices
        ]  # fmt: skip
        heading = ["value", "rows", "rate", "AUC", "logloss", "calibration"]
        parts.append(f"### By `{title}`\n\n" + table(heading, rows))
    return "\n\n".join(parts)


def _size(content: CardContent) -> str:
    rows = [[name, f"{size:,}"] for name, size in content.table_bytes.items()]
    parameters = ", ".join(f"{count:,} {name}" for name, count in content.num_parameters.items())
    return f"## Size\n\nParameters: {parameters}.\n\n" + table(["tables", "bytes"], rows)


def pictures_section(directory: Path, pictures: Sequence[Path]) -> str:
    """Links to pictures; empty without any.

    Args:
        directory: Of the card.
        pictures: PNG files in it.
    """
    if not pictures:
        return ""
    lines = (f"![{p.stem.replace('_', ' ')}]({p.relative_to(directory)})" for p in pictures)
    return "## Plots\n\n" + "\n".join(lines)


def environment_section(environment: Mapping[str, Any]) -> str:
    """Versions and machine.

    Args:
        environment: From `recsys.train.environment`.
    """
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    lines = [f"- {versions}"]
    for name in ("git", "system", "cpu", "cores", "torch_threads", "gpu", "time"):
        if environment.get(name) is not None:
            lines.append(f"- {name.replace('_', ' ')}: {environment[name]}")
    return "## Environment\n\n" + "\n".join(lines)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.5f}"


def _interval(interval: Interval | None) -> str:
    if interval is None or math.isnan(interval.low):
        return ""
    return f"{interval.low:.5f} to {interval.high:.5f}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a last column that is empty everywhere is left out.

    Args:
        columns: Headings.
        rows: Cells.

    Example:
        >>> print(table(["a", "note"], [["1", ""]]))
        | a |
        |---|
        | 1 |
    """
    if rows and not any(row[-1] for row in rows):
        return table(columns[:-1], [row[:-1] for row in rows])
    lines = [columns, ["---"] * len(columns), *rows]
    text = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    text[1] = text[1].replace(" ", "")
    return "\n".join(text)
