"""The series that plots and page draw."""

from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm

from atft.evaluation.series import attention_curve, cost_curve, drawdown, mean_selection, rolling_rank_ic, valid_series
from atft.evaluation.significance import default_lags


def dated(**columns: object) -> pl.DataFrame:
    count = len(next(iter(columns.values())))  # pyright: ignore
    days = [date(2020, 1, 1) + timedelta(days=i) for i in range(count)]
    return pl.DataFrame({"date": days, **columns})


def test_a_loss_is_counted_from_the_last_peak_or_the_starting_one() -> None:
    found = drawdown(dated(net=[0.9, 1.1, 0.99, 1.2, 0.6]))
    assert found["net"].to_list() == pytest.approx([-0.1, 0.0, -0.1, 0.0, -0.5])


def test_the_markets_curve_goes_on_behind_a_day_on_which_nothing_was_tradable() -> None:
    daily = dated(role=["valid"] * 4, horizon=[5] * 4, gross=[0.01] * 4, net=[0.01] * 4, rank_ic=[0.1] * 4)
    nothing = pl.DataFrame(schema={"role": pl.String, "horizon": pl.Int64, "turnover": pl.Float64})
    market: Any = SimpleNamespace(
        dates=daily["date"].to_numpy().astype("datetime64[D]"),
        equal_weight=np.array([0.1, 0.1, np.nan, 0.1]),
        regimes={"volatility": np.zeros(4, int), "correlation": np.zeros(4, int)},
    )
    summary = {("valid", 5): {"sharpe_by_cost": {}}}
    report: Any = SimpleNamespace(decay=nothing, quantiles=nothing, daily=daily, books=nothing, summary=summary)
    found = valid_series(report, market, 5)["equity"]["market"]
    assert found.to_list() == pytest.approx([1.1, 1.21, 1.21, 1.331])


def test_the_rolling_mean_and_band_are_those_of_a_regression_on_a_constant() -> None:
    values = np.random.default_rng(0).normal(0.02, 0.1, 90)
    found = rolling_rank_ic(dated(rank_ic=values), 5, 60)
    assert len(found) == 31
    part = values[30:90]
    fit = sm.OLS(part, np.ones(60)).fit(
        cov_type="HAC", cov_kwds={"maxlags": default_lags(60, 5), "use_correction": False}
    )
    assert found.row(-1)[1:] == pytest.approx((part.mean(), *(part.mean() + s * 1.96 * fit.bse[0] for s in (-1, 1))))


def test_the_rolling_mean_knows_no_later_day() -> None:
    values = np.random.default_rng(0).normal(size=80)
    changed = np.concatenate([values[:70], values[70:] + 9])
    one, other = (rolling_rank_ic(dated(rank_ic=v), 5, 60).head(11) for v in (values, changed))
    assert one.equals(other)


def test_too_few_days_leave_the_rolling_mean_empty_and_constants_leave_no_band() -> None:
    assert rolling_rank_ic(dated(rank_ic=[0.1] * 59), 5, 60).is_empty()
    assert rolling_rank_ic(dated(rank_ic=[0.1] * 60), 5, 60).row(0)[1:] == (pytest.approx(0.1), None, None)


def test_costs_ascend_as_numbers_and_undefined_stays_so() -> None:
    found = cost_curve({"bps10": 1.0, "bps5": None, "bps0": 3.0})
    assert found.rows() == [(0.0, 3.0), (5.0, None), (10.0, 1.0)]


def test_attention_is_averaged_over_layers_and_fits() -> None:
    epochs = pl.DataFrame(
        {"fold": [0, 1], "epoch": [0, 0], "lag_entropy": [0.8, 0.6], "attention_entropy_1": [0.9, 0.7],
         "attention_entropy_2": [0.5, 0.3], "effective_neighbors_1": [8.0, 6.0]}
    )  # fmt: skip
    assert attention_curve(epochs).row(0) == pytest.approx((0, 0.7, 0.6, 7.0))
    assert attention_curve(epochs.select("fold", "epoch")).row(0) == (0, None, None, None)


def test_rankers_without_epochs_attend_to_nothing_and_select_nothing() -> None:
    assert attention_curve(pl.DataFrame(schema={"epoch": pl.String})).is_empty()
    assert mean_selection(pl.DataFrame(schema={"feature": pl.String, "weight": pl.String})).is_empty()


def test_selection_is_averaged_over_fits_heaviest_first() -> None:
    table = pl.DataFrame({"fold": [0, 0, 1, 1], "feature": ["a", "b", "a", "b"], "weight": [0.1, 0.2, 0.1, 0.8]})
    assert mean_selection(table).rows() == [("b", pytest.approx(0.5)), ("a", pytest.approx(0.1))]
