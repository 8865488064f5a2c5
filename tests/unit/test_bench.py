"""Benchmarks at toy size: the shape of the result, and that both sides do the same work."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from londi.bench import score
from londi.bench.base import row
from londi.cli import main
from londi.lms.client import Client, Reply
from londi.lms.scoring import CausalScorer, FullScorer
from londi.lms.tree import PrefixTree
from londi.usage import Usage

SMALL = score.Sizes(batches=(1, 2), rounds=1, layers=1)


def test_a_ratio_above_one_is_better() -> None:
    assert row("speed", 3.0, 2.0, "a second")["ratio"] == 1.5
    assert row("time", 3.0, 2.0, "seconds", smaller_is_better=True)["ratio"] == pytest.approx(2 / 3)


def test_score(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(score, "Sizes", lambda rounds: SMALL)
    main(["bench", "score", "--rounds", "1", "--json"])
    torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["bench"]) == (1, "score")
    cases = [each["case"] for each in found["rows"]]
    assert len(set(cases)) == len(cases) == 2 * 2 + 2 + 2 + 4
    for each in found["rows"]:
        assert each["ratio"] == pytest.approx(each["reference"] / each["ours"])
        assert each["ours"] > 0
    floors = [each for each in found["rows"] if "floor" in each["case"]]
    assert all(each["flops"] > 0 and each["ratio"] < 1.2 for each in floors), "nothing is faster than the arithmetic"


@torch.inference_mode()
def test_both_sides_find_the_same() -> None:
    _, model = score.causal("cpu", layers=1)
    prompts, answers = [[5, 6, 7, 8], [9, 10]], [[11], [11, 12], [13, 14, 15]]
    ours = CausalScorer(model).score(prompts, PrefixTree.of(answers))[0]
    assert torch.allclose(ours, FullScorer(model).score(prompts, answers)[0], atol=1e-3)


@pytest.mark.parametrize("wrong", [["--threads", "0"], ["--rounds", "0"], ["--device", "cuda:7"]])
def test_wrong_input(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "score", *wrong])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_http_counts_right(capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "http", "--requests", "200", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    assert min(count for fault, count in found["faults"].items() if fault != "slow") > 0
    assert found["rows"][0]["ratio"] > 3


def test_http_finds_a_lost_charge(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    honest = Client._attempt

    async def forgetful(self: Client, *args: Any) -> Reply:
        reply = await honest(self, *args)
        return Reply(reply.data, Usage(), reply.error, reply.status) if reply.data is None else reply

    monkeypatch.setattr(Client, "_attempt", forgetful)
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "http", "--requests", "100", "--json"])
    assert stopped.value.code == 1
    checks = json.loads(capsys.readouterr().out)["checks"].values()
    assert [check["passed"] for check in checks] == [False, False, True, True, True]
