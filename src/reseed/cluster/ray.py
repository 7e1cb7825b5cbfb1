"""Parts as tasks of a Ray cluster, which is the user's: Kubernetes, clouds, machines of one's own.

The object store is not used: arrays lie in the study's folder, which all nodes see.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from reseed.cluster.engine import Door, EngineSpec, Needs, variables
from reseed.errors import Interrupted, ReseedError, SpecError, StoreError
from reseed.events import Events

_POLL_SECONDS = 0.5
_ANSWERS_WITHIN = 10.0
"""Seconds, the head of a cluster."""

_RETRIES = 3
"""Of a task whose worker or node is lost."""


class Ray:
    """As many tasks at a time as the cluster has room for, and no more than `workers`.

    Raises:
        SpecError: if Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, spec: EngineSpec) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports to its makers otherwise
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise SpecError("Ray is not installed: pip install 'reseed[ray]'") from error
        self._spec: EngineSpec = spec
        self._ray: Any = ray
        try:
            more: dict[str, Any] = {}
            host, _, port = spec.address.rpartition(":")
            if host and "://" not in spec.address:
                # Ray itself asks for minutes
                socket.create_connection((host, int(port)), _ANSWERS_WITHIN).close()
                more["_node_ip_address"] = os.environ.get("RAY_NODE_IP_ADDRESS")
            ray.init(
                spec.address,
                ignore_reinit_error=True,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": variables(spec)},
                **{name: value for name, value in more.items() if value},
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise SpecError(
                f"there is no Ray cluster at {spec.address!r} ({error}); `ray start --head` starts "
                "one, and `--engine FILE` with address = 'HOST:6379' names another"
            ) from error

    def run(
        self, door: Door, folder: Path, parts: Sequence[str], needs: Needs, events: Events
    ) -> None:
        """See `Engine.run`."""
        ray: Any = self._ray
        task = ray.remote(door).options(
            num_cpus=self._spec.cpus,
            num_gpus=needs.gpus,
            memory=int(self._spec.gib * 2**30),
            max_retries=_RETRIES,
        )
        waiting, under_way = list(parts), dict[Any, str]()
        where = str(folder.absolute())
        with _cancelled_at_an_error(ray, under_way):
            while waiting or under_way:
                while waiting and len(under_way) < self._spec.workers:
                    part = waiting.pop(0)
                    under_way[task.remote(where, part, needs.device, needs.ranks)] = part
                done, _ = ray.wait(list(under_way), timeout=_POLL_SECONDS)
                for reference in done:
                    part = under_way.pop(reference)
                    try:
                        ray.get(reference)
                    except ray.exceptions.RayTaskError as error:
                        cause: Any = getattr(error, "cause", error)
                        if isinstance(cause, Interrupted):
                            events.say(f"part {part!r} was stopped; it is started again")
                        elif isinstance(cause, ReseedError):
                            raise cause from error
                        else:
                            raise StoreError(f"part {part!r} failed: {error}") from error
                    except ray.exceptions.RayError as error:
                        events.say(f"part {part!r} was lost ({type(error).__name__})")


@contextlib.contextmanager
def _cancelled_at_an_error(ray: Any, under_way: dict[Any, str]) -> Generator[None, None, None]:
    try:
        yield
    except BaseException:
        for reference in under_way:
            ray.cancel(reference, force=False)
        raise
