"""The models on offer, and how each behaves at the moment."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Rate = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Behaviour(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How a model behaves, as ``POST /demo/models/{id}`` sets it. It goes back to the default when the server restarts.

    ``first_token_seconds`` and ``token_seconds`` pace the answer. Of all calls the share ``error_rate`` is answered
    with ``error_status`` at once, and of those begun the share ``cut_rate`` loses its connection half-way. ``down``:
    every call gets 503, and the model is gone from the list. ``prefix_cache`` off: nothing is ever cached.
    """

    first_token_seconds: Annotated[float, msgspec.Meta(ge=0, le=600)] = 0.05
    token_seconds: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.01
    error_rate: Rate = 0.0
    error_status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 500
    cut_rate: Rate = 0.0
    down: bool = False
    prefix_cache: bool = True


class BehaviourChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Some fields of a ``Behaviour``; the others stay as they are."""

    first_token_seconds: Annotated[float, msgspec.Meta(ge=0, le=600)] | msgspec.UnsetType = msgspec.UNSET
    token_seconds: Annotated[float, msgspec.Meta(ge=0, le=60)] | msgspec.UnsetType = msgspec.UNSET
    error_rate: Rate | msgspec.UnsetType = msgspec.UNSET
    error_status: Annotated[int, msgspec.Meta(ge=400, le=599)] | msgspec.UnsetType = msgspec.UNSET
    cut_rate: Rate | msgspec.UnsetType = msgspec.UNSET
    down: bool | msgspec.UnsetType = msgspec.UNSET
    prefix_cache: bool | msgspec.UnsetType = msgspec.UNSET

    def applied_to(self, behaviour: Behaviour) -> Behaviour:
        """A new ``Behaviour`` with the fields of this change."""
        changed = {
            name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not msgspec.UNSET
        }
        return msgspec.structs.replace(behaviour, **changed)


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """What a model can do; this never changes while the server runs."""

    id: str
    kind: Literal["chat", "embedding"] = "chat"
    context_tokens: int = 32_768
    can_think: bool = False
    can_see: bool = False
    refuses: frozenset[str] = frozenset()
    """Parameters that this model answers with a 400, though the API knows them."""
    is_strict: bool = False
    """Whether parameters that the API does not know get a 400; other models ignore them."""
    behaviour: Behaviour


CREATED_AT = 1_767_225_600
"""2026-01-01, the ``created`` of every model."""

CATALOGUE: tuple[Model, ...] = (
    Model(id="demo-fast", behaviour=Behaviour()),
    Model(
        id="demo-fast-2",
        context_tokens=65_536,
        refuses=frozenset({"logit_bias", "logprobs", "top_logprobs"}),
        is_strict=True,
        behaviour=Behaviour(first_token_seconds=0.03, token_seconds=0.008),
    ),
    Model(
        id="demo-thinking",
        context_tokens=65_536,
        can_think=True,
        behaviour=Behaviour(first_token_seconds=0.15, token_seconds=0.012),
    ),
    Model(
        id="demo-vision",
        can_see=True,
        behaviour=Behaviour(first_token_seconds=0.2, token_seconds=0.012),
    ),
    Model(
        id="demo-embedding",
        kind="embedding",
        context_tokens=8_192,
        behaviour=Behaviour(first_token_seconds=0.02, token_seconds=0.0),
    ),
    Model(id="demo-slow", behaviour=Behaviour(first_token_seconds=3.0, token_seconds=0.25)),
    Model(id="demo-flaky", behaviour=Behaviour(error_rate=0.3, cut_rate=0.1)),
)
