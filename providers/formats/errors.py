"""What a wire format may raise. The caller turns these into the client's error or a failed attempt."""

from collections.abc import Mapping


class InvalidRequest(ValueError):
    """The client's body does not fit its dialect. `param` names the field, as a path like `messages[2].content`;
    `details` is for clients of the dialect that act upon it."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        code: str = "invalid_request",
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.details = details


class UnreadableAnswer(ValueError):
    """The upstream's bytes do not fit its dialect. The message names what was wrong, never the bytes."""
