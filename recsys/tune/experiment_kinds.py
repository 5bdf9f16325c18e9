"""Which kinds of experiments can be searched around, and with what workload.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.cf_config import CFExperiment, kind_of
from recsys.config import Experiment, load, validate
from recsys.config_text import override, read_mapping
from recsys.data.prepare import prepare
from recsys.data.prepared import Prepared
from recsys.errors import ConfigError
from recsys.tune.click_workload import ClickWorkload
from recsys.tune.filter_workload import FilterWorkload
from recsys.tune.workload import Searched, Workload


def load_searched(path: Path | str, overrides: Sequence[str] = ()) -> Searched:
    """Reads an experiment of a model that predicts clicks, or of a collaborative filter.

    Args:
        path: A YAML file, or the resolved JSON of a run.
        overrides: Dotted places to set.

    Raises:
        ConfigError: Something is wrong, or it is of another kind.
    """
    data = read_mapping(Path(path))
    kind = kind_of(override(data, overrides))
    if kind is CFExperiment:
        return validate(CFExperiment, data, overrides, str(path))
    if kind is not Experiment:
        raise ConfigError(
            f"{path}: {data['model']['class']} is neither searched around nor compressed: that is "
            "for models that predict clicks and for collaborative filters. Train it by `recsys "
            "train`."
        )
    return load(path, overrides)


def parsed(data: Mapping[str, Any], base: Mapping[str, Any]) -> Searched:
    """An experiment of the kind of another.

    Args:
        data: Plain values.
        base: Those of the other.

    Raises:
        ConfigError: Something is wrong.
    """
    return CFExperiment.parse(data) if kind_of(base) is CFExperiment else Experiment.parse(data)


def prepared_folder(experiment: Searched, cache_dir: Path) -> Path | None:
    """Fetches and prepares the data of an experiment.

    Args:
        experiment: Names it.
        cache_dir: Where data is fetched to and prepared.

    Returns:
        The folder of prepared rows; None for kinds that read the data as it is.

    Raises:
        RecsysError: The data is bad.
    """
    if isinstance(experiment, CFExperiment):
        return None
    dataset = experiment.dataset.build()
    splits = dataset.splits(cache_dir)
    found = prepare(dataset.schema(), splits, cache_dir / "prepared", experiment.prepare)
    return found.directory


def workload_of(experiment: Searched, cache_dir: Path, prepared: Path | None) -> Workload:
    """The workload of an experiment.

    Args:
        experiment: Names the data.
        cache_dir: Where data is fetched to and prepared.
        prepared: From `prepared_folder`.

    Raises:
        ConfigError: The model is of no kind that can be searched.
        RecsysError: The data is bad.
    """
    if isinstance(experiment, CFExperiment):
        return FilterWorkload(experiment, cache_dir)
    if prepared is None:
        raise ConfigError(f"{experiment.model.class_path}: the data is not prepared.")
    return ClickWorkload(Prepared.load(prepared))
