"""What a search found: trials as a table, the front, plots, a page, and experiments to train.

    report.html             one page for people; report.md the same in short
    trials.csv, .parquet    a row a trial
    best.yaml               the experiment of the best trial, for ``recsys train``
    front/<n>.yaml          that of every trial on the front
    plots/                  PNG

Stability: experimental
"""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.config_text import to_text
from recsys.errors import ConfigError
from recsys.evaluate.summary import text_table
from recsys.folders import whole_file
from recsys.train.model_card import table
from recsys.tune.report_data import (
    Findings,
    best_by_share,
    chosen,
    find,
    how_stored,
    metric_of,
    nearly_as_good,
    number_of,
    params_of,
    ratio_of,
    reasons,
    size_of,
    why_of,
)
from recsys.tune.report_page import cells_of, page
from recsys.tune.report_plots import draw_study
from recsys.tune.space import Candidate
from recsys.tune.study import Study, TrialRow

_SHOWN = 12  # trials of the front in a terminal


def write_report(study: Study) -> list[Path]:
    """Writes what a study found into its folder.

    Args:
        study: Done or not, with or without complete trials.

    Returns:
        The files.
    """
    findings, folder = find(study), study.directory
    files = [_write(folder / "trials.csv", _csv(findings))]
    files.append(_write(folder / "trials.parquet", _parquet(findings)))
    files += _experiments(findings)
    pictures = draw_study(findings, folder / "plots")
    words = sentences(findings)
    text = _markdown(findings, pictures, words)
    files.append(_write(folder / "report.md", text.encode()))
    files.append(_write(folder / "report.html", page(findings, pictures, words).encode()))
    return [*files, *pictures.values()]


def report_text(study: Study) -> str:
    """The front, counts, time and what to take, for a terminal.

    Args:
        study: Done or not, with or without complete trials.
    """
    findings = find(study)
    lines: list[str] = []
    if findings.front:
        rows, left = list(findings.front), 0
        if len(rows) > _SHOWN:
            picks = {round(i * (len(rows) - 1) / (_SHOWN - 1)) for i in range(_SHOWN)}
            rows, left = [rows[i] for i in sorted(picks)], len(rows) - len(picks)
        heads, cells = cells_of(findings, rows)
        lines.append(text_table(heads[:-1], [[cell.text for cell in line[:-1]] for line in cells]))
        lines += [f"{left} more of the front in {study.directory / 'report.md'}"] if left else []
        lines.append("")
    return "\n".join([*lines, *sentences(findings)])


# ------------------------------------------------------------------------------- words


def sentences(findings: Findings) -> list[str]:
    """What was done and what to take.

    Args:
        findings: Of a study.
    """
    counts = ", ".join(f"{count} {state}" for state, count in findings.counts().items())
    lines = [f"Trials: {counts}; {span(findings.seconds)} of training in all."]
    if not findings.rows:
        return ["No trial was started."]
    if not findings.front:
        lines.append("No trial is complete, so there is nothing to recommend.")
    else:
        best = findings.front[0]
        lines.append(_recommendation(findings))
        lines.append(f"Trial {best.number}: {chosen(findings.study.space.base, best)}.")
    for state, count, why in reasons(findings.rows):
        if state == "failed" or not findings.front:
            like = "" if count == 1 else " (and the like)"
            lines.append(f"{state}, {count} x: {why}{like}")
    return lines


def _recommendation(findings: Findings) -> str:
    best, name = findings.front[0], findings.metric
    text = f"Take trial {best.number} (best.yaml): valid {name} {best.values[name]:.5f}"
    size = size_of(best)
    if size is not None:
        text += f" with {size:,.0f} bytes"
    ratio = ratio_of(best)
    if ratio is not None:
        text += f", {ratio:.3g} of the full tables"
    small = nearly_as_good(findings)
    if small is not None:
        gap = small.values[name] - best.values[name]
        text += (
            f"; where memory is short, trial {small.number} (front/{small.number}.yaml), "
            f"{gap:+.5f} with {size_of(small):,.0f} bytes"
        )
    return text + "."


def span(seconds: float) -> str:
    """A time in short.

    Args:
        seconds: Of it.

    Example:
        >>> span(42), span(1800), span(9000)
        ('42 s', '30 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _markdown(findings: Findings, pictures: Mapping[str, Path], words: Sequence[str]) -> str:
    parts = [f"# Search: {findings.study.name}"]
    parts.append("\n".join(f"- {_plain(line)}" for line in words))
    if findings.front:
        best = findings.front[0]
        parts += [
            "## How to use it\n\n"
            f"```bash\nrecsys train --config {findings.study.directory / 'best.yaml'}\n```",
            *([_stored(findings, best.dtype)] if best.dtype != "fp32" else []),
            "## The best by share of the full tables' bytes\n\n" + table(*_shares(findings)),
        ]
        heads, cells = cells_of(findings, findings.front)
        lines = [[_plain(cell.text) for cell in line] for line in cells]
        parts.append("## The front\n\n" + table(heads, lines))
    if pictures:
        places = (f"![{title}](plots/{path.name})" for title, path in pictures.items())
        parts.append("## Plots\n\n" + "\n".join(places))
    if findings.unknown:
        parts.append(f"Importance of settings: {_plain(findings.unknown)}")
    for name, scores in findings.importances.items():
        top = sorted(scores.items(), key=lambda item: -item[1])[:5]
        parts.append(f"Matters for {name}: " + ", ".join(f"`{k}` {v:.2f}" for k, v in top) + ".")
    return "\n\n".join(parts) + "\n"


def _shares(findings: Findings) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of the best by share of the bytes."""
    rows = [share.row for share in best_by_share(findings) if share.row is not None]
    heads, cells = cells_of(findings, rows)
    by_number = {row.number: line for row, line in zip(rows, cells)}
    lines = []
    for share in best_by_share(findings):
        if share.row is None:
            lines.append([share.name, *["-"] * (len(heads) - 1), "nothing is that small"])
        else:
            lines.append([share.name, *(_plain(c.text) for c in by_number[share.row.number])])
    return ["at most", *heads], lines


