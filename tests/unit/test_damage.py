"""A checkpoint that was damaged on the disk: nothing is ever read from it that was not written."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from londi import config
from londi.errors import CheckpointError
from londi.jobs import Job
from londi.run import Run, load_checkpoint, previous, save_checkpoint

torch = pytest.importorskip("torch")
from londi.train.metrics import MetricsFile  # noqa: E402

KEYDOOR = config.load(Path(__file__).parents[2] / "experiments" / "keydoor.toml")


def state(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    arrays: dict[str, Any] = {
        f"layer {i}": rng.normal(size=(size, 9)).astype(np.float32) for i, size in enumerate((1, 70))
    }
    playing = [{"seed": i, "steps": ["go", "stay"], "price": 0.05 * i} for i in range(8)]
    return {"step": step, "weights": arrays, "seen": rng.integers(0, 99, 1500), "playing": playing}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and bool(torch.equal(one, other))
    return type(one) is type(other) and bool(one == other)


def damaged(whole: bytes) -> Iterator[bytes]:
    """A byte that flipped, anywhere; a file that was cut off; a page that was never written."""
    rng = np.random.default_rng(7)
    directory = range(zipfile.ZipFile(io.BytesIO(whole)).start_dir, len(whole))
    for place in (*directory, *rng.integers(0, len(whole), 300)):
        yield whole[:place] + bytes([whole[place] ^ int(rng.integers(1, 256))]) + whole[place + 1 :]
    for length in (0, 1, len(whole) - 1, *rng.integers(0, len(whole), 40)):
        yield whole[:length]
    for size in (512, 4096):
        for begin in range(0, len(whole), size):
            yield (whole[:begin] + bytes(size) + whole[begin + size :])[: len(whole)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.create(tmp_path / "run", KEYDOOR)
    for step in (1, 2):
        save_checkpoint(made.checkpoint, state(step), keep=True)
    return made


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_taken(run: Run) -> None:
    last, before = load_checkpoint(run.checkpoint), load_checkpoint(previous(run.checkpoint))
    assert (last["step"], before["step"]) == (2, 1)
    refused = whole = 0
    for found in damaged(run.checkpoint.read_bytes()):
        run.checkpoint.write_bytes(found)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            taken = run.latest()
        if told:
            assert "last.pt is damaged" in str(told[0].message)
            assert "going on from last-previous.pt instead" in str(told[0].message)
            assert same(taken, before)
            refused += 1
        else:  # nothing that matters, such as what fills a gap between two arrays
            assert same(taken, last)
            whole += 1
    assert refused > whole > 0


def test_without_another_one_damage_is_one_clear_error(run: Run) -> None:
    previous(run.checkpoint).unlink()
    last, refused = load_checkpoint(run.checkpoint), set()
    for found in damaged(run.checkpoint.read_bytes()):
        run.checkpoint.write_bytes(found)
        try:
            taken = run.latest()
        except CheckpointError as error:
            refused.add(str(error))
        else:
            assert same(taken, last)
    assert refused == {f"{run.checkpoint} is damaged: delete it and train again"}


def test_an_array_that_is_marked_as_a_folder_is_damage(run: Run) -> None:
    """torch takes what is in memory by chance for its values, without looking at the file."""
    whole = run.checkpoint.read_bytes()
    name = next(each for each in zipfile.ZipFile(run.checkpoint).namelist() if each.endswith("/data/1"))
    entry = whole.rindex(name.encode()) - 8  # in the directory, its attributes come before its offset and its name
    marked = whole[:entry] + bytes([0x10]) + whole[entry + 1 :]
    run.checkpoint.write_bytes(marked)
    assert zipfile.ZipFile(run.checkpoint).testzip() is None
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(run.checkpoint)


def test_a_job_with_a_damaged_checkpoint_is_not_trained(run: Run) -> None:
    save_checkpoint(run.checkpoint, {"done": True})
    assert Job("", "", KEYDOOR, run.path).trained
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="last-previous"):
        assert not Job("", "", KEYDOOR, run.path).trained


@pytest.mark.parametrize(
    "damage",
    [
        *(b"{}\n", b"[200]\n", b"200\n", b'{"step": null}\n', b'{"step": "x"}\n', b'{"step": NaN}\n', b"\n"),
        *(b'{"step": 2\xff0}\n', b'{"step": 200, "\xe4": 1}\n', b"\x00\x00\x00\n"),
        *(b"[" * 100_000 + b"\n", b'{"step": 1' + b"0" * 400 + b"}\n"),
    ],
    ids=range(12),
)
def test_rows_of_metrics_that_can_not_be_read_are_dropped(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 100}\n' + damage + b'{"step": 300}\n{"step": 400}\n{"ste')
    with pytest.warns(UserWarning, match=r"metrics\.jsonl is damaged: 1 row can't be read") as told:
        MetricsFile(path).forget_after(300)
    assert len(told) == 1
    assert path.read_text() == '{"step": 100}\n{"step": 300}\n'


def test_a_last_row_of_metrics_that_was_cut_off_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 100}\n{"step": 2')
    with warnings.catch_warnings(action="error"):
        MetricsFile(path).forget_after(300)
    assert path.read_text() == '{"step": 100}\n'
