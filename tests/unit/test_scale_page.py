"""docs/scale.md says what docs/scale.json holds; results are merged by kind."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from londi.bench.base import result, row
from londi.bench.soak import growth

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "docs" / "scale.py"))
EMPTY = f"# Scale\n\n{SCRIPT['BEGIN']}\n\n{SCRIPT['END']}\n\nThe end.\n"
PASSED = {"checks": {}, "passed": True}


def scale(*replicas: int) -> dict[str, Any]:
    rows = []
    for workers in (1, 2, 4, 8):
        shares = {
            "workers": workers,
            "calls": 0.5,
            "learning": 0.02,
            "updates": 1.0,
            "busy": 0.25,
            "limit": 7.5 if replicas else None,
        }
        most = (7.2, 7.5) if replicas else (99.0, 99.0)
        ours, linear = min(2.9 * workers, most[0]), min(3.0 * workers, most[1])
        rows.append(row(f"{workers} workers", ours, linear, "steps a second") | shares)
    return (
        result("scale", rows) | PASSED | {"seconds": 20.0, "replicas": list(replicas) or None, "full": ["64 workers"]}
    )


def rollout() -> dict[str, Any]:
    rows = [
        row("32 environments in step, and one", 900.0, 100.0, "environment steps per second"),
        row("one environment, and a plain loop", 1.5, 0.75, "milliseconds", smaller_is_better=True),
    ]
    return result("rollout", rows)


def resume() -> dict[str, Any]:
    other = {"runs that came out otherwise": {"count": 2, "passed": False}}
    return result("resume", []) | {
        "trials": 50,
        "killed": 49,
        "resumed": 40,
        "seconds": 9.0,
        "checks": other,
        "passed": False,
    }


def soak(within: bool) -> dict[str, Any]:
    ends, used = [1.0, 2.0, 3.0, 4.0, 5.0], [440.0, 461.0, 462.0, 461.5, 462.5]
    along = {"steps": [9_000, 36_000], "used_mb": [470.0, 490.0], "answers": [5_000, 20_000], "replay": 9_000}
    along |= {"mb_per_1000_steps": 0.74, "se_mb_per_1000_steps": 0.01}
    sizes = {"minutes": 5.0, "trainings": 5, "env_steps": 30_123, "ends": ends, "peak_mb": used, "used_mb": used}
    return result("soak", []) | sizes | growth(ends, used) | {"within": along if within else None}


def test_the_page_is_that_of_the_results() -> None:
    data = json.loads((ROOT / "docs" / "scale.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert SCRIPT["render"](page, data) == page, "run `python docs/scale.py`"
    assert ("scale" in data) == (ROOT / "docs" / "scale.png").is_file()


def test_what_is_not_measured_is_not_said() -> None:
    page = SCRIPT["render"](EMPTY, {})
    assert "Nothing is measured yet." in page
    assert "|" not in page
    assert page.endswith("The end.\n")
    assert "Replicas" not in SCRIPT["render"](EMPTY, {"scale": scale()})


def test_every_result_has_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = SCRIPT["main"]
    for name in ("PAGE", "DATA", "PICTURE"):
        monkeypatch.setitem(main.__globals__, name, tmp_path / SCRIPT[name].name)
    (tmp_path / "scale.json").write_text("{}\n")
    (tmp_path / "scale.md").write_text(EMPTY)
    files = []
    for number, found in enumerate((scale(), scale(1, 4), rollout(), resume(), soak(within=False), soak(within=True))):
        files.append(str(tmp_path / f"{number}.json"))
        Path(files[-1]).write_text(json.dumps(found))
    main(["add", *files])
    assert set(json.loads((tmp_path / "scale.json").read_text())) == {"scale", "scale 1 4", "rollout", "resume", "soak"}
    with pytest.raises(SystemExit, match="differ"):
        main(["--check"])
    main([])
    main(["--check"])
    page = (tmp_path / "scale.md").read_text()
    for line in (
        "| 8 | 23.2 | 24.0 | 0.97 | 2\u00a0% | 100\u00a0% | 25\u00a0% |",
        "With 64 workers the machine has nothing left to give",
        "QUICK has 1 of them, DEEPTHINK 4.",
        "| 2 | 5.8 | 6.0 | 0.97 | 25\u00a0% |",
        "| 4 | 7.2 | 7.5 (replicas) | 0.96 | 25\u00a0% |",
        "| one environment | 1.50 | 0.75 | 0.50 |",
        "| 50 | 49 | 40 | 2 |",
        "| MB in use after the warm-up, and at the end | 461, 462 |",
        "| its MB in 1,000 steps, ± 2 standard errors | +0.74 ± 0.02 |",
    ):
        assert line in page
    assert "**It did not pass: runs that came out otherwise.**" in page
    assert (tmp_path / "scale.png").stat().st_size > 10_000


def test_foreign_results_are_refused() -> None:
    for found in ({"schema": 1, "bench": "http"}, {"schema": 2, "bench": "soak"}, {}):
        with pytest.raises(SystemExit, match="no result"):
            SCRIPT["kind"](found)
