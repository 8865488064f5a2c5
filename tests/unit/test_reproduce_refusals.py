"""What `londi reproduce` can't read or use: one line that names the file and the fix, and exit code 2."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from test_reproduce import ROOT, TEXT, TRANSFER, fill

from londi import reproduce, where
from londi.cli import main
from londi.episode import Episode, write_episodes

LATIN, DEEP, LONG = "# café\n".encode("latin-1"), b"[" * 100_000, "n" * 300
CHECK = ("--published", "--check")
STORED, RECORD, RUN = Path("small.json"), Path("small/key-and-door-1.json"), Path("runs/small/key-and-door-1")
Refused = Callable[..., str]
Change = Callable[[dict[str, Any]], object]


def count(table: reproduce.Table, folder: Path) -> None:
    """Write where a run's chosen policy calls, as if it had been counted."""
    chosen = folder / "episodes" / "chosen.jsonl"
    write_episodes(chosen, [Episode("", 0, "", "price 0.1", None, 0.1, (), success=True, truncated=False)])
    job = next(job for job in reproduce.jobs(table, folder.parent) if job.folder == folder)
    of = where.counted(job.experiment, table.states) | {"episodes": hashlib.sha256(chosen.read_bytes()).hexdigest()}
    rows = [{"label": label, "steps": 200, "calls": 90, "differ": 80} for label in sorted(where.labels(table.states))]
    (folder / "states.json").write_text(json.dumps({"of": of, "policy": "price 0.1", "rows": rows}))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with its page, its numbers, and the records of its runs."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copy(ROOT / "experiments" / "keydoor.toml", folder)
    text = TEXT.replace("KEYDOOR", "keydoor.toml").replace("[quick", '[states]\n"a key" = "key"\n[quick')
    (folder / "small.toml").write_text(f'page = "page.md"\n{text}')
    names = ("small", "small states")
    places = [f"<!-- {name}: written by londi reproduce -->\n<!-- end of {name} -->" for name in names]
    (folder / "page.md").write_text("\n".join(places))
    table = reproduce.load_table(folder / "small.toml")
    fill(table, folder / "runs" / "small")
    for job in reproduce.jobs(table, folder / "runs" / "small"):
        if not job.method:
            count(table, job.folder)
    main(["reproduce", str(folder / "small.toml"), "--folder", str(folder / "runs")])
    return folder


@pytest.fixture
def here(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shutil.copytree(published, tmp_path / "here"))
    return tmp_path / "here"


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    def run(*arguments: str, table: str = "small.toml") -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["reproduce", table, *arguments])
        lines = [
            line for line in capsys.readouterr().err.splitlines() if "ETA" not in line and "are published" not in line
        ]
        assert ended.value.code == 2, lines
        assert len(lines) == 1
        assert lines[0].startswith("londi: ")
        return lines[0].removeprefix("londi: ").replace(f"{here}/", "")

    return run


