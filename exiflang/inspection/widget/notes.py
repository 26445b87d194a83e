"""Status and note on the picture that is shown: read from its report in the export folder, and kept there."""

from __future__ import annotations

from pathlib import Path

from exiflang.inspection.inspector import Inspection, Inspector
from exiflang.inspection.report import Provenance, report_path, write_report
from exiflang.inspection.review import Review, change_review, kept_review
from exiflang.inspection.widget.controls import Controls
from exiflang.utils.files import absolute_path


class Notes:
    """The fields for status and note; what was typed wins over what a report says."""

    def __init__(self, controls: Controls):
        self._own, self._known = controls, Review()
        self._shown: Inspection | None = None
        controls.folder.observe(lambda _: None if self._changed() else self._read(), "value")

    def show(self, inspection: Inspection) -> None:
        """Show the status and note of a picture, from its report if there is one in the export folder."""
        self._shown = inspection
        self._read()

    def write(self, inspection: Inspection, inspector: Inspector, anew: bool) -> Path:
        """Write what was typed to the picture's report, which is written first if it is missing or `anew`.

        Returns the path of its page. Raises `OSError`, and `ValueError` for a note that is too long.
        """
        own, folder = self._own, absolute_path(self._own.folder.value)
        page = report_path(inspection, folder)
        if anew or not (page.is_file() and page.with_suffix(".json").is_file()):
            write_report(inspection, folder, Provenance.of(inspector))
        if self._changed():
            self._known = change_review(page, own.review.value, own.note.value)
            own.note.value = self._known.note
        return page

    def _changed(self) -> bool:
        return (self._own.review.value, self._own.note.value) != (self._known.status, self._known.note)

    def _read(self) -> None:
        if self._shown is None:
            return
        page = report_path(self._shown, absolute_path(self._own.folder.value))
        self._known = kept_review(page.with_suffix(".json"), self._shown.picture.sha256)
        self._own.review.value, self._own.note.value = self._known.status, self._known.note
        self._own.saved.value = ""
