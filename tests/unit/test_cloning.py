from __future__ import annotations

import itertools
import json
import re
import stat
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from londi.cloning.babyai.corpus import BabyAICorpus
from londi.cloning.babyai.demos import Demonstration, collect, play, think
from londi.cloning.babyai.tokenizer import COLORS, THINGS, UNKNOWN, Phrases
from londi.cloning.train import IGNORE, FactoredEmbedding, Recipe, train
from londi.envs.babyai import ACTIONS, KINDS, BabyAITextEnv
from londi.lms.transformers import TransformersLM
from londi.prompt import PromptTemplate

TINY = Recipe(
    hidden_size=16, num_layers=1, num_heads=2, ff_size=32, thinks=False, num_updates=60, batch_size=32, lr=0.02
)


@cache
def phrases() -> Phrases:
    return Phrases.build()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    phrases().save(folder)
    return AutoTokenizer.from_pretrained(folder)


@cache
def demos() -> list[Demonstration]:
    return collect(KINDS, 60, seed=5, processes=1)


@cache
def texts() -> tuple[tuple[str, str], ...]:
    """(goal, observation) of 50 random episodes of every kind of task, without the last observation."""
    seen, rng = list[tuple[str, str]](), np.random.default_rng(0)
    for kind in KINDS:
        env = BabyAITextEnv(kinds=(kind,), max_steps=40)
        for seed in range(50):
            observation, info = env.reset(seed=seed)
            over = False
            while not over:
                seen.append((info["goal"], observation))
                observation, _, terminated, truncated, _ = env.step(str(rng.choice(ACTIONS)))
                over = terminated or truncated
    return tuple(seen)


def prompts() -> list[str]:
    return [PromptTemplate().render(goal, [text], ACTIONS[:4]) for goal, text in texts()]


# Tokenizer ------------------------------------------------------------------------------------------------------------


def test_every_text_is_in_the_vocabulary(tokenizer: Any) -> None:
    unknown = phrases().ids[UNKNOWN]
    for prompt, ids in zip(prompts(), tokenizer(prompts()).input_ids, strict=True):
        assert unknown not in ids, prompt
        assert len(ids) < 40


def test_tokens_keep_what_matters(tokenizer: Any) -> None:
    prompt = (
        "goal: put the red ball next to the blue box\nlast: turn left, go forward\n"
        "obs: You carry a red ball. You see a wall 2 steps forward. You see a locked grey door 1 step left. "
        "You see a blue box 2 steps right and 1 step forward.\nact:"
    )
    assert [phrases().words[i] for i in tokenizer(prompt).input_ids] == [
        "goal:", "put", "red ball", "next to", "blue box",
        "last:", "turn left", "go forward",
        "obs:", "You carry", "red ball", "wall 2 steps forward", "locked grey door 1 step left",
        "blue box 2 steps right and 1 step forward", "act:",
    ]  # fmt: skip


def test_every_word_is_its_own_single_token(tokenizer: Any) -> None:
    words = [word for word in phrases().words if not word.startswith("<")]
    for word, ids in zip(words, tokenizer(words).input_ids, strict=True):
        assert ids == [phrases().ids[word]], word


def test_thoughts_survive_the_tokenizer(tokenizer: Any) -> None:
    for goal, text in texts()[::7]:
        thought = think(goal, text)
        decoded = tokenizer.decode(tokenizer(thought).input_ids)
        assert decoded == thought
        assert len(tokenizer(thought).input_ids) == 2


# Thoughts -------------------------------------------------------------------------------------------------------------

BALL = "You see a red ball 2 steps left and 1 step forward."


@pytest.mark.parametrize(
    ("goal", "observation", "thought"),
    [
        ("go to the red ball", BALL, "reach red ball 2 steps left and 1 step forward"),
        ("go to a red ball", "You see a wall 1 step left.", "reach red ball"),
        ("pick up the red ball", BALL, "get red ball 2 steps left and 1 step forward"),
        ("pick up the red ball", f"You carry a blue key. {BALL}", "leave blue key"),
        ("put the blue key next to the red ball", BALL, "get blue key"),
        (
            "put the blue key next to the red ball",
            f"You carry a blue key. {BALL}",
            "bring red ball 2 steps left and 1 step forward",
        ),
        ("pick up the blue key, then go to the red ball", BALL, "get blue key"),
        (
            "pick up the blue key, then go to the red ball",
            f"You carry a blue key. {BALL}",
            "reach red ball 2 steps left and 1 step forward",
        ),
        ("open the red door", "You see a locked red door 1 step right.", "get red key"),
        ("open the red door", "You see a red key 3 steps forward.", "get red key 3 steps forward"),
        (
            "open the red door",
            "You carry a red key. You see a locked red door 1 step right.",
            "unlock locked red door 1 step right",
        ),
        ("open the red door", "You carry a red key. You see a wall 1 step right.", "unlock red door"),
        ("open the red door", "You carry a red ball.", "leave red ball"),
    ],
)
def test_thoughts(goal: str, observation: str, thought: str) -> None:
    assert think(goal, observation) == thought


