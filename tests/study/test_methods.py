"""The registry has all that is asked about a method, and says what is missing."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small import CLASSES, data, new_model, soft_labels

from study.methods import METHODS, registry
from study.training.loop import make_batch
from supcl.losses import genscl_loss


def step():
    """Outputs and Batch of two views."""
    x, labels = data()
    batch = make_batch([x, x + 0.1], labels, None, CLASSES)
    return new_model()(batch.inputs), batch


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_s_objective_takes_its_settings_and_gives_a_loss_with_a_gradient(method):
    outputs, batch = step()
    fields = method.fields()
    loss = fields["objective"](outputs, batch)
    assert loss.ndim == 0 and torch.autograd.grad(loss, outputs.embedding)[0].abs().max() > 0
    assert (fields["method"], fields["classifier"], fields["settings"]) == (method.name, method.classifier, method.settings)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"settings": {"temperature": 0.1}}, "SupCon has settings temperature; its objective takes temperature, form"),
        ({"classifier": "mlp"}, "SupCon has classifier 'mlp'; expected"),
        ({"colour": "blue"}, "SupCon has colour 'blue'; expected six hexadecimal digits"),
    ],
)
def test_what_a_method_lacks_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(METHODS["SupCon"], **wrong)


@pytest.mark.parametrize("what", ["name", "key", "colour"])
def test_methods_do_not_share_what_tells_them_apart(what):
    one, other = METHODS["CE"], METHODS["SupCon"]
    with pytest.raises(ValueError, match=f"several methods have the {what} {getattr(one, what)}"):
        registry(one, replace(other, **{what: getattr(one, what)}))


def test_changed_settings_reach_the_objective_and_the_record():
    outputs, batch = step()
    fields = METHODS["CE"].fields(label_smoothing=0.3)
    assert fields["settings"] == {"label_smoothing": 0.3} and METHODS["CE"].settings == {"label_smoothing": 0.0}
    expected = F.cross_entropy(outputs.logits, batch.labels, label_smoothing=0.3)
    assert torch.equal(fields["objective"](outputs, batch), expected)


def test_an_unknown_setting_is_refused_by_name():
    with pytest.raises(TypeError, match="SupCon has no setting hardness; expected temperature, form"):
        METHODS["SupCon"].fields(hardness=1.0)


def test_a_teacher_adds_the_loss_on_what_it_says_and_is_no_setting():
    outputs, batch = step()
    fields = METHODS["GenSCL"].fields(teacher=soft_labels)
    kinds = batch.label_distributions, soft_labels(batch)
    expected = sum(genscl_loss(outputs.projection, q, temperature=0.1) for q in kinds)
    torch.testing.assert_close(fields["objective"](outputs, batch), expected)
    assert fields["settings"] == {"temperature": 0.1}
