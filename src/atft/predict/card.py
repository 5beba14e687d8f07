"""The model card: what the ranker learned from, how well it ranked, and what it must not be used for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.errors import InputError
from atft.predict.policy import HELD, LEARNED

_MODELS = {"atft_gat_fan": "ATFT-GAT-FAN, a network", "ridge": "ridge regression", "lightgbm": "LightGBM",
           "reversal": "reversal, nothing fitted"}  # fmt: skip
_ROWS = (
    ("RankIC", "rank_ic", "reversal_rank_ic", None, "oracle_rank_ic"),
    ("t (Newey-West)", "rank_ic_t", "reversal_rank_ic_t", None, None),
    ("95 % interval, low", "rank_ic_low", None, None, None),
    ("95 % interval, high", "rank_ic_high", None, None, None),
    ("neutral RankIC", "neutral_rank_ic", None, None, None),
    ("Sharpe ratio, long-short, gross", "sharpe", "reversal_sharpe", "market_sharpe", None),
    ("Sharpe ratio, long-short, net", "sharpe_net", "reversal_sharpe_net", None, "oracle_sharpe_net"),
    ("turnover a day, two-way", "turnover", None, None, None),
    ("break-even cost, bps a side", "break_even_bps", None, None, None),
    ("largest drawdown", "max_drawdown", None, None, None),
    ("stability index, worst", "psi_worst", None, None, None),
)


def model_card(
    params: Mapping[str, Any], metrics: Path, stocks: int, dates: NDArray[np.datetime64], splits: pl.DataFrame
) -> str:
    """Markdown made of `params.yaml`, of `evaluate.json` and `train.json` in `metrics`, and of the cache.

    The same files give the same bytes.

    Args:
        stocks, dates, splits: Of the cache: their number, the days with bars, and `fold, date, role`. No metric
            tells when the models learned.

    Raises:
        InputError: When one of them is missing.
    """
    found, fits = _read(metrics / "evaluate.json"), _read(metrics / "train.json")
    parts = [_about(params, fits), _data(params, stocks, dates), _folds(splits)]
    parts += [_judged(params, found), _limits(params, found)]
    return "\n\n".join(parts) + "\n"


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error}); run `dvc repro`") from error


def _about(params: Mapping[str, Any], fits: Mapping[str, Any]) -> str:
    folds = sorted({fit["fold"] for fit in fits.get("fits", [])})
    sizes = sorted({fit["parameters"] for fit in fits.get("fits", []) if "parameters" in fit})
    size = f"; {', '.join(f'{n:,}' for n in sizes)} weights each" if sizes else ""
    data, evaluate = params["data"], params["evaluate"]
    return f"""# Model card

Made by `python src/predict.py --card` from `params.yaml`, `metrics/train.json`, `metrics/evaluate.json`
and `data/cache`.
What the numbers mean: [numbers.md](numbers.md).

**Purpose**: ranks the stocks of a day by their return over {_list(data["horizons"])} trading days,
entered {data["delay"]} day after the signal. The headline is horizon {evaluate["primary_horizon"]}.

**Model**: {_MODELS[fits["model"]]}; folds {_list(folds)}, seeds {_list(params["seeds"])}{size}.
Mean RankIC on `stop`, where training ended early: {_number(fits.get("stop_rank_ic"))}."""


def _data(params: Mapping[str, Any], stocks: int, dates: NDArray[np.datetime64]) -> str:
    data, split = params["data"], params["split"]
    simulated = data["simulated"]
    source = {
        "simulated": f"a simulated market ({simulated['market']}, seed {simulated['seed']}) without any real price",
        "file": f"daily bars in `data/raw/{data['file']['path']}`",
        "table": f"a ready-made feature table in `data/raw/{data['table']['path']}`",
    }[data["source"]]
    features = "the table's columns" if data["source"] == "table" else f"families {_list(data['families'])}"
    money = data["min_dollar_volume"]
    traded = f" and a mean of at least {money:,.0f} money traded a day" if money else ""
    return f"""## Data

