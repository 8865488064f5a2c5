"""`londi bench scale` at small size."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("ray")

from londi.cli import main


def test_workers_wait_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "scale", "--workers", "1", "4", "--seconds", "5", "--json"])
    found = json.loads(capsys.readouterr().out)
    one, four = found["rows"]
    assert four["ours"] > 1.5 * one["ours"]
    for row in (one, four):
        assert 0 < row["ratio"] <= 1.02, "no step is faster than the models"
        assert 0 < row["learning"] < 1


def test_replicas_answer_no_more_than_they_can(capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "scale", "--workers", "4", "--replicas", "1", "1", "--seconds", "5", "--json"])
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["reference"] == row["limit"], "one DEEPTHINK is not enough for four workers"
    assert 0.2 < row["ratio"] <= 1.1


@pytest.mark.parametrize("wrong", [["--workers", "0"], ["--seconds", "0"], ["--replicas", "0", "1"]])
def test_wrong_input(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "scale", *wrong])
    assert capsys.readouterr().err.count("\n") == 1