def test_what_is_published_is_whole(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Or what is refused below would be for another reason."""
    main(["reproduce", "small.toml", *CHECK])
    assert "are the ones found" in capsys.readouterr().err


READ = " (is it a file, and one that you may read?): "


@pytest.mark.parametrize("mode", [(), CHECK], ids=" ".join)
@pytest.mark.parametrize("name", ["small.toml", "keydoor.toml", "page.md"])
def test_files_of_other_encodings(refused: Refused, name: str, mode: tuple[str, ...]) -> None:
    Path(name).write_bytes(LATIN)
    first = "small.toml: task 'key and door': " if name == "keydoor.toml" else ""
    assert refused(*mode) == f"{first}{name} is no UTF-8 (byte 6): save it as UTF-8"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("keydoor.toml", ".", f"small.toml: task 'key and door': can't read .{READ}Is a directory"),
        ("keydoor.toml", "page.md/x", f"small.toml: task 'key and door': can't read page.md/x{READ}Not a directory"),
        ("keydoor.toml", LONG, f"small.toml: task 'key and door': can't read {LONG}{READ}File name too long"),
        ('"page.md"', '"runs"', f"can't read runs{READ}Is a directory"),
        ('"page.md"', '"keydoor.toml/x"', f"can't read keydoor.toml/x{READ}Not a directory"),
        ('"page.md"', f'"{LONG}"', f"can't read {LONG}{READ}File name too long"),
        ('"page.md"', '"none/page.md"', "small.toml: there is no page none/page.md"),
        ('"page.md"', '"keydoor.toml"', "keydoor.toml: the page has no place for the table: put '<!-- small"),
        ("[0, 1]", "[0, -1]", "small.toml: task 'key and door': seed must be at least 0, not -1"),
        ('"key and door"', '""', "small.toml: a task is named '': give it a name with a letter or a digit"),
        ('"key and door"', '" - "', "small.toml: a task is named ' - ': give it a name with a letter or a digit"),
        ('"SAC"', '""', "small.toml: a method is named '': give it a name with a letter or a digit"),
        ('"key and door"', f'"{LONG}"', f"can't read runs/tables/small/{LONG}-0{READ}File name too long"),
    ],
)
@pytest.mark.parametrize("mode", [(), ("--check",)], ids=" ".join)
def test_tables_that_name_what_can_not_be(
    here: Path, refused: Refused, mode: tuple[str, ...], old: str, new: str, said: str
) -> None:
    path = Path("small.toml")
    path.write_text(path.read_text().replace(old, new, 1))
    if "page.md" in old:  # pages are checked last
        mode = (*mode, "--folder", "runs")
    assert refused(*mode).startswith(said)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("folder.toml", f"can't read folder.toml{READ}Is a directory"),
        ("page.md/x.toml", f"can't read page.md/x.toml{READ}Not a directory"),
        (f"{LONG}.toml", f"can't read {LONG}.toml{READ}File name too long"),
        ("deep.toml", "deep.toml is no TOML: "),
    ],
)
def test_tables_that_are_no_files(refused: Refused, table: str, said: str) -> None:
    Path("folder.toml").mkdir()
    Path("deep.toml").write_bytes(b"title = " + DEEP)
    assert refused(table=table).startswith(said)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"small"', '"../small"', "no table "),
        ("seeds", "changes.evaluate.prices = [0.9]\nseeds", "elsewhere.toml: task 'a slippery floor': evaluate.prices"),
    ],
)
def test_switchers_that_do_not_fit(refused: Refused, old: str, new: str, said: str) -> None:
    text = TRANSFER.replace("KEYDOOR", "keydoor.toml").replace(old, new, 1)
    Path("elsewhere.toml").write_text(text)
    cheap = "[changes.train]\nhighest_price = 0.5\n[changes.evaluate]"
    Path("small.toml").write_text(Path("small.toml").read_text().replace("[changes.evaluate]", cheap))
    assert refused(table="elsewhere.toml").startswith(said)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b"\xff", DEEP, b"{}"], ids=range(7))
@pytest.mark.parametrize("path", [STORED, RECORD], ids=str)
def test_stored_files_that_are_damaged(refused: Refused, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert refused(*CHECK).startswith(f"{path} is damaged")
    if path == STORED:
        assert refused("--check", "--folder", "runs").startswith(f"{path} is damaged")
    path.unlink()
    path.mkdir()
    assert refused(*CHECK) == f"can't read {path}{READ}Is a directory"


def only(record: dict[str, Any], kind: str) -> None:
    record["policies"] = [row for row in record["policies"] if row["kind"] == kind]


def method(found: dict[str, Any]) -> dict[str, Any]:
    own: dict[str, Any] = found["tasks"]["key and door"]["methods"]["prices"]
    return own


RECORDS: dict[str, tuple[Change, str]] = {
    "no policies": (lambda r: r["policies"].clear(), "'policies' has no row of QUICK, or none of DEEPTHINK"),
    "no selection": (lambda r: r["selection"].clear(), "'selection' has no row of QUICK, or none of DEEPTHINK"),
    "no models": (lambda r: only(r, "price"), "'policies' has no row of QUICK, or none of DEEPTHINK"),
    "models alone": (lambda r: only(r, "model"), "'policies' lacks one of 'selection'"),
    "a row twice": (lambda r: r["policies"].append(r["policies"][0]), "'policies' has two rows of one policy"),
    "no success": (lambda r: r["policies"][2].pop("success"), "'policies.2.success': "),
    "no mean": (lambda r: r["policies"][2]["success"].pop("mean"), "'policies.2.success.mean': "),
    "text": (lambda r: r["selection"][2].update(flops="1"), "'selection.2.flops': "),
    "no number": (lambda r: r["policies"][2].update(tokens=float("nan")), "'policies.2.tokens': "),
    "solved of others": (
        lambda r: r["policies"][2].update(solved="ff"),
        "'policies.2': 'solved' is of another number of episodes",
    ),
    "no digits": (lambda r: r["policies"][2].update(solved="x" * 10), "'policies.2.solved': "),
    "other episodes": (lambda r: r["policies"][2].update(episodes=39), "'price 0.1' has 39 episodes, not 40"),
    "no machine": (lambda r: r["environment"].pop("machine"), "'environment.machine': "),
    "commits": (lambda r: r.update(commits=[[]]), "'commits.0': "),
    "no states": (lambda r: r["states"]["rows"].pop(), "it lacks the states 'they agree'"),
    "curve": (lambda r: r.update(curve=[{"step": 1}]), "'curve.0.hypervolume': "),
}
NUMBERS: dict[str, tuple[Change, str]] = {
    "no interval": (lambda f: method(f).pop("interval"), "'tasks.key and door.methods.prices.interval': "),
    "seconds": (lambda f: method(f).update(seconds=[]), "'tasks.key and door.methods.prices.seconds': "),
    "ratio": (lambda f: method(f)["at_99"][1].pop("seconds_ratio"), "'tasks.key and door.methods.prices.at_99.1.sec"),
    "made": (lambda f: f.update(made=[]), "'made': "),
    "packages": (lambda f: f["made"].pop("packages"), "'made.packages': "),
    "low": (lambda f: f["overall"]["prices"].pop("low"), "'overall.prices.low': "),
}


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [pytest.param(RECORD, *case, id=name) for name, case in RECORDS.items()]
    + [pytest.param(STORED, *case, id=name) for name, case in NUMBERS.items()],
)
def test_stored_files_that_lack_something(refused: Refused, path: Path, change: Change, said: str) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    found = refused(*CHECK)
    assert found.startswith(f"{path} is damaged")
    assert f"({said}" in found
    fix = "run the table without --check to write it anew" if path == STORED else "run the table without --published"
    assert found.endswith(f"): {fix}")


def places(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where something stands in JSON, of a list the first two."""
    inside: Any = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, each in inside:
        yield (*at, key)
        yield from places(each, (*at, key))


@pytest.mark.parametrize("path", [STORED, RECORD], ids=str)
def test_whatever_is_missing_is_no_traceback(here: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = path.read_text()
    for at in random.Random(0).sample([*places(json.loads(whole))], 40):
        data = inside = json.loads(whole)
        for key in at[:-1]:
            inside = inside[key]
        del inside[at[-1]]
        path.write_text(json.dumps(data))
        with suppress(SystemExit):
            main(["reproduce", "small.toml", *CHECK])
        assert capsys.readouterr().err


@pytest.mark.parametrize("name", ["frontier.json", "environment.json", "states.json"])
def test_runs_that_are_damaged(refused: Refused, name: str) -> None:
    path = RUN / name
    data = json.loads(path.read_text())
    if name == "frontier.json":
        data["policies"] = []
    else:
        data.pop({"environment.json": "machine", "states.json": "rows"}[name])
    path.write_text(json.dumps(data))
    assert refused("--check", "--folder", "runs").startswith(f"{RUN} is damaged")
    if name != "frontier.json":  # it would be evaluated again
        path.write_bytes(b"{\xff")
        assert refused("--check", "--folder", "runs").startswith(f"{path} is damaged")


def test_a_run_without_the_episodes_of_its_choice(refused: Refused) -> None:
    path = RUN / "episodes" / "chosen.jsonl"
    path.write_text("")
    said = f"{path} holds no episode: run `londi evaluate runs/small/key-and-door-1` again"
    assert refused("--check", "--folder", "runs") == said


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("page.md/runs", "can't write page.md/runs/small (choose another place): Not a directory"),
        ("page.md", "can't write page.md/small (choose another place): Not a directory"),
        (LONG, f"can't read {LONG}/small/key-and-door-0{READ}File name too long"),
    ],
)
def test_folders_in_which_no_run_can_lie(refused: Refused, folder: str, said: str) -> None:
    assert refused("--folder", folder) == said


@pytest.mark.parametrize("tolerance", ["nan", "-1", "inf", "-0.001"])
def test_tolerances_that_are_none(refused: Refused, tolerance: str) -> None:
    said = f"--tolerance must be a finite number of at least 0, not {float(tolerance)}"
    assert refused(*CHECK, "--tolerance", tolerance) == said


def test_another_file_among_the_records(here: Path, refused: Refused) -> None:
    (here / "small" / "folder.json").mkdir()
    (here / "small" / "list.json").write_text('{"table": []}')
    main(["reproduce", "small.toml", "--folder", "runs"])
    (here / "small" / "list.json").write_text("[]")
    assert refused("--folder", "runs") == "small/list.json is damaged: remove it and run again"
