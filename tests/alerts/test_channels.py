"""Every channel against a server that is as strict as the real one: what is sent, and what each answer means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from django.utils import translation
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from alerts import channels
from alerts.channels import base, dingtalk, wecom
from alerts.channels.base import Answer, Message, Outcome, Tone
from common.errors import DomainError
from tests.alerts import fakes
from tests.servers import HeldPort

NOW = datetime(2026, 11, 22, 21, 0, tzinfo=UTC)
SECRET = "SECa0b1c2d3e4f5"


@dataclass
class To:
    address: str
    secret: str = ""


MESSAGE = Message(
    title="[P0] 客服助手 错误率 31.2% > 5%",
    lines=("Endpoint: 客服助手 (ep-20260421180049-ngwkm)", "Value: 31.2% > 5%", "<at id=all></at> [x](http://evil)"),
    url="https://ark.example.com/alerts/events/7",
    link_text="See what happened",
    tone=Tone.FIRING,
    language="zh-hans",
    thread="alert-7",
    reference="delivery-1",
    payload={"version": "1", "type": "alert", "level": "P0"},
    spoken="ArkConsole alert, level P0.",
    words={"level": "P0", "endpoint": "客服助手", "rule": "错误率"},
    unsubscribe_url="https://ark.example.com/alerts/unsubscribe/abc",
)
LONG = replace(MESSAGE, lines=("错误率超过阈值" * 20_000,))


def clock() -> float:
    return NOW.timestamp()


@pytest.fixture(autouse=True)
def _local(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings.ALERT_BOT_HOSTS = ["127.0.0.1"]
    settings.ALERT_ALLOW_HTTP = settings.ALERT_ALLOW_PRIVATE_ADDRESSES = True
    monkeypatch.setattr(base, "READ_SECONDS", 0.4)
    with translation.override("en"):
        yield


@pytest.fixture(params=["feishu", "dingtalk", "wecom", "webhook"])
def posted(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any, To]]:
    """Each kind that has an address of its own, with its service."""
    kind = request.param
    service = {
        "feishu": lambda: fakes.Feishu(clock, secret=SECRET),
        "dingtalk": lambda: fakes.DingTalk(clock, secret=SECRET),
        "wecom": lambda: fakes.WeCom(clock),
        "webhook": lambda: fakes.Webhook(clock, secret=SECRET),
    }[kind]()
    with fakes.running(service):
        yield kind, service, To(service.url, "" if kind == "wecom" else SECRET)


def send(kind: str, to: To, message: Message = MESSAGE) -> Answer:
    return channels.of(kind).send(to, message, now=NOW)


# --- what all of them do


def test_a_message_is_taken_and_the_answer_tells_so(posted: tuple[str, Any, To]) -> None:
    kind, service, to = posted

    answer = send(kind, to)

    assert (answer.ok, len(service.taken)) == (True, 1)
    assert answer.code in {"0", "204"}


@pytest.mark.parametrize(
    ("how", "outcome", "code"),
    [
        ("500", Outcome.RETRY, "500"),
        ("429", Outcome.RETRY, "429"),
        ("nothing", Outcome.LOST, "timeout"),
        ("redirect", Outcome.PERMANENT, "redirect"),
        ("410", Outcome.REVOKED, "revoked"),
        ("400", Outcome.PERMANENT, "400"),
    ],
)
def test_what_each_bad_answer_means(posted: tuple[str, Any, To], how: str, outcome: Outcome, code: str) -> None:
    kind, service, to = posted
    service.fail(how)

    answer = send(kind, to)

    assert (answer.outcome, answer.code) == (outcome, code)
    assert answer.retry_after == (30 if how == "429" else 0)
    # A redirect is not followed, a failure not tried again here.
    assert len(service.seen) == 1


def test_a_200_that_is_not_the_services_own_is_no_success(posted: tuple[str, Any, To]) -> None:
    kind, service, to = posted
    service.fail("garbage")

    answer = send(kind, to)

    # A program of one's own may say what it likes; a bot says its code.
    assert answer.outcome is (Outcome.OK if kind == "webhook" else Outcome.LOST)


def test_a_very_long_answer_is_not_read_to_its_end(posted: tuple[str, Any, To]) -> None:
    kind, service, to = posted
    service.fail("huge")

    answer = send(kind, to)

    assert answer.outcome is (Outcome.OK if kind == "webhook" else Outcome.LOST)


@pytest.mark.parametrize("kind", ["feishu", "dingtalk", "wecom", "webhook"])
def test_nobody_listening_is_worth_another_try(kind: str) -> None:
    held = HeldPort()

    answer = send(kind, To(f"http://127.0.0.1:{held.number}/x"))

    held.release()
    assert (answer.outcome, answer.code) == (Outcome.RETRY, "refused")


def test_a_wrong_secret_is_the_methods_own_fault(posted: tuple[str, Any, To]) -> None:
    kind, service, to = posted
    if kind == "wecom":
        return

    answer = send(kind, replace(to, secret="wrong"))

    assert answer.outcome is Outcome.PERMANENT
    assert answer.code == {"feishu": "19021", "dingtalk": "310000", "webhook": "401"}[kind]
    assert service.taken == []


def test_a_clock_that_is_two_hours_off_is_noticed(posted: tuple[str, Any, To]) -> None:
    kind, service, to = posted
    service.now = lambda: clock() + 7200
    if kind != "wecom":
        assert send(kind, to).outcome is Outcome.PERMANENT


def test_an_address_that_is_gone_is_told_from_one_that_fails(posted: tuple[str, Any, To]) -> None:
    kind, _service, to = posted
    gone = {"feishu": ("9f", "9e"), "dingtalk": ("=b7", "=b8"), "wecom": ("=693", "=694"), "webhook": ("", "")}[kind]
    if kind == "webhook":
        return
    address = to.address.replace("f1a9", "f1a8") if kind == "feishu" else to.address.replace(*gone)

    answer = send(kind, To(address, to.secret))

    assert answer.outcome is Outcome.REVOKED
    assert channels.explain(kind, answer.code).startswith("This bot is gone")


def test_however_long_the_text_the_message_fits_and_is_taken(posted: tuple[str, Any, To]) -> None:
    kind, service, to = posted

    assert send(kind, to, LONG).ok

    if kind != "webhook":
        body = service.taken[0].body
        limit = {"feishu": 20 * 1024, "dingtalk": 20_000, "wecom": 4096 + 100}[kind]
        assert limit * 0.9 < len(body) <= limit
        assert "\ufffd" not in body.decode()


@pytest.mark.parametrize(
    ("kind", "code", "wait"),
    [("feishu", "11232", 10), ("dingtalk", "130101", 600), ("wecom", "45009", 60), ("dingtalk", "-1", 0)],
)
def test_too_many_messages_are_tried_again_after_the_services_own_pause(kind: str, code: str, wait: int) -> None:
    service = {"feishu": fakes.Feishu, "dingtalk": fakes.DingTalk, "wecom": fakes.WeCom}[kind](clock)
    with fakes.running(service):
        service.fail(code)

        answer = send(kind, To(service.url))

    assert (answer.outcome, answer.code, answer.retry_after) == (Outcome.RETRY, code, wait)


def test_a_bots_own_limit_answers_within_a_200() -> None:
    service = fakes.WeCom(clock, per_minute=2)
    with fakes.running(service):
        outcomes = [send("wecom", To(service.url)).outcome for _ in range(3)]

    assert outcomes == [Outcome.OK, Outcome.OK, Outcome.RETRY]


def test_a_code_that_nobody_knows_is_tried_again() -> None:
    with fakes.running(fakes.Feishu(clock)) as service:
        service.fail("77777")
        answer = send("feishu", To(service.url))

    assert (answer.outcome, answer.code, answer.text) == (Outcome.RETRY, "77777", "something else")


# --- what each does


def test_feishu_gets_a_red_card_with_plain_text_and_a_button() -> None:
    with fakes.running(fakes.Feishu(clock, secret=SECRET)) as service:
        send("feishu", To(service.url, SECRET))
        send("feishu", To(service.url, SECRET), replace(MESSAGE, tone=Tone.RESOLVED))

    card = service.taken[0].json["card"]
    assert (card["header"]["template"], card["header"]["title"]["content"]) == ("red", MESSAGE.title)
    # Markup in a name is text.
    assert card["elements"][0]["text"] == {"tag": "plain_text", "content": MESSAGE.text}
    assert card["elements"][1]["actions"][0]["url"] == MESSAGE.url
    assert service.taken[1].json["card"]["header"]["template"] == "green"


def test_feishus_keyword_is_in_every_message() -> None:
    with fakes.running(fakes.Feishu(clock, keyword="ArkConsole")) as service:
        assert send("feishu", To(service.url)).ok


def test_dingtalks_signature_is_encoded_once_and_replaces_an_old_one() -> None:
    url = dingtalk.signed("https://oapi.dingtalk.com/robot/send?access_token=a%2Bb&sign=old&timestamp=1", SECRET, 1000)

    assert "%25" not in url
    assert url.startswith("https://oapi.dingtalk.com/robot/send?access_token=a%2Bb&timestamp=1000&sign=")


def test_markdown_shows_names_as_they_are() -> None:
    text = wecom.content(MESSAGE)

    assert "＜at id=all>＜/at> ［x］(http://evil)" in text
    assert text.startswith('### <font color="warning">［P0］ 客服助手')
    assert "31.2% > 5%" in text
    assert "[See what happened](https://ark.example.com/alerts/events/7)" in text


def test_wecom_counts_bytes() -> None:
    text = wecom.content(LONG)

    assert 4080 < len(text.encode()) <= 4096
    assert text.endswith("ArkConsole")


def test_a_webhook_gets_the_payload_with_a_proof_and_a_name_that_stays() -> None:
    with fakes.running(fakes.Webhook(clock, secret=SECRET)) as service:
        send("webhook", To(service.url, SECRET))

    assert service.taken[0].json == MESSAGE.payload
    assert service.taken[0].headers["x-arkconsole-delivery"] == "delivery-1"


def test_a_webhook_may_want_a_bearer_token_instead() -> None:
    with fakes.running(fakes.Webhook(clock, secret="Bearer t0ken")) as service:
        assert send("webhook", To(service.url, "Bearer t0ken")).ok
    assert "x-arkconsole-signature" not in service.taken[0].headers


def test_a_webhook_that_is_missing_for_a_moment_is_not_given_up_at_once() -> None:
    with fakes.running(fakes.Webhook(clock)) as service:
        service.fail("404")
        assert send("webhook", To(service.url)).outcome is Outcome.PERMANENT


# --- where messages may go


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("feishu", "https://evil.example.com/open-apis/bot/v2/hook/x"),
        ("feishu", "http://open.feishu.cn/open-apis/bot/v2/hook/x"),
        ("feishu", "https://open.feishu.cn@evil.example.com/"),
        ("dingtalk", "https://open.feishu.cn/robot/send"),
        ("webhook", "http://example.com/hook"),
        ("webhook", "https://user:pass@example.com/hook"),
        ("webhook", "https://127.0.0.1/hook"),
        ("webhook", "https://10.1.2.3/hook"),
        ("webhook", "https://[::ffff:10.1.2.3]/hook"),
        ("webhook", "https://100.64.1.1/hook"),
        ("webhook", "https://169.254.169.254/latest"),
        ("webhook", "ftp://example.com/"),
        ("webhook", "https:///nohost"),
        ("webhook", "https://exa mple.com/"),
        ("webhook", "https://example.com:99999/"),
        ("email", "not an address"),
        ("email", "a@b\r\nBcc: c@d.example"),
        ("phone", "12345"),
        ("phone", "+0123456789"),
        ("phone", "call me"),
    ],
)
def test_addresses_that_are_refused_when_entered(kind: str, address: str, settings: Settings) -> None:
    settings.ALERT_BOT_HOSTS = []
    settings.ALERT_ALLOW_HTTP = settings.ALERT_ALLOW_PRIVATE_ADDRESSES = False

    with pytest.raises(DomainError) as caught:
        channels.of(kind).tidy(address, "")

    assert caught.value.field == "address"


@pytest.mark.parametrize(
    ("kind", "address", "tidied", "hint"),
    [
        ("phone", "138 0000-1111", "+8613800001111", "+86138****1111"),
        ("phone", "0044 20 7946 0958", "+442079460958", "+4420****0958"),
        ("email", " Ann.Lee@Example.COM ", "Ann.Lee@example.com", "A***@example.com"),
        (
            "feishu", "https://open.feishu.cn/open-apis/bot/v2/hook/f1a9c3d2-7b64",
            "https://open.feishu.cn/open-apis/bot/v2/hook/f1a9c3d2-7b64", "https://open.feishu.cn/…7b64",
        ),
        ("webhook", "https://example.com/h", "https://example.com/h", "https://example.com/…"),
    ],
)  # fmt: skip
def test_addresses_are_tidied_and_masked(kind: str, address: str, tidied: str, hint: str) -> None:
    assert channels.of(kind).tidy(address, "")[0] == tidied
    assert channels.of(kind).hint(tidied) == hint


def test_a_private_address_is_not_called_even_where_its_name_was_taken(settings: Settings) -> None:
    settings.ALERT_ALLOW_PRIVATE_ADDRESSES = False
    with fakes.running(fakes.Webhook(clock)) as service:
        # Entered as a name that resolves here: found out when sending, before anything is sent.
        answer = send("webhook", To(service.url.replace("127.0.0.1", "localhost")))

    assert (answer.outcome, answer.code, service.seen) == (Outcome.PERMANENT, "unsafe_address", [])


def test_a_link_local_address_is_never_called_whatever_is_allowed() -> None:
    assert send("webhook", To("http://169.254.169.254/latest/meta-data/")).code == "unsafe_address"


# --- sizes


@given(st.text(), st.integers(0, 60))
def test_cutting_keeps_within_the_bytes_and_whole_characters(text: str, limit: int) -> None:
    shorter = base.cut(text.encode(errors="ignore").decode(), limit)
    assert len(shorter.encode()) <= limit


@given(st.text(alphabet='错"\\\n😀a', max_size=80), st.integers(20, 90))
def test_what_is_fitted_fits_however_much_its_characters_weigh(text: str, limit: int) -> None:
    rendered = base.fitted(lambda part: base.to_json({"t": part}), text, limit)

    assert len(rendered) <= limit
    shown = json.loads(rendered)["t"]
    assert shown == text or text.startswith(shown.removesuffix("…"))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30), ("9999999", 3600), ("-5", 0), ("nan", 0), ("inf", 3600), ("soon", 0), ("", 0),
        ("Sun, 22 Nov 2026 21:02:00 GMT", 120), ("Sun, 22 Nov 2026 20:00:00 GMT", 0),
    ],
)  # fmt: skip
def test_retry_after_in_both_its_forms(value: str, seconds: int) -> None:
    assert base.retry_after(value, now=NOW) == seconds


@pytest.mark.parametrize("withdrawn", ["ALERT_ALLOW_HTTP", "ALERT_BOT_HOSTS"])
def test_what_is_allowed_no_more_gets_nothing(posted: tuple[str, Any, To], settings: Settings, withdrawn: str) -> None:
    kind, service, to = posted
    if kind == "webhook" and withdrawn == "ALERT_BOT_HOSTS":
        return
    setattr(settings, withdrawn, [] if withdrawn == "ALERT_BOT_HOSTS" else False)

    answer = send(kind, to)

    assert (answer.outcome, answer.code, service.seen) == (Outcome.OURS, "unsafe_address", [])


@pytest.mark.parametrize(
    ("to", "said", "kept"),
    [
        (To("https://example.com/hooks/a"), "no /hooks/a here", "no … here"),
        (To("https://example.com/in/Zm9vYmFyYmF6"), r"at https:\/\/example.com\/in\/Zm9vYmFyYmF6", r"at https:\/\/example.com\/in\/…"),
        (To("https://example.com/x", "s3"), "wrong s3", "wrong …"),
        (To("https://example.com/x", "Bearer 0123456789"), "token 012345678", "token …"),
        (To("https://example.com/x?a=b%2Fcdefghij"), "a is b/cdefghij", "a is …"),
        (To("+8613800001111"), "13800001111 is busy", "… is busy"),
        (To("ann.lee@example.com"), "<ann.lee@example.com> unknown", "<…> unknown"),
        (To("https://example.com/x", "secret word"), "invalid webhook", "invalid webhook"),
    ],
)  # fmt: skip
def test_address_and_secret_are_not_told_again(to: To, said: str, kept: str) -> None:
    assert base.discreet(Answer(Outcome.RETRY, 500, "500", said), to).text == kept
