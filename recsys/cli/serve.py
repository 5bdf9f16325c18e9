"""``recsys serve`` answers requests over HTTP.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path

import click

from recsys.cli.options import SET, examples


@click.command(
    epilog=examples(r"""
    recsys serve runs/first
    recsys serve runs/light_gcn --port 8080 --watch 10
    recsys serve served/monday --root served --num-threads 2 --set max_rows=500
    recsys serve runs/first --ray --workers 4
""")
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535),
              help="Port to listen at.")  # fmt: skip
@click.option("--watch", type=click.FloatRange(min=0.1), metavar="SECONDS",
              help="Look after DIR this often, and load what is new in it.")  # fmt: skip
@click.option("--root", type=click.Path(path_type=Path, file_okay=False),
              help="Allow POST /reload of folders below this one.")  # fmt: skip
@click.option("--num-threads", default=1, show_default=True, type=click.IntRange(min=1),
              help="Threads of torch.")  # fmt: skip
@click.option("--ray", "on_ray", is_flag=True, help="On replicas of Ray Serve.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(min=1),
              help="Replicas, with --ray.")  # fmt: skip
@click.option("--address", help="Of the Ray cluster, or auto. By default one is started here.")
@SET
def serve(
    directory: Path,
    host: str,
    port: int,
    watch: float | None,
    root: Path | None,
    num_threads: int,
    on_ray: bool,
    workers: int,
    address: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Answers requests by what DIR holds: a run, a model, an index of any kind, or several.

    Requests are POST /v1/predict, recommend, similar, search, search_sets and rank (see
    /openapi.json); GET /health, /ready and /metrics tell the state. --set changes limits, say
    max_rows=500. A new version is taken up while requests go on.
    """
    import torch

    from recsys.config import validate
    from recsys.errors import ConfigError
    from recsys.serving.http_app import make_app, run_server
    from recsys.serving.limits import ServingLimits
    from recsys.serving.service import Service
    from recsys.serving.service_folder import fingerprint_of

    limits = validate(ServingLimits, {}, overrides, "limits")
    if on_ray:
        if root is not None:
            raise ConfigError("--root: a replica cannot reload for others. Use --watch with --ray.")
        from recsys.serving.ray_serve import deployment, run_on_cluster

        fingerprint_of(directory)  # a wrong folder is told here, not by replicas
        application = deployment(directory, workers, limits, watch or 5.0, num_threads)
        click.echo(f"serving {directory} at http://{host}:{port} on {workers} replicas")
        run_on_cluster(application, host, port, address)
        return
    torch.set_num_threads(num_threads)
    service = Service(limits=limits)
    name = service.load(directory)
    click.echo(f"serving {name} at http://{host}:{port}: {', '.join(service.operations)}")
    run_server(make_app(service, root, watch), host, port)
