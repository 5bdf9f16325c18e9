"""Whether a sweep asks for what the models that it searches can give.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Iterator

from recsys.cf_config import CFExperiment
from recsys.errors import ConfigError
from recsys.tune.objectives import METRICS, cut_off
from recsys.tune.space import SERVE
from recsys.tune.sweep import Sweep
from recsys.tune.workload import Searched

_TRAINING = ("embedding", "sampling", "train")
_DATA = ("dataset", "evaluation", "name", "seeds")


def check_sweep(sweep: Sweep, experiment: Searched) -> None:
    """Refuses objectives, limits, priors and places that make no sense, before data is fetched.

    Args:
        sweep: What to search.
        experiment: Around which experiment.

    Raises:
        ConfigError: All problems are named.
    """
    problems = list(
        _of_filters(sweep, experiment)
        if isinstance(experiment, CFExperiment)
        else _of_clicks(sweep, experiment.model.class_path)
    )
    if len(problems) == 1:
        raise ConfigError(problems[0])
    if problems:
        raise ConfigError(f"{len(problems)} problems.\n  " + "\n  ".join(problems))


def _of_clicks(sweep: Sweep, model: str) -> Iterator[str]:
    for name in sweep.objectives:
        if cut_off(name) is not None:
            yield (
                f"objectives: `{name}` judges lists, and {model} predicts clicks. Take one of "
                f"{', '.join(METRICS)}."
            )


def _of_filters(sweep: Sweep, experiment: CFExperiment) -> Iterator[str]:
    model, ks = experiment.model.class_path, list(experiment.evaluation.ks)
    for name in sweep.objectives:
        k = cut_off(name)
        if name in METRICS:
            yield (
                f"objectives: `{name}` judges predicted clicks, and {model} is judged by its "
                f"lists. Take one such as `{experiment.train.monitor}`: "
                f"`objectives: [{experiment.train.monitor}]`."
            )
        elif k is not None and k not in ks:
            yield (
                f"objectives: `{name}`: expected one of evaluation.ks={ks} behind the @. Change "
                f"the objective, or `set: {{evaluation.ks: {sorted([*ks, k])}}}`."
            )
    if "lookup_us" in sweep.objectives or sweep.limits.lookup_us is not None:
        yield (
            f"`lookup_us` is the time to look a row up in its tables. {model} is served by its "
            "final vectors and looks nothing up: leave it out."
        )
    for name in ("importance", "supernet"):
        if getattr(sweep.prior, name):
            yield (
                f"prior.{name}: it finds widths of the fields of models that predict clicks. "
                f"{model} has one width for all: leave it out."
            )
    yield from _of_places(sweep, model)
    if experiment.fitted:
        yield from _of_fitted(sweep, model)


def _of_places(sweep: Sweep, model: str) -> Iterator[str]:
    for place in sweep.space:
        if place.split(".")[0] in _DATA:
            yield (
                f"space.{place}: trials with other values cannot be compared, because they are "
                "judged on other data or by other means. `set` it for all trials."
            )
        elif ".tables." in place and place.endswith(".embedding_dim"):
            yield (
                f"space.{place}: {model} has one width for users and items, whose products are "
                "its scores. Search `model.embedding_dim`."
            )


def _of_fitted(sweep: Sweep, model: str) -> Iterator[str]:
    why = f"{model} is computed and not trained"
    if "bytes" in sweep.objectives or sweep.limits.bytes or sweep.limits.ratio:
        yield (
            f"`bytes` are those of embedding tables, and {model} has none. Search for metrics of "
            "its lists alone, without a limit."
        )
    if sweep.pruner.kind != "none":
        yield f"pruner.kind: {why}, so there is nothing to stop early. Take `none`."
    for place in sweep.space:
        if place == SERVE or place.startswith(("model.compression", "model.tables")):
            yield f"space.{place}: {model} has no embedding tables. Leave it out."
        elif place.split(".")[0] in _TRAINING:
            yield f"space.{place}: {why}, so it has no effect. Leave it out."
