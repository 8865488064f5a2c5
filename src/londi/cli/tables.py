"""Commands on many runs: `londi reproduce` writes or checks a published table, `londi sweep` compares settings."""

from __future__ import annotations

import json as jsonlib
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.table import Table

from londi.cli.terminal import bar, err, out, print_json
from londi.errors import ConfigError, RunError
from londi.files import read_json, read_text, write_text, writing

if TYPE_CHECKING:
    from londi.jobs import Job
    from londi.reproduce import Table as PublishedTable

TABLES = Path("experiments/tables")


def reproduce(
    table: tyro.conf.Positional[str],
    quick: bool = False,
    check: bool = False,
    published: bool = False,
    folder: Path = Path("runs/tables"),
    jobs: int = 1,
    tolerance: float = 1e-9,
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Run what a published table needs, and write it, with its picture where the page shows one; goes on where it was
    interrupted.

    Args:
        table: a name in experiments/tables, or a TOML file.
        quick: one seed, fewer steps, and two runs where there is one for each price or budget; prints the table and
            leaves the page alone.
        check: write nothing, compare with the printed numbers; exit code 1 where one differs.
        published: take what the table keeps of its runs, and run only what it keeps nothing of; with --check run
            nothing.
        folder: where the runs lie.
        jobs: runs at a time; evaluation takes `evaluate.processes` of its own.
        tolerance: largest difference of a number that passes the check.
        json: print the numbers as JSON.
    """
    from londi.reproduce import jobs as jobs_of
    from londi.reproduce import load_table, records, shortened
    from londi.reproduce.published import blocks
    from londi.reproduce.results import pictured, results

    source = Path(table) if table.endswith(".toml") else TABLES / f"{table}.toml"
    spec = load_table(source)
    if jobs < 1:
        raise RunError(f"--jobs must be at least 1, not {jobs}")
    if not 0 <= tolerance < math.inf:
        raise ConfigError(f"--tolerance must be a finite number of at least 0, not {tolerance}")
    if quick and (published or check):
        other = "--published" if published else "--check"
        raise ConfigError(f"--quick runs are not published: leave out --quick or {other}")
    pages = {} if quick else _pages(spec)
    written = _stored(source.with_suffix(".json")) if check else {}
    spec = shortened(spec) if quick else spec
    every = jobs_of(spec, folder / spec.folder)
    kept = records.load(source.with_suffix(""), every, spec.states) if published else {}
    if published:
        err.print(f"{len(kept)} of {len(every)} runs are published", highlight=False)
    runs = _run(spec, every, kept, 0 if published and check else jobs)
    found = results(spec, every, runs)
    if json:
        print_json(found)
    if check:
        _check(source.with_suffix(".json"), written, spec, found, tolerance)
        return
    shown = blocks(found, spec.layout)
    if quick and any(len(method.runs) > 1 for method in spec.methods):
        err.print("--quick: few steps, and two runs where a row speaks of a run for each", highlight=False)
    if pages:
        records.save(source.with_suffix(""), runs)
        _publish(pages, source, shown, found, pictured(spec, every, runs))
        err.print(f"written: {', '.join(map(str, pages))}, {source.with_suffix('.json')}", soft_wrap=True)
    elif not json:
        printed = (spec.name, f"{spec.name} states")
        lines = [line for name, block in shown.items() if name in printed for line in (*block, "")]
        out.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)


def _pages(spec: PublishedTable) -> dict[Path, list[str]]:
    """The pages of a table and their blocks; raises before the runs what would be found out after hours."""
    from londi.reproduce import records

    pages = spec.pages()
    for page, names in pages.items():
        _page(page, names, spec.path)
    if pages:
        records.check(spec.path.with_suffix(""))
    return pages


def _page(page: Path, names: Sequence[str], source: Path) -> str:
    """The text of a table's page, in which each of these blocks has its place."""
    from londi.reproduce.published import put

    try:
        text = read_text(page, ConfigError)
    except FileNotFoundError as error:
        raise ConfigError(f"{source}: there is no page {page}") from error
    try:
        for name in names:
            put(text, name, ())
    except ConfigError as error:
        raise ConfigError(f"{page}: {error}") from error
    return text


def _stored(path: Path) -> dict[str, Any]:
    """The numbers that are stored of a table, read before the runs that they are compared with."""
    from londi.reproduce import shapes

    fix = "run the table without --check to write it anew"
    try:
        found = read_json(path, fix)
    except FileNotFoundError as error:
        raise RunError(f"no {path}: the table was never written") from error
    shapes.check(shapes.Stored, found, path, fix)
    return found


def _run(spec: PublishedTable, every: Sequence[Job], kept: Mapping[str, Any], processes: int) -> dict[str, Any]:
    """Run what is missing, so many at a time, or none; return the records of all, the published ones among them."""
    from londi.jobs import run_all
    from londi.reproduce import collect

    todo = [job for job in every if job.folder.name not in kept and not job.done]
    if todo and processes:
        with bar(spec.title, len(todo)) as move:
            run_all(todo, processes, lambda: move(advance=1), _say_ending)
    elif todo:
        names = ", ".join(job.folder.name for job in todo[:5]) + (", ..." if len(todo) > 5 else "")
        raise RunError(
            f"nothing fits that is published of {names}: leave out --check to run what is missing, or --published to "
            "run everything"
        )
    return collect(spec, every, kept)


def _say_ending(running: int) -> None:
    """Tell on Ctrl-C what it waits for."""
    from londi.lifeline import GRACE_S

    if running:
        runs = f"{running} run{'' if running == 1 else 's'}"
        then = f"trainings write checkpoints, for up to {GRACE_S:g} s; Ctrl-C again ends them at once"
        err.print(f"ending {runs}: {then}", soft_wrap=True, highlight=False)


def _publish(
    pages: Mapping[Path, Sequence[str]],
    source: Path,
    shown: Mapping[str, Sequence[str]],
    found: dict[str, Any],
    tasks: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Write a table's blocks into its pages, its picture where the first shows one, and its numbers beside its TOML."""
    from londi.panels import save_frontiers
    from londi.reproduce.published import put

    texts = {page: _page(page, names, source) for page, names in pages.items()}
    for page, names in pages.items():
        for name in names:
            texts[page] = put(texts[page], name, shown[name])
    first = next(iter(pages))
    for part in ("", "-corner"):
        picture = first.with_name(f"{first.stem}-{source.stem}{part}.png")
        if f"({picture.name})" in texts[first]:
            with writing(picture):
                save_frontiers(tasks, picture, corner=bool(part), kept=0.99)
    write_text(source.with_suffix(".json"), jsonlib.dumps(found, indent=1) + "\n")
    for page, text in texts.items():
        write_text(page, text)


def _check(
    stored: Path, written: dict[str, Any], spec: PublishedTable, found: dict[str, Any], tolerance: float
) -> None:
    """Compare what was found with the numbers that are stored and written, and these with the pages."""
    from londi.reproduce.published import blocks, put
    from londi.reproduce.results import differences

    lines = differences(written, found, tolerance)
    shown = blocks(written, spec.layout) if not lines else {}
    for page, names in spec.pages().items() if shown else ():
        text = _page(page, names, spec.path)
        lines += [f"{page}: the block '{n}' is not what {stored} says" for n in names if put(text, n, shown[n]) != text]
    for line in lines[:20]:
        err.print(line, soft_wrap=True, markup=False, highlight=False)
    err.print(f"{len(lines)} of the printed numbers differ" if lines else "the printed numbers are the ones found")
    if lines:
        made = [each["made"] for each in (written, found)]
        if any(made[0][key] != made[1][key] for key in ("python", "packages", "machine")):
            hint = "made with other versions or on another machine, training comes out otherwise: see --tolerance, "
            hint += "or count anew what is published with --published"
            err.print(hint, soft_wrap=True, highlight=False)
        raise SystemExit(1)


def sweep(
    experiments: tyro.conf.Positional[tuple[Path, ...]],
    seeds: tuple[int, ...] = (0, 1, 2),
    vary: tuple[str, ...] = (),
    ray: str = "local",
    cpus: float = 1.0,
    gpus: float | None = None,
    folder: Path = Path("runs/sweep"),
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Train and evaluate experiments with several settings and seeds over Ray Tune; go on where it was interrupted.

    Args:
        experiments: the experiments' TOML files.
        seeds: training seeds.
        vary: settings and their values, all combinations of which are run: train.gamma=0.9,0.95 train.lr=1e-3,3e-4
        ray: `local` for processes on this machine, `auto` or an address for a cluster, whose nodes share the folder.
        cpus: CPUs that a run takes; as many run at a time as there are CPUs and GPUs for.
        gpus: GPUs that a run takes, such as 0.5 where two share one; default as many as the devices of its models say.
        folder: where the runs lie, and sweep.json and sweep.png at the end.
        json: print sweep.json instead of the table.
    """
    from londi.lifeline import GRACE_S
    from londi.sweep import gather, points, run_over_ray, save

    jobs = points(experiments, seeds, dict(map(_values, vary)), folder)
    if cpus <= 0:
        raise ConfigError(f"--cpus must be above 0, not {cpus}")
    with bar("runs", len(jobs)) as move:
        move(sum(job.done for job in jobs))
        try:
            failed = run_over_ray(jobs, ray, cpus, gpus, lambda: move(advance=1))
        except KeyboardInterrupt:
            then = f"trainings write checkpoints, for up to {GRACE_S:g} s; the same command goes on"
            err.print(f"ending the runs: {then}", soft_wrap=True, highlight=False)
            raise
    if failed:
        raise RunError(
            "\n".join([f"{len(failed)} of {len(jobs)} runs failed; the same command tries them again", *failed])
        )
    found = gather(jobs)
    save(found, jobs, folder)
    if json:
        print_json(found)
    else:
        _print_sweep(found)
        out.print(f"picture: {folder / 'sweep.png'}", soft_wrap=True)


def _values(text: str) -> tuple[str, tuple[Any, ...]]:
    """Read KEY=A,B: values as in a TOML array, or words without quotes."""
    key, equals, values = text.partition("=")
    if not (key and equals and values):
        raise ConfigError(f"--vary takes KEY=VALUE,VALUE as in train.gamma=0.9,0.95, not '{text}'")

    try:
        return key, tuple(tomllib.loads(f"values = [{values}]")["values"])
    except tomllib.TOMLDecodeError:
        return key, tuple(word.strip() for word in values.split(","))


def _print_sweep(found: dict[str, Any]) -> None:
    from londi.sweep import COLUMNS

    table = Table(title=f"mean ± std over training seeds {', '.join(map(str, found['seeds']))}")
    names = ("area, prices", "area, budgets", "success kept", "calls")
    for column in ("", *names):
        table.add_column(column, justify="right" if column else "left")
    for label, measures in found["points"].items():
        cells = []
        for name in COLUMNS:
            known = [value for value in measures.get(name, {"each": []})["each"] if value is not None]
            spread = f" ± {stdev(known):.3f}" if len(known) > 1 else ""
            few = "" if len(known) == len(found["seeds"]) else f" ({len(known)} of {len(found['seeds'])})"
            cells.append(f"{mean(known):.3f}{spread}{few}" if known else "-")
        table.add_row(label, *cells)
    out.print(table)
    out.print(
        "area: success over the share of DEEPTHINK's calls (hypervolume)   success kept, calls: shares of DEEPTHINK's, "
        "of the policy chosen on selection seeds for 99 %",
        highlight=False,
    )
