"""Call the large language model only where it changes the outcome.

Train first; every later command takes just the run folder. There are two more groups, each with its own --help:
`londi lm demos | train | info` (language models) and `londi bench` (speed and durability). --json prints
for machines.

Exit codes: 0 done, 1 a check failed (`verify`, `bench`, `reproduce --check`), 2 wrong input (one line names the fix),
130 interrupted, 143 terminated (what was done is kept).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from londi.cli.bench import bench
from londi.cli.pairs import lm
from londi.cli.runs import app
from londi.cli.tables import reproduce, sweep
from londi.cli.verify import verify
from londi.errors import EXTRAS, LondiError, MissingExtraError
from londi.interrupts import Terminated
from londi.lifeline import end_with_parent

app.command(verify)
app.command(reproduce)
app.command(sweep)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    end_with_parent()
    args = sys.argv[1:] if argv is None else argv
    sys.path.insert(0, str(Path.cwd()))  # `python:MODULE:NAME` and `MODULE:ENV` may stand beside the experiment
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        if args[:1] == ["lm"]:
            lm.cli(prog="londi lm", args=args[1:])
        elif args[:1] == ["bench"]:
            bench.cli(prog="londi bench", args=args[1:])
        else:
            app.cli(prog="londi", description=__doc__, args=args)
    except LondiError as error:
        sys.stderr.write(f"londi: {error}\n")
        raise SystemExit(2) from None
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        sys.stderr.write(f"londi: {MissingExtraError(package, EXTRAS[package])}\n")
        raise SystemExit(2) from None
    except Terminated:
        raise SystemExit(143) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
