"""The production server: gunicorn over uvicorn workers, set from the settings. The master (`master.py`) loads the code,
opens the vault, and forks workers (`worker.py`); it answers the vault's control socket and no request."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import connections
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from telemetry.logs import EventLogger
from telemetry.metrics_shared import begin_run
from tokenhub.master import Master, before_fork
from tokenhub.worker import GRACE_SECONDS, PlainWorker
from vault.control import ControlServer

log = EventLogger(__name__)

KEEP_ALIVE_SECONDS = 75
END_SECONDS = 4
"""For journal and leases, after the last request: a worker that is killed at GRACE_SECONDS could not write them."""


class PlainLogger(Logger):  # type: ignore[misc]  # gunicorn has no type information
    """Leaves all lines to the root logger, which has TokenHub's format."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self._access_log_enabled = False
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)

    def access(self, *_: Any, **__: Any) -> None:
        """The journal is the access log."""


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no type information
    def __init__(self, *, listen: str, workers: int, when_ready: Callable[[], object] | None = None) -> None:
        self._announce = when_ready
        self._listen = listen
        self._workers = workers
        self._control = ControlServer(settings.TOKENHUB_DATA_DIR / "vault.sock")
        super().__init__()

    def load_config(self) -> None:
        options = {
            "bind": self._listen,
            "workers": self._workers,
            "worker_class": PlainWorker,
            "logger_class": PlainLogger,
            "preload_app": True,
            "graceful_timeout": GRACE_SECONDS + END_SECONDS,
            "timeout": 60,
            "keepalive": KEEP_ALIVE_SECONDS,
            "backlog": 2048,
            "pre_fork": before_fork,
            "when_ready": self._when_ready,
            "on_exit": self._on_exit,
            "proc_name": "tokenhub",
            "control_socket_disable": True,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        from routing.runtime import metrics_folder
        from tokenhub.asgi import application

        begin_run(metrics_folder())
        connections.close_all()  # a connection must not be shared with the workers
        return application

    def run(self) -> None:
        Master(self).run()

    def _when_ready(self, arbiter: Arbiter) -> None:
        self._control.start()
        log.info("serving", listen=self._listen, workers=self._workers)
        if self._announce is not None:
            self._announce()

    def _on_exit(self, arbiter: Arbiter) -> None:
        self._control.stop()
