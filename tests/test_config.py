"""params.yaml at the door: what is wrong is named by its path, what YAML mangles is mended."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from atft.config import load_params
from atft.errors import InputError
from conftest import set_knobs

ROOT = Path(__file__).parents[1]


def load(folder: Path, monkeypatch: pytest.MonkeyPatch, **knobs: Any) -> Any:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    set_knobs(params, knobs)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(folder)
    return load_params()


@pytest.mark.parametrize(
    ("knob", "value", "says"),
    [
        (
            "train__optimizer",
            "adabelif",
            r"train.optimizer: Input should be 'adamw', 'adabelief' or 'shampoo' \(given: 'adabelif'\)",
        ),
        ("train__optimzer", "adamw", "train.optimzer: Extra inputs are not permitted"),
        ("extra", 1, "extra: Extra inputs"),
        ("train__lr", "foo", "train.lr: Input should be a valid number"),
        ("train__lr", float("nan"), "train.lr: Input should be a finite number"),
        ("train__lr", -1.0, "train.lr: Input should be greater than 0"),
        ("train__epochs", 2.5, "train.epochs: Input should be a valid integer"),
        ("train__epochs", "3", "train.epochs: Input should be a valid integer"),
        ("train__neighbor_means", "yes please", "train.neighbor_means: Input should be a valid boolean"),
        ("split__purge", 20, "split.purge: 20 days let labels overlap .* set at least 21"),
        ("split__scheme", "kfold", "split.scheme: Input should be 'expanding', 'rolling' or 'purged_kfold'"),
        ("split__embargo", -1, "split.embargo: Input should be greater than or equal to 0"),
        ("data__horizons", [1, 5, 30], "split.purge: 21 days let labels overlap"),
        ("data__delay", 0, "data.delay: Input should be greater than or equal to 1"),
        ("evaluate__primary_horizon", 3, "evaluate.primary_horizon: 3 is not in data.horizons"),
        ("model__hidden", 30, "model: hidden .30. must be a multiple of heads"),
        ("model__fan_components", 15, "model: fan_components must be at most"),
        ("train__schedule", "linear", "train.schedule: Input should be 'constant', 'cosine' or 'cosine_restarts'"),
        ("train__t_0", 1.5, "train.t_0: Input should be a valid integer"),
        ("train__t_mult", 0, "train.t_mult: Input should be greater than or equal to 1"),
        ("train__warmup_share", 1.0, "train.warmup_share: Input should be less than 1"),
        ("train__warmup_epochs", -1, "train.warmup_epochs: Input should be greater than or equal to 0"),
        ("train__lr_floor", 1.1, "train.lr_floor: Input should be less than or equal to 1"),
        ("train__ema_decay", 1.0, "train.ema_decay: Input should be less than 1"),
        ("train__feature_clip", 0.5, "train: feature_clip: 0.5 would shrink every gradient; 0 is off, else at least 1"),
        ("train__mse_weight", -0.1, "train.mse_weight: Input should be greater than or equal to 0"),
        ("train__rank_method", "soft", "train.rank_method: Input should be 'linear', 'cdf' or 'sigmoid'"),
        ("train__rank_temperature", 0, "train.rank_temperature: Input should be greater than 0"),
        ("train__quantile_weight", 0.5, r"train.quantile_weight: needs levels in model.quantiles, such as \[0.1,"),
        ("model__quantiles", [0.1, 0.9], "model.quantiles: nothing would train them; set train.quantile_weight, or"),
        ("model__quantiles", [0.1, 1], r"model.quantiles.1: Input should be less than 1 \(given: 1\)"),
        ("model__quantiles", [0.0, 0.5], "model.quantiles.0: Input should be greater than 0"),
        ("model__quantiles", [0.5, 0.1], "model: quantiles must ascend, each level once"),
        ("model__quantiles", [0.1, 0.1], "model: quantiles must ascend, each level once"),
        ("model__quantiles", [0.1, 0.100001], "model: quantiles must ascend, each level once, to four digits"),
        ("model__selection", "vsn", "model.selection: Input should be 'hinge', 'paper' or 'none'"),
        ("model__attention_dropout", 1.0, "model.attention_dropout: Input should be less than 1"),
        ("model__attention_scores", "bound", "model.attention_scores: Input should be 'free' or 'normalized'"),
        ("train__portfolio_weight", -1, "train.portfolio_weight: Input should be greater than or equal to 0"),
        ("train__portfolio_cost_bps", -1, "train.portfolio_cost_bps: Input should be greater than or equal to 0"),
        ("train__regime_weighting", -0.5, "train.regime_weighting: Input should be greater than or equal to 0"),
        (
            "train__horizon_weights",
            [1, 2],
            "train.horizon_weights: 2 weights for 4 data.horizons; give one for each, or",
        ),
        ("train__horizon_weights", [1, 2, 1, 0], "train.horizon_weights.3: Input should be greater than 0"),
        ("seeds", [0, 0], "must not repeat"),
        ("data__file__columns", {"date": "d"}, "data.file: columns must map exactly"),
        ("split__valid", ["soon"], "split.valid"),
        ("pretrain__task", "mask", "pretrain.task: Input should be 'masked', 'contrastive', 'both' or 'none'"),
        (
            "pretrain__target",
            "raw",
            "pretrain.target: Input should be 'sector_neutral', 'beta_neutral' or 'sector_beta",
        ),
        ("pretrain__mask_share", 0, "pretrain.mask_share: Input should be greater than 0"),
        ("pretrain__temperature", 0, "pretrain.temperature: Input should be greater than 0"),
        ("pretrain__contrastive_weight", 0, "pretrain.contrastive_weight: Input should be greater than 0"),
        ("pretrain__lags", [3], "pretrain.lags.0: Input should be greater than or equal to 4"),
        ("pretrain__lags", [], "pretrain.lags: List should have at least 1 item"),
        ("predict__fold", "newest", "predict.fold"),
        ("predict__seeds", [], "predict.seeds"),
        ("predict__book_days", 5, "predict.book_days: 5 days are too few .*primary_horizon . 1 = 6"),
        ("predict__retrain_after", 0, "predict.retrain_after: Input should be greater than or equal to 1"),
        ("predict__stale_after", -1, "predict.stale_after: Input should be greater than or equal to 0"),
        ("predict__universe_change", 1.5, "predict.universe_change: Input should be less than or equal to 1"),
        ("predict__unknown_share", -0.1, "predict.unknown_share: Input should be greater than or equal to 0"),
        ("train__freeze_epochs", -1, "train.freeze_epochs: Input should be greater than or equal to 0"),
    ],
)
def test_a_wrong_knob_is_refused_with_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knob: str, value: Any, says: str
) -> None:
    with pytest.raises(InputError, match=says) as error:
        load(tmp_path, monkeypatch, **{knob: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ({"scheme": "purged_kfold", "valid": 1}, "split: valid: with scheme purged_kfold the number of folds"),
        ({"scheme": "purged_kfold", "valid": ["2015-01-01"]}, "split: valid: with scheme purged_kfold the number"),
        ({"scheme": "purged_kfold", "lookback": 38}, "split.lookback: 38 days let .* so set at least 39"),
        ({"scheme": "rolling", "train_days": 119}, r"split: train_days \(119\) is less than min_train_days \(120\)"),
    ],
)
def test_a_scheme_asks_for_what_it_needs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: dict[str, Any], says: str
) -> None:
    knobs = {f"split__{name}": value for name, value in split.items()}
    with pytest.raises(InputError, match=says) as error:
        load(tmp_path, monkeypatch, **knobs)
    assert "\n" not in str(error.value)
    assert load(tmp_path, monkeypatch, **knobs | {"split__scheme": "expanding", "split__test": split.get("valid", 1)})


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"epochs": 1, "regime_weighting": 1.0}, "train: regime_weighting: weighs days from the second epoch on"),
        ({"portfolio_weight": 0.1, "days_per_step": 1}, "train.portfolio_weight: a block of one day trades nothing"),
    ],
)
def test_a_knob_that_could_do_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knobs: dict[str, Any], says: str
) -> None:
    train = {f"train__{name}": value for name, value in knobs.items()}
    for name in train:
        assert load(tmp_path, monkeypatch, **{other: train[other] for other in train if other != name})
    with pytest.raises(InputError, match=says):
        load(tmp_path, monkeypatch, **train)


@pytest.mark.parametrize("task", ["contrastive", "both"])
@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"pretrain__lags": [5, 21]}, r"pretrain.lags: two views at a lag of 21 days span 2 \* 21 - 1 days, more than"),
        ({"model__lookback": 19}, r"pretrain.lags: two views at a lag of 20 days .* set lags of at most 19"),
        ({"pretrain__lags": [5, 5]}, "pretrain.lags and pretrain.channels must not repeat a value"),
        ({"pretrain__channels": ["return_1", "return_5"]}, "pretrain.channels: 'return_5' is no change of one day, so"),
    ],
)
def test_views_that_could_share_days_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, knobs: dict[str, Any], says: str
) -> None:
    """Where there are views; a column of a table is its maker's to vouch for."""
    assert load(tmp_path, monkeypatch, **knobs, pretrain__task="masked")
    with pytest.raises(InputError, match=says) as error:
        load(tmp_path, monkeypatch, **knobs, pretrain__task=task)
    assert "\n" not in str(error.value)
    if "pretrain__channels" in knobs:
        table = {"data__source": "table", "pretrain__channels": ["mine"]}
        assert load(tmp_path, monkeypatch, **table, pretrain__task=task)


