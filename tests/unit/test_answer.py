"""What DEEPTHINK would do: its probability of acting otherwise, its loss, and the steps that teach it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import embedding_bag

from londi import config
from londi.encoders import Features, TextEncoder
from londi.episode import Reply
from londi.learners.replay import Replay, Trajectory
from londi.learners.router import RouterLearner
from londi.making import make_encoder, make_envs, make_learners
from londi.rollout import _answer
from londi.switchers import answer
from londi.switchers.base import FAILED
from londi.switchers.network import BudgetNetwork, NetworkSwitcher, RouterNetwork
from londi.switchers.reader import NetworkShape, Phi, _GramSum, tensors
from londi.train import prepare
from londi.usage import Usage

ROOT = Path(__file__).parents[2]
ACTIONS = 3
SHAPE = NetworkShape(ACTIONS + 1, 64, reader=0, width=16, max_calls=3, answers=ACTIONS, said=1)
"""Dense features: what DEEPTHINK will do, as a number, and QUICK's action, one-hot."""


def features(quick: list[int], deep: list[int]) -> Features:
    text = np.ones((len(quick), 2, 3), np.int16)
    dense = np.concatenate([np.array(deep)[:, None], np.eye(ACTIONS)[quick]], 1).astype(np.float32)
    return Features(text, np.ones((len(quick), 2), np.int16), dense)


def phi(quick: list[int], deep: list[int]) -> Phi:
    return tensors(features(quick, deep))


def test_it_acts_otherwise_with_the_probability_of_all_but_quicks_action() -> None:
    logits = torch.log(torch.tensor([[[0.7, 0.2, 0.1]], [[0.7, 0.2, 0.1]]]))  # two states, one reader
    assert answer.differs(logits, phi([0, 1], [0, 0]), SHAPE).tolist() == pytest.approx([0.3, 0.8])
    two = torch.cat([logits, torch.log(torch.full((2, 1, 3), 1 / 3))], 1)
    found = answer.differs(two, phi([0, 1], [0, 0]), SHAPE).tolist()
    assert found == pytest.approx([(0.3 + 2 / 3) / 2, (0.8 + 2 / 3) / 2]), "the mean of two readers"
    blind = replace(SHAPE, answers=0)
    assert answer.width(blind) == 1
    assert answer.differs(torch.zeros(2, 1, 1), phi([0, 1], [0, 0]), blind).tolist() == [0.5, 0.5]


def test_the_loss_is_the_cross_entropy_of_what_it_took() -> None:
    logits = torch.log(torch.tensor([[[0.7, 0.2, 0.1]], [[0.1, 0.1, 0.8]]]))
    agreed, took = torch.tensor([True, False]), torch.tensor([0, 2], dtype=torch.int16)
    assert answer.loss(logits, agreed, took).item() == pytest.approx(-(math.log(0.7) + math.log(0.8)) / 2)
    two = torch.cat([logits, torch.log(torch.full((2, 1, 3), 1 / 3))], 1)
    both = -(math.log(0.7) + math.log(0.8) + 2 * math.log(1 / 3)) / 4
    assert answer.loss(two, agreed, took).item() == pytest.approx(both), "each reader learns"
    nothing = answer.loss(logits.requires_grad_()[:0], agreed[:0], took[:0])
    assert nothing.item() == 0
    torch.autograd.backward(nothing)
    single = torch.tensor([[[0.0]], [[2.0]]])
    odds = answer.loss(single, torch.tensor([True, False]), torch.tensor([-1, -1])).item()
    assert odds == pytest.approx((math.log(2) + math.log(1 + math.exp(-2))) / 2), "whether, where not what"


def test_what_teaches() -> None:
    called = np.array([True, True, True, False])
    took = np.array([1, -1, FAILED, -1], np.int16)
    assert answer.teaches(called, took, SHAPE).tolist() == [True, False, False, False]
    assert answer.teaches(called, took, replace(SHAPE, answers=0)).tolist() == [True, True, False, False]


