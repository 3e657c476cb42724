"""Counters of all workers of a server. Each writes a page of its own every second into a folder that its server made
before it forked; whoever is asked sums them. A worker writes its page before it answers with it, so that what was
shown once outlives it: a counter never goes back. Pages of workers that are gone are folded into one.

    metrics/RUN/run.lock        held by the server and all its workers: a folder without holder is deleted
    metrics/RUN/WORKER.lock     held by that worker
    metrics/RUN/WORKER.page
    metrics/RUN/ended.page      of those that are gone"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from time import time
from typing import Final

import msgspec

from telemetry.logs import EventLogger
from telemetry.metrics import Page, alone
from telemetry.metrics_page import merged

log = EventLogger(__name__)
WRITE_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 10.0
FOREIGN_EVERY: Final = 5  # pages; the client library's own figures take a while to collect
ABANDONED_SECONDS: Final = 60.0
_NEW: Final = ".new"


class Ended(msgspec.Struct):
    """`names`: whose pages are in it, as long as their files may still be there."""

    names: list[str]
    page: Page


_encode = msgspec.msgpack.Encoder().encode
_page = msgspec.msgpack.Decoder(Page).decode
_ended = msgspec.msgpack.Decoder(Ended).decode
_ITS_RUN: Path | None = None


def begin_run(folder: Path) -> Path:
    """A folder for this process and those it forks. Folders of servers that are gone are deleted. Raises OSError."""
    global _ITS_RUN
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in folder.iterdir():
        if _is_abandoned(old):
            shutil.rmtree(old, ignore_errors=True)
    name = token_hex(6)
    unnamed = folder / f"{name}{_NEW}"  # a folder without a held lock would be taken for an abandoned one
    unnamed.mkdir(mode=0o700)
    _held(unnamed / "run.lock")
    _ITS_RUN = unnamed.rename(folder / name)
    return _ITS_RUN


def its_run(folder: Path) -> Path:
    """What the server began before it forked; begun now where none did."""
    return _ITS_RUN if _ITS_RUN is not None and _ITS_RUN.parent == folder else begin_run(folder)


def _held(path: Path) -> int:
    """Locked until this process and all that it forks are gone."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _is_free(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    return True


def _is_abandoned(folder: Path) -> bool:
    try:
        if folder.name.endswith(_NEW) and time() - folder.stat().st_mtime < ABANDONED_SECONDS:
            return False
    except FileNotFoundError:
        return False
    return _is_free(folder / "run.lock")


class Shared:
    """This worker's page, and the sum of all. `read(with_foreign)`: the figures of this process, from any thread."""

    def __init__(self, folder: Path, read: Callable[[bool], Page]) -> None:
        self._folder = folder
        self._read = read
        self._foreign = Page(0.0, {})
        self._name = f"{os.getpid()}-{token_hex(4)}"
        self._lock = -1
        self._writing = threading.Lock()
        self._is_failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Raises OSError."""
        self._lock = _held(self._folder / f"{self._name}.lock")
        self._thread.start()

    def stop(self) -> None:
        """With a last page, which the next that is asked will fold."""
        if self._lock < 0:
            return
        self._stop.set()
        self._thread.join(timeout=10)
        self._written(with_foreign=True)
        os.close(self._lock)
        self._lock = -1

    def total(self) -> Page:
        """The sum, with this process's figures as they are now. Waits for the disk."""
        own = self._written(with_foreign=True)
        try:
            living, ended = self._others()
        except OSError as problem:
            log.warning("metrics_not_read", error=type(problem).__name__)
            living, ended = [], []
        silent = sum(own.at - page.at > SILENT_SECONDS for page in living)
        total = merged([own, *living], ended)
        total.series |= alone({"tokenhub_workers_silent": silent})
        return total

    def _run(self) -> None:
        turn = 0
        while not self._stop.wait(WRITE_SECONDS):
            try:
                self._written(with_foreign=turn % FOREIGN_EVERY == 0)
            except Exception:  # the thread must outlive a defect
                log.exception("metrics_not_written")
            turn += 1

    def _written(self, *, with_foreign: bool) -> Page:
        """A page with what is counted by now. A disk that takes none is no reason not to answer."""
        with self._writing:
            page = self._read(with_foreign)
            if with_foreign:
                self._foreign = page
            else:
                page.foreign = self._foreign.foreign
            try:
                self._put(f"{self._name}.page", _encode(page))
            except OSError as problem:
                if not self._is_failing:
                    log.warning("metrics_not_written", error=type(problem).__name__)
                self._is_failing = True
            else:
                self._is_failing = False
            return page

    def _put(self, name: str, data: bytes) -> None:
        fresh = self._folder / f"{name}.{self._name}{_NEW}"
        fresh.write_bytes(data)
        fresh.rename(self._folder / name)

    def _others(self) -> tuple[list[Page], list[Page]]:
        """Pages of the workers that live beside this one, and those of the others, which are made one."""
        descriptor = _held(self._folder / "fold.lock")
        try:
            ended = self._ended()
            living, gone = list[Page](), dict[str, Page]()
            for path in sorted(self._folder.glob("*.page")):
                name = path.stem
                if name in {self._name, "ended"} or name in ended.names:
                    continue
                has_ended = _is_free(path.with_suffix(".lock"))  # asked before the read: then its last page is seen
                try:
                    page = _page(path.read_bytes())
                except (OSError, msgspec.MsgspecError):
                    continue
                if has_ended:
                    gone[name] = page
                else:
                    living.append(page)
            if gone or ended.names:
                names = [name for name in ended.names if (self._folder / f"{name}.page").exists()]
                ended = Ended([*names, *gone], merged([], [ended.page, *gone.values()]))
                try:
                    self._put("ended.page", _encode(ended))
                    for name in ended.names:
                        for suffix in (".page", ".lock"):
                            (self._folder / f"{name}{suffix}").unlink(missing_ok=True)
                except OSError as problem:  # a full disk: folded next time
                    log.warning("metrics_not_folded", error=type(problem).__name__)
            return living, [ended.page]
        finally:
            os.close(descriptor)

    def _ended(self) -> Ended:
        try:
            return _ended((self._folder / "ended.page").read_bytes())
        except (FileNotFoundError, msgspec.MsgspecError):
            return Ended([], Page(0.0, {}))
