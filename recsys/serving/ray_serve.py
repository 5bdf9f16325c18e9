"""A service on a Ray cluster: replicas behind one address. The only door to Ray Serve.

Every replica loads the folder itself and looks after it, so a new version is taken up by all of
them without a restart; the folder must lie on a disk that all hosts see.

Stability: experimental
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch
from ray import serve
from ray.serve.config import HTTPOptions

from recsys.serving.http_app import make_app
from recsys.serving.limits import ServingLimits
from recsys.serving.service import Service

NAME = "recsys"
"""Of the application in Ray Serve."""


def deployment(
    directory: Path | str,
    replicas: int = 1,
    limits: ServingLimits | None = None,
    watch: float = 5.0,
    num_threads: int = 1,
    **options: Any,
) -> serve.Application:
    """The service as an application of Ray Serve, to be run or put beside others.

    Args:
        directory: See `recsys.serving.service_folder.load_parts`.
        replicas: Processes that answer; each holds all that is served.
        limits: Of requests.
        watch: Seconds between looks after the folder.
        num_threads: Of torch in a replica; it reserves as many cores.
        options: Others of ``serve.deployment``, say ``autoscaling_config``.
    """
    limits = limits or ServingLimits()
    builder = _builder(str(Path(directory).absolute()), limits, watch, num_threads)
    settings = {
        "name": NAME,
        "num_replicas": replicas,
        "max_ongoing_requests": 2 * limits.max_waiting,
        "ray_actor_options": {"num_cpus": num_threads},
        **options,
    }
    if "autoscaling_config" in options:
        del settings["num_replicas"]
    ingress: Any = serve.ingress(builder)()
    made: Any = serve.deployment(**settings)(ingress)
    return made.bind()


def run_on_cluster(
    application: serve.Application,
    host: str,
    port: int,
    address: str | None = None,
    wait: bool = True,
) -> None:
    """Runs the application; ready when this returns, or, with ``wait``, until interrupted.

    Args:
        application: From `deployment`.
        host: Address that the proxy listens at.
        port: Of it.
        address: Of a running cluster, or ``auto``; None starts one on this machine.
        wait: Whether to stay, and to shut down at the end.
    """
    if not ray.is_initialized():
        ray.init(address, log_to_driver=False, include_dashboard=False if not address else None)
    serve.start(http_options=HTTPOptions(host=host, port=port))
    serve.run(application, name=NAME, route_prefix="/")
    try:
        while wait:
            time.sleep(1)
    finally:
        if wait:
            serve.shutdown()


def _builder(
    directory: str, limits: ServingLimits, watch: float, num_threads: int
) -> Callable[[], Any]:
    def build() -> Any:
        torch.set_num_threads(num_threads)
        service = Service(limits=limits)
        service.load(directory)
        return make_app(service, watch=watch)

    return build
