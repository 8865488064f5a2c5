from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from londi.encoders import ENTROPY, MARGIN, Features, Moment, TextEncoder
from londi.encoders.text import NUM_MOMENT, NUM_OPEN_ACTIONS, echo, grounding, links
from londi.errors import ConfigError
from londi.lms.base import Decision
from londi.prompt import PromptTemplate
from londi.usage import Usage

ACTIONS = ("left", "right", "forward")
PROMPTS = (
    "goal: go to the red ball\nlast: none\nobs: You see a wall 2 steps left. You see a red ball 1 step forward.\nact:",
    "goal: pick up the key\nlast: left, right\nobs: You carry a blue key.\nact:",
    "goal: wait\nlast: none\nobs: \nact:",
)


def decision(p: tuple[float, ...] | None = (0.5, 0.25, 0.25), action: str = "left", **rest: Any) -> Decision:
    logprobs = None if p is None else tuple(math.log(x) for x in p)
    return Decision(action, Usage(1), logprobs, **rest)


def moment(**changes: Any) -> Moment:
    return replace(Moment(0, 64, (), 0, 0, False, 0, 0, 0), **changes)


def encode(encoder: TextEncoder, prompt: str) -> Features:
    return encoder.encode([prompt], [decision()], [moment()], ACTIONS)


def dense(
    decision_: Decision, moment_: Moment, admissible: tuple[str, ...] | None = ACTIONS, **sizes: Any
) -> NDArray[np.float32]:
    row: NDArray[np.float32] = TextEncoder(**sizes).encode(["goal: g"], [decision_], [moment_], admissible).dense[0]
    return row


def equal(a: Features, b: Features) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("text", "fields", "dense"))


def test_a_batch_is_its_singles() -> None:
    hidden = np.random.default_rng(0).standard_normal((3, 48)).astype(np.float32)
    decisions = [
        decision(hidden=hidden[0]),
        decision((0.1, 0.1, 0.8), "forward", hidden=hidden[1]),
        decision((0.2, 0.6, 0.2), "right", hidden=hidden[2]),
    ]
    moments = [moment(), moment(step=5, actions=("left", "forward"), times_seen=2), moment(step=63, overrides=1)]
    batch = TextEncoder().encode(PROMPTS, decisions, moments, ACTIONS)
    singles = [TextEncoder().encode([PROMPTS[i]], [decisions[i]], [moments[i]], ACTIONS) for i in range(3)]
    assert equal(batch, Features.concatenate(singles))
    assert all(equal(batch[i : i + 1], singles[i]) for i in range(3))
    assert len({row.tobytes() for row in batch.text}) == 3, "different prompts look different"
    assert len({row.tobytes() for row in batch.dense}) == 3


def test_one_encoder_gives_the_same_twice() -> None:
    encoder = TextEncoder()
    first = encode(encoder, PROMPTS[0])
    first.text[:] = 0  # what a caller does to its features must not reach the next call
    assert equal(encode(encoder, PROMPTS[0]), encode(TextEncoder(), PROMPTS[0]))


def test_clauses_know_their_line() -> None:
    features = encode(TextEncoder(), PROMPTS[0])
    assert features.fields[0, :6].tolist() == [1, 2, 3, 3, 4, 0]
    assert (features.text[0, :5].any(1)).all()
    assert not features.text[0, 5:].any()


def test_the_same_words_hash_the_same_wherever_they_stand() -> None:
    encoder = TextEncoder()
    one = encode(encoder, "goal: g\nA red ball.").text[0]
    other = encode(encoder, "goal: g\nsome key. a RED ball.").text[0]
    assert np.array_equal(one[1], other[2])
    assert not np.array_equal(one[1], other[1])


