"""Measure on a GPU what decisions of a small and a large model take, and an agent that calls the large one at a rate.

    python docs/gpu.py --out docs/gpu.json      # on a machine with a GPU and about 40 GB of its memory; minutes
    python docs/gpu.py --write docs/gpu.json    # the table, into docs/models.md

DEEPTHINK scores the actions. With `--thought 32` it is measured, one episode at a time, writing so many tokens, too:
that takes a quarter of an hour more.

The models have the shapes of Qwen3-0.6B and Qwen3-8B and random weights, which nothing need be downloaded for: what a
decision takes does not depend on what the weights are. They play BabyAI-Text, one episode at a time and 64 in step.
Everything runs through londi's own backend and rollout.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from londi import Agent

HERE = Path(__file__).parent
PAGE = HERE / "models.md"
QWEN3 = {
    "0.6B": {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 3072},
    "8B": {"hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 12288},
}
"""Shapes of the published models; both have 8 heads of keys, heads of 128, and the same vocabulary."""
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
RATES = (0.05, 0.1, 0.2, 0.35, 0.5)
STEPS = 12
ROUNDS = 3
ALONE = "QUICK", "DEEPTHINK"
"""Policies that never call and always do: their difference is what DEEPTHINK takes alone."""


def make(folder: Path, shape: dict[str, int], device: str, seed: int) -> None:
    """Save a model of that shape with random weights, and the tokenizer of the built-in pair."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    import londi

    config = Qwen3Config(
        **shape,
        num_key_value_heads=min(8, shape["num_attention_heads"]),
        head_dim=128,
        vocab_size=151_936,
        max_position_embeddings=4096,
        tie_word_embeddings=shape["hidden_size"] <= 1024,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    with torch.device(device):
        network = Qwen3ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    network.save_pretrained(folder)
    pair = Path(londi.__file__).parent / "lms" / "pairs" / "babyai" / "deepthink"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(pair / name, folder / name)
    del network
    if device == "cuda":
        torch.cuda.empty_cache()


def measure(folders: Sequence[Path], device: str, thought: int, episodes: Mapping[int, int]) -> dict[str, Any]:
    """Play episodes of `STEPS` steps; return device seconds, joules and tokens a step of each policy.

    `episodes` says how many are played with so many at a time. Each policy plays them `ROUNDS` times, in turn with the
    others; what a step takes is the median of the rounds.
    """
    import torch

    from londi import Agent, Always, Never, RandomRate, Switcher, TextEncoder, lms
    from londi.config import ModelConfig

    quick_config, deep_config = (
        ModelConfig(str(folder), mode="score", device=device, dtype="auto") for folder in folders
    )
    modes = {"scores the actions": deep_config}
    if thought:
        modes[f"writes {thought} tokens"] = replace(deep_config, mode="generate", max_new_tokens=thought)
    policies: dict[str, Switcher] = {
        "QUICK": Never(),
        **{f"{rate:.0%}": RandomRate(rate) for rate in RATES},
        "DEEPTHINK": Always(),
    }
    quick = lms.load(quick_config)
    deepthink: lms.LanguageModel | None = None
    rows: list[dict[str, Any]] = []
    for mode, config in modes.items():
        deepthink = lms.load(config, deepthink)
        for together, count in episodes.items():
            if config.mode == "generate" and together > 1:
                continue
            agents = {name: Agent(quick, deepthink, TextEncoder(), switcher) for name, switcher in policies.items()}
            play(Agent(quick, deepthink, TextEncoder(), RandomRate(0.5)), together, together)
            rounds = [{name: play(agent, together, count) for name, agent in agents.items()} for _ in range(ROUNDS)]
            for name in policies:
                found = {key: median(one[name][key] for one in rounds) for key in rounds[0][name]}
                rows.append({"mode": mode, "together": together, "policy": name, **found})
                print(json.dumps(rows[-1]), flush=True)
    gpu = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {"gpu": gpu, "torch": torch.__version__, "rounds": ROUNDS, "rows": rows}


def play(agent: Agent, together: int, count: int) -> dict[str, float]:
    """Play so many episodes and return what a step takes, and the share of steps that call."""
    from londi import Assignment, envs, rollout

    made = [envs.make("londi/BabyAI-GoTo-v0", max_steps=STEPS) for _ in range(together)]
    played = [episode for episode, _ in rollout(made, agent, [Assignment(seed) for seed in range(count)])]
    steps = sum(len(episode.steps) for episode in played)
    row = {"calls": sum(episode.num_calls for episode in played) / steps}
    for key in ("device_seconds", "joules", "seconds", "tokens", "flops"):
        row[key] = sum(getattr(episode.usage, key) for episode in played) / steps
    return row


def table(found: dict[str, Any]) -> list[str]:
    """Return the lines of the table."""
    lines = [
        f"Measured on one {found['gpu']}, torch {found['torch']}, bfloat16; medians of {found['rounds']} rounds.",
        "",
        "| DEEPTHINK | episodes at a time | calls | GPU ms a step | joules a step | GPU time, of DEEPTHINK's alone "
        "| energy |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    alone = {(row["mode"], row["together"], row["policy"]): row for row in found["rows"] if row["policy"] in ALONE}
    for row in found["rows"]:
        quick, both = (alone[row["mode"], row["together"], policy] for policy in ALONE)
        deep = {key: both[key] - quick[key] for key in ("device_seconds", "joules")}
        shares = [f"{100 * row[key] / deep[key]:.0f} %" if deep[key] > 0 else "-" for key in deep]
        took = [f"{1000 * row['device_seconds']:.2f}", f"{row['joules']:.2f}"]
        rate = f"{100 * row['calls']:.0f} %"
        lines.append(f"| {' | '.join([row['mode'], str(row['together']), rate, *took, *shares])} |")
    return lines


def main() -> None:
    """Measure, or write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--thought", type=int, default=0, help="tokens that DEEPTHINK writes in a second round")
    parser.add_argument("--episodes", type=int, nargs=2, default=(8, 128), help="with one at a time and with 64")
    parser.add_argument("--tiny", action="store_true", help="two very small models, to try the script without a GPU")
    given = parser.parse_args()
    if given.write:
        begin, end = "<!-- gpu: written by docs/gpu.py -->", "<!-- end of gpu -->"
        page = PAGE.read_text(encoding="utf-8")
        content = "\n".join(table(json.loads(given.write.read_text(encoding="utf-8"))))
        PAGE.write_text(f"{page.split(begin)[0]}{begin}\n\n{content}\n\n{end}{page.split(end)[1]}", encoding="utf-8")
        return
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / name for name in QWEN3]
        for seed, (folder, shape) in enumerate(zip(folders, QWEN3.values(), strict=True)):
            make(folder, TINY if given.tiny else shape, given.device, seed)
        found = measure(folders, given.device, given.thought, dict(zip((1, 64), given.episodes, strict=True)))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
