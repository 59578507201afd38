"""What to propose for a model that a server lists: a name, a version, a domain and limits, to be corrected by a person."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from catalog.models import FoundationModel
from catalog.probing import ListedModel

Domain = FoundationModel.Domain
PARAMETERS = (
    "frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "n",
    "parallel_tool_calls", "presence_penalty", "response_format", "seed", "stop", "stream", "stream_options",
    "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user",
)  # fmt: skip
"""What the OpenAI chat API knows; `messages` and `model` go without saying."""
EMBEDDING_PARAMETERS = ("dimensions", "encoding_format", "input", "user")

_DATE = re.compile(r"^(?P<name>.+?)[-:@](?P<version>\d{6}|\d{8}|20\d\d-\d\d-\d\d)$")
_DOMAINS = (
    (Domain.EMBEDDING, re.compile(r"embed|bge|gte-|(^|[-_/])e5[-_]")),
    (Domain.VISION, re.compile(r"vision|[-_.]vl|vlm|llava|gpt-4o|pixtral|internvl")),
    (Domain.THINKING, re.compile(r"think|reason|qwq|[-_]r1|(^|/)o[134](-|$)|deepseek-r")),
)


@dataclass(frozen=True)
class Proposal:
    """The first values of the publish form."""

    model_name: str
    version: str
    display_name: str
    vendor: str
    domain: str
    context_tokens: int
    max_output_tokens: int
    default_output_tokens: int
    known_parameters: tuple[str, ...]


def propose(listed: ListedModel, *, today: date) -> Proposal:
    """By the model's id alone, which is all that most servers say. A trailing date is its version, else today is."""
    vendor, _slash, base = listed.id.rpartition("/")
    base = re.sub(r"\.(gguf|bin|safetensors)$", "", base, flags=re.IGNORECASE)
    dated = _DATE.match(base)
    name = slug(dated["name"] if dated else base)
    version = dated["version"] if dated else f"{today:%y%m%d}"
    lowered = listed.id.lower()
    domain = next((domain for domain, pattern in _DOMAINS if pattern.search(lowered)), Domain.CHAT)
    context = listed.context_tokens or (8_192 if domain == Domain.EMBEDDING else 32_768)
    output = 1 if domain == Domain.EMBEDDING else min(8_192, max(context // 2, 1))
    owner = "" if listed.owner.lower() in ("vllm", "library", "llamacpp", "system", "sglang", "demo") else listed.owner
    return Proposal(
        model_name=name,
        version=version,
        display_name=(dated["name"] if dated else base)[:64] or name,
        vendor=(vendor.rpartition("/")[2] or owner)[:64],
        domain=domain,
        context_tokens=context,
        max_output_tokens=output,
        default_output_tokens=min(1_024, output),
        known_parameters=EMBEDDING_PARAMETERS if domain == Domain.EMBEDDING else PARAMETERS,
    )


def slug(text: str) -> str:
    """`text` as a model name may be written: lower-case letters, digits, dots and -."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:64] or "model"
