// Curves. A plot has a key, and lines {label, step, column, band, colour}; one line is smoothed.
let smoothing = 2, charts = [];
const NEAR = {left: 46, right: 10, top: 8, bottom: 20, height: 172};
const COLOURS = 8, colour = i => `--ink-of: var(--c${i % COLOURS})`;
const group = key => key.includes("/") ? key.slice(0, key.indexOf("/")) : "learning";
const title = key => key.includes("/") ? [h("i", {}, group(key) + "/"), key.slice(group(key).length + 1)] : key;
const anchor = (stage, key) => "m-" + (stage + "-" + key).replace(/[^\w]+/g, "-");

function prepare(line) {
  const {step, column} = line, seen = column.filter(has);
  const places = step.map((_, i) => i).filter(i => has(column[i])), few = seen.length <= 12;
  // Schedules and counters are exact: smoothing them would draw values that never were.
  const exact = few || seen.filter((v, i) => i && v !== seen[i - 1]).length < .15 * seen.length;
  return {...line, seen, few, exact, first: places[0], last: places.at(-1), drawn: column};
}
function nearest(line, at) {
  let best = line.first;
  for (let i = line.first; i <= line.last; i++)
    if (has(line.column[i]) && Math.abs(line.step[i] - at) <= Math.abs(line.step[best] - at)) best = i;
  return best;
}
function chart(plot) {
  const {key, note, wide, stage} = plot, lines = plot.lines.map(prepare).filter(line => line.seen.length), one = lines.length === 1;
  const read = h("div", {class: "read soft"}), keys = h("div", {class: "keys"}), whole = lines.every(line => line.seen.every(Number.isInteger));
  const svg = s("svg", {height: NEAR.height, role: "img", "aria-label": `${key}: ` + lines.map(l => `${l.label || "last"} ${fmt(l.seen.at(-1))}`).join(", ")});
  const card = h("div", {class: wide ? "card chart span" : "card chart", id: stage && anchor(stage, key)},
    h("div", {class: "top"}, h("div", {class: one && outside(key, tail(lines[0].column)) ? "name out" : "name"}, plot.title || title(key)), read),
    one ? null : keys, svg, note && h("p", {class: "note"}, note));
  const x0 = Math.min(...lines.map(l => l.step[l.first])), end = Math.max(...lines.map(l => l.step[l.last])), x1 = end > x0 ? end : x0 + 1;
  let x, y, cross;
  function legend(at) {
    keys.replaceChildren(...lines.map((line, i) => h("span", {class: "key", style: colour(line.colour ?? i)}, line.label, " ",
      h("b", {class: "num"}, show(key, line.column[at === null ? line.last : nearest(line, at)])))));
  }
  function rest() {
    cross?.setAttribute("visibility", "hidden");
    if (one) read.replaceChildren(h("span", {class: "faint"}, "last "), show(key, lines[0].seen.at(-1))); else { read.replaceChildren(); legend(null); }
  }
  function point(at) {
    const near = nearest(lines[0], at), where = lines[0].step[near], line = lines[0];
    const more = !one ? "" : line.band && has(line.band.low[near]) ? ` (${fmt(line.band.low[near])} to ${fmt(line.band.high[near])})` :
      line.drawn !== line.column && has(line.drawn[near]) ? ` (smooth ${show(key, line.drawn[near])})` : "";
    read.replaceChildren(h("span", {class: "faint"}, `step ${fmt(where, 6)}  `), one ? show(key, line.column[near]) : "", more);
    if (!one) legend(at);
    if (!cross) return;
    cross.setAttribute("visibility", "visible");
    cross.setAttribute("transform", `translate(${x(where)},0)`);
    lines.forEach((l, i) => cross.children[i + 1].setAttribute("cy", y(l.column[nearest(l, at)])));
  }
  function range() {
    const all = lines.flatMap(line => line.band ? [...line.seen, ...line.band.low.filter(has), ...line.band.high.filter(has)] : line.seen);
    let low = all.reduce((a, b) => Math.min(a, b)), high = all.reduce((a, b) => Math.max(a, b));
    const log = low > 0 && high / low > 300;
    if (!log) {
      if (low >= 0 && low < .35 * high) low = 0;  // start at zero where that costs little height
      const room = (high - low || Math.abs(high) || 1) * .06;
      high += room; if (low !== 0) low -= room;
      if (isShare(key) && high - room <= 1) high = Math.min(high, 1);
      if (isShare(key) && low + room >= 0) low = Math.max(low, 0);
    }
    return {low, high, log};
  }
  function axes(width, {low, high, log}, a, b) {
    const {left, right, top, bottom, height} = NEAR;
    const marks = log ? ticks(Math.floor(a), Math.ceil(b), 4).filter(t => Number.isInteger(t) && t >= a - .01 && t <= b).map(t => 10 ** t)
      : ticks(low, high, 4).filter(t => !whole || Number.isInteger(t));
    const parts = marks.map(t => [
      s("line", {class: "grid-line", x1: left, x2: width - right, y1: y(t), y2: y(t)}),
      s("text", {x: left - 7, y: y(t) + 4, "text-anchor": "end"}, isShare(key) && low >= 0 && high <= 1.1 ? trim(100 * t, 3) + "%" : fmt(t)),
    ]);
    parts.push(s("line", {class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom}));
    for (const t of ticks(x0, x1, Math.max(2, width / 90))) if (Number.isInteger(t))
      parts.push(s("text", {x: x(t), y: height - 5, "text-anchor": x(t) > width - 24 ? "end" : "middle"}, fmt(t)));
    if (log) parts.push(s("text", {x: left + 5, y: top + 8}, "log scale"));
    for (const limit of HEALTHY.get(key) || []) if (has(limit) && limit !== 0 && limit > low && limit < high)
      parts.push(s("line", {class: "limit", x1: left, x2: width - right, y1: y(limit), y2: y(limit)}));
    return parts;
  }
  function trace(line, values, pen) {
    let d = "", gap = true;
    line.step.forEach((at, i) => {
      if (!has(values[i])) { gap = line.sparse ? gap : true; return; }
      d += `${gap || pen === "h0" ? "M" : "L"}${x(at).toFixed(1)},${y(values[i]).toFixed(1)}${pen}`; gap = false;
    });
    return d;
  }
  function strokes(line, i) {
    const style = one ? "" : colour(line.colour ?? i) + ";", parts = [];
    line.drawn = line.exact || line.sparse ? line.column : smooth(line.column, smoothing ? line.seen.length * .004 * 2 ** smoothing : 0);
    if (line.band) {  // one run: of each step as it was; several: of the smoothed means
      const even = column => one || line.drawn === line.column ? column : smooth(column, line.seen.length * .004 * 2 ** smoothing);
      const low = even(line.band.low), high = even(line.band.high), edge = line.step.map((_, k) => k).filter(k => has(low[k]) && has(high[k]));
      if (edge.length) parts.push(s("path", {class: "band", style, d: "M" + edge.map(k => `${x(line.step[k])},${y(high[k])}`)
        .concat(edge.reverse().map(k => `${x(line.step[k])},${y(low[k])}`)).join("L") + "Z"}));
    }
    const dots = line.few || line.sparse && line.seen.length < 40;
    if (dots || one && line.drawn !== line.column) parts.push(s("path", {class: "raw", d: trace(line, line.column, "h0"), style:
      `${style}stroke-width:${dots ? 6 : line.seen.length > 600 ? 2 : 3}px${dots ? ";opacity:1" : ""}`}));
    parts.push(s("path", {class: "curve", style, d: trace(line, line.drawn, "")}));
    return parts;
  }
  function draw() {
    const width = svg.clientWidth || 340, {left, right, top, bottom, height} = NEAR, scale = range(), f = scale.log ? Math.log10 : v => v;
    const a = f(scale.low), b = f(scale.high) > a ? f(scale.high) : a + 1;
    x = v => left + (v - x0) / (x1 - x0) * (width - left - right);
    y = v => top + (b - f(v)) / (b - a) * (height - top - bottom);
    cross = s("g", {visibility: "hidden"}, s("line", {class: "cross", y1: top, y2: height - bottom}),
      lines.map((line, i) => s("circle", {class: "dot", r: 4, style: one ? "" : colour(line.colour ?? i)})));
    svg.replaceChildren(...axes(width, scale, a, b).flat(), ...lines.flatMap(strokes), cross);
  }
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), t = (event.clientX - box.left - NEAR.left) / (box.width - NEAR.left - NEAR.right);
    const at = x0 + Math.min(1, Math.max(0, t)) * (x1 - x0);
    for (const peer of charts.filter(c => c.stage === stage)) peer.point(at);  // the same step in every chart
  });
  svg.addEventListener("pointerleave", () => { for (const peer of charts.filter(c => c.stage === stage)) peer.rest(); });
  rest();
  return {stage, card, draw, point, rest, group: group(key)};
}
function redraw() { for (const c of charts) c.draw(); }