def test_a_thought_takes_the_nearest() -> None:
    near, far = "a red ball 1 step right and 1 step forward", "a red ball 3 steps left"
    text = f"You see {far}. You see {near}. You see a red box 1 step left."
    assert think("go to a red ball", text) == "reach red ball 1 step right and 1 step forward"


def test_no_thought_for_a_foreign_goal() -> None:
    with pytest.raises(ValueError, match="clean the floor"):
        think("clean the floor", BALL)


# Symmetries -----------------------------------------------------------------------------------------------------------


def swap(text: str, names: dict[str, str]) -> str:
    return re.sub(rf"\b({'|'.join(names)})\b", lambda match: names[match.group()], text)


def permutation_of(names: Sequence[str], row: int) -> dict[str, str]:
    return dict(zip(names, list(itertools.permutations(names))[row], strict=True))


def test_symmetries_are_permutations() -> None:
    everything = np.arange(len(phrases().words))
    for table in (phrases().mirror[None], phrases().recolorings, phrases().retypings):
        assert (np.sort(table, axis=1) == everything).all()
        assert len(np.unique(table, axis=0)) == len(table)
    assert phrases().recolorings.shape[0] == 720
    assert phrases().retypings.shape[0] == 6
    for table in (phrases().recolorings, phrases().retypings):
        assert (table[0] == everything).all(), "the first leaves all as it is"


def test_mirrored_twice_is_itself() -> None:
    mirror = phrases().mirror
    assert (mirror[mirror] == np.arange(len(mirror))).all()
    assert (mirror != np.arange(len(mirror))).any()


