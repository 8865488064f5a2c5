"""Choosing among candidates over a server: probabilities against the server's own, and replies that must be read."""

from __future__ import annotations

import json

import httpx2
import numpy as np
import pytest
from serving import ACTIONS, PROMPTS, Numbered, Written, answer, chatting, connect, over

from londi.bench.server import Script, ScriptedServer

BEGINNING = ("go", "go forward", "go forward now", "wait")
"""Candidates that begin others."""


@pytest.mark.parametrize("echo", [True, False])
def test_completions_give_the_probability_of_each_candidate(echo: bool) -> None:
    with ScriptedServer(Script(echo=echo)) as server:
        lm = connect(server, api="completions")
        for prompt, decision in zip(PROMPTS, lm.decide(PROMPTS, ACTIONS), strict=True):
            truth = server.script.distribution(prompt)
            assert decision.logprobs is not None
            np.testing.assert_allclose(np.exp(decision.logprobs), [truth[a] for a in ACTIONS], rtol=1e-9)
            assert decision.action == max(truth, key=lambda action: truth[action])
            # four candidates, two of which begin alike: 4 echoes, or 4 looks ahead: the first token, then one for each
            # that has a second; "turn" once
            assert decision.usage.requests == 4
        assert lm.mode == "logprobs"
        lm.close()


@pytest.mark.parametrize("echo", [True, False])
def test_a_candidate_that_begins_another_is_scored_with_its_end(echo: bool) -> None:
    """Without, it could never be the worse of the two."""
    with ScriptedServer(Script(BEGINNING, echo=echo)) as server:
        lm = connect(server, api="completions")
        decisions, cases = lm.decide(PROMPTS, BEGINNING), lm.worst_case(PROMPTS, BEGINNING)
        for prompt, decision, case in zip(PROMPTS, decisions, cases, strict=True):
            truth = server.script.distribution(prompt)
            assert decision.logprobs is not None
            np.testing.assert_allclose(np.exp(decision.logprobs), [truth[a] for a in BEGINNING], rtol=1e-9)
            assert decision.usage.requests <= case.requests
            assert decision.usage.tokens <= case.tokens
        assert {d.action for d in decisions} - {"go", "wait"}, "some longer one is the best"
        lm.close()


def test_the_longest_walk_is_within_the_worst_case() -> None:
    """One character a token: nothing takes more requests."""
    candidates = ("ab", "abc", "d")

    def handle(number: int, request: httpx2.Request) -> httpx2.Response:
        text = json.loads(request.content)["prompt"]
        top = dict.fromkeys((" ", "a", "b", "c", "d", "\n"), -1.0)
        choice = {"text": " ", "logprobs": {"tokens": [" "], "token_logprobs": [-1.0], "top_logprobs": [top]}}
        usage = {"prompt_tokens": len(text), "completion_tokens": 1}
        return httpx2.Response(200, json={"choices": [choice], "usage": usage})

    lm = over(Numbered(handle), api="completions", attempts=1)
    (decision,), (case,) = lm.decide(PROMPTS[:1], candidates), lm.worst_case(PROMPTS[:1], candidates)
    assert decision.error == ""
    assert decision.usage.requests == 6, "after nothing, the space, and four beginnings"
    assert decision.usage.requests <= case.requests
    assert decision.usage.tokens <= case.tokens


def test_log_probabilities_that_are_no_numbers_are_an_error() -> None:
    def handle(number: int, request: httpx2.Request) -> httpx2.Response:
        text = '{"tokens": [" go"], "token_logprobs": [NaN], "top_logprobs": [{" go": NaN, " wait": NaN}]}'
        return httpx2.Response(200, text=f'{{"choices": [{{"text": " go", "logprobs": {text}}}]}}')

    (decision,) = over(Numbered(handle), api="completions").decide(PROMPTS[:1], ("go", "wait"))
    assert "not finite" in decision.error


