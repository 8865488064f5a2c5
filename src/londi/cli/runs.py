"""Commands on experiments and run folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.table import Table

from londi import config
from londi.cli.terminal import bar, err, moves, out, print_frontier, print_json
from londi.errors import ConfigError, LondiError, RunError

if TYPE_CHECKING:
    from londi.cluster import Cluster

DEMO = Path(__file__).parents[1] / "templates" / "demo.toml"
app = tyro.extras.SubcommandApp()


def _address(given: list[str]) -> str | None:
    """What `--ray` says: bare, this machine."""
    if len(given) > 1:
        raise ValueError(f"--ray takes one address, not {len(given)}")
    return given[0] if given else "local"


_Address = Annotated[
    str | None,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[ADDRESS]",
        instance_from_str=_address,
        is_instance=lambda value: value is None or isinstance(value, str),
        str_from_instance=lambda value: [str(value)],
    ),
]


@app.command
def train(
    experiment: tyro.conf.Positional[Path],
    run: Path | None = None,
    seed: int | None = None,
    steps: int | None = None,
    track: tuple[str, ...] = (),
    wait: float = 0.0,
    ray: _Address = None,
    workers: int | None = None,
    quick_replicas: int = 1,
    deepthink_replicas: int = 1,
    quick_gpus: float | None = None,
    deepthink_gpus: float | None = None,
) -> None:
    """Train the Switchers of an experiment (TOML); go on where an interrupted run stopped.

    Args:
        experiment: the experiment's TOML file.
        run: run folder; default runs/NAME-SEED.
        seed: training seed, instead of the file's.
        steps: environment steps, instead of the file's.
        track: where metrics go beside metrics.jsonl: console (a line each on stderr, without asking where that is no
            terminal), tensorboard, wandb (offline unless WANDB_MODE says otherwise), mlflow; these into the run folder.
        wait: seconds to wait for another process that trains into the run folder.
        ray: spread it over Ray: alone for processes on this machine, with `auto` or an address for a cluster.
        workers: with --ray, processes that share train.num_envs environments; default as many as there are CPUs, but
            no more than environments, or than server.concurrency.
        quick_replicas: with --ray, processes that hold QUICK.
        deepthink_replicas: with --ray, processes that hold DEEPTHINK.
        quick_gpus: with --ray, GPUs of each of QUICK's replicas, such as 0.5 where two share one; default 1 for a model
            whose device is a GPU, else 0.
        deepthink_gpus: with --ray, GPUs of each of DEEPTHINK's replicas.
    """
    setting = config.load(experiment)
    if seed is not None:
        setting = replace(setting, seed=seed)
    if steps is not None:
        setting = replace(setting, train=replace(setting.train, num_steps=steps))
    folder = run or Path("runs") / f"{setting.name}-{setting.seed}"
    cluster = None
    spread = (workers, quick_replicas, deepthink_replicas, quick_gpus, deepthink_gpus)
    if ray is None and spread != (None, 1, 1, None, None):
        raise ConfigError("--workers, replicas and their GPUs are for Ray: add --ray")
    if ray is not None:
        from londi.cluster import Cluster

        cluster = Cluster(
            ray, workers, quick_replicas, deepthink_replicas, quick_gpus=quick_gpus, deepthink_gpus=deepthink_gpus
        )
    if not wait >= 0:  # nan, too
        raise ConfigError(f"--wait must be at least 0 seconds, not {wait:g}")
    if wait:
        from londi.train import lock

        lock.check(
            folder,
            wait,
            lambda holder: err.print(
                f"{folder} is being trained by another process (pid {holder}): waiting for up to {wait:g} s",
                soft_wrap=True,
            ),
        )
    _train(folder, setting, track, cluster)
    out.print(f"trained: {folder}   next: londi evaluate {folder}", soft_wrap=True)


def _train(folder: Path, setting: config.Experiment, track: Sequence[str] = (), cluster: Cluster | None = None) -> None:
    from londi.trackers import check_trackers, make_trackers
    from londi.train import prepare

    check_trackers(track)  # before there is a folder
    trainer, live = prepare(folder, setting, cluster), moves()
    trainer.trackers += make_trackers(track if live else (*track, "console"), trainer.run, trainer.step)
    if trainer.step:
        anew = f"; {trainer.begun_anew} episodes begin anew" if trainer.begun_anew else ""
        err.print(f"resuming {folder} at step {trainer.step:,}{anew}")
    with bar("training", setting.train.num_steps, shown=live) as move:
        try:
            trainer.train(lambda p: move(p.step, extra=f"success {p.success:.2f}  calls {p.calls:.1f}"))
        except KeyboardInterrupt:
            err.print(f"interrupted at step {trainer.step:,}; the same command goes on, and the run can be evaluated")
            raise
        except LondiError:  # `main` says what it was
            err.print(f"training failed at step {trainer.step:,}; once that is mended, the same command goes on")
            raise
        finally:
            if trainer.failures.count:
                err.print(f"{trainer.failures.count:,} DEEPTHINK calls failed, and QUICK acted")
            if said := _mishaps(trainer.rollout.lost, *trainer.rollout.restarts, len(trainer.rollout.given_up)):
                err.print(said)


def _mishaps(episodes: int, workers: int, replicas: int, given_up: int) -> str:
    """Say what died over Ray or was lost by environments, and what that cost; nothing where nothing did."""
    died = [_counted(count, name) for count, name in ((replicas, "replica"), (workers, "worker")) if count]
    said = [f"{' and '.join(died)} {_were(replicas + workers)} restarted"] if died else []
    if episodes:
        lost = "" if died else "lost by the environment and "
        said.append(f"{_counted(episodes, 'episode')} {_were(episodes)} {lost}begun anew")
    elif died:
        said.append("no episode was lost")
    if given_up:
        said.append(f"{_counted(given_up, 'episode')} {_were(given_up)} given up, lost by the environment every time")
    return "; ".join(said)


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


@app.command
def evaluate(
    run: tyro.conf.Positional[Path],
    on: Path | None = None,
    folder: Path | None = None,
    add: bool = False,
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Measure every budget, price and baseline on fresh seeds; write frontier.json.

    Args:
        run: the run folder.
        on: another experiment (TOML): its environment and models, decided by this run's Switchers without training.
        folder: with --on, the folder for its results, a run folder; default RUN/on/NAME.
        add: keep what frontier.json has measured of the budgets, prices, thresholds, rates and rules that the run's
            config.toml names, and play those that are new; with other test episodes, the test anew.
        json: print frontier.json instead of the table.
    """
    if on is None and folder is not None:
        raise ConfigError("--folder is for the results of --on EXPERIMENT.toml; without it they go into the run folder")
    if on is not None:
        from londi.run import Run

        if add:
            raise ConfigError("--add is for what a run has measured itself: leave out --on")

        other = config.load(on)
        run = Run.open(run).on(other, folder or run / "on" / other.name).path
        err.print(f"results go to {run}", soft_wrap=True)
    result = _evaluate(run, add)
    if json:
        print_json(result)
    else:
        print_frontier(result)


def _evaluate(run: Path, add: bool = False) -> dict[str, Any]:
    from londi.evaluate import evaluate as measure
    from londi.evaluate import num_plays
    from londi.run import Run

    opened = Run.open(run)
    opened.load_switchers()  # complain before a progress bar stands there
    with bar("evaluating", num_plays(opened)) as move:
        return measure(opened, lambda played, added: move(advance=played, added=added), add=add)


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
    if not episodes:
        raise RunError(f"{run / 'episodes' / policy}.jsonl holds no episode: run `londi evaluate {run}` again")
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
    from londi.run import Run

    setting = config.load(experiment or DEMO)
    if (folder / "frontier.json").is_file() and Run.open(folder).experiment != setting:
        raise RunError(f"{folder} holds another experiment (its config.toml differs): choose another with --folder")
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
        print_json(result)
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
        print_json({"schema": 1, "envs": rooms.ids(), "babyai_levels": wrapped})
        return
    for name in rooms.ids():
        out.print(name, highlight=False)
    out.print(f"\nand any of {len(wrapped)} BabyAI levels, by its own id:")
    out.print(", ".join(wrapped), highlight=False)
