"""The command line. Every later command takes just the run folder; `--json` is for machines.

Also `londi lm train | info` and `londi bench rollout`.

Exit codes: 0 done, 2 wrong input (one line that names the fix), 130 interrupted (what was done is kept).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from londi import config
from londi.errors import ConfigError, LondiError, RunError

app = tyro.extras.SubcommandApp()
out, err = Console(), Console(stderr=True)


@contextmanager
def _bar(label: str, total: int, extra: str = "") -> Iterator[Any]:
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[extra]}")]
    with Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=err) as progress:
        task = progress.add_task(label, total=total, extra=extra)

        def move(done: int | None = None, *, advance: int | None = None, extra: str | None = None) -> None:
            fields = {} if extra is None else {"extra": extra}
            progress.update(task, completed=done, advance=advance, **fields)  # type: ignore[arg-type]

        yield move


@app.command
def train(
    experiment: tyro.conf.Positional[Path],
    run: Path | None = None,
    seed: int | None = None,
    steps: int | None = None,
) -> None:
    """Train the Switchers of an experiment (TOML); go on where an interrupted run stopped.

    Args:
        experiment: the experiment's TOML file.
        run: run folder; default runs/NAME-SEED.
        seed: training seed, instead of the file's.
        steps: environment steps, instead of the file's.
    """
    setting = config.load(experiment)
    if seed is not None:
        setting = replace(setting, seed=seed)
    if steps is not None:
        setting = replace(setting, train=replace(setting.train, num_steps=steps))
    folder = run or Path("runs") / f"{setting.name}-{setting.seed}"
    _train(folder, setting)
    out.print(f"trained: {folder}   next: londi evaluate {folder}", soft_wrap=True)


def _train(folder: Path, setting: config.Experiment) -> None:
    from londi.train import prepare

    trainer = prepare(folder, setting)
    if trainer.step:
        err.print(f"resuming {folder} at step {trainer.step:,}")
    with _bar("training", setting.train.num_steps) as move:
        try:
            trainer.train(lambda p: move(p.step, extra=f"success {p.success:.2f}  calls {p.calls:.1f}"))
        except KeyboardInterrupt:
            err.print(f"interrupted at step {trainer.step:,}; the same command goes on, and the run can be evaluated")
            raise


@app.command
def evaluate(run: tyro.conf.Positional[Path], json: Annotated[bool, tyro.conf.arg(name="json")] = False) -> None:
    """Measure every budget, price and baseline on fresh seeds; write frontier.json.

    Args:
        run: the run folder.
        json: print frontier.json instead of the table.
    """
    result = _evaluate(run)
    if json:
        _print_json(result)
    else:
        print_frontier(result)


def _evaluate(run: Path) -> dict[str, Any]:
    from londi.evaluate import evaluate as measure
    from londi.evaluate import num_plays
    from londi.run import Run

    opened = Run.open(run)
    opened.load_switchers()  # complain before a progress bar stands there
    with _bar("evaluating", num_plays(opened.experiment)) as move:
        return measure(opened, lambda plays: move(advance=plays))


@app.command
def report(run: tyro.conf.Positional[Path]) -> None:
    """Draw frontier.png and write report.html.

    Args:
        run: the run folder, evaluated.
    """
    from londi.report import write_report

    page = write_report(run)
    out.print(f"picture: {run / 'frontier.png'}", soft_wrap=True)
    out.print(f"report:  {page}", soft_wrap=True)


@app.command
def watch(
    run: tyro.conf.Positional[Path],
    policy: Literal["chosen", "quick", "deepthink"] = "chosen",
    episode: int | None = None,
    delay: float = 0.3,
) -> None:
    """Replay an episode in the terminal, DEEPTHINK's steps standing out.

    Args:
        run: the run folder, evaluated.
        policy: whose episode: the chosen Switcher's, QUICK's or DEEPTHINK's.
        episode: number of the stored episode; default the first with a call.
        delay: seconds between steps.
    """
    from londi.episode import read_episodes
    from londi.run import Run
    from londi.watch import watch as replay

    Run.open(run)
    episodes = list(read_episodes(run / "episodes" / f"{policy}.jsonl"))
    if episode is not None and not 0 <= episode < len(episodes):
        raise RunError(f"there are episodes 0 to {len(episodes) - 1}, not {episode}")
    if delay < 0:
        raise ConfigError(f"--delay must be at least 0 seconds, not {delay}")
    first = next((i for i, e in enumerate(episodes) if e.num_calls), 0)
    replay(episodes[first if episode is None else episode], out, delay)


@app.command
def demo(folder: Path = Path("runs/demo"), experiment: Path | None = None) -> None:
    """Train, evaluate and report in a few minutes, with the built-in pair.

    Args:
        folder: run folder; a finished one is shown again.
        experiment: TOML file; default the demo's own.
    """
    setting = config.load(experiment or Path(__file__).parent / "templates" / "demo.toml")
    if not (folder / "frontier.json").is_file():
        try:
            _train(folder, setting)
        except RunError as error:
            if "trained already" not in str(error):
                raise
        _evaluate(folder)
    print_frontier(json.loads((folder / "frontier.json").read_text(encoding="utf-8")))
    report(folder)


@app.command
def summary(
    runs: tyro.conf.Positional[tuple[Path, ...]], json: Annotated[bool, tyro.conf.arg(name="json")] = False
) -> None:
    """Mean and standard deviation over the training seeds of one experiment.

    Args:
        runs: run folders, evaluated, one for each training seed.
        json: print JSON.
    """
    from londi.summary import summarise_runs

    result = summarise_runs(runs)
    if json:
        _print_json(result)
        return
    table = Table(title=f"{result['experiment']}: mean ± std over {len(result['training_seeds'])} training seeds")
    for column in ("measure", "mean", "std", "each"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for name, row in result["measures"].items():
        each = "  ".join("—" if v is None else f"{v:.3f}" for v in row["each"])
        cells = ["—" if row[key] is None else f"{row[key]:.3f}" for key in ("mean", "std")]
        table.add_row(name, *cells, each)
    out.print(table)


@app.command
def envs(json: Annotated[bool, tyro.conf.arg(name="json")] = False) -> None:
    """List the text environments.

    Args:
        json: print JSON.
    """
    from londi import envs as rooms

    try:
        from londi.envs.babyai import levels

        wrapped = levels()
    except LondiError as error:
        wrapped = []
        err.print(str(error))
    if json:
        _print_json({"schema": 1, "envs": rooms.ids(), "babyai_levels": wrapped})
        return
    for name in rooms.ids():
        out.print(name, highlight=False)
    out.print(f"\nand any of {len(wrapped)} BabyAI levels, by its own id:")
    out.print(", ".join(wrapped), highlight=False)


lm = tyro.extras.SubcommandApp()


@lm.command(name="train")
def lm_train(
    out_folder: Annotated[Path, tyro.conf.arg(name="out")] = Path("pair"),
    seed: int = 0,
    episodes: int = 10_000,
    only: Literal["both", "quick", "deepthink"] = "both",
) -> None:
    """Train the built-in BabyAI pair from nothing: demonstrations of the BabyAI bot, then behaviour cloning.

    Args:
        out_folder: folder for the two models.
        seed: decides demonstrations and training.
        episodes: demonstrations to clone.
        only: one of the two, or both.
    """
    from londi.cloning import demos
    from londi.cloning import train as cloning
    from londi.envs.babyai import KINDS

    if episodes < 1 or seed < 0:
        raise ConfigError("--episodes must be at least 1 and --seed at least 0")
    with _bar("demonstrations", episodes) as move:
        shown = demos.collect(KINDS, episodes, seed=seed, progress=lambda n: move(advance=n))
    for name, recipe in (("quick", cloning.QUICK), ("deepthink", cloning.DEEPTHINK)):
        if only in ("both", name):
            with _bar(name, recipe.num_updates) as move:
                cloning.train(
                    shown,
                    recipe,
                    out_folder / name,
                    seed=seed,
                    progress=lambda i, loss: move(i, extra=f"loss {loss:.3f}"),
                )
            out.print(f"{name}: {out_folder / name}", soft_wrap=True)


@lm.command(name="info")
def lm_info(
    model: tyro.conf.Positional[str],
    env: str = "londi/BabyAI-GoToPickUp-v0",
    max_steps: int | None = None,
    episodes: int = 0,
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Show a language model; with --episodes, play it alone and measure success and cost per decision.

    Args:
        model: as in an experiment: builtin:NAME, a folder, a hub id or python:MODULE:NAME.
        env: environment to play.
        max_steps: its step limit, instead of its own.
        episodes: episodes to play.
        json: print JSON.
    """
    from londi import lms
    from londi.bench import measure_model
    from londi.evaluate import TEST_SEEDS

    spec = config.ModelConfig(model)
    found = lms.load(spec)
    info: dict[str, Any] = {"schema": 1, "model": model, "name": found.name}
    for key in ("mode", "num_parameters", "seq2seq", "context", "max_new_tokens"):
        if hasattr(found, key):
            info[key] = getattr(found, key)
    if episodes:
        options = {} if max_steps is None else {"max_steps": max_steps}
        setting = config.Experiment("info", config.EnvConfig(env, options), spec, spec)
        info |= {"env": env, "episodes": episodes, **measure_model(setting, found, episodes, TEST_SEEDS)}
    if json:
        _print_json(info)
        return
    for key, value in info.items():
        out.print(f"{key:20} {value}", highlight=False)


