"""Every file the stages read or write, in flow order. Declarations only."""

from pathlib import Path

PARAMS = Path("params.yaml")
RAW = Path("data/raw")
CACHE = Path("data/cache")
ORACLE = Path("data/oracle.parquet")
CLUSTERS = Path("data/clusters.parquet")
GRAPH = Path("data/graph")
GRAPH_METRICS = Path("metrics/graph.json")
GRAPH_PLOT = Path("metrics/plots/graph.csv")
ENCODER = Path("models/encoder")
PRETRAIN_METRICS = Path("metrics/pretrain.json")
RANKER = Path("models/ranker")
TRAIN_METRICS = Path("metrics/train.json")
TRAIN_EPOCHS = Path("metrics/epochs.csv")
LOSS_PLOT = Path("metrics/plots/loss.csv")
PREDICTIONS = Path("data/predictions.parquet")
EVALUATE_METRICS = Path("metrics/evaluate.json")
DAILY = Path("metrics/daily.csv")
EQUITY_PLOT = Path("metrics/plots/equity.csv")
RANK_IC_PLOT = Path("metrics/plots/rank_ic.csv")