def test_regime_weighting_needs_states_that_the_block_does_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = {"split__scheme": "purged_kfold", "split__valid": 3}
    assert load(tmp_path, monkeypatch, **split)
    with pytest.raises(InputError, match=r"train.regime_weighting: must be 0 with split.scheme purged_kfold"):
        load(tmp_path, monkeypatch, **split, train__regime_weighting=1.0)


def test_a_network_needs_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"train: huber_weight, mse_weight, .* are all 0: nothing to learn"):
        load(tmp_path, monkeypatch, train__huber_weight=0, train__rank_weight=0)
    for term in ("huber", "mse", "correlation", "rank", "portfolio"):
        off = {"train__huber_weight": 0, "train__rank_weight": 0}
        load(tmp_path, monkeypatch, **off | {f"train__{term}_weight": 0.1})


def test_quantiles_and_their_weight_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load(tmp_path, monkeypatch, model__quantiles=[0.1, 0.5, "9e-1"], train__quantile_weight=0.5)
    assert params.model.quantiles == [0.1, 0.5, 0.9]


def test_what_exp_run_writes_is_read_as_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "params.yaml").read_text()
    text = text.replace("lr: 0.003", "lr: 1e-05").replace('graph: "on"', "graph: off")
    text = text.replace("  valid: 2 ", "  valid: ['2015-11-05']").replace("  test: 1 ", "  test: [2016-07-14]")
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    params = load_params()
    assert params.train.lr == 1e-5
    assert params.model.graph == "off"
    assert str(params.split.valid[0]) == "2015-11-05"  # pyright: ignore
    assert str(params.split.test[0]) == "2016-07-14"  # pyright: ignore


def test_every_knob_is_documented() -> None:
    """Each leaf of params.yaml has a comment on its line."""
    lines = (ROOT / "params.yaml").read_text().splitlines()
    leaves = [line for line in lines if ":" in line.split("#")[0] and not line.split("#")[0].rstrip().endswith(":")]
    bare = [line.strip() for line in leaves if "#" not in line]
    self_explaining = {"code: code", "high: high", "low: low", "close: close", "sector: sector", "industry: industry"}
    assert set(bare) <= self_explaining
