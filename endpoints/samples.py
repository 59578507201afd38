"""Ready code that calls one endpoint: curl, Python (openai, Ark SDK), JavaScript. Pure; the address is an argument."""

from __future__ import annotations

import base64
import json
import shlex
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from catalog.models import FoundationModel

KEY_VARIABLE = "ARK_API_KEY"
Domain = FoundationModel.Domain


@dataclass(frozen=True)
class Sample:
    """One sample. `install` is the command that fetches what it needs ("" for nothing); `key` names it in addresses."""

    key: str
    label: str | Promise
    install: str
    code: str


def samples(*, model: str, domain: str, base_url: str) -> list[Sample]:
    """The samples for `model` (an endpoint id or model id) of a domain; `base_url` ends in `/api/v3`.

    The key is read from the environment variable ARK_API_KEY, so that nobody pastes one into a file.
    """
    call = _Call.to(model, domain)
    return [
        Sample(key, label, install, write(call, base_url.rstrip("/")))
        for key, label, install, write in (
            ("curl", "curl", "", _curl),
            ("openai", _("Python · openai"), "pip install openai", _openai),
            ("ark", _("Python · Ark SDK"), "pip install 'volcengine-python-sdk[ark]'", _ark),
            ("javascript", "JavaScript", "npm install openai", _javascript),
        )
    ]


@dataclass(frozen=True)
class _Call:
    """What a sample calls: path below the base URL, the method of the SDKs, and the body."""

    path: str
    method: str
    body: dict[str, Any]
    domain: str

    @classmethod
    def to(cls, model: str, domain: str) -> _Call:
        if domain == Domain.EMBEDDING:
            body: dict[str, Any] = {"model": model, "input": ["Hello!"], "encoding_format": "float"}
            return cls("/embeddings", "embeddings.create", body, domain)
        content: Any = "Hello!"
        if domain == Domain.VISION:
            content = [
                {"type": "image_url", "image_url": {"url": _picture()}},
                {"type": "text", "text": "Which colour is this picture?"},
            ]
        body = {"model": model, "messages": [{"role": "user", "content": content}]}
        return cls("/chat/completions", "chat.completions.create", body, domain)


def _literal(value: Any) -> str:
    """JSON on one line; of texts, lists and objects alone it is also a Python and a JavaScript literal."""
    return json.dumps(value, ensure_ascii=False)


def _curl(call: _Call, base_url: str) -> str:
    body = shlex.quote(json.dumps(call.body, ensure_ascii=False, indent=2))
    return (
        f"curl {shlex.quote(base_url + call.path)} \\\n"
        f'  -H "Authorization: Bearer ${KEY_VARIABLE}" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d {body}\n"
    )


def _openai(call: _Call, base_url: str) -> str:
    return _python(call, base_url, package="openai", client="OpenAI")


def _ark(call: _Call, base_url: str) -> str:
    return _python(call, base_url, package="volcenginesdkarkruntime", client="Ark")


def _python(call: _Call, base_url: str, *, package: str, client: str) -> str:
    arguments = "".join(f"    {name}={_literal(value)},\n" for name, value in call.body.items())
    show = {
        Domain.EMBEDDING: "print(len(answer.data[0].embedding), answer.usage.total_tokens)\n",
        Domain.THINKING: (
            "message = answer.choices[0].message\n"
            'print(getattr(message, "reasoning_content", None))\n'
            "print(message.content)\n"
        ),
    }.get(Domain(call.domain), "print(answer.choices[0].message.content)\n")
    return (
        f"import os\n\nfrom {package} import {client}\n\n"
        f'client = {client}(base_url={_literal(base_url)}, api_key=os.environ["{KEY_VARIABLE}"])\n\n'
        f"answer = client.{call.method}(\n{arguments})\n{show}"
    )


def _javascript(call: _Call, base_url: str) -> str:
    arguments = "".join(f"  {name}: {_literal(value)},\n" for name, value in call.body.items())
    show = {
        Domain.EMBEDDING: "console.log(answer.data[0].embedding.length, answer.usage.total_tokens);\n",
        Domain.THINKING: (
            "const { reasoning_content, content } = answer.choices[0].message;\n"
            "console.log(reasoning_content);\nconsole.log(content);\n"
        ),
    }.get(Domain(call.domain), "console.log(answer.choices[0].message.content);\n")
    return (
        'import OpenAI from "openai";\n\n'
        f"const client = new OpenAI({{ baseURL: {_literal(base_url)}, apiKey: process.env.{KEY_VARIABLE} }});\n\n"
        f"const answer = await client.{call.method}({{\n{arguments}}});\n{show}"
    )


def _picture() -> str:
    """A blue square of 32 × 32 as a data URL: a sample that needs no other site, and no picture of the reader's."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 32, 32, 1, 3, 0, 0, 0)
    rows = zlib.compress(b"\0\0\0\0\0" * 32, 9)
    parts = [(b"IHDR", header), (b"PLTE", b"\x16\x5d\xff"), (b"IDAT", rows), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)
    return "data:image/png;base64," + base64.b64encode(png).decode()
