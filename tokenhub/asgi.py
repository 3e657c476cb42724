"""The entry of every ASGI server. The path decides once: the data plane's own go straight to their consumer, all others
to Channels and Django. All of it is HTTP."""

from __future__ import annotations

import os
import warnings
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokenhub.settings")

# whitenoise hands Django its files as plain iterators; the admin's few small ones may be read like that
warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators")

from django.core.asgi import get_asgi_application  # noqa: E402

_django = get_asgi_application()

from channels.routing import ProtocolTypeRouter  # noqa: E402  apps first
from django.conf import settings  # noqa: E402

from orchestration.consumers import Plans  # noqa: E402
from orchestration.consumers_runs import PlanRuns  # noqa: E402
from orchestration.worker import worker  # noqa: E402
from routing.consumers import ChatCompletions, Embeddings, Messages, Responses  # noqa: E402
from routing.consumers_chat import TokenHubChat  # noqa: E402
from routing.consumers_count import CountTokens  # noqa: E402
from routing.consumers_feedback import Feedback  # noqa: E402
from routing.consumers_models import Models, NotFound  # noqa: E402
from routing.runtime import runtime  # noqa: E402
from telemetry import audit  # noqa: E402
from tokenhub import health  # noqa: E402
from tokenhub.docs_site import DocsSite  # noqa: E402
from tokenhub.event_stream import EventStream  # noqa: E402

audit.serve()
_models = Models.as_asgi()
_not_found = NotFound.as_asgi()
_plan_runs = PlanRuns.as_asgi()


def _chat() -> Any:
    if settings.TOKENHUB_TEMPORAL_ENABLED and settings.TOKENHUB_TEMPORAL_CHAT:
        from orchestration.consumers_chat import DurableChat

        return DurableChat.as_asgi()
    return TokenHubChat.as_asgi()


ROUTES: dict[str, Any] = {
    "/v1/chat/completions": ChatCompletions.as_asgi(),
    "/v1/messages": Messages.as_asgi(),
    "/v1/messages/count_tokens": CountTokens.as_asgi(),
    "/v1/responses": Responses.as_asgi(),
    "/v1/embeddings": Embeddings.as_asgi(),
    "/v1/chat": _chat(),
    "/v1/plan": Plans.as_asgi(),
    "/v1/feedback": Feedback.as_asgi(),
    "/v1/models": _models,
    "/healthz": health.healthz,
    "/readyz": health.readyz,
    "/metrics": health.metrics,
    "/admin/v1/events": EventStream(_django),
}
_docs = DocsSite(settings.BASE_DIR / "site")
_everything_else = ProtocolTypeRouter({"http": _django})


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        await (_lifespan if scope["type"] == "lifespan" else _refuse)(receive, send)
        return
    path: str = scope["path"]
    route = ROUTES.get(path)
    if route is None:
        if path.startswith("/v1/"):
            route = ROUTES.get(path.rstrip("/"), _not_found)
            if path.startswith("/v1/models/"):
                route = _models
            elif path.startswith("/v1/plan/") and len(path) > len("/v1/plan/"):
                route = _plan_runs
        elif path.startswith("/docs/") or path == "/docs":
            route = _docs
        elif f"/v1{path}" in ROUTES and scope["method"] == "POST":
            route = _not_found  # a base URL that lacks /v1
        else:
            route = _everything_else
    await route(scope, receive, send)


async def _refuse(receive: Any, send: Any) -> None:
    """A WebSocket: nothing here speaks it."""
    await receive()
    await send({"type": "websocket.close", "code": 1000})


async def _lifespan(receive: Any, send: Any) -> None:
    """Where the server tells when it starts and stops, the first request finds everything ready."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                await runtime().start()
                worker().start()
            except Exception as problem:
                await send({"type": "lifespan.startup.failed", "message": f"{type(problem).__name__}: {problem}"})
                return
            await send({"type": "lifespan.startup.complete"})
        else:
            try:
                await worker().stop()
            finally:
                await runtime().stop()  # whatever else fails: journal and leases
            await send({"type": "lifespan.shutdown.complete"})
            return
