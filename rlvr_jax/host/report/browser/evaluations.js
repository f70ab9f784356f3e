// Held-out accuracy: by domain between two evaluations, over time, by way of choosing an answer; audits.
const AUDIT = {false_positive: "Wrong answers accepted", false_negative: "Right answers rejected", youden: "Youden’s J",
  dark_current: "Reward without content", worst: "Strongest attack"};
const all = (e, way = "accuracy") => e.ways[way]?.all;
function ends() {
  const scored = DATA.evals.filter(e => has(all(e)));
  const from = scored.find(e => /before/i.test(e.name)) || scored[0];
  return [from || DATA.evals[0], scored.length > 1 ? scored.at(-1) : from || DATA.evals.at(-1)];
}
function byDomain() {
  const [from, to] = ends(), body = h("div", {class: "card wide"}), choice = {from: DATA.evals.indexOf(from), to: DATA.evals.indexOf(to), way: "accuracy"};
  const ways = Object.keys(DATA.ways).filter(k => DATA.evals.some(e => e.ways[k]));
  if (!ways.length) return null;
  if (!ways.includes(choice.way)) choice.way = ways[0];
  const X = v => (100 * v).toFixed(2) + "%";
  function row(k, p, q, one) {
    const gain = has(p) && has(q) ? q - p : null;
    const marks = [0, .25, .5, .75, 1].map(t => s("line", {class: "grid-line", x1: X(t), x2: X(t), y1: 0, y2: 30}));
    if (gain !== null && !one) marks.push(s("line", {x1: X(p), x2: X(q), y1: 15, y2: 15, stroke: gain < 0 ? "var(--bad)" : "var(--accent)", "stroke-width": 3, opacity: .4}));
    if (has(p) && !one) marks.push(s("circle", {cx: X(p), cy: 15, r: 4.5, fill: "var(--before)"}));
    if (has(q)) marks.push(s("circle", {cx: X(q), cy: 15, r: 5.5, fill: "var(--accent)"}));
    return h("tr", {class: k === "all" ? "all" : null}, h("td", {}, k === "all" ? "All domains" : k), one ? null : h("td", {}, percent(p)), h("td", {}, percent(q)),
      one ? null : h("td", {class: gain === null ? "" : gain < -.0005 ? "bad" : gain > .0005 ? "good" : "soft"}, points(gain)),
      h("td", {class: "plot"}, s("svg", {"aria-hidden": "true"}, marks)));
  }
  function draw() {
    const a = DATA.evals[choice.from], b = DATA.evals[choice.to], one = a === b, A = a.ways[choice.way] || {}, B = b.ways[choice.way] || {};
    const keys = [...new Set([...Object.keys(A), ...Object.keys(B)])].filter(k => k !== "all").sort((p, q) => (B[q] ?? -1) - (B[p] ?? -1));
    if (has(A.all) || has(B.all)) keys.unshift("all");
    const scale = h("tr", {}, h("td", {}), one ? null : [h("td", {}), h("td", {})], h("td", {}), h("td", {class: "plot"}, s("svg", {style: "height:20px"},
      [0, .5, 1].map(t => s("text", {x: X(t), y: 13, "text-anchor": t === 0 ? "start" : t === 1 ? "end" : "middle"}, 100 * t + " %")))));
    const key = (name, ink) => h("span", {class: "key", style: `--ink-of: var(--${ink})`}, name);
    body.replaceChildren(h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "Domain"), one ? null : h("th", {}, a.name), h("th", {}, b.name),
      one ? null : h("th", {}, "Points"), h("th", {class: "plot"}, one ? null : key(a.name, "before"), key(b.name, "accent")))),
      h("tbody", {}, keys.map(k => row(k, A[k], B[k], one)), scale)));
  }
  const pick = (name, label) => h("label", {class: "ctl"}, label, h("select", {onchange: e => { choice[name] = +e.target.value; draw(); }},
    DATA.evals.map((e, i) => h("option", {value: i, selected: i === choice[name]}, e.name + (has(e.step) ? `, step ${pretty(e.step)}` : "")))));
  draw();
  return [h("div", {class: "filters"}, ways.length > 1 && h("label", {class: "ctl"}, "answers", h("select", {onchange: e => { choice.way = e.target.value; draw(); }},
    options(ways.map(k => [k, DATA.ways[k]]), choice.way))), DATA.evals.length > 1 && [pick("from", "from"), pick("to", "to")]), body];
}
function overTime() {  // what a stage measured while it trained, one line for each domain
  const prefix = "eval/accuracy", plots = [];
  for (const stage of DATA.stages) {
    const keys = Object.keys(stage.series).filter(k => k === prefix || k.startsWith(prefix + "/")).sort();
    const lines = keys.map(k => ({label: k === prefix ? "all" : k.slice(prefix.length + 1), step: stage.step, column: stage.series[k], sparse: true}));
    if (lines.length && lines[0].column.filter(has).length > 1)
      plots.push(chart({key: prefix, title: `Held-out accuracy during ${stage.name}`, stage: "held-out-" + stage.name, lines, wide: true}));
  }
  if (plots.length) { charts.push(...plots); requestAnimationFrame(() => plots.forEach(p => p.draw())); }
  return plots.length ? h("div", {class: "grid", style: "margin-top:14px"}, plots.map(p => p.card)) : null;
}
function waysTable() {
  const ways = Object.keys(DATA.ways).filter(k => DATA.evals.some(e => has(all(e, k))));
  if (ways.length < 2) return null;
  return [h("h3", {}, "Ways to answer"), table(["Evaluation", "Problems", "k", ...ways.map(k => DATA.ways[k])],
    DATA.evals.map(e => [e.name, has(e.n) ? pretty(e.n) : "–", e.samples ?? "–", ...ways.map(k => [percent(all(e, k)), e.intervals[k] ? h("small", {}, h("br"), e.intervals[k].map(v => (100 * v).toFixed(0)).join(" to ")) : ""])]))];
}
function verifierTable() {
  const judged = DATA.evals.filter(e => Object.keys(e.verifier).length);
  if (!judged.length) return null;
  const cells = v => { const both = has(v.false_positive) && has(v.false_negative), J = both ? 1 - v.false_positive - v.false_negative : null;
    return [percent(v.accuracy ?? v.all), percent(v.false_positive), percent(v.false_negative), has(J) ? J.toFixed(3) : "–"]; };
  return [h("h3", {}, "Verifier against the oracle"), table(["Evaluation", "Agreement", AUDIT.false_positive, AUDIT.false_negative, AUDIT.youden],
    judged.map(e => [e.name, ...cells(e.verifier)]))];
}
function auditTable() {
  if (!DATA.audits.length) return null;
  const keys = Object.keys(AUDIT).filter(k => DATA.audits.some(a => has(a[k]))), write = (k, v) => /^false/.test(k) ? percent(v) : fmt(v);
  return [h("h3", {}, "Audit: attacks on the reward"), table(["Attacked", ...keys.map(k => AUDIT[k])], DATA.audits.map(a => [a.where, ...keys.map(k => write(k, a[k]))]))];
}
function heldOut() {
  const parts = [DATA.evals.length ? byDomain() : null, overTime(), DATA.evals.length ? [waysTable(), verifierTable()] : null, auditTable()].flat().filter(Boolean);
  return parts.length ? h("section", {id: "held-out"}, h("div", {class: "head"}, h("h2", {}, "Held-out problems")), parts) : null;
}
