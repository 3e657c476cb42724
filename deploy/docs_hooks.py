"""What the documentation as a site has beside the pages: the changelog, and links that leave docs/ (to code) as plain words."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Any, *, config: Any) -> Any:
    from mkdocs.structure.files import File

    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "changelog.md", content=re.sub(r"\]\(docs/", "](", text)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    folder = posixpath.dirname(page.file.src_uri)

    def within(link: re.Match[str]) -> str:
        words, target, anchor = link[1], posixpath.normpath(posixpath.join("docs", folder, link[2])), link[3] or ""
        if target == "CHANGELOG.md":
            return f"[{words}]({posixpath.relpath('changelog.md', folder or '.')}{anchor})"
        return link[0] if target.startswith("docs/") else words

    return _LINK.sub(within, markdown)
