"""What commands share: consoles, progress bars, tables, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from londi.frontier import why_no_shares

out, err = Console(), Console(stderr=True)


def moves() -> bool:
    """Whether a progress bar on stderr moves: not in a file or a pipe, which would show it once, at its end."""
    return err.file.isatty() and not err.is_dumb_terminal


@contextmanager
def bar(label: str, total: int, extra: str = "", *, shown: bool = True) -> Iterator[Any]:
    """Show a progress bar on stderr; yields a function that moves it to `done` or by `advance`, or adds to its end.

    What others print in this process meanwhile, as Ray does of its workers, goes to stderr: stdout may be read as JSON.
    """
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[extra]}")]
    made = Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=err, disable=not shown)
    with redirect_stdout(sys.stderr), made as progress:
        task = progress.add_task(label, total=total, extra=extra)

        def move(
            done: int | None = None, *, advance: int | None = None, added: int = 0, extra: str | None = None
        ) -> None:
            nonlocal total
            total += added
            fields = {} if extra is None else {"extra": extra}
            progress.update(task, total=total, completed=done, advance=advance, **fields)  # type: ignore[arg-type]

        yield move


def print_frontier(result: dict[str, Any]) -> None:
    """Print the table of a frontier and what the choices come to."""
    table = Table(title=f"{result['experiment']}: {result['episodes']} test episodes of each policy")
    deep = next(row for row in result["policies"] if row["name"] == "DEEPTHINK")
    cost, scale = ("MFLOPs", 1e-6) if deep["flops"] else ("dollars", 1.0) if deep.get("dollars") else ("tokens", 1.0)
    key = {"MFLOPs": "flops"}.get(cost, cost)
    for column in ("policy", "success", "95 %", "calls", "max", "share", cost, "steps"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    chosen = {c["name"] for c in result["choices"].values() if c}
    last = ""
    for row in result["policies"]:
        if last and row["kind"] != last:
            table.add_section()
        last, s = row["kind"], row["success"]
        table.add_row(
            row["name"] + (" *" if row["name"] in chosen else ""),
            f"{s['mean']:.3f}",
            f"{s['low']:.2f}-{s['high']:.2f}",
            f"{row['calls']['mean']:.2f}",
            str(row["calls"]["max"]),
            f"{row['call_share']:.2f}",
            f"{row[key] * scale:.{5 if cost == 'dollars' else 1}f}",
            f"{row['steps']:.1f}",
        )
    out.print(table)
    if why := why_no_shares(result["policies"]):
        out.print(f"{why}: nothing can be a share of its")
    for key, level in () if why else (("at_99", 99), ("at_95", 95)):
        c = result["choices"][key]
        if c:
            line = f"{c['success_ratio']:.1%} of DEEPTHINK's success with {c['calls_ratio']:.1%} of its calls"
            out.print(f"* chosen on selection seeds for {level} %: {c['name']} keeps {line}", highlight=False)
        else:
            out.print(f"no policy kept {level} % of DEEPTHINK's success on the selection seeds", highlight=False)
    volumes = {k: v for k, v in result["metrics"]["hypervolume"].items() if v is not None}
    if volumes:
        out.print("hypervolume: " + ", ".join(f"{k} {v:.3f}" for k, v in volumes.items()), highlight=False)
    calls, episodes = result.get("training_calls"), result["metrics"].get("pays_off_after")
    if calls is not None and episodes:
        out.print(f"training made {calls:,} DEEPTHINK calls, saved in {episodes:,} episodes", highlight=False)
    out.print(f"budget violations: {result['metrics']['violations']}", highlight=False)


def print_json(data: dict[str, Any]) -> None:
    """Print data as JSON, and nothing else, on stdout."""
    sys.stdout.write(json.dumps(data, indent=1) + "\n")