def test_truncation_keeps_the_first_line_and_the_latest_clauses() -> None:
    full = TextEncoder(clauses=20)
    short = TextEncoder(clauses=4)
    prompt = "first, second\nold one. old two. new one. new two."
    everything, kept = encode(full, prompt), encode(short, prompt)
    assert everything.fields[0, :6].tolist() == [1, 1, 2, 2, 2, 2]
    assert np.array_equal(kept.text[0], everything.text[0, [0, 1, 4, 5]])
    assert kept.fields[0].tolist() == [1, 1, 2, 2]


def test_a_first_line_that_fills_everything() -> None:
    kept = encode(TextEncoder(clauses=2), "one, two, three\nlater")
    assert kept.fields[0].tolist() == [1, 1]
    assert np.array_equal(kept.text[0], encode(TextEncoder(), "one, two").text[0, :2])


def test_long_clauses_lose_their_longest_grams_first() -> None:
    words = "a b c d e f g h"
    wide = encode(TextEncoder(ngrams=36), words).text[0, 0]
    narrow = encode(TextEncoder(ngrams=5), words).text[0, 0]
    assert np.array_equal(narrow, wide[:5])
    assert np.count_nonzero(wide) == 3 * 8 - 3


def test_hashes_fit_the_buckets() -> None:
    text = encode(TextEncoder(buckets=7), PROMPTS[0]).text
    assert 0 < text.max() < 7
    assert text.min() == 0


def test_entropy_and_margin() -> None:
    row = dense(decision((0.5, 0.25, 0.25)), moment())
    assert row[ENTROPY] == pytest.approx(1.5 * math.log(2))
    assert row[MARGIN] == pytest.approx(0.25)
    sure = dense(decision((1.0, 1e-9, 1e-9)), moment())
    assert sure[ENTROPY] == pytest.approx(0, abs=1e-6)
    assert sure[MARGIN] == pytest.approx(1)


def test_looping() -> None:
    """A text that came before is flagged, and how often is told apart."""
    rows = [dense(decision(), moment(times_seen=n, since_seen=2 * (n > 0))) for n in range(5)]
    changed = [set(np.flatnonzero(row != rows[0]).tolist()) for row in rows]
    assert changed[0] == set()
    (flag,) = changed[1] & {i for i in range(len(rows[1])) if rows[1][i] == 1 and rows[0][i] == 0}
    assert [row[flag] for row in rows] == [0, 1, 1, 1, 1]
    assert not np.array_equal(rows[1], rows[2])
    assert np.array_equal(rows[3], rows[4]), "more than three times is as stuck as three times"


def test_the_moment_shows() -> None:
    base = dense(decision(), moment(step=4))
    assert all(-1 <= x <= 1 for x in base[2:NUM_MOMENT])
    others = (
        moment(step=5),
        moment(step=4, actions=("left",)),
        moment(step=4, times_seen=1, since_seen=2),
        moment(step=4, times_seen=1, since_seen=3),
        moment(step=4, times_seen=1, since_seen=3, overrode_then=True),
        moment(step=4, revisits=1),
        moment(step=4, overrides=1, since_override=1),
        moment(step=4, overrides=1, since_override=2),
        moment(step=4, overrides=2, since_override=2),
    )
    rows = [base, *(dense(decision(), other) for other in others)]
    assert len({row.tobytes() for row in rows}) == len(rows)


def test_closed_actions_have_their_own_columns() -> None:
    row = dense(decision((0.5, 0.25, 0.25), "right"), moment(actions=("right", "forward", "left")))
    assert row[NUM_MOMENT : NUM_MOMENT + 3].tolist() == pytest.approx([0.5, 0.25, 0.25])
    slots = row[NUM_MOMENT + 3 : NUM_MOMENT + 12].reshape(3, 3)
    assert slots[0].tolist() == [0, 1, 0], "QUICK's action"
    assert slots[1].tolist() == [1, 0, 0], "the last action"
    assert slots[2].tolist() == [0, 0, 1], "the one before"


