"""What a progress line says of the cache and the clock, and that a stored notebook has none of it."""

from datetime import datetime, timedelta

from study.progress import Progress, without_remarks


def test_it_says_how_many_came_from_the_cache_and_when_the_last_will_have_ended():
    seconds = iter([0.0, 3600.0, 7200.0])
    progress = Progress(missing=4, clock=lambda: next(seconds))
    assert progress.remark(from_cache=True) == "  [1 from the cache]"
    for left in (3, 2):  # hours, at one a run
        remark = progress.remark(from_cache=False)
        expected = {f"{datetime.now() + timedelta(hours=left, seconds=s):%H:%M}" for s in (-2, 0)}
        assert remark in {f"  [1 from the cache; ends about {time}]" for time in expected}


def test_when_all_have_ended_nothing_is_left_to_say():
    assert Progress(missing=1).remark(from_cache=False) == ""


def test_a_stored_notebook_has_the_lines_without_these_remarks():
    progress = Progress(missing=3)
    lines = ["  1/3 CE, 20 per class: 70.1 % on test", "  2/3 CE", " a line [of a notebook's own]"]
    text = lines[0] + progress.remark(True) + "\n" + lines[1] + progress.remark(False, "f uses open [see f]") + "\n" + lines[2]
    assert "[1 from" in text and "not cached" in text
    assert without_remarks(text) == "\n".join(lines)
