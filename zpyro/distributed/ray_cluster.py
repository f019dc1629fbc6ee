"""Functions as tasks on the machines of a Ray cluster (``pip install "zpyro[ray]"``).

Every machine needs zpyro and the same files under the same names.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from concurrent.futures import CancelledError, Future
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from zpyro.errors import UserError

INSTALL = 'the backend ray needs Ray; pip install "zpyro[ray]"'
RETRIES = 3
"""How often a task is started again after its process or machine died."""
CONNECT_SECONDS = 10


class RayCluster:
    """A connection to a Ray cluster for the length of a ``with`` block.

    Args:
        address: HOST:PORT of the cluster. Without one, the cluster of $RAY_ADDRESS or the one that
            runs on this machine; if there is none, this machine alone until the block ends. A
            program that called ``ray.init`` keeps its own connection.

    Example:
        with RayCluster() as cluster, cluster.executor() as executor:
            squares = list(executor.map(pow, range(3), (2, 2, 2)))

    Raises:
        UserError: if Ray is not installed or no cluster answers at the address.
    """

    def __init__(self, address: str | None = None) -> None:
        if find_spec("ray") is None:
            raise UserError(INSTALL)
        self.address = address
        self._connected_here = False

    def __enter__(self) -> RayCluster:
        import ray

        if not ray.is_initialized():
            address = self.address or os.environ.get("RAY_ADDRESS")
            advice = "start one with ray start --head, or leave out --ray-address"
            _check_answers(address, advice)
            try:
                ray.init(
                    address,
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                )
            # Of any class: a machine where Ray does not start in time raises a bare Exception.
            except Exception as error:
                reason = str(error).partition("\n")[0]
                where = address or "of this machine"
                raise UserError(f"Ray cluster {where}: {reason}; {advice}") from error
            self._connected_here = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        import ray

        if self._connected_here:
            ray.shutdown()

    @property
    def machines(self) -> list[Mapping[str, float]]:
        """The resources of each machine by Ray's names, such as ``CPU`` and ``GPU``."""
        import ray

        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def executor(
        self,
        *,
        cpus: int = 1,
        gpus: int = 0,
        environment: Mapping[str, str] | None = None,
        new_processes: bool = False,
    ) -> RayExecutor:
        """What runs functions on the cluster.

        Args:
            cpus: cores of each task.
            gpus: GPUs of each task.
            environment: variables of each task beside PYTHONPATH and ZPYRO_* of this process.
            new_processes: whether each task gets a process of its own.
        """
        carried = {name: v for name, v in os.environ.items() if name.startswith("ZPYRO_")}
        if os.environ.get("PYTHONPATH"):
            folders = os.environ["PYTHONPATH"].split(os.pathsep)
            carried["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, folders))
        variables = {**carried, **(environment or {})}
        return RayExecutor(
            num_cpus=cpus,
            num_gpus=gpus,
            # Tasks without one can use workers that Ray has started already.
            runtime_env={"env_vars": variables} if variables else None,
            max_calls=1 if new_processes else 0,
            max_retries=RETRIES,
        )


class RayExecutor(futures.Executor):
    """Runs functions as Ray tasks, with the interface of ``concurrent.futures``.

    A task whose process or machine dies is started again up to :data:`RETRIES` times, so functions
    must continue what they find half done.

    Args:
        options: of ``ray.remote``.
    """

    def __init__(self, **options: Any) -> None:
        import ray

        self._task: Any = ray.remote(**options)(_call)
        self._running: dict[Future[Any], Any] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a task.

        Its future raises what the function raises, ``CancelledError`` after :meth:`shutdown`
        interrupted it, and :class:`UserError` where its processes died too often.
        """
        future: Future[Any] = Future()
        # A future that runs ignores cancel(), which would not reach the task.
        future.set_running_or_notify_cancel()
        task = self._task.remote(fn, args, kwargs)
        self._running[future] = task
        task.future().add_done_callback(lambda done: self._end(future, done))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for the tasks.

        Args:
            wait: whether to wait.
            cancel_futures: drop tasks that have not begun, and interrupt the others as Ctrl-C
                would. A task that catches the interrupt can still return a result.
        """
        import ray

        running = dict(self._running)
        if cancel_futures:
            for task in running.values():
                ray.cancel(task)
        if wait:
            futures.wait(running)

    def _end(self, future: Future[Any], done: Future[Any]) -> None:
        from ray.exceptions import RayError, RayTaskError, TaskCancelledError

        error = done.exception()
        self._running.pop(future)
        if error is None:
            future.set_result(done.result())
        elif isinstance(error, TaskCancelledError):
            future.set_exception(CancelledError())
        elif isinstance(error, RayTaskError):
            # Without this, the message would be the traceback of the other machine.
            future.set_exception(error.cause)
        elif isinstance(error, RayError):
            reason = str(error).partition("\n")[0].rstrip(".")
            advice = "give each task more memory, or see the logs of Ray"
            future.set_exception(UserError(f"backend ray: a task failed ({reason}); {advice}"))
        else:
            future.set_exception(error)


def _call(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return function(*args, **kwargs)


def _check_answers(address: str | None, advice: str) -> None:
    """Ray itself would try for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UserError(f"Ray cluster {address}: does not answer ({error}); {advice}") from error
