"""One client request on its way through the attempts: what each target is sent. No Django, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Protocol
from urllib.parse import unquote_to_bytes

from keys.auth import KeyRecord
from keys.ledger import BudgetExceeded
from providers.client import Headers
from providers.formats.base import Dialect
from providers.formats.canonical import ChatRequest
from providers.formats.dialect import Rendered, UpstreamModel, Usage
from providers.formats.envelope import Envelope
from providers.formats.errors import InvalidRequest
from providers.formats.registry import render_request
from routing.affinity import Conversation
from routing.eligibility import Needs, needs_of
from routing.learning import Lesson
from routing.patience import Patience
from routing.policy import Policy
from routing.purse import Payer
from routing.shaping import Shape
from routing.snapshot import Alias, Snapshot, Target
from telemetry.journal import Attempt, Candidate
from telemetry.tracing import Trace

# never forwarded: ours, the client's identity, and what belongs to one hop
_KEPT_BACK = frozenset(
    {
        b"authorization", b"x-api-key", b"cookie", b"host", b"content-length", b"content-type", b"accept-encoding",
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"expect", b"content-encoding", b"forwarded", b"via",
        b"x-real-ip", b"idempotency-key", b"openai-organization", b"openai-project", b"x-request-id", b"origin",
        b"referer", b"api-key", b"x-goog-api-key", b"priority", b"http2-settings",
    }
)  # fmt: skip
_KEPT_BACK_PREFIXES = (b"x-tokenhub-", b"x-forwarded-", b"sec-", b"access-control-", b"cf-")
_USUAL_CONNECTION = (b"keep-alive", b"close")
_KEPT_BACK_QUERY = (b"key", b"api_key", b"api-key", b"access_token")


def forwardable_headers(headers: Mapping[bytes, bytes]) -> Headers:
    """Without those that `Connection` names, too: they belong to this hop (RFC 9110, 7.6.1)."""
    connection = headers.get(b"connection")
    if connection is not None and connection.lower() not in _USUAL_CONNECTION:
        named = {name.strip() for name in connection.lower().split(b",")}
        headers = {name: value for name, value in headers.items() if name not in named}
    return [
        (name, value)
        for name, value in headers.items()
        if name not in _KEPT_BACK and not name.startswith(_KEPT_BACK_PREFIXES)
    ]


def forwardable_query(query: bytes) -> bytes:
    """With its question mark; empty when nothing is left."""
    if not query:
        return b""
    kept = b"&".join(
        part
        for part in query.split(b"&")
        if part and unquote_to_bytes(part.partition(b"=")[0]).lower() not in _KEPT_BACK_QUERY
    )
    return b"?" + kept if kept else b""


class Wasted(Protocol):
    def __call__(self, target: Target, usage: Usage, *, estimated: bool = False) -> object: ...


@dataclass(slots=True, eq=False)
class Call:
    """`hint`: the target that the client named, None where the router decides; `variants`: the others of its alias, to
    be asked next. `headers` and `query` go along where
    the upstream speaks the client's dialect. `is_strict`: a parameter that would be dropped is an error."""

    snapshot: Snapshot
    key: KeyRecord
    dialect: Dialect
    envelope: Envelope
    policy: Policy
    hint: Target | None
    needs: Needs
    started_at: float
    headers: Headers = field(default_factory=list)
    query: bytes = b""
    is_strict: bool = False
    alias: Alias | None = None
    variants: tuple[Target, ...] = ()
    patience: Patience = field(default_factory=Patience)
    conversation: Conversation | None = None
    lesson: Lesson | None = None
    """Where the bandit decides."""
    plain: Envelope | None = None
    """The same in words, for targets that no format of the answer can be demanded of."""
    shape: Shape | None = None
    """The form that the answer must have."""
    payer: Payer | None = None
    """Where budgets pay for it."""
    wasted: Wasted | None = None
    """Hears of answers that were made, and will be billed, and that the client cannot be given."""
    begun: dict[str, bool] | None = None
    """Which models were called, and whether they began to answer; where somebody wants to know."""
    lowered_to: int | None = None
    """The limit of the answer, in tokens, where it is not the client's own."""
    unaffordable: BudgetExceeded | None = None
    """Why a target could not be paid."""
    unsayable: InvalidRequest | None = None
    """Why the request could not be said to a target in its dialect."""
    last_resort: Target | None = None
    """Whom the router chose though it is down."""
    trace: Trace | None = None
    """Where requests are traced."""
    attempts: list[Attempt] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    """What the router looked at, the best first; filled when it ranks."""
    _parsed: ChatRequest | None = None
    _parsed_plain: ChatRequest | None = None

    @property
    def deadline_passed(self) -> bool:
        """Of the latency that the client itself sent."""
        deadline = self.policy.deadline_ms
        return deadline is not None and (monotonic() - self.started_at) * 1000 >= deadline

    @property
    def allow_fallback(self) -> bool:
        """Never for the embeddings of a named model: another one's vectors mean something else."""
        is_bound = self.dialect.family == "embeddings" and self.hint is not None
        return self.policy.allow_fallback and self.key.allow_fallback and not is_bound

    def parsed(self) -> ChatRequest:
        """The request in the canonical form. Raises InvalidRequest."""
        if self._parsed is None:
            self._parsed = self.dialect.parse_request(self.envelope.body)
        return self._parsed

    def _in_words(self, plain: Envelope) -> ChatRequest:
        if self._parsed_plain is None:
            self._parsed_plain = self.dialect.parse_request(plain.body)
        return self._parsed_plain

    def asking_again(self, target: Target, amended: Callable[[bytes], bytes]) -> Call:
        """The same of that target first, with an amended body."""
        envelope = self.dialect.read_envelope(amended(self.envelope.body))
        plain = self.plain and self.dialect.read_envelope(amended(self.plain.body))
        needs = needs_of(envelope)._replace(abilities=self.needs.abilities)
        return replace(
            self,
            envelope=envelope,
            plain=plain,
            hint=target,
            variants=(),
            needs=needs,
            conversation=None,
            unsayable=None,
            unaffordable=None,
            lowered_to=None,
            _parsed=None,
            _parsed_plain=None,
        )

    def rendered(self, target: Target, dialect: Dialect) -> Rendered:
        """The body for the target. Raises InvalidRequest when it cannot be said in its dialect."""
        plain = self.plain if "structured_output" not in target.abilities else None
        if dialect is self.dialect:
            rendered = dialect.for_upstream(plain or self.envelope, target.upstream_model)
        else:
            model = UpstreamModel(
                target.upstream_model, target.provider.type, target.abilities, target.max_output_tokens
            )
            rendered = render_request(dialect, self.parsed() if plain is None else self._in_words(plain), model)
        if rendered.dropped and self.is_strict:
            name = rendered.dropped[0]
            raise InvalidRequest(
                f"{target.model_id} has no counterpart of {name!r}.", name, code="unsupported_parameter"
            )
        return rendered
