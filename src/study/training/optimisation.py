"""How a model's weights are moved: optimiser, schedule of the learning rate, layer-wise decay."""

from dataclasses import dataclass
from functools import partial

import torch


def lars(parameters, **settings):
    """You et al. (2017): each layer's step in proportion to its weights, for batches of thousands."""
    from timm.optim import Lars  # here, not above: see model.ImageEncoder

    return Lars(parameters, momentum=0.9, **settings)


OPTIMIZERS = {
    "adamw": partial(torch.optim.AdamW, fused=True),
    "rmsprop": partial(torch.optim.RMSprop, momentum=0.9),
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "momentum": partial(torch.optim.SGD, momentum=0.9),  # SupCon's and GenSCL's released code
    "lars": lars,
}


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """What one training run does to the weights, beside its loss.

    epochs       passes over the images. An epoch has N // batch_size steps, at least one; the images left over sit out until the
                 next shuffle.
    batch_size   images a step.
    optimizer    a name in OPTIMIZERS.
    warm_up      share of the steps in which the learning rate rises, from a 25th of its highest value.
    final        the last learning rate, as a share of the highest.
    layer_decay  see parameter_groups; None: one learning rate and weight decay for all parameters.
    """

    learning_rate: float
    weight_decay: float
    epochs: int
    batch_size: int
    optimizer: str = "adamw"
    warm_up: float = 0.1
    final: float = 4e-6
    layer_decay: float | None = None

    def new_optimizer(self, model):
        rate, decay = self.learning_rate, self.weight_decay
        parameters = parameter_groups(model, rate, decay, self.layer_decay) if self.layer_decay else model.parameters()
        return OPTIMIZERS[self.optimizer](parameters, lr=rate, weight_decay=decay)

    def new_schedule(self, optimizer, steps):
        """The one-cycle schedule over so many steps: warm-up and decay are both half a cosine."""
        highest = [group["lr"] for group in optimizer.param_groups]
        shape = {"pct_start": self.warm_up, "final_div_factor": 1 / (25 * self.final), "cycle_momentum": False}
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, total_steps=steps + 1, **shape)


def parameter_groups(model, learning_rate, weight_decay, layer_decay):
    """Parameters of a Model on an ImageEncoder for an optimiser, each group with its `lr` and `weight_decay`.

    The last layer of the encoder and the heads learn at learning_rate, each layer before at layer_decay times the rate of the
    one after it. Weights of one dimension (biases, norms) and those that the encoder names, such as position embeddings, do not
    decay. Both as timm has it from BEiT's fine-tuning code.
    """
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay  # here, not above: see model.ImageEncoder

    backbone, heads = model.encoder.backbone, torch.nn.ModuleList([model.projection, model.classifier])
    undecayed = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()
    groups = param_groups_layer_decay(backbone, weight_decay, undecayed, layer_decay=layer_decay)
    groups += param_groups_weight_decay(heads, weight_decay)
    return [
        {"params": group["params"], "weight_decay": group["weight_decay"], "lr": learning_rate * group.get("lr_scale", 1.0)}
        for group in groups
    ]