- Source: {source}.
- Period: {dates[0]} to {dates[-1]}, {len(dates)} days with bars, {stocks:,} stocks.
- Features: {features}; those of a stock standardised within the date by {data["standardize"]}.
- Label: {data["label"]} forward return, {data["label_scale"]}.
- Ranked are stocks with at least {data["min_history"]} bars{traded}.
- Folds: {split["scheme"]}; `stop` of {split["stop_days"]} days; {split["purge"]} days purged;
  valid {_list(split["valid"])}, test {_list(split["test"])} (where counted, blocks of {split["block_days"]} days)."""


def _folds(splits: pl.DataFrame) -> str:
    """When each fold's models learned, `stop` included, and which days they never saw."""
    lines = ["| fold | learned from | until | days | held out for | from | until | days |", "|---" * 8 + "|"]
    for (fold,), rows in splits.group_by("fold", maintain_order=True):
        learned, held = (rows.filter(pl.col("role").is_in(roles)) for roles in (LEARNED, HELD))
        spans = [f"{days.min()} | {days.max()} | {len(days)}" for days in (learned["date"], held["date"])]
        lines.append(f"| {fold} | {spans[0]} | {held['role'][0]} | {spans[1]} |")
    return "\n".join(lines)


def _judged(params: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    horizon = params["evaluate"]["primary_horizon"]
    cost = f"{params['evaluate']['cost_bps']:g} bps a side"
    parts = [f"## How well, horizon {horizon}, {cost}\n\n{_table(found['valid'])}"]
    rows = [
        f"| {name.removeprefix('h')} | {_number(part['valid']['rank_ic'])} | {_number(part['valid']['rank_ic_t'])} | "
        f"{_number(part['valid'].get('reversal_rank_ic'))} | {_number(part['valid']['sharpe_net'])} | "
        f"{_number(part['valid'].get('reversal_sharpe_net'))} |"
        for name, part in sorted(found["horizons"].items(), key=lambda item: int(item[0].removeprefix("h")))
        if "valid" in part
    ]
    parts.append(
        "On `valid`, by horizon:\n\n| horizon | RankIC | t | reversal's RankIC | Sharpe net | reversal's |\n"
        + "\n".join(["|---|---|---|---|---|---|", *rows])
    )
    if "test" in found:
        parts.append(
            "## Test blocks\n\n<details>\n<summary>For the end, not for tuning</summary>\n\n"
            f"{_table(found['test'])}\n\n</details>"
        )
    return "\n\n".join(parts)


def _table(block: Mapping[str, Any]) -> str:
    """The numbers of a block with their baselines beside them."""
    head = (
        f"{block['from']} to {block['to']}, {block['days']} days, {_number(block['stocks_per_day'], 0)} stocks a day, "
        f"{block['seeds']} seed{'s' if block['seeds'] > 1 else ''} (mean).\n\n"
    )
    lines = ["| | model | reversal | market | oracle |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | " + " | ".join(_number(block.get(key)) if key else "" for key in keys) + " |"
        for name, *keys in _ROWS
    ]
    return head + "\n".join(lines)


def _limits(params: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    valid, policy = found["valid"], params["predict"]
    low = valid.get("rank_ic_low")
    sure = "includes 0: that it ranks at all is not settled" if low is None or low <= 0 else "is above 0"
    scope = {
        "simulated": "Learned on a simulated market: it says nothing of any real one.",
        "file": "Only for the market and the kind of stocks of the data above; survivors chosen later flatter.",
        "table": "Only for the market of the table above; that its columns were known on their date is its word.",
    }[params["data"]["source"]]
    return f"""## Limits

- {scope}
- The 95 % interval of the RankIC on `valid` {sure}. Knobs chosen on `valid` flatter it.
- Costs are {params["evaluate"]["cost_bps"]:g} bps a side, without impact, borrowing or taxes;
  an order for a stock without a price lapses.
- A score orders the stocks of its day; its size means nothing across days or seeds.
- `predict.py` warns where the model learned its last day more than {policy["retrain_after"]} trading days ago,
  where more than {policy["universe_change"]:.0%} of the stocks are others, and where scores or features leave what
  training saw. It does not know why."""


def _list(values: Any) -> str:
    return ", ".join(str(value) for value in values) if isinstance(values, list) else str(values)


def _number(value: float | None, digits: int = 3) -> str:
    return "undefined" if value is None else f"{value:.{digits}f}"
