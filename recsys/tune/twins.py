"""One training is several trials: its tables stored in every dtype that the space has.

How tables are stored is decided after training, so the other dtypes cost a judgement and no
training. Each becomes a complete trial of the study, from which the sampler learns.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from recsys.tune.space import SERVE, TWIN_OF, Space, dtypes_of
from recsys.tune.study import Study


def other_dtypes(space: Space, dtype: str) -> tuple[str, ...]:
    """How else the tables of a trial may be stored.

    Args:
        space: Of the sweep.
        dtype: Of the trial.
    """
    known = dtypes_of(space)
    return tuple(other for other in known if other != dtype) if dtype in known else ()


def add_twin(
    study: Study,
    trial: FrozenTrial,
    dtype: str,
    values: Sequence[float],
    facts: Mapping[str, Any],
) -> None:
    """Tells the study what a trained trial is worth in another dtype. Twice is once.

    Args:
        study: Of the trial.
        trial: Trained, not told yet.
        dtype: Another one than its own.
        values: By objective.
        facts: See `TrialRow`.
    """
    folder = trial.user_attrs["folder"]
    for other in study.inner.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        attrs = other.user_attrs
        if TWIN_OF in attrs and (attrs["folder"], attrs["dtype"]) == (folder, dtype):
            return  # told before the worker died
    (serve,) = (p for p in study.space.parameters if p.name == SERVE)
    study.inner.add_trial(
        optuna.create_trial(
            params={**trial.params, **(serve.domain.known(SERVE, dtype) or {})},
            distributions=trial.distributions,
            values=list(values),
            constraints=dict.fromkeys(trial.constraints, 0.0),
            user_attrs={
                TWIN_OF: trial.number, "folder": folder, "dtype": dtype, "facts": dict(facts),
                "settings": trial.user_attrs["settings"],
            },
        )
    )  # fmt: skip
