"""Stage 4: one ranker per (fold, seed): ATFT-GAT-FAN, or a rival on the same rows and labels."""

import shutil
import sys
from dataclasses import asdict

from tqdm import tqdm

from atft import paths
from atft.config import load_params
from atft.graph.snapshots import read_snapshots
from atft.panel.store import folds, read_panel, read_splits
from atft.program import keep_freed_memory, new_file, new_folder, pin_threads, run_program, write_json
from atft.training.history import loss_curve, selection_table, training_summary
from atft.training.processes import processes, rank
from atft.training.rankers import Manifest, fit_once, schedule_of, write_manifest
from atft.training.scratch import Scratch


def main() -> None:
    params = load_params()
    pin_threads(params.threads)
    keep_freed_memory()
    if params.train.model == "atft_gat_fan" and (late := schedule_of(dict(params.train)).warning(params.train.epochs)):
        tqdm.write(late, file=sys.stderr)
    panel, snapshots = read_panel(paths.CACHE), read_snapshots(paths.GRAPH)
    splits = read_splits(paths.CACHE)
    manifest = Manifest.of(panel, params.seeds, params.threads, dict(params.model), params.train.model_dump())
    scratch = Scratch.of("train", asdict(manifest), [paths.CACHE, paths.GRAPH, paths.ENCODER])
    fits, epochs, weights = [], [], []
    for fold in folds(splits):
        for seed in params.seeds:
            fit = fit_once(scratch, manifest, paths.ENCODER, panel, snapshots, splits, fold, seed)
            who = {"fold": fold, "seed": seed}
            fits.append(who | fit["found"])
            epochs += [who | row for row in fit["epochs"]]
            weights += [who | {"feature": name, "weight": weight} for name, weight in fit["weights"].items()]
    if rank() > 0:
        return
    table, curve = loss_curve(epochs)
    with (
        new_folder(paths.RANKER) as folder,
        new_file(paths.TRAIN_METRICS) as metrics,
        new_file(paths.TRAIN_EPOCHS) as epochs_file,
        new_file(paths.LOSS_PLOT) as plot,
        new_file(paths.SELECTION) as selection,
    ):
        shutil.copytree(scratch.out, folder, dirs_exist_ok=True)
        write_manifest(folder, manifest)
        write_json(metrics, training_summary(manifest.kind, fits))
        table.write_csv(epochs_file)
        curve.write_csv(plot)
        selection_table(weights).write_csv(selection)
    scratch.remove()


if __name__ == "__main__":
    with processes():
        run_program(main, memory="set train.micro_batch, or lower train.days_per_step")