def test_the_router_learns_what_deepthink_does() -> None:
    """It has seen QUICK say 0 alone; where QUICK says what DEEPTHINK does, they agree all the same."""
    rng, replay = np.random.default_rng(0), Replay(1_000)
    for _ in range(100):
        deep = rng.integers(ACTIONS, size=4)
        zeros, called = np.zeros(4, np.float32), np.ones(4, bool)
        shown = features([0] * 4, deep.tolist())
        replay.add(Trajectory(shown, called, deep == 0, zeros, zeros, zeros, zeros, deep.astype(np.int16)))
    learner = RouterLearner(SHAPE, 1e-2, 64, 400, seed=0)
    for _ in range(400):
        learner.update(replay)
    network = learner.network
    assert isinstance(network, RouterNetwork)
    with torch.inference_mode():
        seen = phi([0, 0, 0], [0, 1, 2])
        assert (answer.differs(network(seen), seen, SHAPE) > 0.5).tolist() == [False, True, True]


@pytest.mark.parametrize("quick", [True, False])
def test_a_closed_set_of_actions_is_learned_where_quicks_is_seen(quick: bool) -> None:
    experiment = config.load(ROOT / "experiments" / "keydoor.toml")
    experiment = replace(experiment, switcher=replace(experiment.switcher, quick=quick))
    envs = make_envs(experiment, 1)
    assert envs[0].admissible is not None
    encoder = make_encoder(experiment)
    assert isinstance(encoder, TextEncoder)
    for name, learner in make_learners(experiment, encoder, envs[0]).items():
        switcher = learner.switcher
        assert isinstance(switcher, NetworkSwitcher)
        assert switcher.network.shape.answers == (len(envs[0].admissible) if quick else 0)
        assert isinstance(switcher.network, BudgetNetwork) == (name == "budget")
        again = NetworkSwitcher.from_state(switcher.state())
        assert again.network.shape == switcher.network.shape


def test_a_failed_call_tells_nothing_of_what_deepthink_does() -> None:
    numbers = {"left": 0, "right": 1}
    said, failed = Reply("right", "", Usage()), Reply("", "", Usage(), "timed out")
    assert [_answer(reply, numbers) for reply in (None, said, failed)] == [-1, 1, FAILED]
    assert [_answer(reply, {}) for reply in (None, said, failed)] == [-1, -1, FAILED], "free text"


def test_training_keeps_what_deepthink_did(tmp_path: Path) -> None:
    experiment = config.load(ROOT / "experiments" / "keydoor.toml")
    experiment = replace(experiment, train=replace(experiment.train, num_steps=1_200, learners=("router",)))
    trainer = prepare(tmp_path / "run", experiment)
    taken: list[tuple[bool, bool, int]] = []
    actions = trainer.envs[0].admissible
    assert actions is not None
    add = trainer.replay.add

    def keep(trajectory: Trajectory) -> None:
        taken.extend(
            zip(trajectory.called.tolist(), trajectory.agreed.tolist(), trajectory.answer.tolist(), strict=True)
        )
        quick = trajectory.features.dense[:, trainer.learners["router"].switcher.network.shape.said :]
        same = quick[:, : len(actions)].argmax(1) == trajectory.answer
        assert (same == trajectory.agreed)[trajectory.called].all()
        add(trajectory)

    trainer.replay.add = keep  # type: ignore[method-assign]
    trainer.train()
    assert {number >= 0 for called, _, number in taken if called} == {True}
    assert {number for called, _, number in taken if not called} == {-1}
    assert len({number for _, _, number in taken}) > 2


def test_the_sum_of_n_grams_and_its_gradient_are_those_of_embedding_bag() -> None:
    torch.manual_seed(0)
    weight = torch.randn(20, 4, requires_grad=True)
    grams, starts = torch.tensor([3, 3, 7, 1, 19, 7]), torch.tensor([0, 2, 2, 5])  # the second clause is empty
    upstream = torch.randn(4, 4)
    ours = _GramSum.apply(weight, grams, starts)  # type: ignore[no-untyped-call]
    theirs = embedding_bag(grams, weight, starts, mode="sum")
    assert torch.equal(ours, theirs)
    ((mine,), (other,)) = (torch.autograd.grad(found, weight, upstream) for found in (ours, theirs))
    assert torch.allclose(mine, other, atol=1e-6)
    assert mine[3].abs().sum() > 0
