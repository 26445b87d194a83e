"""Run the jobs of a plan with Dask, on this machine or on an existing cluster."""

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

SHOWN = 3  # failures listed in a message
PATIENCE = 20  # seconds to wait for a scheduler


def run_jobs(root: str, jobs: int, limits: Limits, work: Work) -> None:
    """Do the unfinished ones of a plan's jobs 0 to `jobs` - 1.

    Args:
        root: folder or URL of the plan; workers must see it under the same name.
        limits: for downloads, per worker.
        work: a scheduler whose workers have exiflang installed, or the size of a temporary cluster on this machine; a
            single worker or a single job runs in this process.

    If a worker dies, another one repeats its job. Raises `DataError` if a job failed, after all others are done, or if
    no scheduler responds.
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
            f"{len(failures)} of {jobs} shards failed ({'; '.join(failures[:SHOWN])}): finished shards are kept; fix "
            "the source and run again"
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
    """A client of the given scheduler, or of a local cluster that ends with the client."""
    if not work.scheduler:
        return Client(
            n_workers=work.workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,  # a worker's death needs no report: its job is repeated
        )
    try:
        return Client(work.scheduler, timeout=PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        advice = "check the address, or leave scheduler empty for workers on this machine"
        raise DataError(f"{work.scheduler}: no Dask scheduler responds ({error}): {advice}") from error
