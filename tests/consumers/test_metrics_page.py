from __future__ import annotations

from consumers.metrics import SERIES
from consumers.metrics_page import PAGE, PROCESSES, families, page, sample_names

IDS = {"user", "item", "id", "token", "record", "offset", "user_id", "item_id", "key"}


def test_page_is_what_the_code_declares() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == page(), "run `python -m consumers.metrics_page`"
    assert f"at most {SERIES} series" in written


def test_every_family_has_the_prefix_a_text_and_labels_that_name_no_id() -> None:
    for process in PROCESSES:
        for family in families(process):
            assert family.name.startswith("freshet_")
            assert family.text.endswith(".")
            assert not IDS & set(family.labels)


def test_units_stand_last_in_names() -> None:
    for process in PROCESSES:
        for family in families(process):
            assert not family.name.endswith(("_ms", "_millis", "_kb", "_mb", "_percent", "_total"))
            if family.type == "histogram":
                assert family.name.endswith(("_seconds", "_bytes"))


def test_queries_may_use_samples_of_all_types() -> None:
    assert {
        "freshet_events_total",
        "freshet_commit_seconds_bucket",
        "freshet_build_info",
        "up",
    } <= sample_names()
    assert "freshet_disk_free_bytes" in sample_names()
