"""A service over HTTP: routes, their schema, and a server. The only door to FastAPI and uvicorn.

    POST /v1/predict, recommend, similar, search, search_sets, rank: see recsys.serving.requests
    GET  /health      200 while the process lives
    GET  /ready       200 when something is loaded, with its name; else 503
    GET  /metrics     for Prometheus
    POST /reload      loads the same folder again, or another below the root; off without a root

Stability: experimental
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from recsys import __version__
from recsys.errors import RecsysError
from recsys.serving import requests
from recsys.serving.operations import OPERATIONS
from recsys.serving.service import Answer, Busy, Service, refusal, too_long
from recsys.serving.service_folder import inside
from recsys.serving.watcher import Watcher

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": requests.ErrorAnswer, "description": text}
    for status, text in (
        (400, "Not JSON."), (404, "Not served."), (408, "The body came too slowly."),
        (413, "The body is too long."), (422, "Something in it is wrong."),
        (503, "Not ready, or too much to do."),
    )
}  # fmt: skip


class ReloadRequest(requests.Request):
    """What to load."""

    folder: str | None = None
    """Name below the root; None for the folder that is served."""


def make_app(service: Service, root: Path | str | None = None, watch: float | None = None) -> Any:
    """The service as an ASGI application.

    Args:
        service: What answers. It is closed with the application.
        root: Where `/reload` may take folders from; None turns it off.
        watch: Seconds between looks after the folder that is served; None does not look.
    """
    threads = ThreadPoolExecutor(64, thread_name_prefix="recsys-request")

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with contextlib.ExitStack() as stack:
            stack.callback(threads.shutdown)
            stack.callback(service.close)
            if watch is not None:
                stack.enter_context(Watcher(service, watch))
            yield

    app = FastAPI(title="recsys", version=__version__, lifespan=lifespan)
    app.state.service = service
    for name, operation in OPERATIONS.items():
        app.add_api_route(
            f"/v1/{name}", _endpoint(service, threads, name), methods=["POST"], name=name,
            summary=operation.summary, response_model=operation.response, responses=_ERRORS,
            openapi_extra=_body_schema(operation.request),
        )  # fmt: skip
    _add_state(app, service)
    if root is not None:
        _add_reload(app, service, threads, Path(root))
    app.add_exception_handler(HTTPException, _http_error)
    return app


def _endpoint(service: Service, threads: ThreadPoolExecutor, name: str) -> Callable[..., Any]:
    waiting = 0

    async def endpoint(request: Request) -> Response:
        nonlocal waiting
        if waiting >= service.limits.max_waiting:
            return _response(_busy(service, name))
        waiting += 1
        try:
            body = await _body(service, request)
            if isinstance(body, Answer):
                service.metrics.count(
                    "recsys_requests_total", "Requests.", operation=name, status=body.status
                )
                return _response(body)
            loop = asyncio.get_running_loop()
            return _response(await loop.run_in_executor(threads, service.answer, name, body))
        finally:
            waiting -= 1

    return endpoint


def _busy(service: Service, name: str) -> Answer:
    service.metrics.count("recsys_requests_total", "Requests.", operation=name, status=503)
    return refusal(503, f"{service.limits.max_waiting:,} requests wait already. Ask again later.")


async def _body(service: Service, request: Request) -> bytes | Answer:
    """All of the body, of which no more is read than is allowed, nor longer."""
    limits = service.limits
    told = request.headers.get("content-length", "")
    if told.isdecimal() and len(told) < 20 and int(told) > limits.max_body_bytes:
        return too_long(limits, int(told))
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.timeout_s):
            async for part in request.stream():
                size += len(part)
                if size > limits.max_body_bytes:
                    return too_long(limits)
                parts.append(part)
    except TimeoutError:
        return refusal(408, f"the body did not come within {limits.timeout_s:g} s.")
    return b"".join(parts)


def _response(answer: Answer) -> Response:
    headers = {"Retry-After": "1"} if answer.status == 503 else None
    return Response(answer.body, answer.status, headers, "application/json")


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Whether the process lives.")
    async def health() -> dict[str, str]:
        return {"status": "alive", "version": __version__}

    @app.get("/ready", summary="Whether requests are answered, and by what.", responses=_ERRORS)
    async def ready() -> Response:
        if service.artefact is None:
            return _response(refusal(503, "nothing is loaded yet. Ask again later."))
        content = {"artefact": service.artefact, "operations": service.operations}
        return _response(Answer(200, json.dumps(content).encode()))

    @app.get("/metrics", summary="Counts and times, for Prometheus.")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_reload(app: FastAPI, service: Service, threads: ThreadPoolExecutor, root: Path) -> None:
    def reload(body: bytes) -> Answer:
        try:
            asked = ReloadRequest.model_validate_json(body or b"{}")
            folder = service.folder if asked.folder is None else inside(root, asked.folder)
            if folder is None:
                return refusal(422, "folder: expected a name below the root, got none.")
            return Answer(200, json.dumps({"artefact": service.load(folder)}).encode())
        except ValidationError as error:
            return refusal(422, f'expected {{"folder": name}}: {error.errors()[0]["msg"]}')
        except Busy as error:
            return refusal(409, str(error))
        except (RecsysError, OSError) as error:
            return refusal(422, f"{error} What was served stays.")

    async def endpoint(request: Request) -> Response:
        body = await _body(service, request)
        if isinstance(body, Answer):
            return _response(body)
        return _response(await asyncio.get_running_loop().run_in_executor(threads, reload, body))

    app.add_api_route(
        "/reload", endpoint, methods=["POST"], summary="Loads a folder; nothing is interrupted.",
        response_model=dict[str, str], responses={409: _ERRORS[422], **_ERRORS},
        openapi_extra=_body_schema(ReloadRequest),
    )  # fmt: skip


def _body_schema(request: type[requests.Request]) -> dict[str, Any]:
    content = {"application/json": {"schema": request.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


async def _http_error(_: Request, error: Exception) -> Response:
    """Wrong paths and methods are told in the same form as everything else."""
    assert isinstance(error, HTTPException)
    known = ", ".join(f"POST /v1/{name}" for name in OPERATIONS)
    text = f"{error.detail}. Known: {known}, GET /health, /ready, /metrics, /openapi.json."
    answer = refusal(error.status_code, text)
    return Response(answer.body, answer.status, error.headers, "application/json")


def run_server(app: Any, host: str, port: int) -> None:
    """Serves until interrupted; requests that have begun are answered first.

    Args:
        app: From `make_app`.
        host: Address to listen at.
        port: 0 takes a free one.
    """
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=30)
