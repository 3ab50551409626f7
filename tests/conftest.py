import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # read when numpy and torch are imported; runs do the same

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

torch.set_num_threads(1)
settings.register_profile("supcl", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("supcl")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config, items):
    """On several cores, a file's tests share a process, and all tests of the pipeline do, as they share one run of it."""
    if config.pluginmanager.hasplugin("xdist"):  # `make compat` does without
        for item in items:
            folder = item.path.parent.name
            item.add_marker(pytest.mark.xdist_group("pipeline" if folder == "pipeline" else item.path.name))