@pytest.mark.parametrize("guided", [True, False])
def test_chat_gives_the_probability_of_each_branch(guided: bool) -> None:
    """`turn left` and `turn right` begin with one token: where the reply is neither, they share its probability."""
    with ScriptedServer(Script(guided=guided)) as server:
        lm = connect(server)
        assert lm.mode == ("guided" if guided else "logprobs")
        decisions = lm.decide(PROMPTS, ACTIONS)
        for prompt, decision in zip(PROMPTS, decisions, strict=True):
            (text,) = (entry.text for entry in server.ledger if entry.text.startswith(f"{prompt}\n"))
            truth = server.script.distribution(text)
            assert decision.logprobs is not None
            found = dict(zip(ACTIONS, np.exp(decision.logprobs), strict=True))
            for action in ("go forward", "pick up"):
                assert found[action] == pytest.approx(truth[action])
            assert found["turn left"] + found["turn right"] == pytest.approx(truth["turn left"] + truth["turn right"])
            assert decision.action == max(truth, key=lambda action: truth[action])
            assert decision.usage.requests == 1
        assert {d.action for d in decisions} & {"turn left", "turn right"}, "some replies are one of the two"
        lm.close()


OPEN: Written = ('{"action": "', {})
CLOSE: Written = ('"}', {})


@pytest.mark.parametrize(
    ("candidates", "written", "expected"),
    [
        (
            ('say "hi"', 'say "ho"', "wait"),
            [
                OPEN,
                ("say", {"say": 0.8, "wait": 0.2}),
                (' \\"', {}),
                ("hi", {"hi": 0.6, "ho": 0.4}),
                ('\\"', {}),
                CLOSE,
            ],
            (0.48, 0.32, 0.2),
        ),
        (
            ("né", "nà", "wait"),
            [OPEN, ("n", {"n": 0.8, "wait": 0.2}), ("é", {"é": 0.7, "à": 0.3}), CLOSE],
            (0.56, 0.24, 0.2),
        ),
        (
            ("né", "nà", "wait"),
            [OPEN, ("n", {"n": 0.8, "wait": 0.2}), ("\\u00e", {}), ("9", {"9": 0.7, "0": 0.3}), CLOSE],
            (0.56, 0.24, 0.2),
        ),
        (
            ("Go", "wait"),
            [OPEN, ("Go", {"Go": 0.5, "go": 0.3, "wait": 0.2}), CLOSE],
            (0.5 / 0.7, 0.2 / 0.7),
        ),
    ],
)
def test_candidates_are_compared_as_a_guided_reply_spells_them(
    candidates: tuple[str, ...], written: list[Written], expected: tuple[float, ...]
) -> None:
    lm = over(chatting(answer("".join(text for text, _ in written), written=written)))
    (decision,) = lm.decide(PROMPTS[:1], candidates)
    assert lm.mode == "guided"
    assert decision.action == candidates[0]
    assert decision.logprobs is not None
    np.testing.assert_allclose(np.exp(decision.logprobs), expected)


def test_capitals_of_a_free_reply_do_not_matter() -> None:
    written: list[Written] = [
        ("I: ", {}),
        ("Go", {"Go": 0.4, "Turn": 0.3, "go": 0.2, "turn": 0.1}),
        (" Forward", {" Forward": 1.0}),
        (".", {}),
    ]
    lm = over(chatting(answer("I: Go Forward.", written=written), guided=False))
    (decision,) = lm.decide(PROMPTS[:1], ("turn left", "Go forward"))
    assert decision.action == "Go forward"
    assert decision.logprobs is not None
    np.testing.assert_allclose(np.exp(decision.logprobs), [0.4, 0.6])


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("action", ["go", "go forward"])
def test_a_candidate_that_begins_another_is_bounded_along_a_reply(action: str, guided: bool) -> None:
    """What is known of its end: it is less likely than what was written in its place."""
    written: list[Written] = [("go", {"go": 0.7, "wait": 0.3})]
    if action == "go forward":
        written += [(" forward", {" forward": 0.9, '"}': 0.1} if guided else {" forward": 0.9})]
    if guided:
        written = [OPEN, *written, ('"}', {'"}': 0.8, " forward": 0.2}) if action == "go" else CLOSE]
    lm = over(chatting(answer("".join(text for text, _ in written), written=written), guided=guided))
    (decision,) = lm.decide(PROMPTS[:1], ("go forward", "go", "wait"))
    assert decision.action == action
    assert decision.logprobs is not None
    forward, go, wait = np.exp(decision.logprobs)
    assert (go > forward) == (action == "go")
    if action == "go forward":
        assert go / forward == pytest.approx(0.1 / 0.9)
    assert wait < max(go, forward)


# Replies that must be read --------------------------------------------------------------------------------------------


