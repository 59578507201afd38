"""What the models say: short, friendly, and always the same for the same request.

A few things are understood, because they are handy when trying a model out:

- ``repeat: …`` / ``重复：…`` gives the text back;
- ``120 tokens`` / ``120 个 token`` anywhere in the last question makes the answer exactly that long;
- a small sum (``12 * 7``) is worked out;
- a question that mentions a tool by name, or by the words of its description, leads to a call of the tool.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from demo.models import Model
from demo.prompts import image_size
from demo.tokens import has_cjk, tokenise
from demo.wire import ChatRequest, Message, Tool

MAX_ASKED_TOKENS = 16_384
_REPEAT = re.compile(r"\s*(?:repeat|echo|重复|复述)\s*[:：]\s*(.+)", re.IGNORECASE | re.DOTALL)
_LENGTH = re.compile(r"(?<!\d)(\d{1,5})\s*(?:个\s*)?tokens?\b", re.IGNORECASE)
_SUM = re.compile(r"(?<![\d.])(\d{1,9})\s*([-+*/×÷])\s*(\d{1,9})(?![\d.])")
_GREETING = re.compile(r"\s*(?:hi|hello|hey|ping|你好|您好|嗨|在吗)[\s!！,，.。?？~]*$", re.IGNORECASE)
_WORD = re.compile(r"[a-z]{4,}")
_QUOTED = re.compile(r"[\"“「'‘]([^\"”」'’]{1,80})[\"”」'’]")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+(?: [A-Z][a-z]+)*")
_PLACE = re.compile(r"([\u4e00-\u9fff]{2,3})(?:市|的?天气|的?气温|的?温度)")


class Reply(msgspec.Struct, kw_only=True):
    """One choice, already cut to its limit. Joined tokens are the text, the reasoning, or a tool call's arguments."""

    reasoning: list[str] = []
    content: list[str] = []
    tool_name: str | None = None
    tool_call_id: str = ""
    arguments: list[str] = []
    finish_reason: str = "stop"

    @property
    def reasoning_tokens(self) -> int:
        return len(self.reasoning)

    @property
    def completion_tokens(self) -> int:
        """All that was produced: reasoning, the name of a called tool with its arguments, and text."""
        return len(self.reasoning) + len(self.name_tokens) + len(self.arguments) + len(self.content)

    @property
    def name_tokens(self) -> list[str]:
        return tokenise(self.tool_name) if self.tool_name else []


def compose(model: Model, request: ChatRequest, index: int, room: int) -> Reply:
    """Choice number ``index`` of the answer, at most ``room`` tokens long."""
    digest = _digest(request, index)
    question = _last_text(request)
    reply = Reply()
    if _thinks(model, request):
        reply.reasoning = tokenise(_reasoning(request, question, digest))
    tool = _called_tool(request, question)
    if tool is not None:
        reply.tool_name = tool.function.name
        reply.tool_call_id = f"call_{digest.hex()[:24]}"
        arguments = plausible(tool.function.parameters or {}, question)
        reply.arguments = tokenise(_compact(arguments if isinstance(arguments, dict) else {}))
        reply.finish_reason = "tool_calls"
    else:
        text = _text(model, request, question, digest)
        ends = [at for stop in request.stops if (at := text.find(stop)) >= 0]
        reply.content = tokenise(text[: min(ends)] if ends else text)
    return _cut(reply, room)


def _cut(reply: Reply, room: int) -> Reply:
    if reply.completion_tokens <= room:
        return reply
    reply.finish_reason = "length"
    reply.reasoning = reply.reasoning[:room]
    room -= len(reply.reasoning)
    if reply.tool_name and len(reply.name_tokens) > room:
        # A function with half a name is no call at all.
        reply.tool_name = None
        reply.arguments = []
    room -= len(reply.name_tokens)
    reply.arguments = reply.arguments[:room]
    reply.content = reply.content[: room - len(reply.arguments)]
    return reply


