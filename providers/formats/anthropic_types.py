"""Wire types of Anthropic messages, as far as they are translated. Other keys are left alone here. After the types of
the `anthropic` package."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Raw


class _Source(msgspec.Struct, tag_field="type"):
    pass


class Base64Source(_Source, tag="base64"):
    media_type: str
    data: str


class UrlSource(_Source, tag="url"):
    url: str


class TextSource(_Source, tag="text"):
    data: str
    media_type: str = "text/plain"


class FileSource(_Source, tag="file"):
    file_id: str


class ContentSource(_Source, tag="content"):
    content: Any


class _Block(msgspec.Struct, tag_field="type"):
    pass


class TextBlock(_Block, tag="text"):
    text: str
    cache_control: Raw = Raw()


class ImageBlock(_Block, tag="image"):
    source: Base64Source | UrlSource | FileSource
    cache_control: Raw = Raw()


class DocumentBlock(_Block, tag="document"):
    source: Base64Source | UrlSource | TextSource | FileSource | ContentSource
    title: str | None = None
    cache_control: Raw = Raw()


class SearchResultBlock(_Block, tag="search_result"):
    content: list[TextBlock]
    title: str = ""
    source: str = ""


class ToolReferenceBlock(_Block, tag="tool_reference"):
    """What a search for tools found: one of the request's own."""

    tool_name: str


class ThinkingBlock(_Block, tag="thinking"):
    thinking: str = ""
    signature: str = ""


class RedactedThinkingBlock(_Block, tag="redacted_thinking"):
    data: str


class ToolUseBlock(_Block, tag="tool_use"):
    id: str
    name: str
    input: Raw
    cache_control: Raw = Raw()


class ToolResultBlock(_Block, tag="tool_result"):
    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | ToolReferenceBlock] | None = None
    is_error: bool | None = None
    cache_control: Raw = Raw()


class _ServerBlock(_Block):
    """What is said to Anthropic's own machinery, or by it, as by its tools. No other provider can read it."""

    @property
    def kind(self) -> str:
        return str(self.__struct_config__.tag)


class ServerToolUseBlock(_ServerBlock, tag="server_tool_use"):
    pass


class WebSearchToolResultBlock(_ServerBlock, tag="web_search_tool_result"):
    pass


class WebFetchToolResultBlock(_ServerBlock, tag="web_fetch_tool_result"):
    pass


class CodeExecutionToolResultBlock(_ServerBlock, tag="code_execution_tool_result"):
    pass


class BashCodeExecutionToolResultBlock(_ServerBlock, tag="bash_code_execution_tool_result"):
    pass


class TextEditorCodeExecutionToolResultBlock(_ServerBlock, tag="text_editor_code_execution_tool_result"):
    pass


class ToolSearchToolResultBlock(_ServerBlock, tag="tool_search_tool_result"):
    pass


class McpToolUseBlock(_ServerBlock, tag="mcp_tool_use"):
    pass


class McpToolResultBlock(_ServerBlock, tag="mcp_tool_result"):
    pass


class McpToolListingBlock(_ServerBlock, tag="mcp_tool_listing"):
    pass


class ContainerUploadBlock(_ServerBlock, tag="container_upload"):
    pass


class AdvisorToolResultBlock(_ServerBlock, tag="advisor_tool_result"):
    pass


class FallbackBlock(_ServerBlock, tag="fallback"):
    pass


class ToolAdditionBlock(_ServerBlock, tag="tool_addition"):
    pass


class ToolRemovalBlock(_ServerBlock, tag="tool_removal"):
    pass


ServerBlock = (
    ServerToolUseBlock
    | WebSearchToolResultBlock
    | WebFetchToolResultBlock
    | CodeExecutionToolResultBlock
    | BashCodeExecutionToolResultBlock
    | TextEditorCodeExecutionToolResultBlock
    | ToolSearchToolResultBlock
    | McpToolUseBlock
    | McpToolResultBlock
    | McpToolListingBlock
    | ContainerUploadBlock
    | AdvisorToolResultBlock
    | FallbackBlock
    | ToolAdditionBlock
    | ToolRemovalBlock
)


class CompactionBlock(_Block, tag="compaction"):
    """Stands for the conversation before it."""


SaidBlock = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | SearchResultBlock
    | ThinkingBlock
    | RedactedThinkingBlock
    | ToolUseBlock
    | ToolResultBlock
)
Block = SaidBlock | CompactionBlock | ServerBlock


class Message(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct):
    """`type` is set for the tools that Anthropic itself runs."""

    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: Raw = Raw()
    strict: bool | None = None
    cache_control: Raw = Raw()


class ToolChoice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class Metadata(msgspec.Struct):
    user_id: str | None = None


class OutputFormat(msgspec.Struct):
    type: str
    schema: Raw = Raw()


class OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: OutputFormat | None = None


class Thinking(msgspec.Struct):
    type: str
    budget_tokens: int | None = None
    display: str | None = None


class Request(msgspec.Struct):
    messages: list[Message]
    max_tokens: int
    model: str | None = None
    system: str | list[TextBlock] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    output_config: OutputConfig | None = None
    thinking: Thinking | None = None


# -- answers -----------------------------------------------------------------------------------------------------
class Delta(msgspec.Struct):
    """Of a block, or of the message."""

    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None


class StartedBlock(msgspec.Struct):
    type: str
    text: str = ""
    thinking: str = ""
    signature: str = ""
    data: str = ""
    id: str = ""
    name: str = ""
    input: Raw = Raw()
