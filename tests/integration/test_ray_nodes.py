"""Training over several nodes, of `ray.cluster_utils.Cluster`: one is killed, and a cluster is joined that lives on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray")

from ray.cluster_utils import Cluster as Nodes  # noqa: E402

from londi import config  # noqa: E402

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")


NODES = """
import json
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
import ray
from ray.cluster_utils import Cluster as Nodes
from londi import config
from londi.cluster import Cluster
from londi.train import prepare

nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = nodes.add_node(num_cpus=1)
nodes.wait_for_nodes()
ray.init(address=nodes.address, log_to_driver=False)
made = config.load(Path(sys.argv[1]))
made = replace(made, train=replace(made.train, num_steps=1200, warmup_steps=100, num_envs=16, updates_per_step=0.1))

@ray.remote(num_cpus=0, scheduling_strategy="SPREAD")
def where():
    return ray.get_runtime_context().get_node_id()

for _ in range(40):  # both take part
    if len(set(ray.get([where.remote() for _ in range(4)]))) == 2:
        break
    time.sleep(0.5)
for attempt in range(8):  # Ray spreads as well as it can, which at first may be onto one node
    trainer = prepare(Path(f"{sys.argv[2]}-{attempt}"), made, Cluster(num_workers=2, deepthink_replicas=2))
    there = {ray.get(seat.actor.where.remote()) for seat in trainer.rollout._seats}
    if len(there) == 2:
        break
    trainer.rollout.__exit__(None, None, None)
    time.sleep(1)
assert len(there) == 2, there
killed = False

class Told:
    def log(self, step, values):
        self.last = dict(values, step=step)

    def close(self, outcome="finished"):
        pass

told = Told()
trainer.trackers.append(told)

def progress(now):
    global killed
    if now.step > 300 and not killed:
        killed = True
        time.sleep(1)  # for its workers to end their steps, whose answers lie there
        nodes.remove_node(second, allow_graceful=False)

trainer.train(progress)
columns = trainer.replay.state()["columns"]
assert (columns["remaining"] < 99).any(), "nothing was played under a budget"
over = int((columns["called"] & (columns["remaining"] < 1)).sum())
workers, replicas = trainer.num_restarted
print(json.dumps({
    "killed": killed, "step": trainer.step, "lost": trainer.num_lost, "over": over, "workers": workers,
    "replicas": replicas, "run": str(trainer.run.path), "told": told.last,
}), flush=True)
ray.shutdown()
nodes.shutdown()
"""


def test_a_node_is_killed_in_mid_training(tmp_path: Path) -> None:
    """On two nodes of `ray.cluster_utils.Cluster`; in a process of its own, since there is one Ray to a process."""
    (tmp_path / "nodes.py").write_text(NODES)
    command = [sys.executable, "nodes.py", str(ROOT / "experiments" / "keydoor.toml"), "run"]
    # an answer with episodes stays on its node until it is fetched, as those of more than 100 KB do
    env = os.environ | {"RAY_max_direct_call_object_size": "4096"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False, env=env)
    said = [line for line in done.stdout.splitlines() if line.startswith('{"killed"')]
    assert said, done.stderr[-3000:]
    found = json.loads(said[-1])
    assert found["killed"]
    assert found["step"] >= 1200
    assert 0 < found["lost"] <= 16
    assert found["over"] == 0
    assert found["workers"] > 0
    last = json.loads((tmp_path / found["run"] / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == found["step"], "what was lost after the last full thousand is told too"
    assert (last["lost"], last["workers_restarted"]) == (found["lost"], found["workers"])
    assert last["replicas_restarted"] <= found["replicas"], "one that is noticed later is told of by the command"
    assert found["told"] == {key: last[key] for key in found["told"]}


@pytest.fixture
def nodes() -> Iterator[Any]:
    """Two, in processes of their own, of which this process is not a part."""
    made: Any = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        made.add_node(num_cpus=1)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def started(nodes: Any) -> list[dict[str, Any]]:
    return list(nodes.global_state.actor_table(None).values())


@pytest.mark.parametrize("by_name", [False, True], ids=["address", "auto"])
def test_the_command_joins_a_cluster_and_leaves_it_as_it_was(tmp_path: Path, nodes: Any, by_name: bool) -> None:
    made = config.load(ROOT / "experiments" / "keydoor.toml")
    train = replace(made.train, num_steps=600, warmup_steps=100, num_envs=8, updates_per_step=0.1)
    (tmp_path / "short.toml").write_text(config.dump(replace(made, train=train)))
    env = os.environ | {"RAY_ADDRESS": nodes.address if by_name else "127.0.0.1:1"}
    where = "auto" if by_name else nodes.address
    command = [sys.executable, "-m", "londi.cli", "train", "short.toml", "--run", "run", "--ray", where]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "trained: run" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] >= 600
    limit = time.monotonic() + 30
    while any(each["State"] != "DEAD" for each in started(nodes)) and time.monotonic() < limit:
        time.sleep(0.1)
    assert sorted(each["ActorClassName"] for each in started(nodes)) == ["Worker", "Worker", "_Replica", "_Replica"]
    assert {each["State"] for each in started(nodes)} == {"DEAD"}, "what was started there is gone"
    nodes.wait_for_nodes()
    assert nodes.remaining_processes_alive()
