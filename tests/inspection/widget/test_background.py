"""One piece of work at a time, the latest one: done, canceled, failed, replaced."""

import threading

from exiflang.inspection.widget.background import Background


def made() -> tuple[Background, list, list]:
    heard, said = [], []
    return Background(heard.append, lambda text, failed: said.append((text, failed))), heard, said


class Held:
    """Work that waits, once it is going, until it may go on; then it tells its share and gives "old"."""

    def __init__(self):
        self.going, self.go_on = threading.Event(), threading.Event()

    def __call__(self, progress):
        self.going.set()
        self.go_on.wait(10)
        progress(0.5)
        return "old"


def test_work_is_done_and_its_progress_heard():
    background, heard, said = made()
    found = []
    background.start(lambda progress: progress(0.5) or 42, found.append)
    background.wait(10)
    assert found == [42] and heard == [0.0, 0.5, 1.0]
    assert said[0][0].startswith("Done in") and said[0][1] is False


def test_canceled_work_stops_at_its_next_step_and_gives_nothing():
    background, _, said = made()
    work, found = Held(), []
    background.start(work, found.append)
    work.going.wait(10)
    background.cancel()
    work.go_on.set()
    background.wait(10)
    assert found == [] and said == [("Canceled.", False)]


def test_new_work_replaces_what_is_under_way():
    background, _, said = made()
    work, found = Held(), []
    background.start(work, found.append)
    work.going.wait(10)
    background.start(lambda progress: "new", found.append)
    work.go_on.set()
    background.wait(10)
    assert found == ["new"] and len(said) == 1  # of the old one nothing is said


def test_failures_are_said_and_do_not_end_it():
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


def test_without_work_there_is_nothing_to_wait_for_or_cancel():
    background, _, said = made()
    background.wait()
    background.cancel()
    assert said == []
