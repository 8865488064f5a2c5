"""What workers are sent: of the Switcher bit for bit what was packed; and which replicas they ask."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ray = pytest.importorskip("ray")

from londi import config  # noqa: E402
from londi.cluster.broadcast import pack  # noqa: E402
from londi.lms.replicas import RemoteLM  # noqa: E402
from londi.train import prepare  # noqa: E402

KEYDOOR = config.load(Path(__file__).parents[2] / "experiments" / "keydoor.toml")


def _carried(something: Any) -> Any:
    """As Ray carries it: with its arrays apart, which nobody may write to."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(pack(something), protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytes(each.raw()) for each in buffers]).unpack()


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    alike = type(one) is type(other) and one.dtype == other.dtype and one.requires_grad == other.requires_grad
    return alike and one.shape == other.shape and torch.equal(one, other)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4),
        torch.zeros(0),
        torch.tensor(2.5),
        torch.arange(6).reshape(2, 3).T,
        torch.ones(2, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.randn(2, requires_grad=True),
        torch.nn.Parameter(torch.randn(4, 2)),
        torch.nn.Parameter(torch.randn(4), requires_grad=False),
        torch.eye(3).to_sparse(),
        torch.randn(3, dtype=torch.complex64),
        torch.randn(3, dtype=torch.complex64).conj(),
        torch.randn(3, dtype=torch.complex64).conj().imag,
    ],
    ids=[
        *("matrix", "empty", "scalar", "transposed", "bfloat16", "bool", "grad", "parameter", "frozen", "sparse"),
        *("complex", "conjugate", "negative"),
    ],
)
def test_a_tensor_arrives_as_it_was(tensor: torch.Tensor) -> None:
    with torch.no_grad():
        there, here = _carried(tensor), tensor
        assert _same(there.to_dense(), here.to_dense()) if here.is_sparse else _same(there, here)


@pytest.mark.filterwarnings("ignore:ComplexHalf:UserWarning")
@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "complex32", "bfloat16", "float16", "uint8", "int16"])
def test_a_type_that_numpy_may_lack_arrives_too(name: str) -> None:
    tensor = torch.tensor([-1.5, 0.25, 3.0]).abs().to(getattr(torch, name))
    there = _carried(torch.nn.Parameter(tensor, requires_grad=False))
    assert type(there) is torch.nn.Parameter
    assert there.dtype == tensor.dtype
    assert torch.equal(there.data.view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_quantised_tensor_arrives_too() -> None:
    tensor = torch.quantize_per_tensor(torch.tensor([-1.0, 0.5, 2.0]), 0.1, 10, torch.quint8)
    there = _carried(tensor)
    assert there.is_quantized
    assert torch.equal(there, tensor)


def test_a_tensor_that_arrived_is_the_workers_own() -> None:
    sent = torch.zeros(3)
    packed = pack(sent)
    first, second = packed.unpack(), packed.unpack()
    first += 1
    sent += 2
    assert second.tolist() == [0, 0, 0]


def test_arrays_arrive_too() -> None:
    there = _carried({"all": np.arange(12.0).reshape(3, 4), "some": np.arange(12).reshape(3, 4)[:, ::2], "none": None})
    assert there["all"].tolist() == np.arange(12.0).reshape(3, 4).tolist()
    assert there["some"].tolist() == [[0, 2], [4, 6], [8, 10]]
    assert there["none"] is None


def test_what_explores_arrives_weight_by_weight(tmp_path: Path) -> None:
    rollout: Any = prepare(tmp_path / "run", KEYDOOR).rollout
    behaviour = rollout.agent.switcher
    there = _carried(behaviour)
    for name in ("budget", "price"):
        sent, other = (each.explorers[name].network.state_dict() for each in (behaviour, there))
        assert sent
        assert sent.keys() == other.keys()
        assert all(_same(sent[key], other[key]) for key in sent)


@pytest.mark.parametrize(
    ("replicas", "callers", "shares"),
    [
        ("abc", 1, ["abc"]),
        ("abcd", 2, ["ab", "cd"]),
        ("abc", 2, ["a", "bc"]),
        ("ab", 2, ["a", "b"]),
        ("ab", 4, ["a", "a", "b", "b"]),
        ("ab", 3, ["aa", "ab", "bb"]),
    ],
)
def test_each_worker_asks_its_share_of_the_replicas(replicas: str, callers: int, shares: list[str]) -> None:
    made = [RemoteLM(replicas, "m").share(number, callers) for number in range(callers)]
    assert ["".join(each.replicas) for each in made] == shares
    assert [each.at_once for each in made] == [len(each) if len(replicas) >= callers else 1 for each in shares]


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("callers", range(9, 20))
def test_replicas_that_many_workers_share_are_asked_alike(count: int, callers: int) -> None:
    made = [RemoteLM(list(range(count)), "m").share(number, callers) for number in range(callers)]
    asked = dict.fromkeys(range(count), 0.0)
    for each in made:
        for replica in each.replicas:
            asked[replica] += 1 / len(each.replicas)
    assert list(asked.values()) == pytest.approx([callers / count] * count)
