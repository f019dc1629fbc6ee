"""``--backend ray``, with two workers of a Ray cluster on this machine."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests import processes
from tests.cli.conftest import SMALL, Zpyro
from tests.datasets.test_preparation import same
from zpyro.analysis.comparison import RayExecutor, executors
from zpyro.datasets.blizzard import Blizzard, BlizzardSettings
from zpyro.datasets.prepared import prepare, shards
from zpyro.distributed import ray_cluster
from zpyro.distributed.processes import ENVIRONMENT
from zpyro.distributed.ray_cluster import RayCluster
from zpyro.errors import UserError
from zpyro.training.trainer import Trainer

PLUGIN = """
import os, signal, sys, time
from pathlib import Path
from zpyro.training.trainer import Trainer

step = Trainer.step

def watched_step(trainer, batch):
    step(trainer, batch)
    if "ray" not in sys.modules:
        return
    import on_the_path
    lost = Path(os.environ["ZPYRO_LOST"])
    if trainer.state.step == 9 and not lost.exists():
        lost.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if trainer.state.step == 11 and "ZPYRO_STOPS" in os.environ:
        Path(os.environ["ZPYRO_STOPS"]).touch()
        while trainer.interruption.signal is None:
            time.sleep(0.01)

Trainer.step = watched_step
"""
"""A run in Ray dies at the ninth step, and then waits for a signal at the eleventh."""


def start_ray(attempts: int) -> None:
    """Two workers; Ray gives up after 30 seconds, and a busy machine may need more at first."""
    import ray

    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
    try:
        ray.init("local", num_cpus=2, _node_ip_address="127.0.0.1", **options)
    except Exception as error:
        if attempts == 1 or "timed out during startup" not in str(error):
            raise
    else:
        return
    with warnings.catch_warnings():
        # Of processes that the failed start leaves.
        warnings.simplefilter("ignore", ResourceWarning)
        ray.shutdown()
        gc.collect()
    start_ray(attempts - 1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """Two workers."""
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # No token is left in the home directory; the cluster is reached from this machine only.
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")
        handler = signal.getsignal(signal.SIGTERM)
        start_ray(attempts=3)
        with RayCluster() as connected:
            yield connected
        assert ray.is_initialized()
        ray.shutdown()
        signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven recordings, a shard for every one or two."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 1500)
    for number, frames in enumerate((40, 102, 6, 33, 71, 12, 58)):
        path = tmp_path / "books" / f"book{number % 2}" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = (1000 * number + np.arange(20 * frames) // 20).astype("<i2")
        soundfile.write(path, samples, 16_000, subtype="PCM_16")
    return tmp_path / "books"


@pytest.mark.usefixtures("cluster")
def test_prepared_data_are_those_of_one_machine(
    zpyro: Zpyro, books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (books / "book0" / "bad.wav").write_bytes(b"RIFF")
    settings = BlizzardSettings(frame_size=20, segment_length=5)
    whole = prepare(Blizzard(), books, tmp_path / "whole", settings, skip_bad=True)
    assert len(whole.index["shards"]) > 3
    # Ray's workers have another working directory.
    monkeypatch.chdir(tmp_path)
    # Without variables to carry, tasks need no new workers.
    monkeypatch.delenv("ZPYRO_TEST_DATA", raising=False)
    sizes = "--set=data.frame_size=20", "--set=data.segment_length=5"
    command = "data", "prepare", "blizzard", "books", *sizes, "--out", "out", "--backend=ray"
    result = zpyro(*command)
    assert result.exit_code == 2
    assert "bad.wav" in result.stderr
    result = zpyro(*command, "--skip-bad")
    assert result.exit_code == 0, result.output
    assert "8 of 8 files" in result.stderr
    assert same(tmp_path / "whole", tmp_path / "out")


def results(folder: Path) -> list[dict[str, Any]]:
    """The results of the runs of a comparison, without times."""
    found = [json.loads(p.read_text()) for p in sorted(folder.glob("*/*/result.json"))]
    for result in found:
        del result["seconds"]
    return found


@pytest.mark.usefixtures("cluster")
def test_lost_and_stopped_runs_end_as_local_ones(
    zpyro: Zpyro, arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The command line is in this process, and the plugin replaces the method.
    monkeypatch.setattr(Trainer, "step", Trainer.step)
    plugin, path = tmp_path / "watched.py", tmp_path / "path"
    plugin.write_text(PLUGIN)
    path.mkdir()
    (path / "on_the_path.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "path")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ZPYRO_LOST", str(tmp_path / "lost"))
    stops = tmp_path / "stops"
    words = ("compare", "--dataset", "npz", "--data", arrays, *SMALL, "--models", "vrnn")
    words = (*words, "--seeds", 1, "--budget-steps", 20, "--particles", 2, "--plugin", plugin)
    words = (*words, "--set=train.log_every=1", "--set=train.checkpoint_every=4")
    with monkeypatch.context() as patch:
        patch.setattr(executors.subprocess, "Popen", processes.Module)
        done = zpyro(*words, "--out", "local")
    assert done.exit_code == 0, done.output

    def stop() -> None:
        while not stops.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    words = (*words, "--out", "ray", "--backend", "ray")
    with monkeypatch.context() as patch:
        patch.setenv("ZPYRO_STOPS", str(stops))
        stopper = threading.Thread(target=stop)
        stopper.start()
        done = zpyro(*words)
        stops.touch()
        stopper.join()
    assert done.exit_code == 128 + signal.SIGTERM, done.output
    assert "vrnn seed 0: submitted; its log is " in done.output
    assert "vrnn seed 0: stopped and saved" in done.output
    assert "the same command resumes from here" in done.output
    assert (tmp_path / "lost").exists()
    assert not results(tmp_path / "ray")
    done = zpyro(*words)
    assert done.exit_code == 0, done.output
    assert "1 run, 1 to do; ray" in done.output
    assert results(tmp_path / "ray") == results(tmp_path / "local")
    log = (tmp_path / "ray" / "vrnn" / "seed-0" / "log.txt").read_text()
    assert "step 20  " in log


def test_errors_of_tasks(cluster: RayCluster) -> None:
    with cluster.executor() as executor:
        bad = executor.submit(int, "x")
        with pytest.raises(ValueError, match=r"^invalid literal for int\(\) with base 10: 'x'$"):
            bad.result()
    with ray_cluster.RayExecutor(max_retries=0) as executor:
        lost = executor.submit(os._exit, 1)
        with pytest.raises(UserError, match=r"^backend ray: a task failed \(.*died.*\); give each"):
            lost.result()


class Elsewhere:
    """A cluster whose tasks run in threads of this process."""

    def __init__(self, **resources: float) -> None:
        self.machines = [resources]
        self.options: Mapping[str, Any] = {}

    def executor(self, **options: Any) -> ThreadPoolExecutor:
        self.options = options
        return ThreadPoolExecutor(1)


@pytest.mark.fast
def test_what_a_run_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    wanted: list[tuple[int, int, str]] = []
    for resources, device in (
        ({"CPU": 8.0}, "auto"), ({"CPU": 1.0}, "cpu"), ({"CPU": 8.0, "GPU": 4.0}, "auto"),
        ({"CPU": 8.0, "GPU": 4.0}, "cpu"), ({"CPU": 8.0, "GPU": 4.0}, "cuda"),
    ):  # fmt: skip
        cluster: Any = Elsewhere(**resources)
        RayExecutor(cluster, device=device)
        threads = cluster.options["environment"]["OMP_NUM_THREADS"]
        wanted.append((cluster.options["cpus"], cluster.options["gpus"], threads))
    assert wanted == [(2, 0, "2"), (1, 0, "1"), (2, 1, "2"), (2, 0, "2"), (2, 1, "2")]
    cluster = Elsewhere(CPU=8.0)
    with pytest.raises(UserError, match="device is cuda, but the Ray cluster has no GPU"):
        RayExecutor(cluster, device="cuda")
    with pytest.raises(UserError, match=r"device is cuda:1, .* give cuda without an index"):
        RayExecutor(cluster, device="cuda:1")


@pytest.mark.fast
def test_a_folder_that_machines_do_not_share(tmp_path: Path) -> None:
    cluster: Any = Elsewhere(CPU=2.0)
    executor = RayExecutor(cluster)
    job = executors.Job("rnn", 0, tmp_path / "elsewhere")
    spec = executors.ComparisonSpec(tmp_path, (), (0,))
    assert executor.submit(spec, job) == "submitted"
    with pytest.raises(UserError, match=r"elsewhere: is not on machine .*; choose an --out that"):
        executor.wait(100.0)


@pytest.mark.fast
def test_mistakes(
    zpyro: Zpyro, arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = (
        "compare",
        "--dataset",
        "npz",
        "--data",
        arrays,
        "--budget-steps",
        4,
        "--out",
        tmp_path,
    )
    prepares = "data", "prepare", "blizzard", tmp_path, "--out", tmp_path / "out"
    remote = "--backend", "ray"

    def message(*words: object) -> str:
        result = zpyro(*words)
        assert result.exit_code == 2
        return result.stderr.splitlines()[-1]

    for words in (compare, prepares):
        found = message(*words, "--ray-address", "head:6379")
        assert found == "error: --ray-address: has no effect without Ray; add --backend ray"
    assert "--part and --backend ray: give one of them" in message(*prepares, *remote, "--part=1/2")
    assert "--workers and --backend ray: give one" in message(*prepares, *remote, "--workers=2")
    with monkeypatch.context() as patch:
        for name in ENVIRONMENT:
            patch.setenv(name, {"RANK": "0", "LOCAL_RANK": "0"}.get(name, "2"))
        assert "leave out torchrun" in message(*compare, *remote)
    with monkeypatch.context() as patch:
        patch.setattr(ray_cluster, "find_spec", lambda _: None)
        for words in (compare, prepares):
            found = message(*words, *remote)
            assert found == 'error: the backend ray needs Ray; pip install "zpyro[ray]"'
    pytest.importorskip("ray", reason="the extra ray is not installed")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    found = message(*compare, *remote, "--ray-address", "127.0.0.1:1")
    assert found.startswith("error: Ray cluster 127.0.0.1:1: does not answer (")
    assert found.endswith("; start one with ray start --head, or leave out --ray-address")
