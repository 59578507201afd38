"""The requests of the OpenAI API as this server reads them, and its errors.

``ApiError`` is the only error that leaves this module.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec

MAX_CHOICES = 8
MAX_STOPS = 16
MAX_INPUTS = 2_048
MAX_DIMENSIONS = 2_048

_T = TypeVar("_T")
_AT = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`$")


class ApiError(Exception):
    """An answer in OpenAI's error shape: ``{"error": {"message", "type", "param", "code"}}`` with an HTTP status."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param

    def body(self) -> bytes:
        if self.status == 401:
            kind = "authentication_error"
        elif self.status == 429:
            kind = "rate_limit_error"
        else:
            kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})


class ImageUrl(msgspec.Struct):
    url: str
    detail: Literal["low", "high", "auto"] | None = None


class Part(msgspec.Struct):
    type: str
    text: str | None = None
    image_url: ImageUrl | str | None = None


class FunctionCall(msgspec.Struct):
    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct):
    id: str | None = None
    function: FunctionCall | None = None


class Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The text of the message, its parts joined."""
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content)
        return self.content or ""

    @property
    def images(self) -> list[ImageUrl]:
        if not isinstance(self.content, list):
            return []
        urls = (part.image_url for part in self.content if part.type == "image_url")
        return [ImageUrl(url=url) if isinstance(url, str) else url for url in urls if url is not None]


class Function(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct):
    type: Literal["function"]
    function: Function


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class JsonSchema(msgspec.Struct):
    name: str
    schema: dict[str, Any] | None = None


class ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Thinking(msgspec.Struct):
    type: Literal["enabled", "disabled", "auto"]


class ChatRequest(msgspec.Struct, kw_only=True):
    """``POST /v1/chat/completions``. A null is the same as nothing, since some SDKs send every field."""

    model: str
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop: str | list[str] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    seed: int | None = None
    user: str | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    thinking: Thinking | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None

    @property
    def output_limit(self) -> int | None:
        """The most tokens one choice may have, of the two names the API has for it."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    """``POST /v1/embeddings``. ``input``: a text, texts, a list of token numbers, or several such lists."""

    model: str
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=MAX_DIMENSIONS)] | None = None
    user: str | None = None

    @property
    def inputs(self) -> list[str | list[int]]:
        """The inputs one by one. Raises ``ApiError`` when they are empty, too many, or of mixed kinds."""
        given = [self.input] if isinstance(self.input, str) else self.input
        if not given:
            raise ApiError(400, "input must not be empty.", param="input")
        if isinstance(given[0], int):
            numbers = [item for item in given if isinstance(item, int)]
            if len(numbers) != len(given):
                raise ApiError(400, "input mixes token numbers with other items.", param="input")
            return [numbers]
        if len(given) > MAX_INPUTS:
            raise ApiError(400, f"input has {len(given)} items; at most {MAX_INPUTS} are read at once.", param="input")
        items: list[str | list[int]] = []
        for item in given:
            if isinstance(item, int):
                raise ApiError(400, "input mixes token numbers with other items.", param="input")
            if not item:
                raise ApiError(400, "input has an empty item.", param="input")
            items.append(item)
        return items


def fields(body: bytes) -> dict[str, msgspec.Raw]:
    """The top-level fields of a JSON object, nulls left out. Raises ``ApiError`` 400 when it is none."""
    raw = _decoded(body, dict[str, msgspec.Raw])
    return {name: value for name, value in raw.items() if bytes(value) != b"null"}


def model_of(given: dict[str, msgspec.Raw]) -> str:
    """The model that a request names. Raises ``ApiError`` 400 when it names none."""
    if "model" not in given:
        raise ApiError(400, "Missing required parameter: model.", param="model", code="missing_parameter")
    try:
        return msgspec.json.decode(given["model"], type=str)
    except (msgspec.MsgspecError, ValueError):
        raise ApiError(400, "model must be a text.", param="model", code="invalid_value") from None


def decoded(body: bytes, kind: type[_T]) -> _T:
    """``body`` as a request. Raises ``ApiError`` 400 that names the field which is wrong."""
    return _decoded(body, kind)


def _decoded(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        text = str(error)
        at = _AT.search(text)
        param = at["path"] if at and at["path"] else None
        if at:
            text = text[: at.start()]
        if missing := re.fullmatch(r"Object missing required field `(.+)`", text):
            param = f"{param}.{missing[1]}" if param else missing[1]
            raise ApiError(
                400, f"Missing required parameter: {param}.", param=param, code="missing_parameter"
            ) from None
        where = f" for {param}" if param else ""
        raise ApiError(400, f"Invalid value{where}: {text}.", param=param, code="invalid_value") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is not JSON that can be read: {error}.", code="invalid_json") from None


def checked_chat(request: ChatRequest) -> ChatRequest:
    """``request`` again, with the rules that types cannot say. Raises ``ApiError`` 400."""
    if len(request.stops) > MAX_STOPS or not all(request.stops):
        raise ApiError(400, f"stop takes 1 to {MAX_STOPS} texts, none of them empty.", param="stop")
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options is only allowed when stream is true.", param="stream_options")
    for index, message in enumerate(request.messages):
        where = f"messages[{index}]"
        if isinstance(message.content, list):
            for number, part in enumerate(message.content):
                _check_part(part, f"{where}.content[{number}]")
        if message.role == "tool" and not message.tool_call_id:
            raise ApiError(400, f"{where} has role tool but no tool_call_id.", param=f"{where}.tool_call_id")
        if message.content is None and message.role != "assistant":
            raise ApiError(400, f"{where}.content is missing.", param=f"{where}.content", code="missing_parameter")
    _check_tool_choice(request)
    return request


def _check_part(part: Part, where: str) -> None:
    if part.type == "text":
        if part.text is None:
            raise ApiError(400, f"{where} has type text but no text.", param=f"{where}.text")
    elif part.type == "image_url":
        url = part.image_url if isinstance(part.image_url, str) else part.image_url and part.image_url.url
        if not url or not url.startswith(("http://", "https://", "data:image/")):
            raise ApiError(
                400, f"{where}.image_url must be an http, https or data:image URL.", param=f"{where}.image_url"
            )
    else:
        raise ApiError(400, f"{where} has type {part.type!r}; text and image_url are known.", param=f"{where}.type")


def _check_tool_choice(request: ChatRequest) -> None:
    choice = request.tool_choice
    if choice is None:
        return
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise ApiError(400, "tool_choice must be none, auto, required or name a function.", param="tool_choice")
        if choice == "required" and not request.tools:
            raise ApiError(400, "tool_choice is required but there are no tools.", param="tool_choice")
        return
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if name not in {tool.function.name for tool in request.tools or []}:
        raise ApiError(400, f"tool_choice names {name!r}, which is not among the tools.", param="tool_choice")
