"""How an experiment is spread over Ray, and starting Ray, or joining it."""

from __future__ import annotations

import logging
import math
import socket
from dataclasses import dataclass

import ray
from ray.exceptions import RayError

from londi.config import Experiment, ModelConfig
from londi.errors import ConfigError, RunError
from londi.interrupts import held_back


@dataclass(frozen=True)
class Cluster:
    """How an experiment is spread over Ray.

    Raises `ConfigError` for counts below 1, and for GPUs that can't be.
    """

    address: str = "local"
    """`local` starts Ray on this machine; `auto` or an address joins a cluster, whose nodes have londi installed."""
    num_workers: int | None = None
    """Processes that share `train.num_envs` environments. With one, training is what it is without Ray. None is as many
    as the cluster has CPUs, but no more than there are environments, and requests to a server at a time."""
    quick_replicas: int = 1
    """Processes that hold QUICK; a model behind a server needs none, workers ask it themselves."""
    deepthink_replicas: int = 1
    broadcast_updates: int = 20
    """Updates of the learners after which workers are sent what was learned, at the next episode or after a second at
    most; with one worker, whenever something was."""
    quick_gpus: float | None = None
    """GPUs of each replica of QUICK, a fraction where several share one; none for 1 where its `device` is a GPU or it
    has a `device_map`, else 0."""
    deepthink_gpus: float | None = None

    def __post_init__(self) -> None:
        workers = 1 if self.num_workers is None else self.num_workers
        if min(workers, self.quick_replicas, self.deepthink_replicas, self.broadcast_updates) < 1:
            raise ConfigError("a cluster needs at least 1 worker, 1 replica of each model, and broadcast_updates >= 1")
        for gpus in (self.quick_gpus, self.deepthink_gpus):
            _check_share("replica", gpus)

    def workers(self, experiment: Experiment) -> int:
        """Return how many workers play; the cluster is joined.

        Raises `ConfigError` where more were asked for than there are environments.
        """
        envs = experiment.train.num_envs
        if self.num_workers is None:
            limits = [m.server.concurrency for m in (experiment.quick, experiment.deepthink) if served(m)]
            return max(1, min(int(num_cpus()), envs, *limits))
        if self.num_workers > envs:
            raise ConfigError(f"{self.num_workers} workers share {envs} environments (train.num_envs): take fewer")
        return self.num_workers

    def gpus(self, experiment: Experiment) -> tuple[float, float]:
        """Return how many GPUs a replica of QUICK and one of DEEPTHINK take; 0 for a model behind a server.

        Raises `ConfigError` where a model is to be on a GPU and its replicas are to have none.
        """
        quick = _gpus("quick", experiment.quick, self.quick_gpus)
        return quick, _gpus("deepthink", experiment.deepthink, self.deepthink_gpus)


def _check_share(who: str, gpus: float | None) -> None:
    if gpus is not None and (not 0 <= gpus < math.inf or (gpus > 1 and gpus % 1)):
        raise ConfigError(f"a {who} takes a share of a GPU or a whole number of them, not {gpus:g}")


def served(model: ModelConfig) -> bool:
    """Whether a model is behind a server, and needs no replicas."""
    return model.model.startswith("openai:")


def _gpus(name: str, model: ModelConfig, given: float | None) -> float:
    if served(model):
        return 0
    on_gpu = model.device.startswith("cuda")
    if given is None:
        return 1 if on_gpu or model.local.device_map else 0
    if given == 0 and on_gpu and not model.local.device_map:
        raise ConfigError(f"{name}.device is {model.device}, but its replicas get no GPU: set {name}_gpus above 0")
    return given


def check_gpus(experiment: Experiment, cluster: Cluster) -> None:
    """Raise `ConfigError` where the replicas take more GPUs than the cluster that is joined has: they would wait."""
    quick, deepthink = cluster.gpus(experiment)
    need = quick * cluster.quick_replicas + deepthink * cluster.deepthink_replicas
    have = num_gpus()
    if need > have + 1e-6:
        raise ConfigError(
            f"the replicas of QUICK and DEEPTHINK need {need:g} GPUs, the cluster has {have:g}: take fewer replicas, "
            "let them share a GPU (as with --quick-gpus 0.5 --deepthink-gpus 0.5), or take device = 'cpu'"
        )


def run_gpus(experiment: Experiment, given: float | None = None) -> float:
    """Return how many GPUs a run takes that has both models in its own process: those given, else as its devices say.

    It counts what it gets from `cuda:0` on. Raises `ConfigError` where a model's device is none of these.
    """
    _check_share("run", given)
    found = []
    for name, model in (("quick", experiment.quick), ("deepthink", experiment.deepthink)):
        need = _gpus(name, model, None)
        if need and not model.local.device_map:
            number = model.device.partition(":")[2]
            need += int(number) if number.isdecimal() else 0
            if given is not None and need > math.ceil(given):
                raise ConfigError(
                    f"{name}.device is {model.device}, but a run gets {given:g} GPUs, counted from cuda:0: take --gpus "
                    f"{need:g}, or another device"
                )
        found.append(need)
    return max(found) if given is None else given


def check_run(cpus: float, gpus: float) -> None:
    """Raise `ConfigError` where no node of the cluster that is joined has so much: the run would wait."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    have = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    if not any(cpus <= its_cpus + 1e-6 and gpus <= its_gpus + 1e-6 for its_cpus, its_gpus in have):
        most = " or ".join(f"{its_cpus:g} CPUs and {its_gpus:g} GPUs" for its_cpus, its_gpus in sorted(set(have)))
        raise ConfigError(
            f"a run takes {cpus:g} CPUs and {gpus:g} GPUs, the nodes of the cluster have {most}: lower --cpus or "
            "--gpus, or take device = 'cpu'"
        )


def num_gpus(free: bool = False) -> float:
    """How many GPUs the cluster that is joined has, or how many of them nobody has taken."""
    found: dict[str, float] = (ray.available_resources if free else ray.cluster_resources)()  # type: ignore[no-untyped-call]
    return found.get("GPU", 0.0)


def num_cpus() -> float:
    """How many CPUs the cluster that is joined has."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found.get("CPU", 1.0)


def connect(address: str) -> bool:
    """Start Ray on this machine (`local`) or join a cluster (`auto` or its address), quietly.

    Returns False where Ray runs in this process already, which is taken as it is. Raises `RunError` where nothing
    listens, at once (Ray itself goes on trying for minutes), and where Ray runs already and is another cluster.
    """
    if ray.is_initialized():
        _check_joined(address)
        return False
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():
            socket.create_connection((host, int(port)), timeout=10).close()
        with held_back() as check:  # puts back the handler of SIGTERM for which Ray has one of its own, that exits
            ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        check()
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise RunError(f"there is no Ray cluster at '{address}': {str(error).splitlines()[0]}") from error
    return True


def _check_joined(address: str) -> None:
    """Raise `RunError` where an address is not that of the cluster to which this process belongs."""
    joined = ray.get_runtime_context().gcs_address
    if address in ("local", "auto", joined) or address.startswith("ray://"):  # of a client Ray knows no address
        return
    host, _, port = address.rpartition(":")
    try:
        same = port == joined.rpartition(":")[2] and _number(host) in {_number(joined.rpartition(":")[0]), "127.0.0.1"}
    except OSError:
        same = False
    if not same:
        raise RunError(f"this process has joined Ray at {joined}, not '{address}': call ray.shutdown() first")


def _number(host: str) -> str:
    return socket.gethostbyname(host)