def _digest(request: ChatRequest, index: int) -> bytes:
    said = [(message.role, message.text) for message in request.messages]
    return hashlib.sha256(msgspec.json.encode([said, request.seed, index])).digest()


def _last(request: ChatRequest, role: str) -> Message | None:
    return next((message for message in reversed(request.messages) if message.role == role), None)


def _last_text(request: ChatRequest) -> str:
    message = _last(request, "user")
    return (message or request.messages[-1]).text


def _compact(value: Any) -> str:
    return msgspec.json.encode(value).decode()


# What is said


def _text(model: Model, request: ChatRequest, question: str, digest: bytes) -> str:
    if request.response_format is not None and request.response_format.type != "text":
        return _json_text(request, question, digest)
    if repeated := _REPEAT.match(question):
        return repeated[1]
    if asked := _LENGTH.search(question):
        return _text_of_length(min(int(asked[1]), MAX_ASKED_TOKENS), has_cjk(question))
    chinese = has_cjk(question)
    last = request.messages[-1]
    if last.role == "tool":
        found = _topic(last.text, 200)
        return (
            f"工具返回了：{found}。以上就是查到的结果。"
            if chinese
            else f"The tool says: {found}. That is what I found."
        )
    images = [image for message in request.messages for image in message.images]
    if model.can_see and images:
        return _about_images([image_size(image.url) for image in images], chinese)
    if _GREETING.match(question):
        if chinese:
            return f"你好！我是 {model.id}，一个用来试用接入点的演示模型。问我任何问题，我都会一个字一个字地回答。"
        return f"Hello! I am {model.id}, a demo model for trying out endpoints. Ask me anything and watch it stream."
    if found_sum := _SUM.search(question):
        return f"{found_sum[0].strip()} = {_worked_out(found_sum)}"
    return _short_essay(model, request, question, digest, chinese)


def _short_essay(model: Model, request: ChatRequest, question: str, digest: bytes, chinese: bool) -> str:
    topic = _topic(question, 40)
    turn = sum(message.role == "user" for message in request.messages)
    if chinese:
        opening = _ZH_OPENINGS[digest[0] % len(_ZH_OPENINGS)].format(topic=topic)
        points = _picked(_ZH_POINTS, digest)
        body = "".join(f"\n{number}. {point}" for number, point in enumerate(points, 1))
        again = f"这是我们的第 {turn} 轮对话，" if turn > 1 else ""
        return f"{opening}{body}\n{again}以上由演示模型 {model.id} 生成，同样的问题总会得到同样的回答。"
    opening = _EN_OPENINGS[digest[0] % len(_EN_OPENINGS)].format(topic=topic)
    points = _picked(_EN_POINTS, digest)
    body = "".join(f"\n{number}. {point}" for number, point in enumerate(points, 1))
    again = f"This is turn {turn} of our talk. " if turn > 1 else ""
    return (
        f"{opening}{body}\n{again}Written by the demo model {model.id}: the same question always gets the same answer."
    )


def _picked(points: tuple[str, ...], digest: bytes) -> list[str]:
    order = sorted(range(len(points)), key=lambda number: digest[1 + number])
    return [points[number] for number in order[:3]]


_ZH_OPENINGS = (
    "关于“{topic}”，可以从三个方面来看：",
    "你问的是“{topic}”，简单说有三点：",
    "“{topic}”是个好问题，先给你三条思路：",
)
_ZH_POINTS = (
    "先弄清目标：想得到什么结果，怎样才算做好。",
    "从最小的一步做起，尽早看到真实的反馈。",
    "把已知和未知分开，未知的部分先做个小实验。",
    "留下记录，数字比印象可靠。",
    "准备好退路，能回滚的改动才敢大胆去做。",
    "听听使用者怎么说，他们的第一句话往往最重要。",
)
_EN_OPENINGS = (
    'About "{topic}", three things come to mind:',
    'You asked: "{topic}". In short:',
    '"{topic}" is a good question. Three ways into it:',
)
_EN_POINTS = (
    "Start from the goal: what should be true when you are done?",
    "Take the smallest step that shows you something real.",
    "Keep what you know apart from what you guess, and test the guesses first.",
    "Write things down; numbers are kinder than memory.",
    "Have a way back. Changes that can be undone can be bold.",
    "Listen to the people who use it; their first sentence matters most.",
)


