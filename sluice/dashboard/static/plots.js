// The plots. Every number and text comes from the server, in the unit that it chose.

/* global Plotly */

const CONFIG = { displayModeBar: false, responsive: true, showTips: false };
const NO_EXTRA = "%{text}<extra></extra>";

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function layout(axis, unit) {
  // On a phone every other label is left out: turned labels are hard to read.
  const narrow = matchMedia("(max-width: 600px)").matches;
  const some = (list) => (narrow ? list.filter((_, i) => i % 2 === 0) : list);
  const line = { gridcolor: colour("grid"), linecolor: colour("line"), zeroline: false };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: colour("muted") },
    margin: { l: 52, r: 12, t: 8, b: 48 },
    hovermode: "closest",
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink") } },
    legend: { orientation: "h", traceorder: "normal", x: 0, y: -0.1, yanchor: "top" },
    dragmode: false,
    xaxis: {
      ...line,
      type: "date",
      range: axis.range,
      autorange: false,
      fixedrange: true,
      tickmode: "array",
      tickvals: some(axis.at),
      ticktext: some(axis.labels),
      tickangle: 0,
    },
    yaxis: { ...line, rangemode: "tozero", fixedrange: true, ticksuffix: ` ${unit}`, nticks: 6, automargin: true },
  };
}

function level(axis, value, name, look) {
  return {
    type: "scatter",
    mode: "lines",
    x: axis.range,
    y: [value, value],
    name,
    hoverinfo: "skip",
    line: { width: 1.5, ...look },
  };
}

function usage(plot) {
  const { axis, used, forecast } = plot;
  const few = used.x.length < 4;
  return [
    {
      type: "scatter",
      mode: few ? "lines+markers" : "lines",
      x: used.x,
      y: used.y,
      text: used.hover,
      hovertemplate: NO_EXTRA,
      name: "used",
      fill: "tozeroy",
      fillcolor: colour("used-fill"),
      line: { color: colour("used"), width: 2 },
    },
    {
      type: "scatter",
      mode: "lines",
      x: forecast.x,
      y: forecast.y,
      text: forecast.hover,
      hovertemplate: NO_EXTRA,
      name: "forecast",
      line: { color: colour("used"), width: 2, dash: "dash" },
    },
    level(axis, plot.soft, plot.softText, { color: colour("throttle-fill"), dash: "dot" }),
    level(axis, plot.limit, plot.limitText, { color: colour("drop-fill") }),
  ];
}

function outcomes(plot) {
  return plot.series.map((series) => ({
    type: "bar",
    x: plot.x,
    y: series.y,
    width: plot.widthMs,
    offset: 0,
    text: plot.hover,
    textposition: "none",
    hovertemplate: NO_EXTRA,
    name: series.name,
    marker: { color: colour(`${series.outcome}-fill`), line: { width: 0 } },
  }));
}

/** Draw both plots, or change them to what is so now. */
export function draw(plots) {
  const { axis } = plots.usage;
  Plotly.react("usage", usage(plots.usage), layout(axis, plots.usage.unit), CONFIG);
  Plotly.react(
    "outcomes",
    outcomes(plots.outcomes),
    { ...layout(axis, plots.outcomes.unit), barmode: "stack", bargap: 0 },
    CONFIG,
  );
}
