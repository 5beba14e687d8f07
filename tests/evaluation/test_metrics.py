"""Every number against its published vector, a trusted package, and the properties that expose a lie."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from atft.evaluation import metrics

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
IC, SERIES, RETURNS = VECTORS["ic"], VECTORS["ic_series"], VECTORS["returns10"]


def daily(score: list[float], returns: list[float], min_names: int = 2) -> dict:
    frame = pl.DataFrame({"date": 0, "score": score, "forward_return": returns})
    return metrics.daily_ic(frame, ["date"], min_names).row(0, named=True)


def test_ic_and_rank_ic_match_the_vectors() -> None:
    result = daily(IC["pred"], IC["ret"])
    assert result["ic"] == pytest.approx(IC["pearson"])
    assert result["rank_ic"] == pytest.approx(IC["spearman_ties"])


def test_missing_values_are_dropped_before_ranking() -> None:
    pred = [value if i != 2 else float("nan") for i, value in enumerate(IC["pred"])]
    assert daily(pred, IC["ret"])["rank_ic"] == pytest.approx(IC["nan_at_2_drop_then_rank"])


def test_constant_scores_are_undefined() -> None:
    assert daily([0.1] * 6, IC["ret"])["rank_ic"] is None
    assert daily([0.1] * 6, IC["ret"])["ic"] is None


def test_a_small_cross_section_is_undefined() -> None:
    assert daily(IC["pred"], IC["ret"], min_names=7)["rank_ic"] is None


def test_a_rising_market_is_not_skill() -> None:
    """Scores that follow the market's mean rank nothing, though pooled they correlate."""
    rng = np.random.default_rng(0)
    drift = np.repeat(np.linspace(-1, 1, 50), 30)
    noise = rng.normal(size=(2, 1500))
    frame = pl.DataFrame(
        {"date": np.repeat(np.arange(50), 30), "score": drift + noise[0], "forward_return": drift + noise[1]}
    )
    assert np.corrcoef(frame["score"], frame["forward_return"])[0, 1] > 0.2
    assert abs(metrics.daily_ic(frame, ["date"])["rank_ic"].mean()) < 0.1


@given(arrays(np.float64, 30, elements=st.integers(-5, 5)), arrays(np.float64, 30, elements=st.integers(-5, 5)))
def test_rank_ic_equals_scipy(score: np.ndarray, returns: np.ndarray) -> None:
    mine = metrics.rank_ic(score, returns)
    if np.ptp(score) == 0 or np.ptp(returns) == 0:
        assert mine is None
    else:
        assert mine == pytest.approx(stats.spearmanr(score, returns).statistic, abs=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_sign_flip_negates_and_row_order_is_irrelevant(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, returns, order = rng.normal(size=40), rng.normal(size=40), rng.permutation(40)
    base = metrics.rank_ic(score, returns)
    assert metrics.rank_ic(-score, returns) == pytest.approx(-base)
    assert metrics.rank_ic(score[order], returns[order]) == pytest.approx(base)
    assert metrics.rank_ic(returns, returns) == pytest.approx(1)


def test_icir_matches_the_vector() -> None:
    assert metrics.information_ratio(SERIES["ic"]) == pytest.approx(SERIES["icir_ddof1"])
    assert metrics.information_ratio([0.1, 0.1, 0.1]) is None


@pytest.mark.parametrize("lags", [0, 1, 3, 4])
def test_newey_west_matches_the_vector_and_statsmodels(lags: int) -> None:
    mine = metrics.newey_west_t(SERIES["ic"], lags)
    assert mine == pytest.approx(SERIES["nw_t"][f"L{lags}_corr0"])
    fit = sm.OLS(SERIES["ic"], np.ones(12)).fit(cov_type="HAC", cov_kwds={"maxlags": lags})
    assert mine == pytest.approx(fit.tvalues[0])


def test_lags_cover_the_overlap() -> None:
    assert metrics.default_lags(100, 1) == 4
    assert metrics.default_lags(1250, 20) == 19


def test_sharpe_and_drawdown_match_the_vectors() -> None:
    assert metrics.sharpe(RETURNS["ret"], 252) == pytest.approx(RETURNS["sharpe_ann252"])
    assert metrics.max_drawdown(RETURNS["ret"]) == pytest.approx(RETURNS["mdd_compound"])
    first_loss = VECTORS["mdd_first_loss"]
    assert metrics.max_drawdown(first_loss["ret"]) == pytest.approx(first_loss["correct_with_base_1"])
    assert metrics.sharpe([0.01, 0.01, 0.01], 252) is None
    assert metrics.sharpe([], 252) is None


def test_stability_matches_the_vectors() -> None:
    psi = VECTORS["psi"]
    assert metrics.stability_of_shares(psi["ref"], psi["cur"]) == pytest.approx(psi["psi"])
    rng = np.random.default_rng(5)
    before, after = rng.normal(0, 1, 1000), rng.normal(0.3, 1.1, 800)
    assert metrics.population_stability(before, after, 10) == pytest.approx(psi["feature_engine_value"], abs=1e-12)


def test_stability_of_tied_scores_is_undefined() -> None:
    assert metrics.population_stability(np.zeros(100), np.ones(100), 10) is None
