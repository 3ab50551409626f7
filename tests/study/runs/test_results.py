"""What runs leave in results/ is small, complete and without numbers in names."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small import cross_entropy
from small_runs import FEATURES, FEW, outcome

from study.runs import execute, read_runs, table, write_checks, write_results
from study.runs.results import COLUMNS, CURVE_COLUMNS, curves, principal

FULL = replace(FEW, method="CE", objective=cross_entropy, classifier="own", trained_on="full", shots=None, epochs=1, settings={})


def blank(rows):
    """Values of rows, None where they are blank."""
    return rows.astype(object).where(rows.notna(), None).values.tolist()


def test_table_has_a_row_per_run_and_metric_with_settings_as_json(setup):
    metrics = {"accuracy": 71.5, "isotropy": 0.25}
    outcomes = [outcome(FEW, metrics, seconds=1.2345), outcome(FEATURES, metrics, seconds=2.0)]
    rows = table(outcomes, setup)
    assert rows.columns.tolist() == [
        *["method", "variant", "regime", "trained_on", "dataset", "shots", "seed", "epoch", "metric", "value", "seconds"],
        "settings",
    ]
    assert blank(rows.iloc[:, :11]) == [
        ["SupCon", "plain", "fine-tuning", "few-shot", "digits", 5, 0, None, "accuracy", 71.5, 1.23],
        ["SupCon", "plain", "fine-tuning", "few-shot", "digits", 5, 0, None, "isotropy", 0.25, 1.23],
        ["CE", "plain", "fine-tuning", "features", "digits", None, 0, None, "accuracy", 71.5, 2.0],
        ["CE", "plain", "fine-tuning", "features", "digits", None, 0, None, "isotropy", 0.25, 2.0],
    ]
    few, features = json.loads(rows.settings[0]), json.loads(rows.settings[2])
    assert few == {
        "encoder": "test_resnet", "weights": "none", "image_size": 32, "weight_decay": 0.01, "batch_size": 32,
        "learning_rate": 0.003, "epochs": 2, "classifier": "probe", "evaluate_on": "test", "temperature": 0.1,
        "optimizer": "adamw", "warm_up": 0.1, "final": 4e-6, "layer_decay": None, "augmentation": "crop",
        "pixels": "digits of scikit-learn",
    }  # fmt: skip
    assert features == {
        "encoder": "test_resnet", "weights": "none", "image_size": 32, "weight_decay": 0.01, "batch_size": 50,
        "learning_rate": 0.01, "epochs": 2, "classifier": "own", "evaluate_on": "test", "optimizer": "adamw",
        "pixels": "digits of scikit-learn",
    }  # fmt: skip


def test_metrics_of_every_epoch_have_the_epoch_in_a_column(setup):
    rows = table([outcome(FEW, {"accuracy": 70.0}, epoch_metrics={"test": [1.0, 2.0]})], setup)
    assert blank(rows[["epoch", "metric", "value"]]) == [[None, "accuracy", 70], [1, "test", 1], [2, "test", 2]]


def test_curves_have_a_row_per_reported_run_and_epoch(setup):
    few, full = replace(FEW, variant="main"), replace(FULL, variant="main")
    tried = outcome(FEW, losses=[9.0])
    recorded, unrecorded = outcome(few, losses=[2.0, 1.0], curve=[40.0, 60.0]), outcome(full, losses=[1.5])
    rows = curves([(setup, [tried, recorded]), (replace(setup, regime="scratch"), [unrecorded])])
    assert rows.columns.tolist() == CURVE_COLUMNS
    assert blank(rows) == [
        ["SupCon", "main", "fine-tuning", "few-shot", 5, 0, 1, 2.0, 40.0],
        ["SupCon", "main", "fine-tuning", "few-shot", 5, 0, 2, 1.0, 60.0],
        ["CE", "main", "scratch", "full", None, 0, 1, 1.5, None],
    ]


def test_written_results_are_what_the_runs_gave(setup, tmp_path):
    main, folder = replace(FEW, variant="main"), tmp_path / "supcon"
    outcomes = [
        outcome(replace(main, variant="trial"), {"accuracy": 1.0}, losses=[3.0]),
        outcome(main, {"accuracy": 70.0}, losses=[2.0], predictions=np.array([1, 2]), embeddings=np.ones((2500, 4))),
        outcome(replace(main, seed=1), {"accuracy": 80.0}, losses=[1.0], predictions=np.array([3, 4])),
        outcome(replace(main, shots=20), {"accuracy": 90.0}, losses=[1.0], embeddings=np.zeros((3, 4))),
    ]
    whole = outcome(replace(FULL, variant="label smoothing"), {"accuracy": 95.0}, predictions=np.array([5, 6]))
    on_features = outcome(FEATURES, {"accuracy": 99.0})
    write_results(folder, (setup, outcomes), (replace(setup, regime="scratch"), [whole, on_features]))
    runs = read_runs(folder / "runs.csv")
    assert runs.value.tolist() == [1, 70, 80, 90, 95, 99] and runs.columns.tolist() == COLUMNS
    assert runs.shots.tolist()[:4] == [5, 5, 5, 20] and runs.shots[4:].isna().all() and runs.epoch.isna().all()
    assert runs.regime.tolist() == ["fine-tuning"] * 4 + ["scratch"] * 2
    assert json.loads(runs.settings[0])["temperature"] == 0.1
    assert pd.read_csv(folder / "curves.csv").loss.tolist() == [2, 1, 1]  # of the reported runs alone
    with np.load(folder / "predictions.npz") as arrays:
        assert sorted(arrays) == ["embedding_5", "label smoothing_full", "main_20", "main_5", "trial_5"]
        assert arrays["main_5"].tolist() == [[1, 2], [3, 4]] and arrays["main_5"].dtype == np.uint8
        assert arrays["main_20"].shape == arrays["trial_5"].shape == (1, 3)
        assert arrays["label smoothing_full"].tolist() == [[5, 6]]
        assert arrays["embedding_5"].shape == (2000, 4) and arrays["embedding_5"].dtype == np.float16
    assert {path.name for path in folder.iterdir()} == {"runs.csv", "curves.csv", "predictions.npz", "registered.json"}


def test_whole_numbers_are_written_as_such(setup, tmp_path):
    outcomes = [outcome(replace(FEW, variant="main"), {"accuracy": 1.0}), outcome(FEATURES, {"accuracy": 2.0})]
    write_results(tmp_path, (setup, outcomes))
    first, second = (tmp_path / "runs.csv").read_text().splitlines()[1:]
    assert first.startswith("SupCon,main,fine-tuning,few-shot,digits,5,0,,accuracy,1.0,") and second.startswith(
        "CE,plain,fine-tuning,features,digits,,0,,"
    )


def test_classes_beyond_255_keep_their_numbers(setup, tmp_path):
    main = outcome(replace(FEW, variant="main"), {"accuracy": 1.0}, predictions=np.array([0, 300, 5088]))
    write_results(tmp_path, (setup, [main]))
    assert np.load(tmp_path / "predictions.npz")["main_5"].tolist() == [[0, 300, 5088]]


def test_principal_directions_keep_cosines_and_order_what_they_keep():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(80, 6)) @ rng.normal(size=(6, 40)) + 3
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    reduced = principal(z).astype(float)
    assert reduced.shape == (80, 40) and np.allclose(reduced @ reduced.T, unit @ unit.T, atol=2e-3)  # rounded to float16
    spread = (reduced**2).sum(0)
    assert (spread[:-1] >= spread[1:] - 1e-6).all() and np.allclose(principal(z, 3), principal(z)[:, :3])
    assert np.array_equal(principal(5 * z), principal(z))


def test_the_table_of_runs_on_all_images_says_so_and_how_they_were_trained(vit_setup, tmp_path):
    main = replace(FULL, variant="main")
    outcomes = [execute(replace(main, **changes), vit_setup) for changes in ({"keep": True}, {"optimizer": "sgd", "seed": 1})]
    runs = write_results(tmp_path, (vit_setup, outcomes))
    assert set(runs.trained_on) == {"full"} and runs.shots.isna().all()
    record, other = (json.loads(text) for text in runs.settings.unique())
    assert record["encoder"]["name"] == "test_vit" and ["drop_path_rate", 0.15] in record["encoder"]["options"]
    assert (record["optimizer"], record["layer_decay"], record["augmentation"]) == ("momentum", 0.65, "simclr")
    assert other["optimizer"] == "sgd"
    with np.load(tmp_path / "predictions.npz") as arrays:
        assert arrays["main_full"].shape == (2, 450) and arrays["embedding_full"].shape == (450, 50)


def test_checks_read_back_to_the_last_digit(tmp_path):
    rows = [("gradient formula", 0, 1 / 3 * 1e-16), ("gradient formula", 1, 0.1), ("hard negatives, in points", 0, -12.5)]
    written = write_checks(tmp_path / "supcon", iter(rows))
    read = pd.read_csv(tmp_path / "supcon" / "checks.csv")
    assert read.columns.tolist() == written.columns.tolist() == ["check", "seed", "value"]
    assert list(read.itertuples(index=False, name=None)) == list(written.itertuples(index=False, name=None)) == rows


def test_a_check_without_its_seed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="columns"):
        write_checks(tmp_path / "supcon", [("gradient formula", 0.1)])
    assert not (tmp_path / "supcon").exists()
