"""`londi bench`: how fast things run, as ratios measured side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from londi import config
from londi.cli.runs import DEMO
from londi.cli.terminal import bar, out, print_json
from londi.errors import ConfigError

RESUME = Path(__file__).parents[1] / "templates" / "resume.toml"
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

    from londi.bench.rollout import bench_rollout as measure

    if num_envs < 1:
        raise ConfigError(f"--num-envs must be at least 1, not {num_envs}")
    setting = config.load(experiment or DEMO)
    torch.set_num_threads(setting.train.threads)
    with bar("rollout", 5) as move:
        result = measure(setting, num_envs, progress=lambda done: move(done))
    show(result, json)


@bench.command(name="score")
def bench_score(
    device: str = "cpu",
    threads: int = 1,
    rounds: int = 2,
    seed: int = 0,
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Scoring candidate actions: against full sequences, with prefixes reused, against the floor of the arithmetic.

    And what Switcher and encoder add to a decision. On a CPU it takes about a
    quarter of an hour.

    Args:
        device: cpu, or cuda for a model of half a billion parameters in bfloat16.
        threads: of torch.
        rounds: of each measurement; medians are compared.
        seed: decides weights and prompts.
        json: print JSON.
    """
    import torch

    from londi.bench.score import Sizes
    from londi.bench.score import bench_score as measure

    if threads < 1 or rounds < 1 or seed < 0:
        raise ConfigError("--threads and --rounds must be at least 1 and --seed at least 0")
    if device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"there is no device '{device}' on this machine")
    torch.set_num_threads(threads)
    done = 0
    with bar("score", 10) as move:

        def begin(case: str) -> None:
            nonlocal done
            move(done, extra=case)
            done += 1

        result = measure(device, seed, Sizes(rounds=rounds), begin)
        move(done)
    show(result, json)


