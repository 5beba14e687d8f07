"""How each number is written on a page: its form, its definition, and why it may be undefined."""

from dataclasses import dataclass
from typing import Literal

Form = Literal[
    "ic", "ratio", "t", "percent", "percent2", "share", "count", "bps", "money", "weight", "fine", "days", "plain"
]

DIGITS: dict[Form, int] = {
    "ic": 3, "ratio": 2, "t": 1, "percent": 1, "percent2": 2, "share": 0, "count": 0, "bps": 1, "money": 1,
    "weight": 4, "fine": 5, "days": 0,
}  # fmt: skip
NO_BOOK = "No book: no day of this kind, a model that saw later days, or a block shorter than delay + horizon."
TOO_FEW = "Too few days or stocks, or no variation, for this number."


@dataclass(frozen=True)
class Number:
    """`meaning` becomes a footnote; `undefined` says why the number may be null."""

    form: Form
    meaning: str
    undefined: str = TOO_FEW


_RANK_IC = (
    "RankIC: Spearman correlation of score and forward return across the tradable stocks of a date; mean over dates, "
    "then seeds."
)
_INTERVAL = (
    "95 % interval by the stationary bootstrap of dates, in blocks of the length that Politis and White advise. On a "
    "few hundred days it may miss the truth by much, and t with it: where they disagree, believe the more doubtful."
)
_SHARPE = (
    "Sharpe: annualised ratio of mean and standard deviation of the daily returns of the long-short book, top against "
    "bottom tenth (or evaluate.quantile), 1/2 a side, in h sleeves each held h days; net is after costs."
)
_SEES = "Mean daily rank correlation of the score with the expectation of one planted part of the simulated market."

