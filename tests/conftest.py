"""Settings for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# No test is timed: a busy machine is no fault. CI looks at the same examples each time, so that what it says is about
# the change at hand; everybody else looks at new ones, and what fails there is kept as a test.
settings.register_profile("csvd", deadline=None, print_blob=True)
settings.register_profile("ci", settings.get_profile("csvd"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "csvd")
