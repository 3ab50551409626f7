import os
import sys

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # read when numpy and torch are imported; runs do the same
os.environ["SUPCL_RUNS"] = "off"  # a run that is tested is executed

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

torch.set_num_threads(1)
settings.register_profile("supcl", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("supcl")


@pytest.fixture
def compiler():
    """Skips the test where torch.compile does not know this Python."""
    if sys.version_info >= (3, 13) and tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        pytest.skip("torch.compile works on Python 3.13 from torch 2.6 on")