NUMBERS: dict[str, Number] = {
    "rank_ic": Number("ic", _RANK_IC),
    "ensemble.rank_ic": Number("ic", "The seeds as one: the mean of the seeds' ranks as a score."),
    "rank_ic_t": Number("t", "t: of the mean of the daily RankIC, Newey-West, because labels of h days overlap."),
    "rank_ic_low": Number("ic", _INTERVAL),
    "rank_ic_high": Number("ic", _INTERVAL),
    "neutral_rank_ic": Number(
        "ic", "Neutral RankIC: of what volatility, market beta and sector do not explain of the score."
    ),
    "neutral_rank_ic_t": Number("t", "t of the neutral RankIC."),
    "neutral_rank_ic_low": Number("ic", _INTERVAL),
    "neutral_rank_ic_high": Number("ic", _INTERVAL),
    "reversal_rank_ic": Number("ic", "Reversal: minus the last five days' return as a score, through the same code."),
    "reversal_rank_ic_t": Number("t", "t of reversal's RankIC."),
    "over_reversal_rank_ic": Number("ic", "RankIC less reversal's, day by day."),
    "over_reversal_rank_ic_t": Number("t", "t of the mean of these differences, Newey-West."),
    "oracle_rank_ic": Number("ic", "Oracle: the true expected return of the simulated market as a score."),
    "captured_share": Number("share", "RankIC over the oracle's.", "The oracle's own RankIC is not above 0."),
    "sharpe": Number("ratio", _SHARPE, NO_BOOK),
    "sharpe_net": Number("ratio", _SHARPE, NO_BOOK),
    "sharpe_net_low": Number("ratio", _INTERVAL, NO_BOOK),
    "sharpe_net_high": Number("ratio", _INTERVAL, NO_BOOK),
    "reversal_sharpe": Number("ratio", "Reversal's Sharpe before costs.", NO_BOOK),
    "reversal_sharpe_net": Number("ratio", "Reversal's Sharpe after costs.", NO_BOOK),
    "oracle_sharpe_net": Number("ratio", "The oracle's Sharpe after costs.", NO_BOOK),
    "market_sharpe": Number("ratio", "Market: all tradable stocks equally weighted, rebalanced daily, no costs."),
    "turnover": Number("share", "Turnover: two-way, sum of absolute trades a day as a share of capital.", NO_BOOK),
    "break_even_bps": Number("bps", "Break-even: cost per side at which the mean net return is 0.", NO_BOOK),
    "half_life": Number(
        "days",
        "Half-life: first day after entry whose RankIC is at most half of the first day's.",
        "The decay does not fall all the way.",
    ),
    "capacity": Number(
        "money",
        "Capacity: capital at which costs and a square-root impact eat all of the gross return, in the bars' currency.",
        "The book loses before impact, or no volume is known.",
    ),
    "max_drawdown": Number("percent", "Largest loss of net wealth since its peak.", NO_BOOK),
    "annual_return": Number("percent", "Mean daily return x days a year, gross.", NO_BOOK),
    "annual_return_net": Number("percent", "The same after costs.", NO_BOOK),
    "market_beta": Number("ratio", "Slope of the daily gross return on the market's.", NO_BOOK),
    "beta_held": Number("ratio", "Mean over days of the weights times the stocks' trailing betas.", NO_BOOK),
    "sector_exposure": Number("percent", "Largest absolute net weight of a sector, mean over days.", NO_BOOK),
    "long_only.sharpe_net": Number("ratio", "The top tenth alone, after costs.", NO_BOOK),
    "minimum_track_record": Number(
        "days",
        "Days that a net Sharpe of this size needs to be above 0 with 95 % probability.",
        "The net Sharpe is not above 0, or there is no book.",
    ),
    "psi": Number(
        "ratio",
        "PSI: population stability index of held-out scores against the same model's scores on stop; moved where it "
        "exceeds both 0.25 and its own 95 % band.",
    ),
    "psi_worst": Number("ic", "The largest over folds and seeds.", "No stop scores to compare with."),
    "psi_alerts": Number("count", "Fits whose index moved.", "No stop scores to compare with."),
    "band": Number("ratio", "What the index exceeds once in twenty times without drift."),
    "trials": Number("count", "Series judged on this market so far, this one and failed ones included."),
    "deflated_sharpe": Number(
        "share",
        "Deflated Sharpe: probability that the true net Sharpe exceeds what the best of so many trials would show by "
        "luck.",
        "There is no book, or too few trials with one.",
    ),
    "overfitting": Number(
        "share",
        "Probability of overfitting: share of halvings of the days whose best trial is below the other half's median.",
        "It takes two trials on the same days.",
    ),
    "ic": Number("fine", "IC: the same with Pearson's correlation."),
    "gross": Number("fine", "Mean daily return of the long-short book before costs."),
    "net": Number("fine", "Mean daily return of the long-short book after costs."),
    "days": Number("count", "Days with a RankIC."),
    "stocks_per_day": Number("count", "Stocks ranked a day."),
    "seeds": Number("count", "Models trained with different seeds."),
    "weight": Number("weight", "Mean weight of the network's selection on stop; all features sum to 1. No importance."),
    "stop_rank_ic": Number("ic", "RankIC on stop at the kept epoch, all horizons.", "This ranker has no epochs."),
    "kept_epoch": Number("count", "The epoch that was kept.", "This ranker has no epochs."),
}
_PATTERNS = {"sees_": Number("ratio", _SEES), "bps": Number("ratio", "Net Sharpe at this cost per side.", NO_BOOK)}
_UNNAMED = Number("plain", "")


def number_of(path: str) -> Number:
    """The number at the end of a dotted path; whole numbers without a definition are plain counts."""
    parts = path.split(".")
    for name in (".".join(parts[-2:]), parts[-1]):
        if name in NUMBERS:
            return NUMBERS[name]
    return next((found for stem, found in _PATTERNS.items() if parts[-1].startswith(stem)), _UNNAMED)


def written(value: float, form: Form) -> str:
    """The number as people read it: a true minus, thousands apart, percent and millions spelled out."""
    if form == "plain":
        return f"{value:,}".replace("-", "\N{MINUS SIGN}")
    digits = DIGITS[form]
    scaled, unit = value, ""
    if form in ("percent", "percent2", "share"):
        scaled, unit = value * 100, "\N{NO-BREAK SPACE}%"
    elif form == "money":
        size = next((s for s in (1e9, 1e6, 1e3) if abs(value) >= s), 1.0)
        scaled, unit = (
            value / size,
            {1e9: "\N{NO-BREAK SPACE}bn", 1e6: "\N{NO-BREAK SPACE}m", 1e3: "\N{NO-BREAK SPACE}k"}.get(size, ""),
        )
    text = f"{scaled:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "\N{MINUS SIGN}") + unit
