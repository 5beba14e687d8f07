"""The learning rate at every step, against the closed form and torch's own schedulers."""

import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LinearLR, SequentialLR

import train
from atft.errors import InputError
from atft.training.schedule import Schedule
from conftest import set_knobs

ROADMAP = Schedule("cosine_restarts", warmup_epochs=10, warmup_share=0.9, t_0=20, t_mult=2, floor=0.5)
KINDS = ["constant", "cosine", "cosine_restarts"]


def over(schedule: Schedule, epochs: int, per_epoch: int) -> list[float]:
    return [schedule.scale(step, epochs, per_epoch) for step in range(epochs * per_epoch)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_the_closed_form(kind: str) -> None:
    epochs, per_epoch, floor = 160, 7, 0.05
    scales = over(replace(ROADMAP, kind=kind, floor=floor), epochs, per_epoch)  # pyright: ignore
    warmup = 10 * per_epoch
    for step, scale in enumerate(scales):
        if step < warmup:
            expected = (step + 1) / (warmup + 1)
        elif kind == "constant":
            expected = 1.0
        elif kind == "cosine":
            expected = floor + (1 - floor) / 2 * (1 + math.cos(math.pi * (step - warmup) / (len(scales) - warmup - 1)))
        else:
            start, length = next((s, n) for s, n in ((150, 160), (70, 80), (30, 40), (10, 20)) if step >= s * per_epoch)
            progress = (step / per_epoch - start) / length
            expected = floor + (1 - floor) / 2 * (1 + math.cos(math.pi * progress))
        assert scale == pytest.approx(expected, abs=1e-12), step


@pytest.mark.parametrize(("t_0", "t_mult"), [(20, 2), (3, 1), (5, 3)])
def test_restarts_equal_torchs_schedulers(t_0: int, t_mult: int) -> None:
    base, per_epoch, warmup = 1e-4, 3, 30
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    rise = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    fall = CosineAnnealingWarmRestarts(optimizer, t_0 * per_epoch, t_mult, eta_min=5e-5)
    both = SequentialLR(optimizer, [rise, fall], milestones=[warmup])
    schedule = replace(ROADMAP, t_0=t_0, t_mult=t_mult)
    for step in range(150 * per_epoch):
        assert schedule.scale(step, 150, per_epoch) * base == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SequentialLR hands its own step an epoch
            both.step()


@pytest.mark.parametrize("kind", KINDS)
def test_scales_stay_between_floor_and_peak_and_the_peak_is_reached(kind: str) -> None:
    for epochs, per_epoch in ((1, 1), (1, 5), (3, 10), (70, 4)):
        scales = over(replace(ROADMAP, kind=kind, warmup_share=0.1), epochs, per_epoch)  # pyright: ignore
        warmup = round(min(10 * per_epoch, 0.1 * len(scales)))
        assert max(scales) == 1 == scales[warmup]
        assert min(scales[warmup:]) >= 0.5
        assert scales[: warmup + 1] == sorted(scales[: warmup + 1])


def test_a_short_trial_leaves_the_warm_up() -> None:
    short = replace(ROADMAP, kind="cosine", warmup_share=0.1)
    scales = over(short, 3, 50)
    assert int(np.argmax(scales)) == 15
    assert scales[-1] == pytest.approx(0.5)
    uncapped = over(replace(short, warmup_share=0.99), 100, 5)
    assert int(np.argmax(uncapped)) == 50


@pytest.mark.parametrize("share", [0.1, 0.2, 0.9])
def test_a_run_is_told_which_lengths_end_with_a_cycle(share: float) -> None:
    schedule = replace(ROADMAP, warmup_share=share, floor=0.0)
    ends = schedule.cycle_ends()
    if share == 0.9:
        assert ends == [30, 70, 150]
    for epochs in ends:
        assert schedule.scale(epochs * 100 - 1, epochs, 100) < 0.01
        assert schedule.warning(epochs) is None


def test_a_run_that_ends_near_the_peak_is_warned_in_one_line() -> None:
    message = ROADMAP.warning(75)
    assert message is not None
    assert "\n" not in message
    assert "75 epochs" in message
    assert "30, 70 or 150 epochs" in message
    for epochs in range(1, 200):
        last = ROADMAP.scale(epochs * 1000 - 1, epochs, 1000)
        assert (ROADMAP.warning(epochs) is not None) == (last >= 0.95), epochs
        for kind in ("constant", "cosine"):
            assert replace(ROADMAP, kind=kind).warning(epochs) is None


@pytest.mark.parametrize(("model", "lines"), [("atft_gat_fan", 1), ("ridge", 0)])
def test_the_train_stage_says_so_before_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str, lines: int
) -> None:
    params = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    set_knobs(params, {"train__schedule": "cosine_restarts", "train__epochs": 3, "train__model": model})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("train.pin_threads", lambda _: None)
    with pytest.raises(InputError, match="panel"):
        train.main()
    said = capsys.readouterr().err
    assert (
        said.count("\n") == said.count("warning: train.schedule: cosine_restarts leaves a run of 3 epochs at") == lines
    )
