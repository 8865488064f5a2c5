"""Reading answers: tokens and their log-probabilities, echoes, guided replies, content and thoughts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from londi.lms import choosing
from londi.lms.choosing import Token


def echo(tokens: dict[str, float | None]) -> dict[str, Any]:
    return {"logprobs": {"tokens": [*tokens], "token_logprobs": [*tokens.values()], "top_logprobs": None}}


@pytest.mark.parametrize(
    "tokens",
    [
        {"a": None, " act:": -1.0, " go": -2.0, " on": -0.5},
        {"<s>": None, "a": -3.0, " act:": -1.0, " go": -2.0, " on": -0.5},
        {"": None, "a": -3.0, " act:": -1.0, " go": -2.0},
        {"a act:": None, " g": -0.5, "o": -1.5, " on": -0.5},
    ],
)
def test_an_echo_with_or_without_a_token_before_the_text(tokens: dict[str, float | None]) -> None:
    assert choosing.echoed(echo(tokens), "a act:", " go") == -2.0


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ({"a": None, " act: go": -1.0}, "across"),
        ({"a": None, " act:": -1.0}, "not those of the text"),
        ({"A": None, " ACT:": -1.0, " GO": -1.0}, "not those of the text"),
        ({" go": -1.0}, "not those of the text"),
        ({}, "not those of the text"),
        ({"a": None, " act:": -1.0, " go": None}, "not echoed"),
    ],
)
def test_an_echo_of_another_text_is_refused(tokens: dict[str, float | None], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        choosing.echoed(echo(tokens), "a act:", " go")


@pytest.mark.parametrize(
    "damaged",
    [
        [],
        "none",
        {"content": [{"token": "a"}]},
        {"content": [{"token": 1, "logprob": -1.0}]},
        {"content": [{"token": "a", "logprob": None}]},
        {"content": ["a"]},
        {"tokens": ["a"], "token_logprobs": []},
        {"tokens": ["a"], "token_logprobs": ["much"]},
        {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [["a"]]},
        {"tokens": [None], "token_logprobs": [-1.0]},
    ],
)
def test_damaged_log_probabilities_are_one_kind_of_error(damaged: Any) -> None:
    if not damaged:
        assert choosing.tokens({"logprobs": damaged}) == []
        return
    with pytest.raises(ValueError, match=r"log-prob|no text|zip|convert"):
        choosing.tokens({"logprobs": damaged})


def test_a_likely_token_that_is_not_listed_is_bounded() -> None:
    reply = [Token("go", -0.1, {"go": -0.1, "turn": -3.0})]
    found = choosing.along_reply(reply, "", "", ("go", "turn left", "sing"))
    np.testing.assert_allclose(found, [-0.1, -3.0, -3.0])


def test_the_end_of_a_reply_counts_where_a_candidate_begins_another() -> None:
    """A model that would rather go on than close the quotation mark is no less sure of what it said before."""
    reply = [
        Token('{"action": "', -0.5, {}),
        Token("pick", -0.7, {"pick": -0.7, "go": -0.9}),
        Token(" up", -0.1, {" up": -0.1, '"': -2.0}),
        Token('"}', -3.0, {'",': -0.1, '"}': -3.0}),
    ]
    lead, tail = '{"action": "', '"'
    np.testing.assert_allclose(choosing.along_reply(reply, lead, tail, ("pick up", "go")), [-0.8, -0.9])
    np.testing.assert_allclose(choosing.along_reply(reply, lead, tail, ("pick up", "pick")), [-0.8, -2.7])


def test_the_end_of_a_free_reply_is_bounded_where_a_candidate_begins_another() -> None:
    likely, unlikely = np.log(0.9), np.log(0.3)
    for written, bound in ((likely, np.log(0.1)), (unlikely, unlikely)):
        reply = [Token("go", -0.5, {}), Token(" on", written, {})]
        np.testing.assert_allclose(choosing.along_reply(reply, "", "", ("go", "go on")), [bound - 0.5, written - 0.5])
    np.testing.assert_allclose(
        choosing.along_reply(
            [Token("go", -0.5, {}), Token(".", -0.1, {".": -0.1, " on": -2.0})], "", "", ("go", "go on")
        ),
        [-0.5, -2.5],
    )


def test_a_reply_that_ends_was_likelier_to_end_than_to_go_on() -> None:
    """The end is no token; those that go on share at most a half."""
    found = choosing.along_reply([Token("go", -0.5, {})], "", "", ("go on", "go", "go up"))
    np.testing.assert_allclose(found, [-0.5 - np.log(4), -0.5, -0.5 - np.log(4)])


@pytest.mark.parametrize(
    ("text", "action", "lead"),
    [
        (json.dumps({"action": 'say "go"'}), 'say "go"', '{"action": "'),
        (json.dumps({"action": "né"}), "né", '{"action": "'),
        (json.dumps({"action": "né"}, ensure_ascii=False), "né", '{"action": "'),
        ('{\n  "action" : "go"\n}', "go", '{\n  "action" : "'),
    ],
)
def test_the_frame_of_a_guided_reply(text: str, action: str, lead: str) -> None:
    candidates = (action, "say nà")
    assert choosing.guided_action(text, candidates) == action
    frame = choosing.guided_frame(text, action, candidates)
    assert frame is not None
    before, after, (own, other) = frame
    assert (before, after) == (lead, '"')
    assert text.startswith(before + own + after)
    assert json.loads(f'"{other}"') == "say nà"
    assert other.isascii() == ("\\u" in text)


def test_a_guided_reply_that_is_none() -> None:
    assert choosing.guided_action('{"action": "fly"}', ("go",)) is None
    assert choosing.guided_action('{"action": "g', ("go",)) is None
    assert choosing.guided_action('{"action": ["go"]}', ("go",)) is None
    assert choosing.guided_frame('{"action": "\\u0067o"}', "go", ("go",)) is None, "spelt like no one"


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("Go on now", "go on"),
        ("go o", None),
        ("go", None),
        ("go on", "go on"),
        ("I go", None),
        ("", None),
        ("Waiting is", None),
    ],
)
def test_a_reply_that_was_cut_off(text: str, action: str | None) -> None:
    assert choosing.cut_action(text, ("go", "go on", "wait")) == action


def test_the_end_of_a_line_may_be_any_token_that_ends_it() -> None:
    assert choosing.ended(["go", "turn"]) == ["go", "turn"]
    assert choosing.ended(["go", "go on"]) == ["go\n", "go on\n"]
    top = {"\n": np.log(0.2), "\n\n": np.log(0.3), " on": np.log(0.5)}
    found = choosing.next_token(top, "\n")
    assert found is not None
    assert found[0] == "\n"
    assert found[1] == pytest.approx(np.log(0.5))
    assert choosing.next_token({" on": -0.1}, "\n") is None


@pytest.mark.parametrize(
    ("message", "thought", "text"),
    [
        ({"content": " go "}, "", "go"),
        ({"content": None}, "", ""),
        ({"content": "<think>hm</think>go"}, "hm", "go"),
        ({"content": "<think>hm"}, "hm", ""),
        ({"content": "go", "reasoning_content": "hm"}, "hm", "go"),
        ({"content": "go", "reasoning": "hm"}, "hm", "go"),
        ({"content": [{"type": "text", "text": "go"}, {"type": "image_url", "image_url": {}}]}, "", "go"),
        ({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "go"}]}, "hm", "go"),
    ],
)
def test_thought_and_text_of_a_message(message: dict[str, Any], thought: str, text: str) -> None:
    assert choosing.read({"choices": [{"message": message}]}) == (thought, text)


@pytest.mark.parametrize("content", [7, {"text": "go"}, ["go"], [{"text": "go"}], [{"type": "text", "text": 7}]])
def test_content_that_is_no_text_is_damaged(content: Any) -> None:
    with pytest.raises((KeyError, TypeError, AttributeError)):
        choosing.check({"choices": [{"message": {"content": content}}]})
