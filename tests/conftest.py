import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # read when numpy and torch are imported; runs do the same
os.environ["SUPCL_RUNS"] = "off"  # a run that is tested is executed

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

torch.set_num_threads(1)
settings.register_profile("supcl", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("supcl")
