"""What a study found: its front, the best by share of the bytes, what was chosen, what mattered.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState

from recsys.cf_config import CFExperiment
from recsys.tune.compression_report import NEAR
from recsys.tune.domain import PowerOfTwo
from recsys.tune.objectives import direction_of
from recsys.tune.study import Study, TrialRow

SHARES = (0.5, 0.25, 0.1, 0.05)
"""Of the full tables' bytes, for which the best trial is named."""
FEW = 20
"""With fewer complete trials the importance of settings is not estimated."""
_STATES = ("complete", "stopped", "rejected", "failed", "running")
_WIDTH = ".embedding_dim"


@dataclasses.dataclass(frozen=True)
class Findings:
    """A study, read once.

    Args:
        study: Which.
        rows: All trials.
        front: Those no other beats, best metric first.
        sources: Folder of the earlier study a trial comes from, by number.
        lagging: Metric of stopped trials when they were stopped, by number.
        importances: By objective and setting, together 1; empty if unknown.
        unknown: Why there are no importances.
    """

    study: Study
    rows: Sequence[TrialRow]
    front: Sequence[TrialRow]
    sources: Mapping[int, str]
    lagging: Mapping[int, float]
    importances: Mapping[str, Mapping[str, float]]
    unknown: str

    @property
    def metric(self) -> str:
        """The first objective."""
        return self.study.sweep.objectives[0]

    @property
    def sign(self) -> float:
        """1 where more of the metric is better, else -1."""
        return 1.0 if direction_of(self.metric) == "maximize" else -1.0

    @property
    def sized(self) -> bool:
        """Whether any trial has tables whose bytes are known."""
        return any(size_of(row) is not None for row in self.rows)

    @property
    def complete(self) -> list[TrialRow]:
        """Trials with values."""
        return [row for row in self.rows if row.state == "complete"]

    @property
    def seconds(self) -> float:
        """Spent by trials of this study, all together."""
        mine = (row for row in self.rows if row.number not in self.sources)
        return sum(number_of(row.facts.get("seconds")) or 0.0 for row in mine)

    def counts(self) -> dict[str, int]:
        """Trials of this study by state, their twins, and those known from earlier ones."""
        own = [row for row in self.rows if row.number not in self.sources]
        mine = Counter(row.state for row in own if row.twin_of is None)
        found = {state: mine[state] for state in _STATES if mine[state]}
        if twins := sum(row.twin_of is not None for row in own):
            found["of these in another dtype"] = twins
        if self.sources:
            found["known from earlier studies"] = len(self.sources)
        return found


def find(study: Study) -> Findings:
    """Reads a study.

    Args:
        study: With or without complete trials.
    """
    rows = study.rows()
    trials = {trial.number: trial for trial in study.inner.get_trials(deepcopy=False)}
    sources, lagging = {}, {}
    for row in rows:
        trial = trials[row.number]
        if "source" in trial.user_attrs:
            sources[row.number] = str(trial.user_attrs["source"])
        if row.state == "stopped":
            stages = trial.user_attrs.get("stages", {})
            reached = trial.intermediate_values or {int(s): v[0] for s, v in stages.items()}
            if reached:
                lagging[row.number] = float(reached[max(reached)])
    importances, unknown = importances_of(study)
    front = study.front(rows)
    return Findings(study, rows, front, sources, lagging, importances, unknown)


# ------------------------------------------------------------------------------- importance


