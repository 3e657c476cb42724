"""What the documentation has as a site, beside its pages: the changelog, links to code as plain words, packed files."""

from __future__ import annotations

import gzip
import posixpath
import re
import shutil
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


def on_post_build(*, config: Any) -> None:
    """Leaves out what no browser of ours asks for, and packs the rest."""
    site = Path(config["site_dir"])
    for name in ("404.html", "sitemap.xml", "sitemap.xml.gz"):
        (site / name).unlink(missing_ok=True)
    shutil.rmtree(site / "assets/javascripts/lunr", ignore_errors=True)  # languages other than English
    for file in [path for path in site.rglob("*") if path.is_file()]:
        if file.suffix == ".map":
            file.unlink()
        elif file.suffix in {".html", ".js", ".css", ".json", ".svg"}:
            with file.with_name(f"{file.name}.gz").open("wb") as packed, gzip.GzipFile("", "wb", 9, packed, 0) as pack:
                pack.write(file.read_bytes())
