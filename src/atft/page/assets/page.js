"use strict";
// Draws every chart whose series stand in the page. A date chart shares its cursor with all others.
(() => {
  const charts = JSON.parse(document.getElementById("series").textContent);
  const style = () => getComputedStyle(document.documentElement);
  const color = (n) => style().getPropertyValue("--c" + n).trim();
  const drawn = new Map();

  const DIGITS = { ic: 3, ratio: 2, t: 1, percent: 1, percent2: 2, share: 0, count: 0, bps: 1 };
  const written = (value, form) => {
    const share = form.startsWith("percent") || form === "share";
    return (share ? value * 100 : value).toFixed(DIGITS[form]).replace("-", "\u2212") + (share ? "\u00a0%" : "");
  };
  const day = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 10);

  const faded = (n, alpha) => {
    const probe = document.createElement("i");
    probe.style.color = color(n);
    document.body.append(probe);
    const rgb = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3);
    probe.remove();
    return `rgba(${rgb.join(",")},${alpha})`;
  };

  // A strip of states: one row for each series, filled where the state is 1.
  const strips = (chart) => (u) => {
    const rows = chart.series.length, height = u.bbox.height / rows;
    chart.series.forEach((one, k) => {
      const top = u.bbox.top + k * height + height * 0.14;
      // A run of days of one state is one rectangle: neighbours would show their seams.
      for (let i = 0, next; i < chart.x.length; i = next) {
        for (next = i + 1; next < chart.x.length && one.values[next] === one.values[i];) next += 1;
        if (one.values[i] === null) continue;
        const from = u.valToPos(chart.x[i], "x", true);
        const to = next < chart.x.length ? u.valToPos(chart.x[next], "x", true) : u.bbox.left + u.bbox.width;
        u.ctx.fillStyle = one.values[i] ? color(one.color) : faded(one.color, 0.18);
        u.ctx.fillRect(from, top, Math.max(to - from, 1), height * 0.72);
      }
    });
  };

  const options = (chart, width, height, legend) => {
    const strip = chart.series[0].kind === "state";
    const narrow = width < 420;
    const ink = style().getPropertyValue("--soft").trim(), line = style().getPropertyValue("--line").trim();
    const font = "12px " + getComputedStyle(document.body).fontFamily;
    const axis = { stroke: ink, font, ticks: { show: false }, grid: { stroke: line, width: 1 } };
    const show = (u) => {
      const idle = u.cursor.idx === null || u.cursor.idx === undefined;
      legend(idle ? null : u.cursor.idx);
    };
    return {
      width, height,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      legend: { show: false },
      padding: [8, 8, 0, 0],
      cursor: {
        points: { show: !strip, size: 7 },
        y: false,
        drag: { x: true, y: false },
        sync: chart.time ? { key: "days", setSeries: false } : undefined,
      },
      scales: {
        x: { time: chart.time, range: (u, low, high) => {
          const half = chart.time ? 0 : chart.series.some((s) => s.kind === "bars") ? 0.6 : (high - low) * 0.02;
          return [low - half, high + half];
        } },
        y: strip ? { range: [0, chart.series.length] } : { range: (u, low, high) => {
          if (low === null) return [0, 1];
          const bottom = chart.zero ? Math.min(low, 0) : low, top = chart.zero ? Math.max(high, 0) : high;
          const room = (top - bottom || Math.abs(top) || 1) * 0.06;
          return [bottom === 0 ? 0 : bottom - room, top === 0 ? room / 2 : top + room];
        } },
      },
      axes: [
        { ...axis, space: narrow ? 70 : 80, size: chart.time ? 44 : 30, grid: { show: false },
          values: chart.time
            ? [[31536000, "{YYYY}", null, null, null, null, null, null, 1],
               [2419200, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
               [86400, "{D} {MMM}", "\n{YYYY}", null, null, null, null, null, 1]]
            : (u, ticks) => ticks.map((t) => (Number.isInteger(t) ? String(t) : "")) },
        strip
          ? { ...axis, size: 86, grid: { show: false }, splits: () => chart.series.map((s, k) => k + 0.5),
              values: () => chart.series.map((s) => s.label).reverse() }
          : { ...axis, size: 56, space: 34, values: (u, ticks) => {
              const step = ticks.length > 1 ? Math.abs(ticks[1] - ticks[0]) : 1;
              const share = chart.form.startsWith("percent") || chart.form === "share";
              const scale = share ? 100 : 1;
              const digits = Math.min(4, Math.max(0, -Math.floor(Math.log10(step * scale + 1e-12))));
              return ticks.map((t) => (t * scale).toFixed(digits).replace("-", "\u2212") + (share ? "%" : ""));
            } },
      ],
      series: [{}].concat(chart.series.map((one) => {
        const stroke = color(one.color);
        const common = { label: one.label, stroke, width: 2, spanGaps: true, points: { show: false } };
        if (one.kind === "state") return { ...common, paths: () => null };
        if (one.kind === "bars") return { ...common, width: 0, fill: stroke, paths: uPlot.paths.bars({ size: [0.72, 64], radius: 0.08 }) };
        if (one.kind === "band" || one.kind === "edge") return { ...common, width: 0 };
        if (one.kind === "points") return { ...common, dash: one.dash ? [6, 4] : undefined, points: { show: true, size: 6, fill: stroke } };
        return { ...common, width: one.dash ? 1.5 : 2, dash: one.dash ? [6, 4] : undefined };
      })),
      bands: chart.series.flatMap((one, k) =>
        one.kind === "band" ? [{ series: [k + 2, k + 1], fill: faded(one.color, 0.18) }] : []),
      hooks: {
        setCursor: [show],
        draw: strip ? [strips(chart)] : [(u) => {
          const zero = u.valToPos(0, "y", true);
          if (u.scales.y.min > 0 || u.scales.y.max < 0) return;
          u.ctx.save();
          u.ctx.strokeStyle = color(0);
          u.ctx.lineWidth = devicePixelRatio;
          u.ctx.setLineDash([]);
          u.ctx.beginPath();
          u.ctx.moveTo(u.bbox.left, zero);
          u.ctx.lineTo(u.bbox.left + u.bbox.width, zero);
          u.ctx.stroke();
          u.ctx.restore();
        }],
      },
    };
  };

  const key = (one) => {
    const mark = document.createElement("i");
    const solid = ["bars", "state", "band"].includes(one.kind);
    mark.className = solid ? "block" : one.dash ? "dashed" : "";
    mark.style.borderColor = color(one.color);
    if (solid) mark.style.background = one.kind === "band" ? faded(one.color, 0.3) : color(one.color);
    return mark;
  };

  // Values at the cursor; where there is no cursor, the last ones.
  const legendOf = (box, chart, unit) => (at) => {
    const i = at === null ? chart.idle : at;
    const where = document.createElement("span");
    where.textContent = chart.time ? day(chart.x[i]) : unit.replace("#", chart.x[i]);
    const items = chart.series.filter((one) => one.values[i] !== null || one.kind === "state").map((one) => {
      const item = document.createElement("span"), value = document.createElement("b");
      const state = one.values[i];
      value.textContent = one.kind === "state" ? (state === null ? "unknown" : one.states[state]) : written(state, chart.form);
      if (one.kind !== "edge") item.append(key(one));
      item.append(one.label + " ", value);
      return item;
    });
    box.replaceChildren(where, ...items);
  };

  const draw = (figure) => {
    const chart = charts[figure.dataset.chart], plot = figure.querySelector(".plot");
    drawn.get(figure)?.destroy();
    const legend = legendOf(figure.querySelector(".legend"), chart, figure.dataset.unit || "");
    const data = [chart.x].concat(chart.series.map((one) => one.values));
    drawn.set(figure, new uPlot(options(chart, plot.clientWidth, plot.clientHeight, legend), data, plot));
    legend(null);
    figure.dataset.drawn = "yes";
  };

  const figures = [...document.querySelectorAll("figure[data-chart]")];
  figures.forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => figures.forEach(draw));
  const resized = new ResizeObserver((entries) => entries.forEach(({ target }) => {
    const figure = target.closest("figure"), u = drawn.get(figure);
    if (u && u.width !== target.clientWidth && target.clientWidth > 0) {
      u.setSize({ width: target.clientWidth, height: target.clientHeight });
    }
  }));
  figures.forEach((figure) => resized.observe(figure.querySelector(".plot")));
})();
