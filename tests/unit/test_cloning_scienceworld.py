"""What the ScienceWorld pair learns from: solutions, plans, demonstrations, tokens."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from londi.cli import main
from londi.cloning.scienceworld import corpus, demos, gold
from londi.cloning.scienceworld.corpus import TEMPLATE, ScienceWorldCorpus
from londi.cloning.scienceworld.demos import HOUSE, Demonstration, room_of, toward
from londi.cloning.scienceworld.tidy import tidy
from londi.cloning.scienceworld.tokenizer import END, THOUGHT, UNKNOWN, Vocabulary, normalise
from londi.cloning.train import IGNORE, Recipe, train
from londi.envs.jvm import POOL
from londi.errors import ConfigError
from londi.lms.transformers import TransformersLM

TASK = "find-animal"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three solved variations, played and written down."""
    where = tmp_path_factory.mktemp("demos")
    jobs = gold.missing(where, [TASK], "train", "easy", 3)
    gold.generate(where, jobs, "train", "easy", processes=1)
    demos.collect(where, list(gold.solved(where, [TASK], "train", "easy")), seed=0, copies=1, processes=1)
    yield where
    POOL.clear()


@pytest.fixture(scope="module")
def shown(folder: Path) -> list[Demonstration]:
    return demos.read(folder, [TASK], seed=0, copies=1)


@pytest.fixture(scope="module")
def data(shown: list[Demonstration], tmp_path_factory: pytest.TempPathFactory) -> ScienceWorldCorpus:
    return ScienceWorldCorpus.build(shown, tmp_path_factory.mktemp("tokenizer"), thinks=True)


# Solutions and demonstrations -----------------------------------------------------------------------------------------


def test_solutions_lead_to_the_goal_and_are_kept(folder: Path) -> None:
    found = gold.read(folder, TASK, "train", "easy")
    assert [each.score for each in found] == [100, 100, 100]
    assert gold.missing(folder, [TASK], "train", "easy", 3) == []
    assert len(gold.missing(folder, [TASK], "train", "easy", 5)) == 2
    with pytest.raises(ConfigError, match="at least 1"):
        gold.missing(folder, [TASK], "train", "easy", 0)