def importances_of(study: Study) -> tuple[dict[str, dict[str, float]], str]:
    """How much settings decide about each objective, or why that is not known.

    Args:
        study: Which.
    """
    done = study.inner.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < FEW:
        return {}, f"{len(done)} complete trials are too few; {FEW} are needed."
    best = PedAnovaImportanceEvaluator(target_quantile=min(0.5, max(0.1, 5 / len(done))))
    found: dict[str, dict[str, float]] = {}
    for place, name in enumerate(study.sweep.objectives):
        sign = -1.0 if study.sweep.directions[place] == "maximize" else 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                scores = optuna.importance.get_param_importances(
                    study.inner, evaluator=best, normalize=False,
                    target=lambda trial, place=place, sign=sign: sign * trial.values[place],
                )  # fmt: skip
            except Exception as error:  # noqa: BLE001, a report goes without
                return {}, f"Optuna could not compute it: {type(error).__name__}: {error}"
        total = sum(scores.values())
        if total > 0:
            found[name] = {key: value / total for key, value in scores.items()}
    return found, "" if found else "No setting was seen to make a difference."


# ------------------------------------------------------------------------------- one trial


def number_of(value: Any) -> float | None:
    """A finite number, or None.

    Args:
        value: Anything.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def size_of(row: TrialRow) -> float | None:
    """Bytes of a trial's tables as they are served; None if nobody said.

    Args:
        row: The trial.
    """
    return number_of(row.facts.get("bytes", row.values.get("bytes"))) or None


def ratio_of(row: TrialRow) -> float | None:
    """The same as a share of the full tables.

    Args:
        row: The trial.
    """
    return number_of(row.facts.get("ratio"))


def metric_of(row: TrialRow, split: str, name: str) -> tuple[float | None, float | None]:
    """A metric of a trial and its sd over seeds, as far as they are known.

    Args:
        row: The trial.
        split: ``valid`` or ``test``.
        name: Of the metric.
    """
    value = number_of((row.facts.get(split) or {}).get(name))
    sd = number_of(((row.facts.get("sd") or {}).get(split) or {}).get(name))
    return value, sd


def params_of(row: TrialRow) -> dict[str, Any]:
    """Answers of a trial; powers of two as themselves.

    Args:
        row: The trial.
    """
    suffix = PowerOfTwo.LOG2
    return {
        name.removesuffix(suffix): 1 << value if name.endswith(suffix) else value
        for name, value in row.params.items()
    }


def why_of(row: TrialRow) -> str:
    """Why a trial was stopped, turned down or failed; empty for others.

    Args:
        row: The trial.
    """
    unknown = "no reason was kept; an objective may not be a number"
    return str(row.facts.get("why") or (unknown if row.state == "failed" else ""))


def widths_of(row: TrialRow) -> dict[str, int]:
    """Searched widths by table.

    Args:
        row: The trial.
    """
    return {
        place.removeprefix("model.tables.").removesuffix(_WIDTH): int(value)
        for place, value in row.settings.items()
        if place.startswith("model.tables.") and place.endswith(_WIDTH) and number_of(value)
    }


def chosen(base: Mapping[str, Any], row: TrialRow) -> str:
    """Settings of a trial that differ from the experiment, in short.

    What goes by table is told by value: ``embedding_dim 16: user; 4: 12 tables``.

    Args:
        base: Plain values of the experiment.
        row: The trial.
    """
    parts, tables = [], {}
    for place, value in row.settings.items():
        if place.startswith("model.tables.") and place.count(".") >= 3:
            table, _, rest = place.removeprefix("model.tables.").partition(".")
            tables.setdefault(rest, {})[table] = value
        elif _differs(_at(base, place), value):
            parts.append(f"{place}={_short(value)}")
    for rest, values in tables.items():
        if any(_differs(_at(base, f"model.tables.{t}.{rest}"), v) for t, v in values.items()):
            parts.insert(0, f"{rest} {_by_value(values)}")
    if row.dtype != "fp32":
        parts.append(f"stored in {row.dtype}")
    return ", ".join(parts) or "the experiment as it is"


def _at(base: Mapping[str, Any], place: str) -> Any:
    """What the experiment has; a table without a width has the model's."""
    node: Any = base
    for part in place.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    if node is None and place.endswith(_WIDTH):
        node = base.get("model", {}).get("embedding_dim")
    return node


