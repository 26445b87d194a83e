"""One background task at a time, the latest one: finished, canceled, failed, replaced."""

import threading

from exiflang.inspection.widget.background import Background


def made() -> tuple[Background, list, list]:
    heard, said = [], []
    return Background(heard.append, lambda text, failed: said.append((text, failed))), heard, said


class Held:
    """A task that waits, once started, until it may continue; then it reports progress and returns "old"."""

    def __init__(self):
        self.going, self.go_on = threading.Event(), threading.Event()

    def __call__(self, progress):
        self.going.set()
        self.go_on.wait(10)
        progress(0.5)
        return "old"


def test_a_task_is_run_and_its_progress_reported():
    background, heard, said = made()
    found = []
    background.start(lambda progress: progress(0.5) or 42, found.append)
    background.wait(10)
    assert found == [42] and heard == [0.0, 0.5, 1.0]
    assert said[0][0].startswith("Done in") and said[0][1] is False


def test_a_canceled_task_stops_at_its_next_step_without_a_result():
    background, _, said = made()
    work, found = Held(), []
    background.start(work, found.append)
    work.going.wait(10)
    background.cancel()
    work.go_on.set()
    background.wait(10)
    assert found == [] and said == [("Canceled.", False)]


def test_a_new_task_replaces_the_running_one():
    background, _, said = made()
    work, found = Held(), []
    background.start(work, found.append)
    work.going.wait(10)
    background.start(lambda progress: "new", found.append)
    work.go_on.set()
    background.wait(10)
    assert found == ["new"] and len(said) == 1  # nothing is reported about the old one


def test_failures_are_reported_and_later_tasks_still_run():
    background, _, said = made()

    def wrong(progress):
        raise ValueError("a.jpg: not a picture")

    def broken(progress):
        raise KeyError("x")

    for work in (wrong, broken):
        background.start(work, lambda found: None)
        background.wait(10)
    assert said == [("a.jpg: not a picture", True), ("KeyError: 'x'", True)]
    background.start(lambda progress: 1, lambda found: None)
    background.wait(10)
    assert said[-1][1] is False


def test_wait_and_cancel_do_nothing_without_a_task():
    background, _, said = made()
    background.wait()
    background.cancel()
    assert said == []
