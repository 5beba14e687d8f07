"""Stage 3: one self-supervised encoder per (fold, seed), fitted on the fold's training dates alone."""

import copy
import shutil
from functools import partial
from typing import Any

from atft import paths
from atft.config import load_params
from atft.graph.snapshots import as_heard, read_snapshots
from atft.panel.store import folds, read_panel, read_splits, role_days
from atft.program import keep_freed_memory, new_file, new_folder, pin_threads, run_program, write_json
from atft.training.checkpoint import save_weights
from atft.training.history import pretraining_summary
from atft.training.loop import seed_everything
from atft.training.pretext.fitting import pretrain
from atft.training.pretext.probe import probe
from atft.training.processes import processes, rank
from atft.training.scratch import Checkpoint, Scratch
from atft.training.supervised import make_encoder


def main() -> None:
    params = load_params()
    pin_threads(params.threads)
    keep_freed_memory()
    panel, snapshots = read_panel(paths.CACHE), as_heard(read_snapshots(paths.GRAPH), params.model.graph)
    splits = read_splits(paths.CACHE)
    shape, task = params.model.model_dump(exclude={"quantiles"}), params.pretrain.model_dump()
    settings = {"threads": params.threads, "seeds": params.seeds, "model": dict(params.model), "pretrain": task}
    scratch = Scratch.of("pretrain", settings, [paths.CACHE, paths.GRAPH])

    def encode(fold: int, seed: int, checkpoint: Checkpoint) -> dict[str, Any]:
        train, stop = (role_days(panel, splits, fold, role) for role in ("train", "stop"))
        seed_everything(seed, fold)
        encoder = make_encoder(panel, **shape)
        random = copy.deepcopy(encoder)
        rows = pretrain(
            encoder, panel, snapshots, train, shape["hidden"], **task, seed=seed, fold=fold, checkpoint=checkpoint
        )
        found = {"epochs": [{"fold": fold, "seed": seed, **row} for row in rows]}
        if rank() > 0:
            return found
        save_weights(encoder, scratch.out / f"fold{fold}-seed{seed}.safetensors", {"model": dict(params.model)})
        pretrained = probe(encoder, panel, snapshots, train, stop)
        untrained = probe(random, panel, snapshots, train, stop) if rows else pretrained
        return found | {"probe": {"fold": fold, "seed": seed, "pretrained": pretrained, "random": untrained}}

    fits = [
        scratch.once(f"fold{fold}-seed{seed}", partial(encode, fold, seed))
        for fold in folds(splits)
        for seed in params.seeds
    ]
    if rank() > 0:
        return
    with new_folder(paths.ENCODER) as folder, new_file(paths.PRETRAIN_METRICS) as metrics:
        shutil.copytree(scratch.out, folder, dirs_exist_ok=True)
        epochs = [row for fit in fits for row in fit["epochs"]]
        write_json(metrics, pretraining_summary(epochs, [fit["probe"] for fit in fits]))
    scratch.remove()


if __name__ == "__main__":
    with processes():
        run_program(main, memory="set pretrain.micro_batch, or lower pretrain.days_per_step")