def test_probabilities_follow_the_actions_and_not_their_size() -> None:
    one = dense(decision((0.7, 0.2, 0.1)), moment())
    other = dense(decision((0.2, 0.7, 0.1)), moment())
    assert not np.array_equal(one, other)
    assert one[ENTROPY] == pytest.approx(other[ENTROPY])


def test_open_action_sets() -> None:
    encoder = TextEncoder()
    free = decision(None, "open the small door")
    features = encoder.encode(["goal: g"], [free], [moment(actions=("look", "wait"))], None)
    assert features.dense.shape == (1, encoder.num_dense(None))
    row = features.dense[0]
    assert row[ENTROPY] == row[MARGIN] == 0
    slots = row[NUM_MOMENT : NUM_MOMENT + 4 * NUM_OPEN_ACTIONS].reshape(4, NUM_OPEN_ACTIONS)
    assert slots.sum(1).tolist() == [1, 1, 1, 1], "nothing of what it says is shown"
    other = encoder.encode(["goal: g"], [decision(None, "go home")], [moment(actions=("look", "wait"))], None)
    assert not np.array_equal(features.dense, other.dense)


def test_free_text_is_held_against_what_is_shown() -> None:
    prompt = PromptTemplate().render(
        "move a dove egg to the red box", ["A red box. A dove egg.", "A blue box."], ["go"]
    )
    assert grounding(prompt, "move dove egg to Red Box") == (1.0, 1 / 6, 0.0, 0.6, 0.6, 0.0)
    assert grounding(prompt, "move ant egg to blue box") == (4 / 6, 2 / 6, 1 / 6, 0.4, 0.2, 0.2)
    assert grounding(str(prompt), "open blue dove") == (1 / 3, 1 / 3, 1 / 3, 0.0, 0.0, 0.0)
    assert grounding(prompt, "") == (0.0,) * 6


def test_free_text_is_held_against_what_was_done() -> None:
    done = moment(actions=("go to hall", "focus on dove egg", "open door"), overrides=1, since_override=2)
    assert echo(done, "pick up Dove egg") == (0.0, 0.0, 0.5, 1 / 3, 0.5, 1 / 3)
    assert echo(done, "open hall egg") == (1 / 3, 0.0, 2 / 3, 0.0, 1 / 3, 0.0)
    assert echo(done, "hall focus") == (0.0, 0.0, 1.0, 0.0, 0.5, 0.0), "no pair spans two actions"
    assert echo(moment(actions=("open door",)), "open door") == (1.0, 1.0, 0.0, 0.0, 0.0, 0.0), "DEEPTHINK said nothing"
    assert echo(moment(), "open door") == (0.0,) * 6
    assert echo(done, "") == (0.0,) * 6


def test_things_are_linked_by_the_clause_that_shows_both() -> None:
    text = "You see a pot 1 (with a banana tree, soil); a pot 2 (with a pea plant, soil); a door that is open."
    prompt = PromptTemplate().render("find a plant", [text], ["focus on banana tree", "open door"])
    done = moment(actions=("focus on banana tree",), overrides=1, since_override=1)
    assert links(prompt, done, "take pot 1") == (2 / 3, 2 / 3)
    assert links(prompt, done, "take pot 2") == (1 / 3, 1 / 3)
    later = moment(actions=("focus on banana tree", "open door"), overrides=1, since_override=2)
    assert links(prompt, later, "take pot 1") == (0.0, 2 / 3)
    assert links(str(prompt), moment(actions=("focus on pea plant",)), "take pot 2") == (2 / 3, 0.0)
    assert links(prompt, moment(actions=("jump",)), "take pot 1") == (0.0, 0.0), "nothing shows it"
    assert links(prompt, moment(), "") == (0.0, 0.0)


def test_free_text_is_read_as_the_end_of_the_prompt() -> None:
    def features(action: str, admissible: tuple[str, ...] | None) -> Features:
        return TextEncoder().encode(PROMPTS[:1], [decision(None, action)], [moment()], admissible)

    assert not np.array_equal(features("left", None).text, features("right", None).text)
    assert np.array_equal(features("left", ACTIONS).text, features("right", ACTIONS).text)


