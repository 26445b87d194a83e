"""Rules on Content Credentials (C2PA specification)."""

from exiflang.headers.facts import Facts
from exiflang.headers.findings import Rule
from exiflang.headers.history_rules import source_words


def _present(facts: Facts) -> str | None:
    if not facts.photo:
        return None
    found = facts.credentials
    if found is None:
        return ""
    by = f' by "{found.generator}"' if found.generator else ""
    state = {
        "valid": "signed, and unchanged since; who signed was not checked",
        "changed": "verification failed",
        "invalid": f"not valid ({found.reason})",
        "unverified": f"not verified: {found.reason}",
    }[found.state]
    return f"It has Content Credentials (C2PA){by}: {state}."


def _changed(facts: Facts) -> str | None:
    found = facts.credentials
    if found is None or found.state == "unverified":
        return None
    broken = "Its Content Credentials do not fit the file: one of them was changed after signing."
    return broken if found.state == "changed" else ""


def _generated(facts: Facts) -> str | None:
    found = facts.credentials
    if found is None or not found.sources:
        return None
    said = next((words for words, by_model in map(source_words, found.sources) if by_model), "")
    return f"Its Content Credentials declare it {said}." if said else ""


_C2PA = "C2PA specification 2.2"
RULES = (
    Rule("credentials", "info", f"{_C2PA}, 11.1, use of JUMBF", _present, by_tags=False),
    Rule("credentials_changed", "strong", f"{_C2PA}, 15.12, validate the asset's content", _changed, by_tags=False),
    Rule("credentials_generated", "strong", f"{_C2PA}, 18.15, actions", _generated, by_tags=False),
)
