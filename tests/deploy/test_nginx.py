"""The sample for nginx: it is valid, a stream passes through it event by event, and behind it the server can be ended
and started again amid traffic."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.certificate import write_certificate
from tests.support.gateway import ROOT, Gateway, free_port
from tests.support.load import Load, logged
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


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(
        tmp_path_factory.mktemp("behind") / "data",
        providers=[{"id": "p", "type": "openai", "base_url": upstream.url}],
        models=[{"id": "m", "provider_id": "p"}],
        workers=2,
        env={"TOKENHUB_TRUSTED_PROXIES": "127.0.0.1"},
    ) as server:
        yield server


@pytest.fixture(scope="module")
def front(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of nginx before the gateway."""
    if not shutil.which("nginx"):
        pytest.skip("nginx is not installed (Debian: apt-get install nginx-light)")
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    path = configuration(folder, port=port, server_port=gateway.port)
    proxy = subprocess.Popen(["nginx", "-c", str(path), "-e", str(folder / "error.log")])
    base = f"https://127.0.0.1:{port}"

    def answers() -> bool:
        assert proxy.poll() is None, (folder / "error.log").read_text()
        try:
            return httpx.get(f"{base}/readyz", verify=False, timeout=30).status_code == 200  # noqa: S501  our own certificate
        except httpx.TransportError:
            return False

    try:
        Gateway.wait_until(answers, seconds=30)
        yield base
    finally:
        proxy.terminate()
        proxy.wait(timeout=20)


def test_a_stream_passes_event_by_event_and_metrics_stay_inside(
    front: str, gateway: Gateway, upstream: Upstream
) -> None:
    upstream.default = Reply(words=20, interval=0.1)
    with httpx.Client(base_url=front, verify=False, timeout=30) as client:  # noqa: S501  our own certificate
        assert client.get("/metrics").status_code == 403
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body, headers=gateway.headers()) as answer:
            moments = [time.monotonic() for line in answer.iter_lines() if line.startswith("data:")]
    assert len(moments) > 20
    assert moments[-1] - moments[0] > 1  # of two seconds; a proxy that collects gives all at once


@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_sigterm_and_start_amid_traffic_cut_no_answer_and_lose_none_from_the_log(
    front: str, gateway: Gateway, upstream: Upstream, rounds: int
) -> None:
    """While nobody serves, nginx refuses; what it refused was not begun."""
    upstream.default = Reply(words=5, interval=0.01)
    load = Load(front, gateway.headers())
    begun = len(upstream.requests)

    def restart() -> None:
        for _ in range(rounds):
            load.more(40)
            process = gateway.process
            assert process is not None
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=45) == 0
            gateway.start()
        load.more(40)

    load.run(restart)
    assert load.failed == []
    assert len(upstream.requests) - begun == len(load.answered)
    Gateway.wait_until(lambda: load.is_logged(logged(gateway)), seconds=30)


def test_sighup_amid_traffic_is_not_noticed_behind_nginx(front: str, gateway: Gateway, upstream: Upstream) -> None:
    upstream.default = Reply(words=5, interval=0.01)
    load = Load(front, gateway.headers())

    def renew() -> None:
        load.more(20)
        renewed = gateway.log().count('"workers_renewed"')
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGHUP)
        Gateway.wait_until(lambda: gateway.log().count('"workers_renewed"') > renewed, seconds=60)
        load.more(20)

    load.run(renew)
    assert (load.failed, load.refused) == ([], [])
    Gateway.wait_until(lambda: load.is_logged(logged(gateway)), seconds=30)
