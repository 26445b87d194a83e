"""The jobs of a plan → done, by Dask: on this machine, or on a cluster that runs already."""

import logging
from collections.abc import Iterator, Sequence

from tqdm.auto import tqdm

from exiflang.data.shards import DataError
from exiflang.preparation.options import Limits, Work
from exiflang.preparation.shard_job import job_name, run_job
from exiflang.utils.extras import extra
from exiflang.utils.storage import Store

with extra("data"):
    from dask.distributed import Client, as_completed

SHOWN = 3  # failures that a message names
PATIENCE = 20  # seconds until a scheduler must have answered


def run_jobs(root: str, jobs: int, limits: Limits, work: Work) -> None:
    """Do those of a plan's jobs 0 to `jobs` - 1 that are not done yet.

    Args:
        root: folder or URL with the plan, which the workers see under the same name.
        limits: of downloads, for each worker.
        work: a scheduler whose workers have exiflang installed, or the size of a cluster on this machine for as long as
            it takes; with one worker, or one job to do, this process does it.

    A job whose worker dies is done again by another one. Raises `DataError` when all others are done if a job failed,
    or if no scheduler answers.
    """
    done = set(Store(root).names("index"))
    todo = [job for job in range(jobs) if f"index/{job_name(job)}.parquet" not in done]
    if not todo:
        return
    failures = []
    with tqdm(total=jobs, initial=jobs - len(todo), unit=" shards") as bar:
        here = min(work.workers, len(todo)) == 1 and not work.scheduler
        results = _here(root, todo, limits) if here else _by_dask(root, todo, limits, work)
        for failure in results:
            bar.update()
            if failure:
                failures.append(failure)
    if failures:
        raise DataError(
            f"{len(failures)} of {jobs} shards failed ({'; '.join(failures[:SHOWN])}): what is done is kept; mend "
            "the source and run it again"
        )


def _here(root: str, todo: Sequence[int], limits: Limits) -> Iterator[str]:
    for job in todo:
        try:
            run_job(root, job, limits)
            yield ""
        except (DataError, OSError) as error:
            yield f"shard {job_name(job)}: {error}"


def _by_dask(root: str, todo: Sequence[int], limits: Limits, work: Work) -> Iterator[str]:
    with _client(work) as client:
        print(f"{len(client.scheduler_info(n_workers=-1)['workers'])} workers, dashboard: {client.dashboard_link}")
        futures = [client.submit(run_job, root, job, limits, pure=False) for job in todo]
        jobs = dict(zip(futures, todo, strict=True))
        for future in as_completed(futures):
            error = future.exception()
            yield f"shard {job_name(jobs[future])}: {error}" if error else ""
            future.release()


def _client(work: Work) -> Client:
    """Of the scheduler named, or of a cluster on this machine that ends with it."""
    if not work.scheduler:
        return Client(
            n_workers=work.workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,  # a worker that dies is no news: its job is done again
        )
    try:
        return Client(work.scheduler, timeout=PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        advice = "check the address, or leave scheduler empty for workers on this machine"
        raise DataError(f"{work.scheduler}: no Dask scheduler answers ({error}): {advice}") from error
