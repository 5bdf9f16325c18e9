"""Requests in, answers out: everything a server does but the network. No web code.

    service = Service()
    service.load("runs/first")
    service.answer("predict", b'{"rows": [{"user": "ann", "hour": 12}]}')

Requests that come at once from several threads are computed together, and no answer depends on
with whom. What is served can be replaced at any time: requests that have begun are answered by what
they began with.

Stability: experimental
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from recsys.errors import ConfigError, DataError, RecsysError, did_you_mean
from recsys.serving.batcher import Batcher, Overloaded
from recsys.serving.limits import ServingLimits
from recsys.serving.metrics import Metrics
from recsys.serving.operations import OPERATIONS, Operation
from recsys.serving.requests import ErrorAnswer, Problem, Request
from recsys.serving.service_folder import Parts, fingerprint_of, load_parts

_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What goes back to whoever asked."""

    status: int
    """As in HTTP: 200; 4xx where the request is wrong, 5xx where the service is."""
    body: bytes
    """JSON."""


class Busy(RecsysError, RuntimeError):
    """Something is being loaded already."""


class Service:
    """Answers requests by what it has loaded.

    Args:
        parts: What answers; None until `load` or `serve`.
        limits: Of requests.
    """

    def __init__(self, parts: Parts | None = None, limits: ServingLimits | None = None) -> None:
        self.limits = limits or ServingLimits()
        self.metrics = Metrics()
        self._parts: Parts | None = None
        self._source: tuple[Path, str] | None = None
        self._loading = threading.Lock()
        self._batchers: dict[str, Batcher[tuple[Parts, Any], BaseModel]] = {
            name: Batcher(
                self._counted(name, operation.run),
                self.limits.max_batch_rows,
                self.limits.max_waiting,
            )
            for name, operation in OPERATIONS.items()
        }
        if parts is not None:
            self.serve(parts)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Answers what waits, then refuses."""
        for batcher in self._batchers.values():
            batcher.close()

    # ----------------------------------------------------------------------------- what is served

    @property
    def artefact(self) -> str | None:
        """Name of what answers; None before anything is loaded."""
        return None if self._parts is None else self._parts.artefact

    @property
    def folder(self) -> Path | None:
        """From where it was loaded."""
        return None if self._source is None else self._source[0]

    @property
    def operations(self) -> tuple[str, ...]:
        """What can be asked now."""
        parts = self._parts
        if parts is None:
            return ()
        return tuple(n for n, o in OPERATIONS.items() if getattr(parts, o.part) is not None)

    def serve(self, parts: Parts) -> None:
        """Answers with these from now on.

        Args:
            parts: What answers.
        """
        self._parts = parts
        self.metrics.put("recsys_ready", "Whether requests are answered.", 1)
        self.metrics.put(
            "recsys_artefact", "Time when what answers was loaded.", time.time(),
            artefact=parts.artefact,
        )  # fmt: skip

    def load(self, directory: Path | str) -> str:
        """Loads a folder beside what is served, then answers with it. Nothing is interrupted.

        Both are in memory meanwhile. Where it fails, what was served stays.

        Args:
            directory: See `recsys.serving.service_folder.load_parts`.

        Returns:
            Name of what answers now.

        Raises:
            CheckpointError: The folder holds nothing that can be served, or is damaged.
            ConfigError: Its parts do not fit.
            Busy: Another thread is loading.
        """
        if not self._loading.acquire(blocking=False):
            raise Busy("something is being loaded already. Ask again when it is done.")
        help = "Loaded folders, and those that could not be."
        try:
            mark = fingerprint_of(directory)
            parts = load_parts(directory)
        except BaseException:
            self.metrics.count("recsys_loads_total", help, result="failed")
            raise
        else:
            self._source = (Path(directory), mark)
            self.serve(parts)
            self.metrics.count("recsys_loads_total", help, result="loaded")
            _log.info("serving %s", parts.artefact)
            return parts.artefact
        finally:
            self._loading.release()

    def changed(self) -> str | None:
        """What the folder that was loaded holds now, if that is something else; quick.

        Returns:
            Its fingerprint; None where nothing has changed, or the folder is just being replaced.
        """
        if self._source is None:
            return None
        folder, mark = self._source
        try:
            now = fingerprint_of(folder)
        except RecsysError:  # between the two renames of a new version
            return None
        return now if now != mark else None

    # ----------------------------------------------------------------------------------- requests

    def ask(self, name: str, request: Request) -> BaseModel:
        """The answer to a request, as Python objects.

        Args:
            name: Of the operation.
            request: Of the operation's kind.

        Raises:
            ConfigError: What is loaded has no such operation, or a limit is passed.
            DataError: The request is wrong.
            Overloaded: Too many wait, or nothing is loaded.
        """
        parts = self._parts
        if parts is None:
            raise Overloaded("nothing is loaded yet. Ask again later.")
        operation = OPERATIONS[name]
        if getattr(parts, operation.part) is None:
            raise ConfigError(f"{parts.artefact} has no {operation.part}, so it cannot {name}.")
        weight = operation.check(request, self.limits)
        key = (id(parts), operation.key(request))
        return self._batchers[name].ask((parts, request), key, weight, self.limits.timeout_s)

    def answer(self, name: str, body: bytes) -> Answer:
        """The answer to a request as it comes over a network. Never raises.

        Args:
            name: Of the operation, one of `recsys.serving.operations.OPERATIONS`.
            body: JSON.
        """
        start = time.perf_counter()
        answer = self._answered(name, body)
        label = name if name in OPERATIONS else "unknown"
        self.metrics.count(
            "recsys_requests_total", "Requests.", operation=label, status=answer.status
        )
        self.metrics.time(
            "recsys_request_seconds", "From the whole request to the answer.",
            time.perf_counter() - start, operation=label,
        )  # fmt: skip
        return answer

    def _answered(self, name: str, body: bytes) -> Answer:
        operation = OPERATIONS.get(name)
        parts = self._parts
        if operation is None:
            return refusal(404, f"there is no {name[:80]!r}. {did_you_mean(name, OPERATIONS)}")
        if parts is None:
            return refusal(503, "nothing is loaded yet. Ask again later.")
        if getattr(parts, operation.part) is None:
            known = ", ".join(self.operations)
            return refusal(404, f"{parts.artefact} cannot {name}. It can: {known}.")
        if len(body) > self.limits.max_body_bytes:
            return too_long(self.limits, len(body))
        request: Request | None = None
        try:
            request = operation.request.model_validate_json(body)
            found = self.ask(name, request)
            return Answer(200, found.model_dump_json(exclude_none=True).encode())
        except ValidationError as error:
            return _malformed(error)
        except Overloaded as error:
            return refusal(503, str(error))
        except (DataError, ConfigError) as error:
            return _wrong(error, operation, request)
        except RecsysError as error:
            _log.error("%s: %s", name, error)
            return refusal(500, str(error))
        except Exception:  # noqa: BLE001 - logged, and the server lives on
            _log.exception("%s failed", name)
            return refusal(500, "the service failed; its log says why. Report this.")

    def _counted(
        self, name: str, run: Callable[[Parts, list[Any]], Sequence[BaseModel]]
    ) -> Callable[[list[tuple[Parts, Any]]], Sequence[BaseModel]]:
        def counted(asks: list[tuple[Parts, Any]]) -> Sequence[BaseModel]:
            self.metrics.count("recsys_batches_total", "Computations.", operation=name)
            self.metrics.count(
                "recsys_batched_requests_total", "Requests in them.", len(asks), operation=name
            )
            return run(asks[0][0], [request for _, request in asks])

        return counted


def refusal(status: int, error: str, problems: Iterable[Problem] = ()) -> Answer:
    """An answer that says what is wrong.

    Args:
        status: 4xx or 5xx.
        error: In words.
        problems: Every place.
    """
    text = error.encode("utf-8", "backslashreplace").decode()
    found = ErrorAnswer(error=text, problems=list(problems))
    return Answer(status, found.model_dump_json().encode())


def too_long(limits: ServingLimits, got: int | None = None) -> Answer:
    """The answer to a body above the limit.

    Args:
        limits: Of the service.
        got: Bytes, where they are known.
    """
    told = "more" if got is None else f"{got:,}"
    return refusal(
        413, f"body: expected at most {limits.max_body_bytes:,} bytes, got {told}. Ask in parts."
    )


def _malformed(error: ValidationError) -> Answer:
    problems = []
    for found in error.errors(include_url=False, include_context=False)[:20]:
        got = "nothing" if found["type"] == "missing" else _short(found["input"])
        where = ".".join(str(part) for part in found["loc"])
        problems.append(Problem(where=_plain(where)[:200], expected=found["msg"], got=got))
    broken = any(found["type"] == "json_invalid" for found in error.errors(include_url=False))
    count = error.error_count()
    text = "the body is not JSON" if broken else f"{count:,} fields are wrong"
    return refusal(400 if broken else 422, f"{text}: {problems[0].expected}", problems)


def _wrong(error: DataError | ConfigError, operation: Operation, request: Any) -> Answer:
    message = error.message if isinstance(error, DataError) else str(error)
    where, got = "", ""
    if isinstance(error, DataError) and error.row is not None:
        where, row = operation.place(request, error.row)
        if error.column is not None:
            where = f"{where}.{error.column}"
            there = isinstance(row, Mapping) and error.column in row
            got = _short(row[error.column]) if there else "nothing"
    elif isinstance(error, DataError) and error.column is not None:
        where = error.column
    problem = Problem(where=_plain(where)[:200], expected=_plain(message)[:2000], got=got)
    return refusal(422, f"{message[:2000]}" + (f" (at {where[:200]})" if where else ""), [problem])


def _short(value: Any) -> str:
    text = _plain(repr(value))
    return text if len(text) <= 120 else f"{text[:117]}..."


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