def _topic(text: str, length: int) -> str:
    line = " ".join(text.split()).rstrip("?？。.!！")
    return line if len(line) <= length else line[: length - 1] + "…"


def _worked_out(found: re.Match[str]) -> str:
    left, right = int(found[1]), int(found[3])
    if found[2] == "+":
        return str(left + right)
    if found[2] == "-":
        return str(left - right)
    if found[2] in "*×":
        return str(left * right)
    return f"{left / right:g}" if right else "∞"


def _text_of_length(length: int, chinese: bool) -> str:
    sentences = _ZH_POINTS if chinese else tuple(point + " " for point in _EN_POINTS)
    once = "".join(sentences)
    # Where two copies meet, a space may join the next word: one token less for each copy.
    copies = length // (len(tokenise(once)) - 1) + 1
    return "".join(tokenise(once * copies)[:length])


def _about_images(sizes: list[tuple[int, int] | None], chinese: bool) -> str:
    known = [f"{size[0]} × {size[1]}" for size in sizes if size]
    if chinese:
        size_text = f"，尺寸为 {'、'.join(known)} 像素" if known else ""
        return f"我收到了 {len(sizes)} 张图片{size_text}。演示模型并不真正看图，但图片的 token 已如实计入用量。"
    size_text = f" ({', '.join(known)} pixels)" if known else ""
    pictures = "one image" if len(sizes) == 1 else f"{len(sizes)} images"
    return f"I was given {pictures}{size_text}. A demo model does not really see, but its tokens are counted truly."


def _json_text(request: ChatRequest, question: str, digest: bytes) -> str:
    form = request.response_format
    if form is not None and form.json_schema is not None and form.json_schema.schema:
        return _compact(plausible(form.json_schema.schema, question))
    chinese = has_cjk(question)
    points = _picked(_ZH_POINTS if chinese else _EN_POINTS, digest)
    return _compact({"question": _topic(question, 80), "answer": points, "language": "zh" if chinese else "en"})


# Thinking


def _thinks(model: Model, request: ChatRequest) -> bool:
    if not model.can_think or request.reasoning_effort in ("none", "minimal"):
        return False
    return request.thinking is None or request.thinking.type != "disabled"


def _reasoning(request: ChatRequest, question: str, digest: bytes) -> str:
    steps = {"low": 1, "medium": 3, None: 3}.get(request.reasoning_effort, 5)
    topic = _topic(question, 40)
    if has_cjk(question):
        thoughts = _ZH_THOUGHTS
        opening = f"用户想知道“{topic}”。"
    else:
        thoughts = _EN_THOUGHTS
        opening = f'The user asks about "{topic}". '
    start = digest[31] % len(thoughts)
    return opening + "".join(thoughts[(start + step) % len(thoughts)] for step in range(steps))


_ZH_THOUGHTS = (
    "先看问题里有没有明确的要求，例如格式或长度。",
    "回答要短，先给结论，再给理由。",
    "有哪些地方我其实不确定？不确定的就不要说死。",
    "换个角度：如果我是提问的人，最想先看到哪一句？",
    "检查一遍有没有遗漏，然后作答。",
)
_EN_THOUGHTS = (
    "First, does the question ask for a certain form or length? ",
    "The answer should be short: the conclusion, then the reasons. ",
    "What am I not sure of? That I should not state as fact. ",
    "If I were the one asking, which sentence would I want first? ",
    "One last check for what is missing, then I answer. ",
)


# Tools