def test_open_actions_with_scores_are_sorted() -> None:
    encoder = TextEncoder()
    scored = encoder.encode(["goal: g"], [decision((0.2, 0.5, 0.3))], [moment()], None).dense[0]
    assert scored[NUM_MOMENT : NUM_MOMENT + 3].tolist() == pytest.approx([0.5, 0.3, 0.2])
    many = decision(tuple([1 / 40] * 40))
    row = encoder.encode(["g"], [many], [moment()], None).dense[0]
    assert np.count_nonzero(row[NUM_MOMENT : NUM_MOMENT + NUM_OPEN_ACTIONS]) == NUM_OPEN_ACTIONS


def test_an_action_outside_the_closed_set_is_encoded_not_refused() -> None:
    row = dense(decision(None, "sing"), moment())
    assert row[NUM_MOMENT + 3 : NUM_MOMENT + 6].sum() == 1


@pytest.mark.parametrize("width", [8, 16, 64, 1000])
def test_hidden_states_of_any_width(width: int) -> None:
    rng = np.random.default_rng(3)
    encoder = TextEncoder(hidden=16)
    states = rng.standard_normal((2, width)).astype(np.float32)
    rows = [dense(decision(hidden=state), moment(), hidden=16)[-16:] for state in states]
    assert all(row.shape == (16,) for row in rows)
    assert encoder.num_dense(3) == NUM_MOMENT + 4 * 3 + 16
    assert not np.allclose(rows[0], rows[1])
    scaled = dense(decision(hidden=1000 * states[0]), moment(), hidden=16)[-16:]
    np.testing.assert_allclose(scaled, rows[0], rtol=1e-3), "the scale of a model's hidden state does not matter"
    assert 0.1 < np.sqrt(np.mean(rows[0][: min(width, 16)] ** 2)) < 3
    if width <= 16:
        assert not rows[0][width:].any()


def test_the_projection_keeps_distances_in_order() -> None:
    rng = np.random.default_rng(5)
    base = rng.standard_normal(512).astype(np.float32)
    near = base + 0.05 * rng.standard_normal(512).astype(np.float32)
    far = rng.standard_normal(512).astype(np.float32)
    a, b, c = (dense(decision(hidden=h), moment())[-32:] for h in (base, near, far))
    assert np.linalg.norm(a - b) < np.linalg.norm(a - c) / 3


def test_no_hidden_columns() -> None:
    wide = dense(decision(hidden=np.ones(50, np.float32)), moment(), hidden=0)
    assert wide.shape == (NUM_MOMENT + 4 * 3,)
    assert not dense(decision(), moment())[-32:].any()


@pytest.mark.parametrize("sizes", [{"clauses": 0}, {"ngrams": 0}, {"buckets": 1}, {"buckets": 40_000}, {"hidden": -1}])
def test_bad_sizes(sizes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TextEncoder(**sizes)


def test_an_empty_batch() -> None:
    encoder = TextEncoder()
    features = encoder.encode([], [], [], ACTIONS)
    assert len(features) == 0
    assert features.dense.shape == (0, encoder.num_dense(3))


@pytest.mark.parametrize("admissible", [ACTIONS, None])
def test_without_quick_its_decision_plays_no_part(admissible: tuple[str, ...] | None) -> None:
    encoder, hidden = TextEncoder(quick=False), np.ones(20, np.float32)
    p = (0.5, 0.25, 0.25) if admissible else None
    one = encoder.encode(["goal: g"], [decision(p, hidden=hidden)], [moment(refused=True)], admissible)
    other = encoder.encode(["goal: g"], [decision(p and p[::-1], "right")], [moment(refused=True)], admissible)
    assert equal(one, other)
    seen = TextEncoder().encode(["goal: g"], [decision(p, hidden=hidden)], [moment(refused=True)], admissible)
    assert not equal(one, seen)