bench = tyro.extras.SubcommandApp()


@bench.command(name="rollout")
def bench_rollout(
    experiment: Path | None = None,
    num_envs: int = 32,
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Environment steps per second, many environments in step against one at a time.

    Args:
        experiment: TOML file; default the demo's.
        num_envs: environments in step.
        json: print JSON.
    """
    import torch

    from londi.bench import bench_rollout as measure

    if num_envs < 1:
        raise ConfigError(f"--num-envs must be at least 1, not {num_envs}")
    setting = config.load(experiment or Path(__file__).parent / "templates" / "demo.toml")
    torch.set_num_threads(setting.train.threads)
    with _bar("rollout", 5) as move:
        result = measure(setting, num_envs, progress=lambda done: move(done))
    if json:
        _print_json(result)
        return
    for row in result["rows"]:
        out.print(
            f"{row['case']}: {row['ours']:.0f} against {row['reference']:.0f} {row['unit']}, ratio {row['ratio']:.1f}",
            highlight=False,
        )


def print_frontier(result: dict[str, Any]) -> None:
    """Print the table of a frontier and what the choices come to."""
    table = Table(title=f"{result['experiment']}: {result['episodes']} test episodes of each policy")
    for column in ("policy", "success", "95 %", "calls", "max", "share", "MFLOPs", "steps"):
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
            f"{row['flops'] / 1e6:.1f}",
            f"{row['steps']:.1f}",
        )
    out.print(table)
    for key, level in (("at_99", 99), ("at_95", 95)):
        c = result["choices"][key]
        if c:
            line = f"{c['success_ratio']:.1%} of DEEPTHINK's success with {c['calls_ratio']:.1%} of its calls"
            out.print(f"* chosen on selection seeds for {level} %: {c['name']} keeps {line}", highlight=False)
        else:
            out.print(f"no policy kept {level} % of DEEPTHINK's success on the selection seeds", highlight=False)
    volumes = {k: v for k, v in result["metrics"]["hypervolume"].items() if v is not None}
    out.print("hypervolume: " + ", ".join(f"{k} {v:.3f}" for k, v in volumes.items()), highlight=False)
    out.print(f"budget violations: {result['metrics']['violations']}", highlight=False)


def _print_json(data: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(data, indent=1) + "\n")


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
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
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


if __name__ == "__main__":
    main()