def _differs(before: Any, value: Any) -> bool:
    """Whether a value changes something; what a block does not name stays."""
    if isinstance(value, Mapping) and isinstance(before, Mapping):
        return any(_differs(before.get(key), item) for key, item in value.items())
    if isinstance(value, list | tuple) and isinstance(before, list | tuple):
        return list(value) != list(before)
    return value != before


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = [f"{key}={_short(item)}" for key, item in value.items() if key != "kind"]
        return f"{value.get('kind', '')}({', '.join(inner)})" if inner else str(value.get("kind"))
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_short, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _by_value(values: Mapping[str, Any]) -> str:
    """``16: user, item; 4: 12 tables``, numbers from the largest."""
    groups: dict[str, list[str]] = {}
    order: dict[str, float] = {}
    for table, value in values.items():
        groups.setdefault(_short(value), []).append(table)
        order[_short(value)] = number_of(value) or 0.0
    parts = []
    for text in sorted(groups, key=lambda text: (-order[text], text)):
        names = groups[text]
        parts.append(f"{text}: {', '.join(names) if len(names) <= 3 else f'{len(names)} tables'}")
    return "; ".join(parts)


# ------------------------------------------------------------------------------- all trials


def how_stored(findings: Findings, dtype: str) -> str:
    """The command or call that stores trained tables as they were judged.

    Args:
        findings: Of a study.
        dtype: They were judged in.
    """
    if isinstance(findings.study.space.experiment, CFExperiment):
        return f'recsys.serving.freeze.freeze_model(model, "{dtype}")'
    return f"recsys export RUN_DIR --freeze {dtype} --to FOLDER"


@dataclasses.dataclass(frozen=True)
class Share:
    """The best trial at or below a share of the full tables' bytes.

    Args:
        share: Of the full tables' bytes; None for any size.
        row: The trial; None if nothing is that small.
    """

    share: float | None
    row: TrialRow | None

    @property
    def name(self) -> str:
        """Of the line of a table."""
        return "any" if self.share is None else f"{self.share:.0%}"


def best_by_share(findings: Findings) -> list[Share]:
    """The best trial of any size, and at or below each of `SHARES` if there are tables.

    Args:
        findings: Of a study.
    """
    done = sorted(
        findings.complete,
        key=lambda row: (-findings.sign * row.values[findings.metric], row.number),
    )
    found = [Share(None, done[0] if done else None)]
    for share in SHARES if findings.sized else ():
        fits = (row for row in done if (ratio := ratio_of(row)) is not None and ratio <= share)
        found.append(Share(share, next(fits, None)))
    return found


def full_bytes(findings: Findings) -> float | None:
    """Bytes of the experiment's own tables; None if no trial tells.

    Args:
        findings: Of a study.
    """
    for row in findings.rows:
        size, ratio = size_of(row), ratio_of(row)
        if size and ratio:
            return size / ratio
    return None


def nearly_as_good(findings: Findings) -> TrialRow | None:
    """The smallest trial of the front whose metric is within `NEAR` of the best; None for the best.

    Args:
        findings: Of a study.
    """
    if not findings.front:
        return None
    best, name = findings.front[0], findings.metric
    near = [
        (size, row)
        for row in findings.front
        if abs(row.values[name] - best.values[name]) <= NEAR and (size := size_of(row))
    ]
    _, small = min(near, key=lambda pair: pair[0], default=(0, best))
    return None if small.number == best.number else small


def reasons(rows: Sequence[TrialRow], most: int = 3) -> Iterator[tuple[str, int, str]]:
    """State, how many trials and one example, of the most frequent reasons.

    Args:
        rows: Trials.
        most: So many of each state.
    """
    for state in ("rejected", "failed"):
        texts = [(why_of(row).splitlines() or [""])[0] for row in rows if row.state == state]
        kinds = [re.sub(r"\d[\d,.]*", "#", text) for text in texts]
        for kind, count in Counter(kinds).most_common(most):
            yield state, count, texts[kinds.index(kind)]
