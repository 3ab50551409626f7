"""What all runs share, as notebooks give it, and the models that it stands for."""

import pickle

import pytest
import torch
from small_runs import new_setup

from study.runs import Recipe, Setup, load_model, new_model
from study.training.model import Architecture


def test_a_setup_of_mappings_is_a_key_of_a_cache_and_pickles(vit_setup):
    again = pickle.loads(pickle.dumps(vit_setup))
    assert again == vit_setup and hash(again) == hash(vit_setup) and {vit_setup: 1}[again] == 1
    assert vit_setup.recipe == Recipe("momentum", 0.2, 0.01, 0.65, "simclr") and isinstance(vit_setup.encoder, Architecture)
    assert new_setup("", encoder="test_vit").encoder == "test_vit"


def test_a_new_model_has_the_encoder_and_the_heads_of_the_mapping(vit_setup):
    model = new_model(vit_setup)
    assert [tuple(w.shape) for w in model.projection.parameters() if w.ndim == 2] == [(16, 64), (8, 16)]
    assert model.classifier.weight.abs().max() < 0.001 * 64**-0.5
    assert model.encoder.backbone.global_pool == "avg"
    assert model.encoder.backbone.blocks[-1].drop_path1.drop_prob == pytest.approx(0.15)


def test_a_saved_model_is_loaded_once(vit_setup, tmp_path):
    path = str(tmp_path / "model.pt")
    torch.save(new_model(vit_setup).state_dict(), path)
    assert load_model(vit_setup, path) is load_model(pickle.loads(pickle.dumps(vit_setup)), path)


@pytest.mark.parametrize("wrong", [{"optimizer": "adam"}, {"augmentation": "color"}])
def test_a_recipe_refuses_what_it_does_not_know(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong.values()))}.*expected one of"):
        Recipe(**wrong)


@pytest.mark.parametrize("wrong", [{"warm_up": 10}, {"final": 0}])
def test_a_schedule_is_given_in_shares(wrong):
    with pytest.raises(ValueError, match="expected shares"):
        Recipe(**wrong)


def test_a_loaded_model_is_the_saved_one_in_eval_mode(setup, tmp_path):
    model = new_model(setup).eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    images = torch.rand(2, 1, 32, 32)
    loaded = load_model(setup, str(tmp_path / "model.pt"))
    assert not loaded.training
    assert torch.equal(loaded(images).logits, model(images).logits)


def test_loading_leaves_the_random_numbers_alone(setup, tmp_path):
    torch.save(new_model(setup).state_dict(), tmp_path / "model.pt")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_model(setup, str(tmp_path / "model.pt"))
    assert torch.equal(torch.rand(3), expected)


def test_a_missing_model_names_the_notebook_that_writes_it(setup, tmp_path):
    with pytest.raises(FileNotFoundError, match="The notebook cross_entropy writes it"):
        load_model(setup, str(tmp_path / "none.pt"))


def test_a_setup_is_described_by_keywords():
    with pytest.raises(TypeError, match="positional"):
        Setup("shared", "digits")