def _called_tool(request: ChatRequest, question: str) -> Tool | None:
    tools = request.tools or []
    choice = request.tool_choice
    if not tools or choice == "none":
        return None
    if isinstance(choice, dict):
        wanted = choice["function"]["name"]
        return next(tool for tool in tools if tool.function.name == wanted)
    mentioned = next((tool for tool in tools if _mentions(question, tool)), None)
    if choice == "required":
        return mentioned or tools[0]
    # The result of the tool is there: answer with it instead of asking again.
    return None if request.messages[-1].role == "tool" else mentioned


def _mentions(question: str, tool: Tool) -> bool:
    asked = question.lower()
    if tool.function.name.lower() in asked:
        return True
    about = f"{tool.function.name} {tool.function.description or ''}".lower()
    words = set(_WORD.findall(about.replace("_", " "))) - _DULL_WORDS
    if any(word in words for word in _WORD.findall(asked)):
        return True
    pairs = {left + right for left, right in itertools.pairwise(about) if has_cjk(left) and has_cjk(right)}
    return any(pair in asked for pair in pairs - _DULL_PAIRS)


_DULL_WORDS = frozenset(
    {"call", "current", "find", "from", "function", "gets", "given", "have", "into", "make", "this", "that", "tool"}
    | {"user", "what", "with", "your"}
)
_DULL_PAIRS = frozenset({"查询", "获取", "返回", "当前", "一个", "指定", "工具", "用户", "调用", "给定"})


def plausible(schema: Mapping[str, Any], question: str, depth: int = 0) -> Any:
    """A value that fits a JSON schema, its texts and numbers taken from the question where one is there to take.

    Reads enum, const, default, type, properties, required, items, minItems, minimum, maximum, minLength, anyOf and
    oneOf; anything else is ignored. Deeper than 8 levels only empty values are given.
    """
    if "const" in schema:
        return schema["const"]
    if isinstance(options := schema.get("enum"), list) and options:
        return next((option for option in options if isinstance(option, str) and option in question), options[0])
    if "default" in schema:
        return schema["default"]
    for key in ("anyOf", "oneOf"):
        choices = schema.get(key)
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            return plausible(choices[0], question, depth + 1) if depth < _MAX_DEPTH else None
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if kind == "object" or (kind is None and "properties" in schema):
        return _plausible_object(schema, question, depth)
    if kind == "array":
        items = schema.get("items")
        count = max(1, _whole(schema.get("minItems"), 1))
        if not isinstance(items, dict) or depth >= _MAX_DEPTH:
            return []
        return [plausible(items, question, depth + 1) for _ in range(min(count, 16))]
    if kind in ("integer", "number"):
        return _plausible_number(schema, question, kind)
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    if kind == "string":
        return _plausible_text(question).ljust(min(_whole(schema.get("minLength"), 0), 1_000), ".")
    return {} if depth == 0 else _plausible_text(question)


_MAX_DEPTH = 8


def _plausible_object(schema: Mapping[str, Any], question: str, depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    if not isinstance(properties, dict) or depth >= _MAX_DEPTH:
        return {}
    required = schema.get("required")
    names = [name for name in required if name in properties] if isinstance(required, list) and required else properties
    return {
        name: plausible(
            properties[name] if isinstance(properties[name], dict) else {"type": "string"}, question, depth + 1
        )
        for name in names
    }


def _plausible_number(schema: Mapping[str, Any], question: str, kind: str) -> int | float:
    found = re.search(r"-?\d{1,9}(?:\.\d{1,6})?", question)
    value: float = float(found[0]) if found else 1.0
    low, high = schema.get("minimum"), schema.get("maximum")
    if isinstance(low, int | float):
        value = max(value, low)
    if isinstance(high, int | float):
        value = min(value, high)
    return int(value) if kind == "integer" else value


def _plausible_text(question: str) -> str:
    for pattern in (_QUOTED, _PLACE):
        if found := pattern.search(question):
            return found[1]
    if name := _NAME.search(question):
        return name[0]
    return _topic(question, 40)


def _whole(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and value >= 0 else otherwise
