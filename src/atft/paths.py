"""Every file the programs read or write: those of the stages in flow order, then the others'. Declarations only."""

from pathlib import Path

PARAMS = Path("params.yaml")
METRICS = Path("metrics")

# cache
RAW = Path("data/raw")
CACHE = Path("data/cache")
ORACLE = Path("data/oracle.parquet")
CLUSTERS = Path("data/clusters.parquet")

# graph
GRAPH = Path("data/graph")
GRAPH_METRICS = Path("metrics/graph.json")
GRAPH_PLOT = Path("metrics/plots/graph.csv")

# pretrain
ENCODER = Path("models/encoder")
PRETRAIN_METRICS = Path("metrics/pretrain.json")

# train
RANKER = Path("models/ranker")
TRAIN_METRICS = Path("metrics/train.json")
TRAIN_EPOCHS = Path("metrics/epochs.csv")
SELECTION = Path("metrics/selection.csv")
LOSS_PLOT = Path("metrics/plots/loss.csv")

# evaluate
LEDGER = Path("metrics/ledger")
PREDICTIONS = Path("data/predictions.parquet")
EVALUATE_METRICS = Path("metrics/evaluate.json")
DAILY = Path("metrics/daily.csv")
BREAKDOWN = Path("metrics/breakdown.csv")
DECAY = Path("metrics/decay.csv")
QUANTILES = Path("metrics/quantiles.csv")
DRIFT = Path("metrics/drift.csv")
EQUITY_PLOT = Path("metrics/plots/equity.csv")
RANK_IC_PLOT = Path("metrics/plots/rank_ic.csv")
DECAY_PLOT = Path("metrics/plots/decay.csv")
QUANTILES_PLOT = Path("metrics/plots/quantiles.csv")
DRAWDOWN_PLOT = Path("metrics/plots/drawdown.csv")
ROLLING_RANK_IC_PLOT = Path("metrics/plots/rolling_rank_ic.csv")
COSTS_PLOT = Path("metrics/plots/costs.csv")
BOOK_PLOT = Path("metrics/plots/book.csv")
REGIMES_PLOT = Path("metrics/plots/regimes.csv")
ATTENTION_PLOT = Path("metrics/plots/attention.csv")
SELECTION_PLOT = Path("metrics/plots/selection.csv")
PAGE = Path("metrics/report.html")

# predict.py
LIVE = Path("data/live")
SCORE_MEMORY = Path(".scratch/predict")
MODEL_CARD = Path("docs/model_card.md")

# sweep.py, experiments.py
SWEEPS = Path("metrics/sweeps")
LOG = Path("docs/log.md")
FAILED_EXPERIMENTS = Path("docs/failed_experiments.md")
