"""The README is true: its code runs, its experiments parse, its commands exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from londi import config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    split = [shlex.split(line, comments=True) for line in lines]
    return [[words[0].removeprefix(".venv/bin/"), *words[1:]] for words in split if words]


def run(args: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    return subprocess.run(args, cwd=cwd, capture_output=True, text=True, timeout=280, check=False, env=env)


def londi(args: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-W", "error", "-m", "londi.cli", *args], cwd)


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    return base | {
        key: merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in over.items()
    }


def experiments() -> list[dict[str, Any]]:
    """Each TOML block; those that show only the lines that change are laid over the first, which is complete."""
    found = [tomllib.loads(block) for block in blocks("toml")]
    return [data if "name" in data else merged(found[0], data) for data in found]


def test_there_is_something_of_every_language() -> None:
    assert len(blocks("python")) >= 4
    assert len(blocks("toml")) >= 2
    assert len(blocks("bash")) >= 4


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_blocks_run(number: int, tmp_path: Path) -> None:
    (tmp_path / "block.py").write_text(blocks("python")[number], encoding="utf-8")
    done = run([sys.executable, "-W", "error", "block.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_quick_start_keeps_its_budget(tmp_path: Path) -> None:
    done = run([sys.executable, "-c", blocks("python")[0]], tmp_path)
    rows = [re.search(r"success ([\d.]+) +calls +([\d.]+) +most (\d+)", line) for line in done.stdout.splitlines()]
    quick, deepthink, capped = [[float(value) for value in row.groups()] for row in rows if row]
    assert quick[1:] == [0, 0]
    assert quick[0] < capped[0] < deepthink[0]
    assert capped[2] <= 4


@pytest.mark.parametrize("number", range(len(blocks("toml"))))
def test_toml_blocks_parse(number: int) -> None:
    data = experiments()[number]
    found = config.parse(data)
    assert found.quick.model == data["quick"]["model"]


@cache
def help_of(command: tuple[str, ...]) -> str:
    done = londi([*command, "--help"], ROOT)
    assert done.returncode == 0, f"londi {' '.join(command)} does not exist:\n{done.stdout}{done.stderr}"
    return done.stdout


@cache
def make_targets() -> set[str]:
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    return {name for line in lines if (match := re.match(r"^([\w -]+):(?!=)", line)) for name in match[1].split()}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_exist(words: list[str]) -> None:
    program, *args = words
    if program == "make":
        assert set(args) <= make_targets()
    elif program == "londi":
        command = tuple(args[:2] if args[0] in ("lm", "bench") else args[:1])
        flags = [word.partition("=")[0] for word in args if word.startswith("--")]
        known = re.findall(r"--[\w-]+", help_of(command))
        assert not set(flags) - set(known)
    else:
        assert program == "pip"
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        asked = re.findall(r"\[(\w+)\]", " ".join(args))
        assert set(asked) <= set(extras["optional-dependencies"])


def test_the_training_commands_run_in_their_order(tmp_path: Path) -> None:
    """As written, but with fewer steps and episodes."""
    full = config.parse(experiments()[0])
    small = replace(full.evaluate, episodes=20, selection_episodes=20, budgets=(0, 2), prices=(0.05,), processes=1)
    small = replace(small, random_rates=(0.3,), entropy_thresholds=(0.5,))
    short = replace(full, train=replace(full.train, num_steps=1_200, warmup_steps=800), evaluate=small)
    (tmp_path / "room.toml").write_text(config.dump(short), encoding="utf-8")
    block = next(block for block in blocks("bash") if "londi train" in block)
    for line in block.splitlines():
        _, *args = shlex.split(line, comments=True)
        done = londi([*args, "--delay", "0"] if args[0] == "watch" else args, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    table = README.split("A run folder holds")[1].split("The formats are")[0]
    names = re.findall(r"`([\w.]+/?)`", table)
    files = {name for name in names if "." in name and not name.endswith(".pt")}
    files |= {f"checkpoints/{name}" for name in names if name.endswith(".pt")}
    assert len(files) >= 8
    for file in files:
        assert (tmp_path / "runs" / "room-0" / file).is_file(), file


@pytest.mark.parametrize(
    "words", [w for w in commands() if w[:2] in (["londi", "envs"], ["londi", "lm"])], ids=" ".join
)
def test_cheap_commands_run(words: list[str], tmp_path: Path) -> None:
    done = londi(words[1:], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "londi/KeyDoor-v0" in done.stdout or "keydoor-quick" in done.stdout


def test_links_lead_somewhere() -> None:
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link}
    assert links >= {"docs/results.md", "docs/results-babyai-corner.png"}
    for link in links:
        assert (ROOT / link).is_file(), link