def _plain(text: str) -> str:
    """One line of text that is no markup."""
    return html.escape(text.replace("\n", " "), quote=False)


def _stored(findings: Findings, dtype: str) -> str:
    return (
        f"The tables were judged in {dtype}. Store them so after training: "
        f"`{how_stored(findings, dtype)}`."
    )


# ------------------------------------------------------------------------------- experiments


def _experiments(findings: Findings) -> list[Path]:
    """``best.yaml`` and ``front/<n>.yaml``; those of trials that are beaten by now are removed."""
    folder = findings.study.directory
    now = {f"{row.number}.yaml" for row in findings.front}
    for path in (folder / "front").glob("*.yaml"):
        if path.stem.isdigit() and path.name not in now:
            path.unlink()
    files = []
    for place, row in enumerate(findings.front):
        try:
            content = _experiment(findings, row).encode()
        except ConfigError:  # of an earlier study, whose settings this version does not know
            continue
        if place == 0:
            files.append(_write(folder / "best.yaml", content))
        files.append(_write(folder / "front" / f"{row.number}.yaml", content))
    return files


def _experiment(findings: Findings, row: TrialRow) -> str:
    """The experiment of a trial, every setting, as a file that trains it again."""
    study = findings.study
    experiment = Candidate(row.settings, row.dtype).experiment(study.space.base)
    comments = [] if row.dtype == "fp32" else [_stored(findings, row.dtype)]
    value, _ = metric_of(row, "valid", findings.metric)
    shown = "" if value is None else f", valid {findings.metric} {value:.5f}"
    comments.append(f"Trial {row.number} of {study.name}{shown}: {chosen(study.space.base, row)}")
    threads = _threads(study, row)
    if threads is not None and experiment.train.num_threads != threads:
        update = {"num_threads": threads}
        train = experiment.train.model_copy(update=update)
        experiment = experiment.model_copy(update={"train": train})
        comments.append("train.num_threads is that of the trial: others round differently.")
    head = "".join(f"# {' '.join(line.split())}\n" for line in comments)
    return head + to_text(experiment.model_dump(mode="json"), ".yaml")


def _threads(study: Study, row: TrialRow) -> int | None:
    """Threads that a trial was trained with, if its folder is here."""
    if not row.folder:
        return None
    for path in sorted((study.directory / row.folder).glob("seed-*/config.json")):
        return json.loads(path.read_text(encoding="utf-8"))["train"]["num_threads"]
    return None


# ------------------------------------------------------------------------------- all trials


def trial_records(findings: Findings) -> list[dict[str, Any]]:
    """One flat record a trial, all with the same keys; None is what is not known.

    Args:
        findings: Of a study.
    """
    front = {row.number for row in findings.front}
    objectives = findings.study.sweep.objectives
    metrics = {
        split: list(dict.fromkeys(n for row in findings.rows for n in row.facts.get(split) or {}))
        for split in ("valid", "test")
    }
    spread = any(row.facts.get("sd") for row in findings.rows)
    params = list(dict.fromkeys(name for row in findings.rows for name in params_of(row)))
    records = []
    for row in findings.rows:
        facts, answers = row.facts, params_of(row)
        found: dict[str, Any] = {"number": row.number, "state": row.state,
                                 "front": row.number in front}  # fmt: skip
        found |= {name: number_of(row.values.get(name)) for name in objectives}
        found |= {
            name: number_of(facts.get(name, row.values.get(name)))
            for name in ("bytes", "ratio", "lookup_us")
        }
        for split, names in metrics.items():
            for name in names:
                value, sd = metric_of(row, split, name)
                found[f"{split}_{name}"] = value
                found |= {f"{split}_{name}_sd": sd} if spread else {}
        found |= {name: number_of(facts.get(name)) for name in ("seconds", "rows_per_second")}
        found["dtype"] = row.dtype
        found |= {name: answers.get(name) for name in params}
        found |= {"why": why_of(row) or None, "folder": row.folder or None,
                  "twin_of": row.twin_of, "source": findings.sources.get(row.number)}  # fmt: skip
        records.append(found)
    return records


def _csv(findings: Findings) -> bytes:
    records = trial_records(findings)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(records[0]) if records else ["number"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue().encode()


def _parquet(findings: Findings) -> bytes:
    records = trial_records(findings)
    names = list(records[0]) if records else ["number"]
    columns = {name: _column([record[name] for record in records]) for name in names}
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def _column(values: list[Any]) -> pa.Array:
    """Of one type; answers of several types are text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and kinds != {int, float}:
        return pa.array([None if value is None else str(value) for value in values])
    return pa.array([float(v) if v is not None and len(kinds) > 1 else v for v in values])


def _write(path: Path, content: bytes) -> Path:
    """As a whole or not at all."""
    with whole_file(path) as draft:
        draft.write_bytes(content)
    return path
