"""Log lines: an event name and key=values, as JSON or for a terminal, with the id of the request they belong to and
without secrets. Standard library only: structlog, with what it imports beside Twisted and rich, costs a worker 29 MB
and 0.3 s of start."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

from telemetry.redaction import Redactor

REQUEST_ID: Final[ContextVar[str]] = ContextVar("request_id", default="")
"""Of the request that is being answered, in whatever thread or task; set by whoever takes it in."""


class Formatter(logging.Formatter):
    """`secrets`: of this installation, to be masked wherever they turn up."""

    def __init__(self, shape: str = "json", secrets: Sequence[str] = (), **_: Any) -> None:
        super().__init__()
        self._json = shape == "json"
        self._redactor = Redactor(tuple(secrets))

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        data = self._redactor.pairs(getattr(record, "data", {}))
        if (request_id := REQUEST_ID.get()) and "request_id" not in data:
            data["request_id"] = request_id
        event = self._redactor.text(record.getMessage())
        trace = self._redactor.text(self.formatException(record.exc_info)) if record.exc_info else ""
        if self._json:
            line = {"at": at, "level": record.levelname.lower(), "logger": record.name, "event": event}
            line.update(data)
            if trace:
                line["traceback"] = trace
            return json.dumps(line, default=str, ensure_ascii=False)
        pairs = " ".join(f"{key}={value}" for key, value in data.items())
        text = self._redactor.text(f"{at[11:23]} {record.levelname.lower():7} {event} {pairs}".rstrip())
        return f"{text}\n{trace}" if trace else text


class EventLogger:
    """`log.warning("probe_failed", provider=id)`: the name says what, the pairs say which."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def _emit(self, level: int, event: str, data: dict[str, Any], exc_info: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, extra={"data": data}, exc_info=exc_info)

    def debug(self, event: str, **data: Any) -> None:
        self._emit(logging.DEBUG, event, data)

    def info(self, event: str, **data: Any) -> None:
        self._emit(logging.INFO, event, data)

    def warning(self, event: str, **data: Any) -> None:
        self._emit(logging.WARNING, event, data)

    def error(self, event: str, **data: Any) -> None:
        self._emit(logging.ERROR, event, data)

    def exception(self, event: str, **data: Any) -> None:
        self._emit(logging.ERROR, event, data, exc_info=True)