def test_a_reply_is_read_where_the_server_offers_nothing_else() -> None:
    with ScriptedServer(Script(guided=False, logprobs=False)) as server:
        lm = connect(server)
        assert lm.mode == "generate"
        for decision in lm.decide(PROMPTS, ACTIONS):
            assert decision.action in ACTIONS
            assert decision.logprobs is None
        lm.close()


@pytest.mark.parametrize(
    ("reply", "action", "requests"),
    [
        ("I will pick up the ball, no: go forward.", "go forward", 1),
        ("<think>turn left?</think> turn right", "turn right", 1),
        ("I do not know", "", 2),
    ],
)
def test_a_reply_that_names_no_action_is_asked_for_once_more(reply: str, action: str, requests: int) -> None:
    with ScriptedServer(Script(reply=reply, guided=False, logprobs=False)) as server:
        lm = connect(server)
        server.ledger.clear()
        (decision,) = lm.decide(PROMPTS[:1], ACTIONS)
        assert (decision.action, decision.usage.requests) == (action, requests)
        assert ("names no action: 'I do not know'" in decision.error) == (not action)
        assert "turn left?" in decision.thought or "<think>" not in reply
        assert all("turn left | turn right | go forward | pick up" in entry.text for entry in server.ledger[-requests:])
        lm.close()


def test_a_guided_reply_that_was_cut_off_names_nothing() -> None:
    """Though candidates stand in what there is of it."""
    cut = answer('{"action": "turn left and then go forward', finish="length")
    transport = chatting(cut, answer('{"action": "pick up"}'))
    (decision,) = over(transport).decide(PROMPTS[:1], ACTIONS)
    assert (decision.action, decision.usage.requests) == ("pick up", 2)
    (decision,) = over(chatting(cut, cut)).decide(PROMPTS[:1], ACTIONS)
    assert decision.action == ""
    assert "names no action" in decision.error


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        ("Turn left because I see", "turn left"),
        ("I could turn left, or", ""),
        ("turn", ""),
        ("go forward", "go forward"),
    ],
)
def test_a_free_reply_that_was_cut_off_names_what_it_begins_with(reply: str, action: str) -> None:
    lm = over(chatting(*[answer(reply, finish="length")] * 2, guided=False), choose="generate")
    (decision,) = lm.decide(PROMPTS[:1], ACTIONS)
    assert decision.action == action


def test_a_reply_is_scored_where_it_names_its_action_as_a_word() -> None:
    written: list[Written] = [("Go", {"Go": 0.6, "Wait": 0.4}), (": that is the", {}), (" goal", {" goal": 0.9})]
    lm = over(chatting(answer("Go: that is the goal", written=written), guided=False))
    (decision,) = lm.decide(PROMPTS[:1], ("go", "wait"))
    assert decision.action == "go"
    assert decision.logprobs is not None
    np.testing.assert_allclose(np.exp(decision.logprobs), [0.6, 0.4])


def test_a_cut_reply_is_scored_where_it_names_its_action() -> None:
    written: list[Written] = [
        *(("go", {"go": 0.6, "wait": 0.4}), (", or", {}), (" wait", {}), (", or", {})),
        *((" ", {}), ("go", {"go": 0.9, "wait": 0.1}), (" as", {})),
    ]
    lm = over(chatting(answer("go, or wait, or go as", written=written, finish="length"), guided=False))
    (decision,) = lm.decide(PROMPTS[:1], ("go", "wait"))
    assert decision.logprobs is not None
    np.testing.assert_allclose(np.exp(decision.logprobs), [0.6, 0.4])


def test_completions_are_read_to_the_end_of_the_line() -> None:
    with ScriptedServer(Script(logprobs=False, chat=False)) as server:
        lm = connect(server)
        decisions = lm.decide(["pick up go forward turn left turn right act:"], ACTIONS)
        assert lm.mode == "generate"
        assert server.ledger[-1].body["stop"] == ["\n"]
        assert "names no action" in decisions[0].error, "it writes one token alone"
        lm.close()


def test_content_in_parts_is_read() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "turn left?"}]}
    content = [thinking, {"type": "text", "text": "go "}, {"type": "text", "text": "forward"}]
    (decision,) = over(chatting(answer(content), guided=False)).decide(PROMPTS[:1], ACTIONS)
    assert (decision.action, decision.thought, decision.error) == ("go forward", "turn left?", "")
