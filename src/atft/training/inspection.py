"""What a fitted network looks at: features, days and neighbours. Always without dropout."""

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from atft.model.atft_gat_fan import AtftGatFan, block_start
from atft.model.attention import TemperedGATv2
from atft.panel.store import Panel
from atft.training.blocks import Source


def selection_weights(network: AtftGatFan, panel: Panel, days: Sequence[int]) -> dict[str, float]:
    """Mean weight of each feature over the tradable stocks of `days`; all together 1.

    A stock of which nothing is known weighs no feature, and does not count.
    """
    device = next(network.parameters()).device
    network.eval()
    total = torch.zeros(len(panel.feature_names), dtype=torch.float64)
    with torch.inference_mode():
        for day in days:
            x = panel.window(day, day + 1)[0, torch.from_numpy(panel.tradable[day].copy())]
            total += network.encoder.selection(x.to(device))[1].sum(0, dtype=torch.float64).cpu()
    return dict(zip(panel.feature_names, (total / total.sum()).tolist(), strict=True))


def attention_facts(network: AtftGatFan, source: Source, days: Sequence[int]) -> dict[str, float | None]:
    """Where attention goes on `days`, by column of `metrics/epochs.csv`; mean over tradable stocks and days.

    - lag_entropy: entropy of the weights over the days of the window / its maximum; 1 = all days alike.

    With a graph, for each of its layers l = 1, 2, ...:

    - attention_entropy_l: entropy of a stock's weights over its incoming links / its maximum, mean over heads;
      0 = one link is all, 1 = all alike. Stocks with one link (themselves) do not count.
    - effective_neighbors_l: exp(entropy), mean over heads: as many links, were they alike. The same stocks.
    - message_share_l: |m| / (|m| + |s|) of the gated message m that is added to the state s.
    - temperature_l: mean over heads.

    None where no stock counts.
    """
    panel, device, encoder = source.panel, source.device, network.encoder
    network.eval()
    seen: dict[str, list[Tensor]] = defaultdict(list)
    for day in days:
        x, (index, attr) = source.rows(block_start(day, encoder.lookback), day + 1), source.edges(day)
        tradable = torch.from_numpy(panel.tradable[day].copy()).to(device)
        with torch.inference_mode():
            state, lags = encoder.stocks(x, 1)
            seen["lag_entropy"].append(torch.special.entr(lags[0, tradable]).sum(-1) / math.log(encoder.lookback))
            heard = encoder.graph.listen(state, index, attr, depth_drop=0.0) if encoder.graph else ()
            for layer, (before, alpha, added, _) in enumerate(heard, start=1):
                entropy, links = link_entropy(alpha, index[1], len(tradable))
                several = links > 1
                entropy, links = entropy[several], links[several]
                seen[f"attention_entropy_{layer}"].append((entropy / links.log()[:, None]).mean(1))
                seen[f"effective_neighbors_{layer}"].append(entropy.exp().mean(1))
                message, own = (part[: len(tradable)][tradable].norm(dim=1) for part in (added, before))
                seen[f"message_share_{layer}"].append(message / (message + own))
    facts = {name: _mean(parts) for name, parts in seen.items()}
    layers = [layer for layer in encoder.modules() if isinstance(layer, TemperedGATv2)]
    return facts | {f"temperature_{i}": layer.temperature().mean().item() for i, layer in enumerate(layers, start=1)}


def link_entropy(alpha: Tensor, target: Tensor, stocks: int) -> tuple[Tensor, Tensor]:
    """(entropy [stock, head] of the weights `alpha` [edge, head] of the links into a stock, their number [stock])."""
    into_stocks = target < stocks
    alpha, target = alpha[into_stocks], target[into_stocks]
    entropy = alpha.new_zeros(stocks, alpha.shape[1]).index_add(0, target, torch.special.entr(alpha))
    return entropy, alpha.new_zeros(stocks).index_add(0, target, torch.ones_like(alpha[:, 0]))


def _mean(parts: Sequence[Tensor]) -> float | None:
    values = torch.cat(list(parts))
    return values.mean(dtype=torch.float64).item() if len(values) else None
