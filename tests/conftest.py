import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("supcl", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("supcl")
