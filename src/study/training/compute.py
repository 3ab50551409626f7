"""Where and how a model is trained: device, precision, compilation, processes, and batches larger than memory.

From Python or a notebook, launch() starts the processes of one machine. From a shell, torchrun or `accelerate launch` starts
them, on one machine or several, and the same launch, train or run_all in a script then runs in each of them:

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 script.py
    accelerate launch --multi_gpu --num_processes 8 script.py

torch itself brings autocast, the scaler of fp16 and DistributedDataParallel; accelerate joins processes and starts them.
"""

import contextlib
import os
import socket
import tempfile
import warnings
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cloudpickle
import joblib
import torch
from joblib.externals.loky import ProcessPoolExecutor
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
DEVICES = ("cpu", "cuda", "mps", "auto")


@dataclass(frozen=True)
class Compute:
    """What a run is computed with. Losses are in float32 whatever the precision, and evaluation is.

    device       "cpu", "cuda", "mps" or "auto", the best of these that is here.
    precision    of the encoder's passes: "float32", "bf16", or "fp16" with its loss scaled. Weights and heads stay float32.
    world_size   so many processes share every batch, each with its own GPU or its share of the cores. torchrun and `accelerate
                 launch` say themselves how many.
    compiled     whether torch.compile is applied to the encoder for training.
    chunk        at most so many images go through the encoder at a time, so that a batch may be larger than memory; the
                 gradient is that of the whole batch (Gao et al., 2021, GradCache). Batch norm takes its statistics over a
                 chunk, and counts each twice in its running ones. None: the whole batch at once.
    workers      so many processes read ahead for each that trains, where pictures stay in files; 0: it reads them itself.
    checkpoints  folder for a checkpoint of each run, from which it goes on after a stop; None keeps none.

    Raises ValueError where a setting is not known, or not possible on this machine (on use).
    """

    device: str = "cpu"
    precision: str = "float32"
    world_size: int = 1
    compiled: bool = False
    chunk: int | None = None
    workers: int = 1
    checkpoints: str | None = None

    def __post_init__(self):
        for name, allowed in (("device", DEVICES), ("precision", tuple(PRECISIONS)), ("compiled", (False, True))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {allowed}.")
        for name, least, otherwise in (("world_size", 1, ""), ("chunk", 1, " or None"), ("workers", 0, "")):
            value = getattr(self, name)
            if not (type(value) is int and value >= least or otherwise and value is None):
                raise ValueError(f"{name} is {value!r}; expected a whole number >= {least}{otherwise}.")

    def torch_device(self):
        """The torch.device that `device` names. Raises ValueError if it is not here, or too small for `world_size`."""
        if self.device == "cpu":
            return torch.device("cpu")
        here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
        if self.device not in ("auto", here.type):
            raise ValueError(f'device is "{self.device}"; this machine has "{here.type}". "auto" takes what there is.')
        if here.type != "cpu" and self.world_size > torch.accelerator.device_count():
            room = torch.accelerator.device_count()
            raise ValueError(f"world_size is {self.world_size} but there are {room} GPUs; expected at most one process for each.")
        return here

    @property
    def runs_share_cores(self):
        """Whether runs go side by side, each on one core: on the CPU with one process."""
        return self.world_size == 1 and not _started_together() and self.torch_device().type == "cpu"


LAPTOP = Compute()


@contextlib.contextmanager
def one_core(compute):
    """Where runs share the cores, torch and numpy compute with one thread inside, in the main process as in a worker. Several
    threads add numbers up in another order, and the last digits would depend on the machine."""
    if not compute.runs_share_cores:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


class Place(NamedTuple):
    """Of a process among those that train one model."""

    rank: int  # from 0, the main process
    world_size: int
    device: torch.device


def place(compute):
    """The Place of this process, which joins the others if it was started with some."""
    device = compute.torch_device()
    if not _started_together():
        return Place(0, 1, device)
    from accelerate import PartialState  # here, not above: it takes a second to load

    # while the main process evaluates the others wait for it
    state = PartialState(cpu=device.type == "cpu", timeout=timedelta(days=1))
    return Place(state.process_index, state.num_processes, device if device.type == "cpu" else state.device)


def launch(function, *arguments, compute):
    """function(*arguments) in each of compute.world_size new processes; returns what it returned in the main one.

    With one process, or where torchrun or `accelerate launch` has started this one, it is called right here. All travel by
    cloudpickle, so functions defined in a notebook do. accelerate's launcher forks, which hangs where threads have been at work
    and fails where a GPU has: so it runs in a fresh process. Raises RuntimeError, with the trace, where a process fails.
    """
    if compute.world_size == 1 or _started_together():
        return function(*arguments)
    device = compute.torch_device().type  # asked here, as the question alone may make a process unfit to fork
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result"
        executor = ProcessPoolExecutor(1)
        try:
            task = partial(_run_and_save, function, arguments, result, compute)
            executor.submit(_fork, task, compute.world_size, device).result()
        finally:
            executor.shutdown(kill_workers=True)  # also after Ctrl-C
        return cloudpickle.loads(result.read_bytes())


def _fork(task, world_size, device):
    from accelerate import debug_launcher, notebook_launcher

    try:
        if device == "cpu":
            debug_launcher(task, num_processes=world_size)
        else:
            notebook_launcher(task, num_processes=world_size, use_port=str(_free_port()))
    except Exception as error:  # of a kind that does not pickle
        raise RuntimeError(f"one of {world_size} processes failed: {error}") from None


def _run_and_save(function, arguments, result, compute):
    threads = max(joblib.cpu_count() // compute.world_size, 1)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # accelerate would choose, and warn that it does
    torch.set_num_threads(threads)
    rank = place(compute).rank
    returned = function(*arguments)
    if rank == 0:
        result.write_bytes(cloudpickle.dumps(returned))


def _started_together():
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def embed(encoder, inputs, compute):
    """The encoder's embeddings in compute's precision and chunks, then cast to float32; a float64 encoder's stay float64."""
    dtype = PRECISIONS[compute.precision]
    with torch.autocast(inputs.device.type, dtype=dtype, enabled=dtype is not None):
        embeddings = _in_chunks(encoder, inputs, compute.chunk) if compute.chunk else encoder(inputs)
    return embeddings.float() if embeddings.dtype == dtype else embeddings


def _in_chunks(encoder, inputs, chunk):
    """Checkpointing keeps of each chunk its embeddings alone. Backward then starts from the loss's gradient with respect to
    these, and runs chunk by chunk again, with the random numbers of the first time."""
    return torch.cat([checkpoint(encoder, part, use_reentrant=False) for part in inputs.split(chunk)])


def training_module(model, compute, place):
    """A module (inputs, loss_of) -> loss_of(the model's outputs), whose backward leaves the gradient of the mean over processes
    in the model. With several GPUs, batch norm in the model takes its statistics over all of them from now on."""
    if place.world_size > 1 and place.device.type == "cuda":
        from timm.layers import convert_sync_batchnorm  # torch's own would drop the activations in timm's batch norms

        convert_sync_batchnorm(model)
    module = _Loss(model, compute)
    if place.world_size == 1:
        return module
    # SmallMapConv2d's gradients, whose strides differ in axes of length 1, which is nothing
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # each keeps batch norm's running statistics of its own share: training makes no use of them, train() ends with the main one's
    return DistributedDataParallel(module, find_unused_parameters=True, forward_sync_buffers=False)


class _Loss(nn.Module):
    """The loss is part of the module because DistributedDataParallel waits for every parameter that the module's result depends
    on, and a method may leave a head unused."""

    def __init__(self, model, compute):
        super().__init__()
        self.model, self.compute = model, compute
        self.encoder = torch.compile(model.encoder) if compute.compiled else model.encoder

    def forward(self, inputs, loss_of):
        return loss_of(self.model.outputs(embed(self.encoder, inputs, self.compute)))
