"""Stage 3: one self-supervised encoder per (fold, seed), fitted on the fold's training dates alone."""

import polars as pl

from atft import paths
from atft.config import load_params
from atft.graph.snapshots import read_snapshots, shuffled
from atft.panel.store import folds, read_panel
from atft.program import new_file, new_folder, pin_threads, run_program, write_json
from atft.training.checkpoint import save_weights
from atft.training.history import pretraining_summary
from atft.training.loop import seed_everything
from atft.training.pretext import pretrain
from atft.training.supervised import make_encoder


def main() -> None:
    params = load_params()
    pin_threads(params.threads)
    model, task = params.model, params.pretrain
    panel, snapshots = read_panel(paths.CACHE), read_snapshots(paths.GRAPH)
    if model.graph == "shuffled":
        snapshots = shuffled(snapshots)
    splits = pl.read_csv(paths.CACHE / "splits.csv", try_parse_dates=True)
    epochs = []
    with new_folder(paths.ENCODER) as folder, new_file(paths.PRETRAIN_METRICS) as metrics:
        for fold in folds(splits):
            dates = splits.filter((pl.col("fold") == fold) & (pl.col("role") == "train"))["date"]
            for seed in params.seeds:
                seed_everything(seed, fold)
                encoder = make_encoder(panel, **model.model_dump(exclude={"quantiles"}))
                history = pretrain(
                    encoder,
                    panel,
                    snapshots,
                    panel.positions(dates).tolist(),
                    model.hidden,
                    seed=seed,
                    fold=fold,
                    **dict(task),
                )
                save_weights(encoder, folder / f"fold{fold}-seed{seed}.safetensors", {"model": dict(model)})
                epochs += [{"fold": fold, "seed": seed, **row} for row in history]
        write_json(metrics, pretraining_summary(epochs))


if __name__ == "__main__":
    run_program(main, memory="lower pretrain.days_per_step or model.lookback")