def test_a_line_that_was_cut_off_is_found_missing(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_text(path.read_text()[:-20], encoding="utf-8")
    assert len(gold.missing(tmp_path, [TASK], "train", "easy", 3)) == 1
    assert len({demo.variation for demo in demos.read(tmp_path, [TASK], seed=0, copies=1)}) == 2
    assert demos.read(tmp_path, [TASK], seed=1) == [], "of another seed"
    assert demos.read(tmp_path, [TASK], seed=0, noise=0.2, copies=1) == demos.read(tmp_path, [TASK], seed=0) == []


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    gold.append(path, {"a": 1})
    path.write_bytes(path.read_bytes() + b'{"b":')
    gold.append(path, {"c": 3})
    assert path.read_text().splitlines() == ['{"a": 1}', '{"b":', '{"c": 3}']


def test_demonstrations_are_short_and_say_where_and_what(shown: list[Demonstration]) -> None:
    for demo in shown:
        here = room_of(demo.observation)
        assert demo.action == (demo.next if here == demo.room else f"go to {toward(here, demo.room)}")
        assert not demo.action.startswith(("open door", "look", "wait"))
    first = [demo for demo in shown if demo.variation == shown[0].variation]
    begins = [i for i, demo in enumerate(first) if demo.last == ()]
    assert len(begins) == 2, "once without noise and once with it"
    plain = first[: begins[1]]
    assert [demo.last for demo in plain] == [tuple(d.action for d in plain[:i]) for i in range(len(plain))]


def test_the_first_animal_seen_is_taken_by_the_name_it_is_shown_with(shown: list[Demonstration]) -> None:
    for demo in shown:
        if demo.action.startswith("focus on"):
            name = demo.action.removeprefix("focus on ")
            assert name in demo.observation
            assert name.startswith("baby ") or name.endswith(" egg")


def test_the_way_through_the_house() -> None:
    assert toward("bathroom", "workshop") == "kitchen"
    assert toward("foundry", "greenhouse") == "outside"
    assert toward("workshop", "outside") == "hallway"
    for room, doors in HOUSE.items():
        assert all(room in HOUSE[door] for door in doors), "doors lead both ways"


# Plans ----------------------------------------------------------------------------------------------------------------

OUTSIDE = "Here you see: air; an axe; a blue jay egg; a fire pit; a baby wolf; You also see: A door"
GREENHOUSE = (
    "In it, you see: air; a flower pot 2 (containing water); "
    "a flower pot 3 (containing a peach tree in the adult stage, soil); a jug"
)
WORKSHOP = "On the table is: a battery, a black wire, a red wire, a blue light bulb, which is off, a green wire"


def test_plans_name_what_is_seen() -> None:
    found = tidy(
        "find-living-thing",
        [("outside", "focus on egg dove"), ("outside", "pick up dove"), ("kitchen", "move egg dove egg to red box")],
        [OUTSIDE, OUTSIDE, ""],
    )
    assert [action for _, action in found] == [
        *("focus on blue jay egg", "pick up blue jay egg", "move blue jay egg to red box"),
    ]
    found = tidy("lifespan-longest-lived", [("outside", "focus on baby baby wolf")], [OUTSIDE])
    assert found == [("outside", "focus on baby wolf")]
    found = tidy(
        "find-plant",
        [("greenhouse", "focus on adult plum"), ("greenhouse", "pick up flower pot 9"), ("hall", "move it to red box")],
        [GREENHOUSE, GREENHOUSE, ""],
    )
    assert found[0][1] == "focus on peach tree"
    assert found[-1] == ("hall", "move flower pot 3 to red box")


def test_circuits_take_what_lies_first() -> None:
    steps = [
        ("workshop", "focus on paper clip in inventory"),
        ("workshop", "connect battery anode to green wire terminal 1"),
        ("workshop", "move paper clip to red box"),
    ]
    found = [action for _, action in tidy("test-conductivity", steps, [WORKSHOP] * 3)]
    assert found[0] == "focus on paper clip"
    assert found[1] == "connect battery anode to black wire terminal 1"
    assert found[3] == "connect black wire terminal 2 to cathode in blue light bulb"
    assert found[-3] == "connect paper clip terminal 2 to green wire terminal 1"
    assert found[-2] == "wait", "the lamp needs a moment"
    assert len(found) == 9


# Tokens ---------------------------------------------------------------------------------------------------------------


def test_the_tokenizer_does_what_is_counted_on(shown: list[Demonstration], data: ScienceWorldCorpus) -> None:
    tokenizer, unknown = data.vocabulary.tokenizer(), data.vocabulary.ids[UNKNOWN]
    for demo in shown:
        assert tokenizer.normalizer.normalize_str(demo.observation) == normalise(demo.observation)
        prompt = str(TEMPLATE.render(demo.goal, [demo.observation], demo.last))
        assert unknown not in tokenizer.encode(prompt).ids
        text = tokenizer.encode(corpus.reply(demo, thinks=True)).tokens
        assert text[-1] == END
        answer = text[text.index(THOUGHT) + 1 : -1]
        assert " ".join(answer) == demo.action, "what is decoded is the action itself"


def test_a_circuit_is_judged_by_what_its_lamp_says() -> None:
    last = ("connect red wire terminal 2 to cathode in blue light bulb", "wait")
    move = "move paper clip to red box"
    seen = "This room is called the workshop. In it, you see: a blue light bulb, which is {}; a red light bulb."
    circuit = Demonstration("test-conductivity", 0, "goal", seen.format("on"), last, "workshop", move, move)
    assert corpus.reply(circuit, thinks=True) == f"in workshop active {move} {THOUGHT} {move} {END}"
    off = replace(circuit, observation=seen.format("off"))
    assert corpus.reply(off, thinks=True) == f"in workshop none {move} {THOUGHT} {move} {END}"
    assert corpus.reply(circuit, thinks=False) == f"{move} {END}"
    unbuilt = replace(circuit, last=last[:1])
    assert corpus.reply(unbuilt, thinks=True) == f"in workshop {move} {THOUGHT} {move} {END}"


def test_a_lamp_that_is_out_of_sight_says_nothing() -> None:
    links = (
        "connect battery anode to red wire terminal 1",
        "connect red wire terminal 2 to cathode in green light bulb",
    )
    move = "move wire to blue box"
    away = Demonstration(
        "test-conductivity", 0, "goal", "hallway", (*links, "wait"), "workshop", move, "go to workshop"
    )
    assert corpus.reply(away, thinks=True).startswith(f"in workshop {move} {THOUGHT}")
    here = replace(away, observation="a green light bulb, which is off", last=(*links, "wait", *["look around"] * 8))
    assert corpus.reply(here, thinks=True).startswith(f"in workshop {move} {THOUGHT}"), "the prompt shows eight actions"


GOAL = (
    "If the wire temperature is above 50.0 degrees celsius, place it in the red box. "
    "If the wire temperature is below 50.0 degrees celsius, place it in the green box."
)


def test_a_measurement_is_held_against_its_bound() -> None:
    seen = "the thermometer measures a temperature of 34 degrees celsius; This room is called the bathroom."
    move = "move wire to green box"
    demo = Demonstration("use-thermometer", 0, GOAL, seen, ("use thermometer on wire",), "bathroom", move, move)
    assert corpus.reply(demo, thinks=True) == f"in bathroom 34 50 below {move} {THOUGHT} {move} {END}"
    rng = np.random.default_rng(0)
    found = [corpus._imagined(demo, rng) for _ in range(200)]
    assert len({other.goal for other in found}) > 3
    for other in found:
        words = corpus.reply(other, thinks=True).split()
        there, bound = int(words[2]), int(words[3])
        assert words[4] == ("above" if there > bound else "below")
        assert other.action == other.next == f"move wire to {'red' if there > bound else 'green'} box"
        assert f"temperature of {there} degrees" in other.observation
        assert other.goal.count(f"{bound}.0 degrees") == 2
    assert corpus._imagined(replace(demo, observation="hallway"), rng).observation == "hallway"


def test_what_is_connected_to_nothing_says_nothing() -> None:
    text = "a wireits terminal 1 is connected to: nothing. its terminal 2 is connected to: battery"
    assert "nothing" not in normalise(text)
    assert "battery" in normalise(text)


def test_names_are_one_token_and_numbers_can_be_compared(data: ScienceWorldCorpus) -> None:
    tokens = (
        data.vocabulary.tokenizer().encode("obs: a Blue Box; unknown substance B, -12.0 degrees; flower pot 7").tokens
    )
    assert {"blue box", "unknown substance b", "flower pot 7", "-12"} <= set(tokens)
    parts = dict(zip(data.vocabulary.words, data.parts, strict=True))
    assert set(parts["-12"]) < set(parts["55"]) < set(parts["130"])


def test_a_batch_renames_each_row_consistently(data: ScienceWorldCorpus) -> None:
    words = np.array(data.vocabulary.words)
    rows = np.arange(len(data))
    ids, labels = (part.numpy() for part in data.batch(rows, np.random.default_rng(0)))
    old, changed = data.ids[:, data.ids.shape[1] - ids.shape[1] :], 0
    for before, after, label in zip(old, ids, labels, strict=True):
        names = {(a, b) for a, b in zip(words[before], words[after], strict=True) if a != b}
        changed += bool(names)
        assert len({a for a, _ in names}) == len(names) == len({b for _, b in names}), "one to one"
        kinds = {(a.endswith(" box"), b.endswith(" box")) for a, b in names}
        assert kinds <= {(True, True), (False, False)}, "a box stays a box"
        assert (after[label != IGNORE] == label[label != IGNORE]).all()
    assert changed > len(rows) / 2


def test_all_rows_are_taken_in_batches_of_like_length(data: ScienceWorldCorpus) -> None:
    order = data.shuffled(8, np.random.default_rng(1))
    assert len(order) == len(set(order.tolist())) == len(data) // 8 * 8
    lengths = (data.ids[order] != 0).sum(1).reshape(-1, 8)
    assert np.ptp(lengths, 1).mean() < np.ptp(lengths)


def test_a_clone_speaks_free_text_and_says_how_sure_it_is(data: ScienceWorldCorpus, tmp_path: Path) -> None:
    data.vocabulary.save(tmp_path)
    train(data, Recipe(16, 1, 2, 32, thinks=True, num_updates=5, batch_size=16, context=320), tmp_path, seed=0)
    lm = TransformersLM(str(tmp_path))
    prompts = ["goal: find an animal\nlast: none\nobs: This room is called the kitchen.\nact:", "goal: x\nact:"]
    both, alone = lm.decide(prompts), lm.decide(prompts[:1])[0]
    assert both[0].action == alone.action
    assert both[0].logprob == pytest.approx(alone.logprob, abs=1e-4)
    assert both[0].entropy == pytest.approx(alone.entropy, abs=1e-4)
    assert both[0].hidden is not None
    assert alone.hidden is not None
    np.testing.assert_allclose(both[0].hidden, alone.hidden, atol=1e-4)
    for decision in both:
        assert decision.logprob is not None
        assert decision.entropy is not None
        assert decision.logprob < 0 < decision.entropy < np.log(len(data.parts))
    assert json.loads((tmp_path / "recipe.json").read_text())["thinks"] is True


# Interrupted and in want of data, without a simulator -----------------------------------------------------------------


def test_a_lost_simulator_is_tried_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def solve(task: str, variation: int, simplification: str) -> gold.Gold | None:
        tries.append(variation)
        lost = variation == 2 or tries.count(variation) == 1
        return None if lost else gold.Gold(task, variation, simplification, ("wait",), 100)

    monkeypatch.setattr(gold, "_solve", solve)
    monkeypatch.setattr(gold, "_PAUSE", 0.0)
    gold.generate(tmp_path, [(TASK, 1), (TASK, 2)], "train", "easy", processes=1)
    assert tries == [1, 1, 2, 2]
    assert [(each.variation, each.score) for each in gold.read(tmp_path, TASK, "train", "easy")] == [(1, 100), (2, 0)]


def test_what_an_interrupt_ended_is_not_recorded_as_unsolvable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def solve(task: str, variation: int, simplification: str) -> gold.Gold | None:
        if variation == 1:
            begun.wait(10)
            return gold.Gold(task, variation, simplification, ("wait",), 100)
        begun.set()
        return None

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gold, "_solve", solve)
    monkeypatch.setattr(gold, "_PAUSE", 10.0)
    with pytest.raises(KeyboardInterrupt):
        gold.generate(tmp_path, [(TASK, 1), (TASK, 2)], "train", "easy", processes=2, progress=interrupt)
    assert [each.variation for each in gold.read(tmp_path, TASK, "train", "easy")] == [1]


def test_fewer_rows_than_a_batch_are_one() -> None:
    def rows(count: int) -> ScienceWorldCorpus:
        ids = np.ones((count, 3), np.int64)
        return ScienceWorldCorpus(Vocabulary((), (), {}), ids, ids, (), np.ones((count, 0), np.bool_), 1)

    assert sorted(rows(5).shuffled(8, np.random.default_rng(0))) == [0, 1, 2, 3, 4]
    assert len(rows(9).shuffled(8, np.random.default_rng(0))) == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demos", "scienceworld", "--tasks", "find-plnt"], "find-plant"),
        (["demos", "scienceworld", "--out", __file__], "choose a folder"),
        (["demos", "scienceworld", "--most", "0"], "--most"),
        (["train", "scienceworld", "--episodes", "9"], "--episodes is for babyai"),
        (["train", "babyai", "--tasks", "find-plant"], "are for scienceworld"),
        (["train", "scienceworld", "--out", __file__], "choose a folder"),
    ],
)
def test_wrong_input_is_refused_before_anything_starts(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as found:
        main(["lm", *words])
    assert found.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