@bench.command(name="http")
def bench_http(
    requests: int = 2_000,
    concurrency: int = 64,
    seed: int = 0,
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Requests to a server on this machine that breaks in every way; exit 1 where a charge or a decision is wrong.

    Args:
        requests: decisions to ask for.
        concurrency: at a time.
        seed: decides what breaks.
        json: print JSON.
    """
    from londi.bench.http import bench_http as measure

    if requests < 1 or concurrency < 2 or seed < 0:
        raise ConfigError("--requests must be at least 1, --concurrency at least 2 and --seed at least 0")
    with bar("http", requests) as move:
        result = measure(requests, concurrency, seed, lambda done: move(done))
    show(result, json)
    if not json:
        faults = ", ".join(f"{fault} {count}" for fault, count in result["faults"].items())
        out.print(f"{result['requests']} requests; injected: {faults}", highlight=False)
        out.print(f"{result['failed']} of {requests} decisions given up", highlight=False)
        show_checks(result)
    if not result["passed"]:
        raise SystemExit(1)


@bench.command(name="scienceworld")
def bench_scienceworld(
    rounds: int = 3,
    episodes: int = 1_000,
    kill_every: int = 50,
    seed: int = 0,
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """ScienceWorld: steps a second, and many episodes while simulators are killed; exit 1 where one goes wrong.

    Args:
        rounds: of each measurement of speed; medians are compared.
        episodes: of random actions.
        kill_every: episodes after which a simulator is killed in the middle of one.
        seed: decides variations and actions.
        json: print JSON.
    """
    from londi.bench.scienceworld import TASKS
    from londi.bench.scienceworld import bench_scienceworld as measure

    if min(rounds, episodes, kill_every) < 1 or seed < 0:
        raise ConfigError("--rounds, --episodes and --kill-every must be at least 1 and --seed at least 0")
    with bar("scienceworld", len(TASKS) + episodes) as move:
        result = measure(rounds, episodes, kill_every, seed, lambda done, what: move(done, extra=what))
    show(result, json)
    if not json:
        grown = f"{result['rss_growth_mb']:.1f} MB more memory in the last three quarters"
        out.print(f"{episodes} episodes, {result['killed']} killed, {result['lost']} lost, {grown}", highlight=False)
        show_checks(result)
    if not result["passed"]:
        raise SystemExit(1)


@bench.command(name="resume")
def bench_resume(
    experiment: Path | None = None,
    trials: int = 50,
    seed: int = 0,
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Training that is killed at a random moment and goes on, against training that is not; exit 1 if they differ.

    Or if not even half of the trainings went on from a checkpoint.

    Args:
        experiment: TOML file; default the exact room's, 3,000 steps.
        trials: how often.
        seed: decides the moments.
        json: print JSON.
    """
    from londi.bench.resume import bench_resume as measure

    if trials < 1 or seed < 0:
        raise ConfigError("--trials must be at least 1 and --seed at least 0")
    with bar("resume", trials) as move:
        result = measure(config.load(experiment or RESUME), trials, seed, lambda done: move(done))
    show(result, json)
    if not json:
        out.print(f"{trials} trainings, {result['killed']} killed, {result['resumed']} of them after a checkpoint")
        show_checks(result)
    if not result["passed"]:
        raise SystemExit(1)


@bench.command(name="scale")
def bench_scale(
    workers: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64),
    seconds: float = 20.0,
    replicas: tuple[int, int] | None = None,
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Training over Ray with models of a known latency, on more and more workers; exit 1 where it falls behind.

    It does where the steps a second are below 80 % of those at which nothing but the models' latency would be waited
    for, or of what the replicas can answer, and the CPUs of the machine were not full (90 %); and where the learner
    starves: where fewer than 90 % of the updates that are due for what was played were made. 64 workers take about 15
    GB and some minutes to start.

    Args:
        workers: numbers of workers, with an environment each.
        seconds: how long each is measured.
        replicas: of QUICK and of DEEPTHINK, that answer one prompt after the other; without, they are served.
        json: print JSON.
    """
    from londi.bench.scale import bench_scale as measure

    if not workers or min(workers) < 1 or not seconds > 0:
        raise ConfigError("--workers are numbers of at least 1, and --seconds is above 0")
    if replicas and min(replicas) < 1:
        raise ConfigError("--replicas are two numbers of at least 1, of QUICK and of DEEPTHINK")
    with bar("scale", len(workers)) as move:
        result = measure(workers, seconds, replicas, lambda done: move(done))
    show(result, json)
    if not json:
        for row in result["rows"]:
            learner = f"works in {row['learning']:.0%} of the time, {row['updates']:.0%} of its updates made"
            out.print(f"{row['case']}: the learner {learner}; CPUs {row['busy']:.0%} busy", highlight=False)
        show_checks(result)
    if not result["passed"]:
        raise SystemExit(1)


@bench.command(name="soak")
def bench_soak(
    minutes: float = 30.0,
    long: int = 0,
    experiment: Path | None = None,
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Training again and again in one process: memory must not grow from one to the next; exit 1 where it does.

    It does where a line through the memory after each training rises by more than 2 % an hour; where two standard
    errors of its slope are more than that, the soak was too short to tell, and exits 1 as well.

    Args:
        minutes: how long, at least four trainings.
        long: steps of one more training after them, along which memory is measured; at least 1,000.
        experiment: TOML file; default the demo's, 6,000 steps.
        json: print JSON.
    """
    from londi.bench.soak import bench_soak as measure

    if not 0 < minutes < 10_000:
        raise ConfigError(f"--minutes must be above 0, not {minutes}")
    if long and long < 1_000:
        raise ConfigError(f"--long must be at least 1,000 steps, not {long}")
    setting = config.load(experiment or DEMO)
    if experiment is None:
        setting = replace(setting, train=replace(setting.train, num_steps=6_000))
    with bar("soak", max(1, round(60 * minutes))) as move:
        result = measure(setting, minutes, long, lambda done: move(round(60 * done), extra="seconds"))
    show(result, json)
    if not json:
        out.print(f"{result['trainings']} trainings in {result['minutes']:.0f} minutes", highlight=False)
        for key, what in (("peak_mb", "peaks"), ("used_mb", "in use after each")):
            out.print(f"{what}, in MB: {', '.join(f'{value:.0f}' for value in result[key])}", highlight=False)
        slope = f"{result['slope_mb_per_hour']:+.1f} ± {2 * result['slope_se_mb_per_hour']:.1f} MB an hour"
        out.print(f"slope, ± 2 standard errors: {slope}", highlight=False)
        out.print(f"2 % an hour would be {result['bound_mb_per_hour']:.1f} MB", highlight=False)
        if result["within"]:
            within = result["within"]
            grown = f"{within['mb_per_1000_steps']:+.2f} ± {2 * within['se_mb_per_1000_steps']:.2f}"
            out.print(f"in one training whose replay is full: {grown} MB in 1,000 steps", highlight=False)
        show_checks(result)
    if not result["passed"]:
        raise SystemExit(1)


def show_checks(result: dict[str, Any]) -> None:
    """Print what was checked, a line each."""
    for what, check in result["checks"].items():
        out.print(f"{'ok  ' if check['passed'] else 'FAIL'} {what}: {check['count']}", highlight=False)


def show(result: dict[str, Any], json: bool) -> None:
    """Print a benchmark as JSON, or a line for each row."""
    if json:
        print_json(result)
        return
    for row in result["rows"]:
        line = (
            f"{row['case']}: {row['ours']:.4g} against {row['reference']:.4g} {row['unit']}, ratio {row['ratio']:.2f}"
        )
        out.print(line, highlight=False, soft_wrap=True)
