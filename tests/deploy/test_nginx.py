"""The sample for nginx: it is valid, and a stream passes through it event by event."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.support.certificate import write_certificate
from tests.support.gateway import ROOT, Gateway, free_port
from tests.support.upstream import Reply, Upstream

SAMPLE = ROOT / "deploy/nginx/tokenhub.conf"
FRAME = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{sample}
}}
"""


def configuration(folder: Path, *, port: int, server_port: int) -> Path:
    """The sample as it is, with other ports and a certificate."""
    certificate, key = write_certificate(folder)
    sample = SAMPLE.read_text(encoding="utf-8")
    for text, other in {
        "server 127.0.0.1:8080;": f"server 127.0.0.1:{server_port};",
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "/etc/ssl/tokenhub.crt": str(certificate),
        "/etc/ssl/tokenhub.key": str(key),
    }.items():
        assert text in sample
        sample = sample.replace(text, other)
    path = folder / "nginx.conf"
    path.write_text(FRAME.format(folder=folder, sample=sample))
    return path


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed (Debian: apt-get install nginx-light)")
def test_a_stream_passes_event_by_event_and_metrics_stay_inside(tmp_path: Path) -> None:
    port = free_port()
    with Upstream() as upstream:
        upstream.default = Reply(words=20, interval=0.1)
        provider = {"id": "p", "type": "openai", "base_url": upstream.url}
        with Gateway(
            tmp_path / "data",
            providers=[provider],
            models=[{"id": "m", "provider_id": "p"}],
            env={"TOKENHUB_TRUSTED_PROXIES": "127.0.0.1"},
        ) as gateway:
            path = configuration(tmp_path, port=port, server_port=gateway.port)
            proxy = subprocess.Popen(["nginx", "-c", str(path), "-e", str(tmp_path / "error.log")])
            try:
                with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=False, timeout=30) as client:  # noqa: S501  our own certificate

                    def answers() -> bool:
                        assert proxy.poll() is None, (tmp_path / "error.log").read_text()
                        try:
                            return client.get("/readyz").status_code == 200
                        except httpx.TransportError:
                            return False

                    Gateway.wait_until(answers, seconds=30)
                    assert client.get("/metrics").status_code == 403
                    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
                    with client.stream("POST", "/v1/chat/completions", json=body, headers=gateway.headers()) as answer:
                        moments = [time.monotonic() for line in answer.iter_lines() if line.startswith("data:")]
                    assert len(moments) > 20
                    assert moments[-1] - moments[0] > 1  # of two seconds; a proxy that collects gives all at once
            finally:
                proxy.terminate()
                proxy.wait(timeout=20)
