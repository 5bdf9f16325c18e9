"""Optuna's samplers and pruners, made so that a study that was stopped draws what it would have.

Stability: internal
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from recsys.errors import ConfigError
from recsys.tune.space import TWIN_OF, Space, dtypes_of
from recsys.tune.sweep import PrunerConfig, SamplerConfig


class Seeded(BaseSampler):
    """A sampler whose draws for a trial depend on the seed, the trial and those before it.

    Trials that failed do not count: what is drawn after a trial that was killed and tried again is
    what would have been drawn without that. Neither do those that were not drawn (twins).

    Args:
        config: Which sampler.
        space: To search.
        parallel: Whether other workers have trials under way.
    """

    def __init__(self, config: SamplerConfig, space: Space, parallel: bool) -> None:
        self._config, self._space, self._parallel = config, space, parallel
        self._inner = make_sampler(config, space, parallel, config.seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Starts the random numbers of this trial."""
        place = sum(
            other.number < trial.number
            and other.state != TrialState.FAIL
            and TWIN_OF not in other.user_attrs
            for other in study.get_trials(deepcopy=False)
        )
        text = f"{self._config.seed}/{place}".encode()
        seed = int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little") >> 1
        self._inner = make_sampler(self._config, self._space, self._parallel, seed)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """See Optuna."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See Optuna."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """See Optuna."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """See Optuna."""
        if self._config.kind != "grid":  # which would stop a loop that is not Optuna's
            self._inner.after_trial(study, trial, state, values)


def make_sampler(config: SamplerConfig, space: Space, parallel: bool, seed: int) -> BaseSampler:
    """A sampler of Optuna.

    Args:
        config: Which.
        space: To search.
        parallel: Whether other workers have trials under way.
        seed: Of its draws.

    Raises:
        ConfigError: It cannot search this space, or its package is missing.
    """
    startup = config.startup_trials * len(dtypes_of(space))  # a training is as many trials
    if config.kind == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise ConfigError("sampler.kind: cmaes needs a package. Install it: `pip install cmaes`.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match config.kind:
            case "tpe":
                return TPESampler(
                    multivariate=True, group=True, constant_liar=parallel, seed=seed,
                    n_startup_trials=startup,
                )  # fmt: skip
            case "nsga2":
                return NSGAIISampler(population_size=config.population, seed=seed)
            case "nsga3":
                return NSGAIIISampler(population_size=config.population, seed=seed)
            case "cmaes":
                return CmaEsSampler(n_startup_trials=startup, seed=seed)
            case "gp":
                return GPSampler(
                    n_startup_trials=startup, seed=seed, deterministic_objective=False
                )  # fmt: skip
            case "grid":
                return GridSampler(space.grid(), seed=config.seed)
    return RandomSampler(seed=seed)


def make_pruner(config: PrunerConfig) -> BasePruner:
    """A pruner of Optuna; `recsys.tune.halving` is no part of it.

    Args:
        config: Which.
    """
    match config.kind:
        case "asha":
            return SuccessiveHalvingPruner(
                min_resource=config.first, reduction_factor=config.reduction
            )
        case "hyperband":
            return HyperbandPruner(min_resource=config.first, reduction_factor=config.reduction)
        case "median":
            return MedianPruner(config.startup_trials, n_warmup_steps=config.first - 1)
    return NopPruner()
