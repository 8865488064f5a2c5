"""`londi verify`: the mathematics, checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table
from rich.text import Text

from londi.cli.terminal import bar, out, print_json
from londi.errors import ConfigError


def verify(
    quick: bool = False,
    seed: int = 0,
    processes: int | None = None,
    only: tuple[str, ...] | None = None,
    out_folder: Annotated[Path, tyro.conf.arg(name="out")] = Path("runs/verify"),
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Check every claim of the theory by running it; exit 1 where one fails.

    Args:
        quick: a minute or two, for continuous integration: fewer and smaller problems.
        seed: decides the random problems and the learners.
        processes: jobs side by side; default one for each core. The result is the same.
        only: some suites: random, facts, scale, budgets, linear, learning, efficiency, deep.
        out_folder: folder for verification.json and verification.md with its plots.
        json: print JSON.
    """
    from londi.plots import new_figure
    from londi.verify import SUITES, Settings, plan
    from londi.verify import verify as check
    from londi.verify.page import write

    if processes is None:
        processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if seed < 0 or processes < 1:
        raise ConfigError("--seed must be at least 0 and --processes at least 1")
    if only is not None and not only:
        raise ConfigError(f"--only needs the name of a suite: {', '.join(SUITES)}")
    jobs = plan(Settings(quick, seed), only or ())
    try:
        out_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out_folder}: {error.strerror}; name a folder that can be written to") from error
    new_figure(1, 1)  # before the work: complain here where plots can't be drawn
    with bar("verifying", len(jobs)) as move:
        result = check(quick, seed, processes, only or (), lambda done, suite: move(done, extra=suite))
    paths = write(result, out_folder)
    if json:
        print_json(result)
    else:
        _print(result)
        out.print(f"page: {paths[-1]}", soft_wrap=True, highlight=False)
    if not result["passed"]:
        raise SystemExit(1)


def _print(result: dict[str, Any]) -> None:
    from londi.verify.page import needs, number

    table = Table(title="londi verify", show_lines=True)
    table.add_column("claim, source, and how it was checked")
    for column in ("worst", "needed", "verdict"):
        table.add_column(column, justify="right", no_wrap=True)
    for check in result["checks"]:
        source = check["source"].replace("arXiv 2402.12061", "paper").replace("added: docs/theory.md", "londi")
        about = Text.assemble(check["claim"], (f" ({source})\n", "cyan"), (check["method"], "dim"))
        shown = Text("holds", "green") if check["passed"] else Text("FAILS", "bold red")
        table.add_row(about, number(check["worst"]), needs(check), shown)
    out.print(table)
    failed = sum(not check["passed"] for check in result["checks"])
    verdict = "every claim holds" if not failed else f"{failed} of {len(result['checks'])} claims FAIL"
    out.print(f"{verdict} ({result['seconds']:.0f} s; paper: arXiv 2402.12061)", highlight=False)
