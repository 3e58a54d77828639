"""ClusterOptions: where the target's batches are computed. Light: the command line is built from it."""

from dataclasses import dataclass, fields

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.settings import check_at_least, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterOptions:
    """Workers on a Ray cluster, each with an engine or a target of its own. None of it decides a result."""

    ray: str | None = setting(
        None,
        "Ray cluster whose workers run the target: auto (the one that this machine is part of), HOST:PORT, or local, "
        "one of this machine alone, which ends with the command. Every node needs this environment and the target.",
        none="no cluster, this process",
    )
    ray_workers: int | None = setting(
        None, "How many workers there are.", none="as many as its GPUs have room for; without GPUs one a node"
    )
    ray_gpus: float | None = setting(
        None, "GPUs of a worker.", none="those of --tensor-parallel-size if the cluster has GPUs, else none"
    )
    ray_cpus: float | None = setting(None, "CPUs of a worker.", none="1 beside GPUs, else a node's fair share")

    def __post_init__(self) -> None:
        check_at_least(self, ray_workers=1, ray_gpus=0, ray_cpus=0)
        given = [one.name for one in fields(self) if one.name != "ray" and getattr(self, one.name) is not None]
        if given and self.ray is None:
            raise InputError(given[0], "expected ray beside it, got none")
