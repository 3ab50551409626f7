"""A training run's state in a file, so that a run stopped anywhere goes on as if it had not been."""

from pathlib import Path

import torch
import torch.distributed as dist

from study.writing import whole


class Checkpoint:
    """A file with all that later epochs depend on.

    path      None: nothing is kept.
    place     of this process; the main one reads and writes, and random states of every process are kept.
    settings  {name: value} of the run. Those of a file must be the same.
    parts     {name: object with state_dict and load_state_dict}.

    Of random states torch's are kept, those of random and numpy are not.
    """

    def __init__(self, path, place, settings, parts):
        self.path, self.place, self.settings, self.parts = path and Path(path), place, settings, parts

    def save(self, progress):
        """Write everything with progress, numbers in lists and dictionaries. The file is replaced at once, when complete."""
        if not self.path:
            return
        random = _of_all_processes(self._random_state(), self.place)
        if self.place.rank == 0:
            state = {name: part.state_dict() for name, part in self.parts.items()}
            state |= {"settings": self.settings, "random": random, "progress": progress}
            with whole(self.path) as unfinished, unfinished.open("wb") as file:
                torch.save(state, file)

    def load(self):
        """Put everything back and return the progress that was saved; None if there is no file. Raises ValueError, before
        anything is changed, if the file is not of this run."""
        state = self._read()
        if state is None:
            return None
        for name, value in self.settings.items():
            if (saved := state["settings"].get(name)) != value:
                raise ValueError(
                    f"{self.path} is of a run with {name} {saved}, this one has {value}. Delete the file to begin anew, or "
                    "name another."
                )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        for kind, random in state["random"][self.place.rank].items():
            _generator(kind).set_rng_state(random)
        return state["progress"]

    def _read(self):
        """By the main process for all, whose disks may be others."""
        state = [None]
        if self.path and self.place.rank == 0 and self.path.exists():
            state = [torch.load(self.path, map_location="cpu", weights_only=True)]
        if self.path and self.place.world_size > 1:
            dist.broadcast_object_list(state)
        return state[0]

    def _random_state(self):
        return {kind: _generator(kind).get_rng_state() for kind in {"cpu", self.place.device.type}}


def _generator(kind):
    return torch.random if kind == "cpu" else torch.get_device_module(kind)


def _of_all_processes(x, place):
    everyone = [x] * place.world_size
    if place.world_size > 1:
        dist.all_gather_object(everyone, x)
    return everyone
