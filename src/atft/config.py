"""`params.yaml` as frozen types. Every knob lives in that file; there are no defaults here.

Unknown keys, wrong types and values outside their bounds are refused with the key's path, before
any stage starts to work. Rules that span sections stand at the end of `Params`.
"""

import re
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from atft import paths
from atft.errors import InputError
from atft.panel.sources import OPTIONAL, REQUIRED


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-05`, which `dvc exp run -S` writes, as text."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+[eE][-+]?\d+", value) else value


def _date(value: Any) -> Any:
    return date.fromisoformat(value) if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value) else value


def _switch(value: Any) -> Any:
    """YAML 1.1 reads a bare `on` or `off` as a boolean."""
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Part = Annotated[Number, Field(gt=0, le=1)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Day = Annotated[date, BeforeValidator(_date)]


Kind = TypeVar("Kind", bound=BaseModel)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Simulated(Section):
    stocks: Annotated[int, Field(ge=40)]
    days: Annotated[int, Field(ge=100)]
    market: Literal["standard", "hard"]
    seed: Whole


class File(Section):
    path: str
    columns: dict[str, str | None]
    sectors: list[str] | None

    @model_validator(mode="after")
    def _names(self) -> Self:
        expected = {*REQUIRED, *OPTIONAL}
        if wrong := expected ^ set(self.columns):
            raise ValueError(
                f"columns must map exactly {', '.join((*REQUIRED, *OPTIONAL))}; check {sorted(wrong)[0]!r}"
            )
        return self


class Defects(Section):
    all_null: Literal["drop", "refuse"]
    constant: Literal["drop", "refuse"]
    duplicate: Literal["drop", "refuse"]
    non_finite: Literal["drop", "refuse"]
    price_level: Literal["drop", "refuse"]


class Table(Section):
    path: str
    features: Annotated[list[str], Field(min_length=1)]
    exclude: list[str]
    forward_names: list[str]
    defects: Defects
    canary_rank_ic: Positive
    canary_icir: Positive
    daily_target: str | None


Family = Literal[
    "momentum", "shape", "volatility", "volume", "beta", "liquidity", "alpha158", "calendar", "relative", "market"
]


class Data(Section):
    source: Literal["simulated", "file", "table"]
    simulated: Simulated
    file: File
    table: Table
    horizons: Annotated[list[Count], Field(min_length=1)]
    delay: Count
    min_history: Count
    min_dollar_volume: NotNegative
    max_daily_return: Positive
    news_volume: Positive
    label: Literal["raw", "sector_neutral", "beta_neutral", "sector_beta_neutral"]
    label_scale: Literal["rank_gauss", "plain"]
    beta_days: Annotated[int, Field(ge=20)]
    families: Annotated[list[Family], Field(min_length=1)]
    standardize: Literal["rank_gauss", "zscore", "robust", "winsorised"]

    @model_validator(mode="after")
    def _bars_are_there(self) -> Self:
        columns = self.file.columns
        if missing := [name for name in REQUIRED if columns[name] is None and self.source == "file"]:
            raise ValueError(f"file.columns.{missing[0]}: null, but source: file makes its features from it")
        if self.source == "table" and columns["close"] is None and self.table.daily_target is None:
            raise ValueError(
                "table.daily_target: needed where file.columns.close is null: returns come from one of them"
            )
        if columns["date"] is None or columns["code"] is None:
            raise ValueError("file.columns: date and code cannot be null")
        return self


class Split(Section):
    scheme: Literal["expanding", "rolling", "purged_kfold"]
    valid: Count | Annotated[list[Day], Field(min_length=1)]
    test: Count | Annotated[list[Day], Field(min_length=1)]
    block_days: Count
    stop_days: Count
    purge: Count
    min_train_days: Count
    train_days: Count
    embargo: Whole
    lookback: Count
    seal_test: bool

    @model_validator(mode="after")
    def _scheme_has_what_it_needs(self) -> Self:
        if self.scheme == "purged_kfold" and (not isinstance(self.valid, int) or self.valid < 2):
            raise ValueError("valid: with scheme purged_kfold the number of folds, at least 2")
        if self.scheme == "rolling" and self.train_days < self.min_train_days:
            raise ValueError(f"train_days ({self.train_days}) is less than min_train_days ({self.min_train_days})")
        return self


class Graph(Section):
    every: Count
    window: Annotated[int, Field(ge=20)]
    half_life: Whole
    min_overlap: Annotated[int, Field(ge=10)]
    shrinkage: NotNegative
    neighbors: Count
    min_correlation: Share
    sector_edge_weight: NotNegative


class Model(Section):
    lookback: Annotated[int, Field(ge=5)]
    hidden: Annotated[int, Field(ge=8)]
    heads: Count
    selection: Literal["hinge", "paper", "none"]
    graph: Annotated[Literal["on", "plain", "shuffled", "off"], BeforeValidator(_switch)]
    graph_layers: Count
    normalization: Literal["fan", "none"]
    fan_channels: Annotated[list[str], Field(min_length=1)]
    fan_components: Count
    dropout: Share
    attention_dropout: Share
    attention_scores: Literal["free", "normalized"]
    stochastic_depth: Share
    precision: Literal["fp32", "bf16"]
    quantiles: list[Annotated[Number, Field(gt=0, lt=1)]]

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        if self.fan_components > self.lookback // 2:
            raise ValueError(f"fan_components must be at most lookback / 2 = {self.lookback // 2}")
        if any(f"{low:.4g}" == f"{high:.4g}" or low >= high for low, high in pairwise(self.quantiles)):
            raise ValueError("quantiles must ascend, each level once, to four digits")
        return self


# Features that look at their day and the day before alone: two contrastive views of others would share days.
ONE_DAY = {
    "return_1", "close_location", "gap", "day_range", "volume_change_1",
    "KMID", "KLEN", "KMID2", "KUP", "KUP2", "KLOW", "KLOW2", "KSFT", "KSFT2", "OPEN0", "HIGH0", "LOW0", "VWAP0",
}  # fmt: skip


class Pretrain(Section):
    task: Literal["masked", "contrastive", "both", "none"]
    epochs: Whole
    target: Literal["sector_neutral", "beta_neutral", "sector_beta_neutral"]
    mask_share: Annotated[Share, Field(gt=0)]
    lags: Annotated[list[Annotated[int, Field(ge=4)]], Field(min_length=1)]
    channels: Annotated[list[str], Field(min_length=1)]
    temperature: Positive
    contrastive_weight: Positive
    day_share: Part
    lr: Positive
    days_per_step: Count
    accumulate: Count
    micro_batch: Whole


class Lightgbm(Section):
    trees: Count
    early_stopping: Whole
    learning_rate: Positive
    leaves: Annotated[int, Field(ge=2)]
    min_leaf: Count
    feature_share: Part


class Train(Section):
    model: Literal["atft_gat_fan", "ridge", "lightgbm", "reversal"]
    init: Literal["pretrained", "random"]
    freeze_epochs: Whole
    epochs: Count
    keep: Literal["best", "latest"]
    patience: Count
    day_share: Part
    days_per_step: Count
    accumulate: Count
    micro_batch: Whole
    optimizer: Literal["adamw", "adabelief", "shampoo"]
    lr: Positive
    weight_decay: NotNegative
    schedule: Literal["constant", "cosine", "cosine_restarts"]
    warmup_epochs: NotNegative
    warmup_share: Share
    t_0: Count
    t_mult: Count
    lr_floor: Annotated[Number, Field(ge=0, le=1)]
    gradient_clip: Positive
    feature_clip: NotNegative
    ema_decay: Share
    huber_weight: NotNegative
    mse_weight: NotNegative
    correlation_weight: NotNegative
    rank_weight: NotNegative
    rank_method: Literal["linear", "cdf", "sigmoid"]
    rank_temperature: Positive
    quantile_weight: NotNegative
    portfolio_weight: NotNegative
    portfolio_cost_bps: NotNegative
    horizon_weights: Annotated[list[Positive], Field(min_length=1)] | None
    regime_weighting: NotNegative
    turnover_threshold: Positive
    neighbor_means: bool
    ridge_alphas: Annotated[list[Positive], Field(min_length=1)]
    lightgbm: Lightgbm
    reversal_feature: str

    @model_validator(mode="after")
    def _knobs_agree(self) -> Self:
        names = ("huber_weight", "mse_weight", "correlation_weight", "rank_weight", "portfolio_weight")
        if not any(getattr(self, name) for name in names):
            raise ValueError(f"{', '.join(names[:-1])} and {names[-1]} are all 0: nothing to learn")
        if self.regime_weighting and self.epochs == 1:
            raise ValueError("regime_weighting: weighs days from the second epoch on, so epochs: 1 needs 0")
        if 0 < self.feature_clip < 1:
            raise ValueError(
                f"feature_clip: {self.feature_clip} would shrink every gradient; 0 is off, else at least 1"
            )
        return self


class Evaluate(Section):
    primary_horizon: Count
    cost_bps: NotNegative
    cost_grid_bps: Annotated[list[NotNegative], Field(min_length=1)]
    quantile: Annotated[Number, Field(gt=0, le=0.5)]
    exit_quantile: Part
    smoothing: Share
    trade_share: Part
    neutral: Literal["none", "beta", "sector", "beta_sector"]
    top_names: Count
    periods_per_year: Count
    psi_bins: Annotated[int, Field(ge=2)]
    bootstrap: Annotated[int, Field(ge=100)]

    @model_validator(mode="after")
    def _band_holds_the_quantile(self) -> Self:
        if self.exit_quantile < self.quantile:
            raise ValueError(f"exit_quantile ({self.exit_quantile}) must be at least quantile ({self.quantile})")
        return self


class Predict(Section):
    fold: Literal["unseen"] | Whole
    seeds: Literal["all"] | Annotated[list[Whole], Field(min_length=1)]
    book_days: Count
    retrain_after: Count
    stale_after: Whole
    universe_change: Annotated[Number, Field(ge=0, le=1)]
    unknown_share: Annotated[Number, Field(ge=0, le=1)]


class Params(Section):
    seeds: Annotated[list[Whole], Field(min_length=1)]
    threads: Count
    data: Data
    split: Split
    graph: Graph
    model: Model
    pretrain: Pretrain
    train: Train
    evaluate: Evaluate
    predict: Predict

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        span = self.data.delay + max(self.data.horizons)
        if self.split.purge < span:
            raise ValueError(
                f"split.purge: {self.split.purge} days let labels overlap the split; the longest label spans "
                f"data.delay + max(data.horizons) = {span} days, so set at least {span}"
            )
        if self.train.regime_weighting and self.split.scheme == "purged_kfold":
            raise ValueError(
                "train.regime_weighting: must be 0 with split.scheme purged_kfold: the state of a day after a held-out "
                "block is told by all days before it, the block's among them"
            )
        reach = 2 * self.model.lookback - 1
        if self.split.scheme == "purged_kfold" and self.split.lookback < reach:
            raise ValueError(
                f"split.lookback: {self.split.lookback} days let training windows reach into a valid block; the "
                f"encoder sees up to 2 * model.lookback - 1 = {reach} days, so set at least {reach}"
            )
        if self.pretrain.task in ("contrastive", "both"):
            self._views_share_no_day()
        if self.evaluate.primary_horizon not in self.data.horizons:
            raise ValueError(f"evaluate.primary_horizon: {self.evaluate.primary_horizon} is not in data.horizons")
        if self.predict.book_days <= self.evaluate.primary_horizon:
            raise ValueError(
                f"predict.book_days: {self.predict.book_days} days are too few to open every sleeve of the book; set "
                f"at least evaluate.primary_horizon + 1 = {self.evaluate.primary_horizon + 1}"
            )
        weights = self.train.horizon_weights
        if weights is not None and len(weights) != len(self.data.horizons):
            raise ValueError(
                f"train.horizon_weights: {len(weights)} weights for {len(self.data.horizons)} data.horizons; give one "
                f"for each, or null"
            )
        if self.train.quantile_weight and not self.model.quantiles:
            raise ValueError(
                "train.quantile_weight: needs levels in model.quantiles, such as [0.1, 0.5, 0.9], or must be 0"
            )
        if self.train.portfolio_weight and min(self.train.days_per_step, self.model.lookback) == 1:
            raise ValueError(
                "train.portfolio_weight: a block of one day trades nothing, so its costs would be 0; raise "
                "train.days_per_step"
            )
        if self.model.quantiles and not self.train.quantile_weight:
            raise ValueError(
                "model.quantiles: nothing would train them; set train.quantile_weight, or leave them out: []"
            )
        if len(set(self.seeds)) < len(self.seeds) or len(set(self.data.horizons)) < len(self.data.horizons):
            raise ValueError("seeds and data.horizons must not repeat a value")
        if self.graph.min_overlap > self.graph.window:
            raise ValueError("graph.min_overlap: must be at most graph.window")
        return self

    def _views_share_no_day(self) -> None:
        longest, channels = max(self.pretrain.lags), self.pretrain.channels
        if longest > self.model.lookback:
            raise ValueError(
                f"pretrain.lags: two views at a lag of {longest} days span 2 * {longest} - 1 days, more than the "
                f"2 * model.lookback - 1 that the encoder sees; set lags of at most {self.model.lookback}"
            )
        if len(set(self.pretrain.lags)) < len(self.pretrain.lags) or len(set(channels)) < len(channels):
            raise ValueError("pretrain.lags and pretrain.channels must not repeat a value")
        if self.data.source != "table" and (far := [name for name in channels if name not in ONE_DAY]):
            raise ValueError(
                f"pretrain.channels: {far[0]!r} is no change of one day, so two views would share days and be "
                f"matched by them; choose among {', '.join(sorted(ONE_DAY))}"
            )


def load_params() -> Params:
    """The parameters of this working directory.

    Raises:
        InputError: With the path of the first wrong key, what it is and what it may be.
    """
    return read_checked(paths.PARAMS, Params)


def check_params(content: Any) -> Params:
    """The content of `params.yaml` as parameters.

    Raises:
        InputError: With the path of the first wrong key, what it is and what it may be.
    """
    return _checked(content, Params, paths.PARAMS)


def read_checked(file: Path, kind: type[Kind]) -> Kind:
    """A YAML file as this type.

    Raises:
        InputError: When it is missing or no YAML; with the path of the first wrong key, what it is and what it may be.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{file}: is not there; run this at the root of the project") from error
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    return _checked(content, kind, file)


def _checked(content: Any, kind: type[Kind], file: Path) -> Kind:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        given = "" if isinstance(first["input"], dict) else f" (given: {first['input']!r})"
        more = f" [and {error.error_count() - 1} more]" if error.error_count() > 1 else ""
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{file}: {where + ': ' if where else ''}{message}{given}{more}") from error


def complaint(content: Any, path: str) -> str | None:
    """What is wrong with the very value at `path`, whatever the others are; None if nothing is."""
    try:
        Params.model_validate(content)
    except ValidationError as error:
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"])
            if f"{where}.".startswith(f"{path}."):
                return item["msg"]
    return None
