"""`/docs/`: the documentation, as `make docs` built it into site/. Only files that were found there are given out,
whatever the path says; a browser may run no script but the site's own. Files are looked for and read in a thread."""

from __future__ import annotations

import asyncio
import base64
import mimetypes
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

PREFIX: Final = "/docs/"
DIGEST: Final = ".digest"  # deploy/docs writes it last
_HASHED: Final = re.compile(r"\.[0-9a-f]{8}\.min\.(js|css)$")
_INLINE: Final = re.compile(rb"<script(?![^>]*\bsrc=)(?![^>]*application/json)[^>]*>(.*?)</script>", re.DOTALL)
_POLICY: Final = (
    "default-src 'none'; script-src 'self'{hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_TYPES: Final = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">{more}
<style>body {{ font: 16px/1.5 sans-serif; max-width: 40em; margin: 3em auto; padding: 0 1em }}</style></head>
<body><h1>{title}</h1>{text}</body></html>
"""
_NOT_BUILT: Final = _PAGE.format(
    title="The documentation is not built yet",
    more='<meta http-equiv="refresh" content="5">',
    text="<p>After <code>make run</code> this takes a minute at most; this page looks again by itself.</p>"
    "<p>Elsewhere, <code>make docs</code> in TokenHub's folder builds it. The same pages are plain files in its "
    "folder <code>docs/</code>.</p>",
).encode()
_NOT_FOUND: Final = _PAGE.format(
    title="There is no such page", more="", text='<p>All pages: <a href="/docs/">documentation</a>.</p>'
).encode()
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class File:
    path: Path
    headers: tuple[tuple[bytes, bytes], ...]
    etag: bytes
    packed: Path | None


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Headers
    body: bytes = b""


class DocsSite:
    """An ASGI application. The folder may come, go and be exchanged while it serves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: Mapping[str, File] = {}
        self._known = b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        if scope["method"] not in {"GET", "HEAD"}:
            answer = Answer(405, [(b"allow", b"GET, HEAD")])
        else:
            answer = await asyncio.to_thread(self.answer, scope["path"], headers)
        length = (b"content-length", str(len(answer.body)).encode())
        await send({"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, length]})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})

    def answer(self, path: str, headers: Mapping[bytes, bytes]) -> Answer:
        if path == PREFIX.rstrip("/"):
            return Answer(308, [(b"location", PREFIX.encode())])
        if not self._is_there():
            return Answer(503, [*_page_headers(), (b"retry-after", b"5")], _NOT_BUILT)
        name = path.removeprefix(PREFIX)
        file = self._files.get(f"{name}index.html" if name.endswith("/") or not name else name)
        if file is None:
            if f"{name}/index.html" in self._files:
                return Answer(308, [(b"location", f"{PREFIX}{name}/".encode())])
            return Answer(404, _page_headers(), _NOT_FOUND)
        told = list(file.headers)
        if file.etag in headers.get(b"if-none-match", b""):
            return Answer(304, told)
        packed = file.packed if b"gzip" in headers.get(b"accept-encoding", b"") else None
        if packed is not None:
            told.append((b"content-encoding", b"gzip"))
        try:
            return Answer(200, told, (packed or file.path).read_bytes())
        except OSError:  # exchanged at this very moment
            return Answer(503, [*_page_headers(), (b"retry-after", b"1")], _NOT_BUILT)

    def _is_there(self) -> bool:
        try:
            digest = (self._folder / DIGEST).read_bytes()
            if digest != self._known:
                self._files = _found(self._folder)
                self._known = digest
        except OSError:
            return False
        return True


def _page_headers() -> Headers:
    return [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"content-security-policy", _POLICY.format(hashes="").encode()),
        (b"x-content-type-options", b"nosniff"),
    ]


def _found(folder: Path) -> dict[str, File]:
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {
        path.relative_to(folder).as_posix(): _file(path)
        for path in paths
        if not path.name.startswith(".") and path.suffix != ".gz"
    }


def _file(path: Path) -> File:
    content = path.read_bytes()
    etag = f'"{sha256(content).hexdigest()[:32]}"'.encode()
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    if kind.startswith("text/"):
        kind += "; charset=utf-8"
    caching = "public, max-age=31536000, immutable" if _HASHED.search(path.name) else "no-cache"
    headers: Headers = [
        (b"content-type", kind.encode()),
        (b"etag", etag),
        (b"cache-control", caching.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),
        (b"vary", b"accept-encoding"),
    ]
    if path.suffix == ".html":
        scripts = {base64.b64encode(sha256(script).digest()).decode() for script in _INLINE.findall(content)}
        hashes = "".join(f" 'sha256-{one}'" for one in sorted(scripts))
        headers.append((b"content-security-policy", _POLICY.format(hashes=hashes).encode()))
    packed = path.with_name(f"{path.name}.gz")
    return File(path, tuple(headers), etag, packed if packed.is_file() else None)
