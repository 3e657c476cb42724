"""How to use a client key from elsewhere, ready to be pasted. Pure. `base` is TokenHub's address without a path."""

from __future__ import annotations

from typing import Final, NamedTuple

AUTO: Final = "tokenhub/auto"


class Snippet(NamedTuple):
    id: str
    title: str
    text: str


_CURL: Final = """\
curl {base}/v1/chat/completions \\
  -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
"""
_PYTHON: Final = """\
from openai import OpenAI

client = OpenAI(base_url="{base}/v1", api_key="{key}")
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "Hello!"}}],
)
print(answer.choices[0].message.content)
"""
_NODE: Final = """\
import OpenAI from "openai";

const client = new OpenAI({{ baseURL: "{base}/v1", apiKey: "{key}" }});
const answer = await client.chat.completions.create({{
    model: "{model}",
    messages: [{{ role: "user", content: "Hello!" }}],
}});
console.log(answer.choices[0].message.content);
"""
_ANTHROPIC: Final = """\
from anthropic import Anthropic

client = Anthropic(base_url="{base}", api_key="{key}")
answer = client.messages.create(
    model="{model}",
    max_tokens=1024,
    messages=[{{"role": "user", "content": "Hello!"}}],
)
print(answer.content[0].text)
"""
_CLAUDE_CODE: Final = """\
export ANTHROPIC_BASE_URL={base}
export ANTHROPIC_AUTH_TOKEN={key}
export ANTHROPIC_MODEL={model}
claude
"""
_ENVIRONMENT: Final = """\
OPENAI_BASE_URL={base}/v1
OPENAI_API_KEY={key}
ANTHROPIC_BASE_URL={base}
ANTHROPIC_API_KEY={key}
"""
_ALL: Final = (
    ("curl", "curl", _CURL),
    ("python", "openai (Python)", _PYTHON),
    ("node", "openai (Node)", _NODE),
    ("anthropic", "anthropic (Python)", _ANTHROPIC),
    ("claude-code", "Claude Code", _CLAUDE_CODE),
    ("environment", "Environment", _ENVIRONMENT),
)


def snippets(*, base: str, key: str, model: str = AUTO) -> list[Snippet]:
    return [Snippet(id_, title, text.format(base=base, key=key, model=model)) for id_, title, text in _ALL]