def test_symmetries_say_what_the_changed_text_says(tokenizer: Any) -> None:
    some = prompts()[:: max(1, len(prompts()) // 60)]
    ids = [np.array(row) for row in tokenizer(some).input_ids]

    def consistent(table: Any, names: dict[str, str]) -> None:
        changed = tokenizer([swap(prompt, names) for prompt in some]).input_ids
        assert all((table[old] == new).all() for old, new in zip(ids, changed, strict=True))

    consistent(phrases().mirror, {"left": "right", "right": "left"})
    for row in (1, 77, 500, 719):
        consistent(phrases().recolorings[row], permutation_of(COLORS, row))
    for row in range(6):
        consistent(phrases().retypings[row], permutation_of(THINGS, row))


def test_embeddings_are_the_sums_of_their_parts() -> None:
    torch.manual_seed(0)
    embedding = FactoredEmbedding(phrases().parts, 8)()
    at = {word: embedding[i] for word, i in phrases().ids.items()}
    moved = at["blue key 2 steps left"] - at["blue key 1 step forward"]
    torch.testing.assert_close(moved, at["red ball 2 steps left"] - at["red ball 1 step forward"])
    torch.testing.assert_close(
        at["locked red door 1 step left"] - at["red door"],
        at["locked blue door 1 step left"] - at["blue door"],
    )
    assert not torch.allclose(at["blue key"], at["red ball"])


def test_a_batch_is_symmetric_copies_of_its_rows(tokenizer: Any, tmp_path: Path) -> None:
    data = BabyAICorpus.build(demos(), tmp_path, thinks=True)
    rows = np.arange(len(demos()))[::5]
    ids, labels = (part.numpy() for part in data.batch(rows, np.random.default_rng(0)))
    words = phrases().words
    changed = False
    for row, new, label in zip(rows, ids, labels, strict=True):
        demo = demos()[row]
        new, label = new[new != 0], label[new != 0]
        reply = tokenizer(f"{demo.thought} {demo.action}").input_ids
        prompt = tokenizer(PromptTemplate().render(demo.goal, [demo.observation], demo.last)).input_ids
        old = [*prompt, *reply]
        assert len(new) == len(old)
        assert (label[: -len(reply)] == IGNORE).all(), "only the reply is learned"
        assert (label[-len(reply) :] == new[-len(reply) :]).all()
        mapping = dict(zip(old, new.tolist(), strict=True))
        assert [mapping[token] for token in old] == new.tolist(), "one symmetry for the whole row"
        changed |= old != new.tolist()
        for before, after in mapping.items():
            strip = re.compile(rf"\b({'|'.join((*COLORS, *THINGS, 'left', 'right'))})\b")
            assert strip.sub("*", words[before]) == strip.sub("*", words[after])
            if "door" in demo.goal:
                kinds = re.compile(rf"\b({'|'.join(THINGS)})\b")
                assert kinds.findall(words[before]) == kinds.findall(words[after]), "a key must stay a key"
    assert changed


# Demonstrations -------------------------------------------------------------------------------------------------------


def test_demonstrations_depend_on_the_seed_alone() -> None:
    again = collect(KINDS, 60, seed=5, processes=1)
    assert again == demos()
    assert collect(KINDS, 60, seed=6, processes=1) != demos()
    assert collect(KINDS, 20, seed=5, processes=1) == demos()[: len(collect(KINDS, 20, seed=5, processes=1))]


def test_processes_play_no_part() -> None:
    done = list[int]()
    alone = collect(("go to",), 230, seed=1, max_steps=20, processes=1, progress=done.append)
    assert done == [100, 100, 30]
    assert alone == collect(("go to",), 230, seed=1, max_steps=20, processes=2)


def test_a_demonstration_without_noise_solves_the_task() -> None:
    env, solved = BabyAITextEnv(kinds=KINDS), 0
    for seed in range(20):
        steps = play(env, seed, noise=0.0, memory=4)
        observation, info = env.reset(seed=seed)
        executed = list[str]()
        for step in steps:
            assert (step.goal, step.observation, step.last) == (info["goal"], observation, tuple(executed[-4:]))
            assert step.thought == think(step.goal, step.observation)
            observation, *_, info = env.step(step.action)
            executed.append(step.action)
        solved += info["success"]
    assert solved >= 19


def test_noise_is_executed_but_not_taught() -> None:
    """With noise, what was done (`last`) differs at times from what was taught; without, never."""

    def strayed(noise: float) -> float:
        differ = []
        for seed in range(15):
            steps = play(BabyAITextEnv(), seed, noise, memory=1)
            differ += [b.last != (a.action,) for a, b in itertools.pairwise(steps)]
        return sum(differ) / len(differ)

    assert strayed(0.0) == 0
    assert 0.1 < strayed(0.3) < 0.5


# Training -------------------------------------------------------------------------------------------------------------


def clone(
    shown: Sequence[Demonstration],
    recipe: Recipe,
    folder: Path,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> None:
    folder.mkdir()
    train(BabyAICorpus.build(shown, folder, thinks=recipe.thinks), recipe, folder, seed=seed, progress=progress)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    folder, losses = tmp_path_factory.mktemp("trained") / "model", list[float]()
    clone(demos(), TINY, folder, seed=3, progress=lambda _, loss: losses.append(loss))
    return folder, losses


def test_the_loss_falls(trained: tuple[Path, list[float]]) -> None:
    _, losses = trained
    assert len(losses) == TINY.num_updates
    assert np.mean(losses[-10:]) < 0.5 * losses[0]
    assert np.mean(losses[-10:]) < np.log(len(ACTIONS)) + 0.3, "at least which tokens are actions is learned"


def test_training_is_deterministic(trained: tuple[Path, list[float]], tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    losses = list[float]()
    clone(demos(), TINY, tmp_path / "again", seed=3, progress=lambda _, loss: losses.append(loss))
    assert losses == trained[1]
    assert weights(tmp_path / "again") == weights(trained[0])
    assert torch.get_num_threads() == threads
    clone(demos(), TINY, tmp_path / "other", seed=4)
    assert weights(tmp_path / "other") != weights(trained[0])


def test_the_folder_is_an_ordinary_model(trained: tuple[Path, list[float]]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, losses = trained
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    hit = []
    for demo in demos()[:60]:
        prompt = PromptTemplate().render(demo.goal, [demo.observation], demo.last)
        with torch.no_grad():
            logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
        target = tokenizer(demo.action).input_ids[0]
        hit.append(float(-logits.log_softmax(-1)[target]))
    assert np.mean(hit) == pytest.approx(np.mean(losses[-5:]), abs=0.5), "the saved weights are the trained ones"
    assert json.loads((folder / "recipe.json").read_text())["seed"] == 3


def test_everyone_may_read_the_folder(trained: tuple[Path, list[float]]) -> None:
    names = {file.name for file in trained[0].iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    for file in trained[0].iterdir():
        mode = stat.S_IMODE(file.stat().st_mode)
        assert mode & 0o444 == 0o444, f"{file.name} has mode {mode:o}"


@pytest.mark.parametrize("thinks", [False, True])
def test_a_trained_folder_decides(thinks: bool, tmp_path: Path) -> None:
    recipe = Recipe(16, 1, 2, 32, thinks=thinks, num_updates=3, batch_size=16)
    clone(demos()[:100], recipe, tmp_path / "m", seed=0)
    lm = TransformersLM(str(tmp_path / "m"))
    assert lm.mode == ("generate" if thinks else "score")
    assert lm.max_new_tokens == (3 if thinks else 1)
    assert {decision.action for decision in lm.decide(prompts()[:5], ACTIONS)} <= set(ACTIONS)
