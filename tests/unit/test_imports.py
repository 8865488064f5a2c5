"""What importing costs: the base package works without its extras, and pulls in none of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "matplotlib", "minigrid", "ray", "fastapi")
LIGHT = (
    "londi",
    "londi.switchers",
    "londi.envs",
    "londi.envs.keydoor",
    "londi.encoders",
    "londi.lms",
    "londi.lms.builtin",
    "londi.episode",
    "londi.budget",
    "londi.prompt",
    "londi.report",
    "londi.learners.replay",
)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", LIGHT)
def test_no_extra_is_imported(module: str) -> None:
    done = run(f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"import {module} pulls these in"
    assert done.stderr == ""


STEPS = """
import sys
import torch
from londi.learners.base import Adam

weights = []
for kind in (Adam, torch.optim.Adam):
    weight = torch.nn.Parameter(torch.ones(3))
    optimiser = kind([weight], lr=0.1, fused=True)
    for step in range(3):
        optimiser.zero_grad()
        (weight * torch.arange(3)).square().sum().backward()
        optimiser.step()
        optimiser.load_state_dict(optimiser.state_dict())
    weights.append(weight)
    print("torch._dynamo" in sys.modules)
print(bool((weight[1:] < 1).all()), torch.equal(*weights))
"""


def test_the_optimiser_is_that_of_torch_without_its_compiler() -> None:
    done = run(STEPS)
    assert (done.stdout.split(), done.stderr) == (["False", "True", "True", "True"], "")


BLOCK = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


@pytest.mark.parametrize(
    ("missing", "code", "extra"),
    [
        ("minigrid", "from londi.envs import make; make('londi/BabyAI-GoTo-v0')", "babyai"),
        ("minigrid", "from londi.envs import make; make('BabyAI-GoToLocal-v0')", "babyai"),
        ("transformers", "from londi.lms.builtin import load_builtin; load_builtin('babyai-quick')", "transformers"),
    ],
)
def test_a_missing_extra_is_named(missing: str, code: str, extra: str) -> None:
    done = run(BLOCK.format(names=(missing,)) + code)
    assert done.returncode == 1
    assert f"MissingExtraError: {missing} is not installed: pip install 'londi[{extra}]'" in done.stderr


def test_the_key_door_room_plays_without_any_extra() -> None:
    code = """
from londi.envs import make
from londi.lms.builtin import load_builtin
env, lm = make("londi/KeyDoor-v0"), load_builtin("keydoor-deepthink")
text, info = env.reset(seed=1)
over = False
while not over:
    text, _, terminated, truncated, info = env.step(lm.decide([text], info["admissible"])[0].action)
    over = terminated or truncated
print(info["success"])
"""
    done = run(BLOCK.format(names=HEAVY) + code)
    assert done.stdout == "True\n", done.stderr
