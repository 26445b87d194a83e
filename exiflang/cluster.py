"""Parts of a plan → done, by Dask: on this machine, or on a cluster that runs already."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dask.distributed import Client, LocalCluster, as_completed
from tqdm.auto import tqdm

from exiflang.downloads import Limits
from exiflang.parts import part_name, prepare_part
from exiflang.shards import DataError
from exiflang.storage import Store

SHOWN = 3  # failures that a message names
PATIENCE = 20  # seconds until a scheduler must have answered


def run_parts(root: str, parts: int, limits: Limits, *, workers: int, scheduler: str = "") -> None:
    """Do what is not done yet of a plan's parts 0 to `parts` - 1.

    Args:
        root: folder or URL with the plan, which the workers see under the same name.
        limits: of downloads, for each worker.
        workers: processes on this machine; with 1, or one part to do, this process itself.
        scheduler: address of a Dask scheduler, e.g. "tcp://10.0.0.1:8786", whose workers have exiflang installed; ""
            starts a cluster of `workers` on this machine for as long as it takes.

    A part whose worker dies is done again by another one. Raises `DataError` when all others are done if a part failed,
    or if nobody answers at `scheduler`.
    """
    done = set(Store(root).names("index"))
    todo = [part for part in range(parts) if f"index/{part_name(part)}.parquet" not in done]
    if not todo:
        return
    failures = []
    with tqdm(total=parts, initial=parts - len(todo), unit=" shards") as bar:
        if min(workers, len(todo)) == 1 and not scheduler:
            results = _here(root, todo, limits)
        else:
            results = _by_dask(root, todo, limits, workers, scheduler)
        for failure in results:
            bar.update()
            if failure:
                failures.append(failure)
    if failures:
        raise DataError(
            f"{len(failures)} of {parts} shards failed ({'; '.join(failures[:SHOWN])}): what is done is kept; mend "
            "the source and run it again"
        )


def _here(root: str, todo: Sequence[int], limits: Limits) -> Iterator[str]:
    for part in todo:
        try:
            prepare_part(root, part, limits)
            yield ""
        except (DataError, OSError) as error:
            yield f"shard {part_name(part)}: {error}"


def _by_dask(root: str, todo: Sequence[int], limits: Limits, workers: int, scheduler: str) -> Iterator[str]:
    with _client(workers, scheduler) as client:
        print(f"{len(client.scheduler_info(n_workers=-1)['workers'])} workers, dashboard: {client.dashboard_link}")
        futures = [client.submit(prepare_part, root, part, limits, pure=False) for part in todo]
        parts = dict(zip(futures, todo, strict=True))
        for future in as_completed(futures):
            error = future.exception()
            yield f"shard {part_name(parts[future])}: {error}" if error else ""
            future.release()


@contextmanager
def _client(workers: int, scheduler: str) -> Iterator[Client]:
    if scheduler:
        try:
            client = Client(scheduler, timeout=PATIENCE)
        except (OSError, TimeoutError, ValueError) as error:
            advice = "check the address, or leave scheduler empty for workers on this machine"
            raise DataError(f"{scheduler}: no Dask scheduler answers ({error}): {advice}") from error
        with client:
            yield client
    else:
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,  # a worker that dies is no news: its part is done again
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
