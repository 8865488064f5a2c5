"""`londi reproduce`: run what a published table needs, and write it or check it."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from londi.cli.terminal import bar, err, out, print_json
from londi.errors import RunError

TABLES = Path("experiments/tables")


def reproduce(
    table: tyro.conf.Positional[str],
    quick: bool = False,
    check: bool = False,
    folder: Path = Path("runs/tables"),
    jobs: int = 1,
    tolerance: float = 1e-9,
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Run what a table of docs/results.md needs, and write it; goes on where it was interrupted.

    Args:
        table: a name in experiments/tables, or a TOML file.
        quick: one seed and fewer steps; prints the table and leaves the page alone.
        check: write nothing, compare with the printed numbers; exit code 1 where one differs.
        folder: where the runs lie.
        jobs: runs at a time; evaluation takes `evaluate.processes` of its own.
        tolerance: largest difference of a number that passes the check.
        json: print the numbers as JSON.
    """
    from londi import published
    from londi.jobs import run_all
    from londi.reproduce import differences, load_table, results
    from londi.reproduce import jobs as jobs_of

    source = Path(table) if table.endswith(".toml") else TABLES / f"{table}.toml"
    spec = load_table(source)
    if jobs < 1:
        raise RunError(f"--jobs must be at least 1, not {jobs}")
    here = folder / (f"{spec.name}-quick" if quick else spec.name)
    todo = [job for job in jobs_of(spec, here, quick) if not job.done]
    if todo:
        with bar(spec.title, len(todo)) as move:
            run_all(todo, jobs, lambda: move(advance=1))
    found = results(spec, here, quick)
    stored = source.with_suffix(".json")
    if json:
        print_json(found)
    if check:
        _check(stored, found, tolerance, differences)
        return
    if quick or not spec.page:
        if not json:
            out.print("\n".join(published.markdown(found)), soft_wrap=True, markup=False, highlight=False)
        return
    page = (source.parent / spec.page).resolve()
    text = published.put(page.read_text(encoding="utf-8"), spec.name, published.markdown(found))
    stored.write_text(jsonlib.dumps(found, indent=1) + "\n", encoding="utf-8")
    page.write_text(text, encoding="utf-8")
    tasks: dict[str, list[Any]] = {}
    for job in jobs_of(spec, here, quick):
        if not job.method:
            tasks.setdefault(job.task, []).append(jsonlib.loads((job.folder / "frontier.json").read_text()))
    published.save_frontiers(tasks, page.with_name(f"{page.stem}-{spec.name}.png"))
    err.print(f"written: {page}, {stored}", soft_wrap=True)


def _check(stored: Path, found: dict[str, Any], tolerance: float, differences: Any) -> None:
    if not stored.is_file():
        raise RunError(f"no {stored}: the table was never written")
    lines: Sequence[str] = differences(jsonlib.loads(stored.read_text(encoding="utf-8")), found, tolerance)
    for line in lines[:20]:
        err.print(line, soft_wrap=True, markup=False, highlight=False)
    err.print(f"{len(lines)} of the printed numbers differ" if lines else "the printed numbers are the ones found")
    if lines:
        raise SystemExit(1)
