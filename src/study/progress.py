"""The end of a progress line: what depends on the clock and on the cache, and so does not belong in a stored notebook."""

import re
import time
from datetime import datetime, timedelta

REMARK = r"  \[(?:\d+ from the cache|ends about|not cached).*\]$"  # as a notebook's check has it too: tests/nbval.cfg


class Progress:
    """Of the runs of one call, of which so many are missing in the cache. clock: () -> seconds."""

    def __init__(self, missing, clock=time.monotonic):
        self.missing, self.clock, self.start = missing, clock, clock()
        self.executed = self.cached = 0

    def remark(self, from_cache, why_not=""):
        """What to say after one more run: how many came from the cache so far, and when the last will have ended, if those still
        to come take as long as those executed so far. from_cache: whether this one did; why_not: why it cannot be stored there.
        """
        self.cached, self.executed = self.cached + from_cache, self.executed + (not from_cache)
        parts = [f"{self.cached} from the cache"] if self.cached else []
        if self.executed and (left := self.missing - self.executed):
            seconds = (self.clock() - self.start) / self.executed * left
            parts.append(f"ends about {datetime.now() + timedelta(seconds=seconds):%H:%M}")
        if why_not:
            parts.append(f"not cached: {why_not}")
        return f"  [{'; '.join(parts)}]" if parts else ""


def without_remarks(text):
    return re.sub(REMARK, "", text, flags=re.MULTILINE)
