"""Judges a saved classifier of nodes on a split of its own run.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path

from recsys.cf_config import load_any
from recsys.errors import ConfigError
from recsys.evaluate.nodes import NodeEvaluation, evaluate_nodes
from recsys.node_config import NodeExperiment
from recsys.serving.classifier_folder import load_classifier
from recsys.serving.folder import run_config


def evaluate_node_run(
    run_dir: Path | str, split: str = "test", cache_dir: Path | str = ".data"
) -> NodeEvaluation:
    """Judges the classifier of a run on one of the run's own splits.

    Args:
        run_dir: With ``config.json`` (of several seeds in the folder above) and ``model/``.
        split: ``train``, ``valid`` or ``test``.
        cache_dir: Where data is fetched to.

    Raises:
        DataError: The data has no such split.
        ConfigError: There is no configuration.
        CheckpointError: There is no classifier, it is damaged, or the data changed since.
    """
    path = run_config(Path(run_dir))
    experiment = load_any(path)
    if not isinstance(experiment, NodeExperiment):
        raise ConfigError(f"{path}: expected the experiment of a classifier of nodes.")
    nodes = experiment.dataset.build().nodes(Path(cache_dir))
    model = load_classifier(run_dir, nodes)
    return evaluate_nodes(model, split, experiment.evaluation.bootstrap_samples)
