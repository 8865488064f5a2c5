"""`londi bench scale` at small size."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("ray")

from londi.bench import scale
from londi.cli import main
from londi.train import Trainer


def measured(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    with suppress(SystemExit):  # on a busy machine; the tests look at what was found
        main(["bench", "scale", *options, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_workers_wait_side_by_side(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With models that take twice the time: beside other tests, what a step costs the CPUs takes twice the time."""
    monkeypatch.setattr(scale, "QUICK_S", 2 * scale.QUICK_S)
    monkeypatch.setattr(scale, "DEEPTHINK_S", 2 * scale.DEEPTHINK_S)
    for _ in range(3):
        one, four = measured(capsys, "--workers", "1", "4", "--seconds", "8")["rows"]
        if min(one["ratio"], four["ratio"]) > 0.7:
            break
    assert one["ratio"] > 0.7
    assert four["ratio"] > 0.7, "four workers are near four times as fast"
    assert one["ratio"] <= 1.02, "no step is faster than the models"
    assert four["ratio"] <= 1.1, "nor with four, whose episodes begin before the window and end after it"
    assert one["updates"] == pytest.approx(1), "a worker's episode is learned from before it plays the next"
    for row in (one, four):
        assert 0 < row["learning"] < 0.5, "the learner waits for the workers"
        assert 0.9 <= row["updates"] < 1.1
        assert 0 < row["busy"] <= 1


def test_a_learner_that_starves_is_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One that makes half of its updates."""
    learn = Trainer._learn

    def half(trainer: Trainer) -> None:
        whole = trainer.experiment
        slower = replace(whole.train, updates_per_step=whole.train.updates_per_step / 2)
        trainer.experiment = replace(whole, train=slower)
        learn(trainer)
        trainer.experiment = whole

    monkeypatch.setattr(Trainer, "_learn", half)
    with pytest.raises(SystemExit, match="1"):
        main(["bench", "scale", "--workers", "2", "--seconds", "4"])
    out = capsys.readouterr().out
    assert "FAIL numbers of workers at which the learner starves: 1" in out


@pytest.mark.parametrize(
    ("ratio", "busy", "updates", "failed"),
    [(0.81, 0.3, 1.0, []), (0.5, 0.95, 1.0, []), (0.79, 0.3, 1.0, ["below"]), (1.0, 0.95, 0.8, ["starves"])],
)
def test_what_falls_behind_fails(ratio: float, busy: float, updates: float, failed: list[str]) -> None:
    """But for a machine that has nothing left to give."""
    rows = [
        {"case": "2 workers", "ratio": 1.0, "busy": 0.1, "updates": 1.0},
        {"case": "4 workers", "ratio": ratio, "busy": busy, "updates": updates},
    ]
    found = scale._verdict(rows)
    counts = {what: check["count"] for what, check in found["checks"].items()}
    assert [what for what, check in found["checks"].items() if not check["passed"]] == [
        what for what in counts if any(word in what for word in failed)
    ]
    assert sum(counts.values()) == len(failed)
    assert found["passed"] == (not failed)
    assert found["full"] == (["4 workers"] if ratio == 0.5 else [])


def test_replicas_answer_no_more_than_they_can(capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(capsys, "--workers", "4", "--replicas", "1", "1", "--seconds", "5")
    (row,) = found["rows"]
    assert row["reference"] == row["limit"], "one DEEPTHINK is not enough for four workers"
    assert 0.2 < row["ratio"] <= 1.1
    assert found["replicas"] == [1, 1]


@pytest.mark.parametrize("wrong", [["--workers", "0"], ["--seconds", "0"], ["--replicas", "0", "1"]])
def test_wrong_input(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "scale", *wrong])
    assert capsys.readouterr().err.count("\n") == 1
