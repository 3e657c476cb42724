"""What each target is sent, and what stays here."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.formats.dialect import Rendered
from providers.formats.envelope import Envelope
from providers.formats.errors import InvalidRequest
from providers.formats.registry import DIALECTS
from routing.call import Call, forwardable_headers, forwardable_query
from routing.eligibility import needs_of
from routing.policy import Policy
from routing.snapshot import Snapshot, Target
from tests.support.targets import key, provider, target

CHAT, MESSAGES = DIALECTS["openai-chat"], DIALECTS["anthropic-messages"]
AT_ANTHROPIC = provider("p2", type_="anthropic", dialects=("anthropic-messages",))
AT_BOTH = provider("p3", type_="vllm", dialects=("openai-chat", "anthropic-messages"))

# section 6 of the HTTP contract, and what belongs to one hop (RFC 9110, 7.6.1)
NEVER = [
    "Authorization", "x-api-key", "Cookie", "Host", "Connection", "Keep-Alive", "Proxy-Authenticate",
    "Proxy-Authorization", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length",
    "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Anything", "X-TokenHub-Mode",
    "X-TokenHub-Anything", "Idempotency-Key", "OpenAI-Organization", "OpenAI-Project",
]  # fmt: skip
KEPT = [
    b"accept",
    b"user-agent",
    b"anthropic-version",
    b"anthropic-beta",
    b"openai-beta",
    b"x-stainless-lang",
    b"x-title",
]


def call(
    *, strict: bool = False, dialect: str = "openai-chat", fallback: tuple[bool, bool] = (True, True), **body: Any
) -> Call:
    """`fallback`: as the policy and the key say."""
    envelope = Envelope.read(
        json.dumps({"model": "m1", "messages": [{"role": "user", "content": "Hi"}], **body}).encode()
    )

    async def make() -> Call:  # patience belongs to a running loop
        return Call(
            snapshot=Snapshot(), key=key(allow_fallback=fallback[1]), dialect=DIALECTS[dialect], envelope=envelope,
            policy=Policy("normal", allow_fallback=fallback[0]), hint=None, needs=needs_of(envelope), started_at=0.0,
            is_strict=strict,
        )  # fmt: skip

    return asyncio.run(make())


def sent(to: Target, **options: Any) -> dict[str, Any]:
    made = call(**options)
    result: dict[str, Any] = json.loads(made.rendered(to, to.dialect_for(made.dialect) or made.dialect).body)
    return result


# -- headers -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NEVER)
def test_what_is_ours_the_clients_or_one_hops_is_never_forwarded(name: str) -> None:
    assert forwardable_headers({name.lower().encode(): b"x", b"accept": b"*/*"}) == [(b"accept", b"*/*")]


def test_a_header_that_connection_names_is_never_forwarded() -> None:
    headers = {b"connection": b"close, X-Hop,x-other ", b"x-hop": b"1", b"x-other": b"2", b"x-kept": b"3"}
    assert forwardable_headers(headers) == [(b"x-kept", b"3")]


@pytest.mark.parametrize("connection", [b"keep-alive", b"close", b"", b",", b"\xff"])
def test_other_headers_go_along_as_they_came(connection: bytes) -> None:
    headers = dict.fromkeys(KEPT, b"Value \xe9")
    assert forwardable_headers({b"connection": connection, **headers}) == list(headers.items())


# -- query -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("query", "forwarded"),
    [
        (b"", b""),
        (b"beta=true", b"?beta=true"),
        (b"key=secret", b""),
        (b"a=1&key=secret&b=2", b"?a=1&b=2"),
        (b"api_key=secret&API_KEY=secret&Key=secret", b""),
        (b"k%65y=secret&%61pi_key=secret", b""),
        (b"key", b""),
        (b"monkey=1&keys=2", b"?monkey=1&keys=2"),
        (b"a=1&&b=%20%C3%A9", b"?a=1&b=%20%C3%A9"),
        (b"&", b""),
        (b"key=a=b&x", b"?x"),
    ],
)
def test_a_query_goes_along_without_keys(query: bytes, forwarded: bytes) -> None:
    assert forwardable_query(query) == forwarded


@given(st.lists(st.sampled_from([b"key", b"api_key", b"KEY", b"k%65y", b"a", b"=", b"&", b"secret", b"%"]), max_size=8))
def test_no_query_forwards_a_key(parts: list[bytes]) -> None:
    for pair in forwardable_query(b"".join(parts)).removeprefix(b"?").split(b"&"):
        assert pair.partition(b"=")[0].lower() not in {b"key", b"api_key", b"k%65y"}


# -- bodies ------------------------------------------------------------------------------------------------------------
def test_the_clients_own_dialect_is_kept_where_the_provider_speaks_it() -> None:
    assert target(at=AT_BOTH).dialect_for(CHAT) is CHAT
    assert target(at=AT_BOTH).dialect_for(MESSAGES) is MESSAGES
    assert target(at=AT_ANTHROPIC).dialect_for(CHAT) is MESSAGES
    assert target(at=AT_BOTH).dialect_for(MESSAGES, {"anthropic-messages"}) is CHAT
    assert target(at=provider(dialects=("openai-embeddings",))).dialect_for(CHAT) is None


def test_a_target_is_asked_by_the_name_that_its_provider_knows() -> None:
    for at in (provider(), AT_ANTHROPIC):
        assert sent(target("m1", at=at, upstream_model="real-name"))["model"] == "real-name"


def test_a_body_in_the_same_dialect_is_the_clients_own() -> None:
    made = call(seed=1, logit_bias={"1": 1.0})
    assert made.rendered(target("m1"), CHAT) == Rendered(made.envelope.body)


@pytest.mark.parametrize("at", [provider(), AT_BOTH])
def test_usage_is_always_asked_for_in_an_openai_stream(at: Any) -> None:
    assert sent(target(at=at), stream=True)["stream_options"] == {"include_usage": True}
    assert "stream_options" not in sent(target(at=at))
    messages = {"dialect": "anthropic-messages", "max_tokens": 5, "stream": True}
    assert "stream_options" not in sent(target(at=AT_BOTH), **messages)


@pytest.mark.parametrize(
    ("limit", "asked", "said"), [(None, None, 4096), (100, None, 100), (200_000, None, 32_000), (100, 7, 7)]
)
def test_a_limit_that_the_dialect_needs_is_the_targets_unless_the_client_gave_one(
    limit: int | None, asked: int | None, said: int
) -> None:
    body = {} if asked is None else {"max_tokens": asked}
    assert sent(target(at=AT_ANTHROPIC, max_output=limit), **body)["max_tokens"] == said


def test_what_another_dialect_has_no_word_for_is_named() -> None:
    dropped = call(seed=7, logprobs=True).rendered(target(at=AT_ANTHROPIC), MESSAGES).dropped
    assert set(dropped) == {"seed", "logprobs"}


def test_a_strict_client_is_told_instead() -> None:
    with pytest.raises(InvalidRequest) as refused:
        call(strict=True, seed=7).rendered(target("claude", at=AT_ANTHROPIC), MESSAGES)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "seed")
    assert "claude" in refused.value.message
    assert call(strict=True, seed=7).rendered(target(), CHAT).dropped == ()
    assert call(strict=True).rendered(target(at=AT_ANTHROPIC), MESSAGES).dropped == ()


def test_one_call_can_be_said_to_several_targets() -> None:
    made = call(seed=7)
    bodies = [made.rendered(target(name, at=AT_ANTHROPIC), MESSAGES).body for name in ("m1", "m2", "m1")]
    assert bodies[0] == bodies[2]
    assert [json.loads(body)["model"] for body in bodies] == ["m1", "m2", "m1"]


@pytest.mark.parametrize(("policy", "of_key"), [(True, True), (True, False), (False, True), (False, False)])
def test_fallback_needs_both_the_key_and_the_request(policy: bool, of_key: bool) -> None:
    assert call(fallback=(policy, of_key)).allow_fallback is (policy and of_key)
