// Several runs on one page: paired answers, final numbers, curves over each other, what differs in the configs.
const ink_of = i => h("span", {class: "key", style: colour(i)}, DATA.groups[i].label);
function pairedTable() {
  if (!DATA.tests.length) return null;
  const rows = DATA.tests.map(t => [t.evaluation, h("td", {class: "words"}, t.way === "greedy" ? "greedy" : "sampled"), h("td", {class: "words"}, `${t.group} against ${t.baseline}`), pretty(t.problems), percent(t.first), percent(t.second),
    h("td", {class: t.low > 0 ? "good" : t.high < 0 ? "bad" : "soft"}, points(t.second - t.first)), `${points(t.low)} to ${points(t.high)}`, has(t.p) ? fmt(t.p, 2) : "–", t.test]);
  return h("section", {id: "held-out"}, h("div", {class: "head"}, h("h2", {}, "The same held-out problems")),
    table(["Evaluation", h("span", {class: "words"}, "Answers"), h("span", {class: "words"}, "Compared"), "Problems", "First", "Second", "Points", "95 % interval", "p", "Test"], rows));
}
function finalsTable() {
  const cell = (metric, c) => !has(c.mean) ? "–" : [show(metric, c.mean), has(c.half) ? h("small", {}, ` ± ${isShare(metric) ? (100 * c.half).toFixed(1) : fmt(c.half, 2)}`) : ""];
  return h("section", {id: "finals"}, h("div", {class: "head"}, h("h2", {}, "Final numbers"), h("p", {class: "small soft"}, "mean and 95 % interval over seeds; metrics of a stage over its last tenth")),
    table(["", "", ...DATA.groups.map((_, i) => ink_of(i))], DATA.finals.map(row => {
      const metric = row.metric.replace(/^eval /, ""), known = DATA.ways[metric];
      return [row.where, h("td", {class: "words"}, known || row.metric), ...row.groups.map(c => cell(known ? "accuracy" : row.metric, c))];
    })));
}
function comparedCurves() {
  const stages = DATA.curves.filter(stage => stage.plots.length), body = h("div"), known = [...NOTES.keys()];
  if (!stages.length) return null;
  function draw(name) {
    const place = key => NOTES.has(key) ? known.indexOf(key) : known.length;
    const plots = [...stages.find(s => s.name === name).plots].sort((a, b) => place(a.key) - place(b.key));
    const cards = plots.map(p => chart({...p, stage: name, note: NOTES.get(p.key), lines: p.lines.map(l => ({...l, sparse: l.column.length < 40}))}));
    const names = [...new Set(cards.map(c => c.group))], grid = h("div", {class: "grid"});
    const only = of => { charts = cards.filter(c => !of || c.group === of); grid.replaceChildren(...charts.map(c => c.card)); redraw(); };
    body.replaceChildren(names.length > 1 ? h("div", {class: "head"}, segments([["", "all"], ...names.map(n => [n, n])], "", only, "which metrics")) : "", grid);
    only("");
  }
  const range = h("input", {type: "range", min: 0, max: 5, step: .5, value: smoothing, oninput: e => { smoothing = +e.target.value; redraw(); }});
  const first = stages.find(s => s.plots.some(p => p.key === "reward/mean")) || stages.at(-1);
  requestAnimationFrame(() => draw(first.name));
  return h("section", {id: "curves"}, h("div", {class: "head"}, h("h2", {}, "Curves"),
    stages.length > 1 && segments(stages.map(s => [s.name, s.name]), first.name, draw, "stage"), h("label", {class: "ctl"}, "smoothing", range)), body);
}
function configTable() {
  return h("section", {id: "config"}, h("div", {class: "head"}, h("h2", {}, "What differs in the configs")),
    DATA.settings.length ? table(["Key", ...DATA.groups.map((_, i) => ink_of(i))], DATA.settings.map(row =>
      [row.key, ...row.values.map(v => h("td", {class: "words"}, has(v) ? v || "(empty)" : "–"))])) : h("p", {class: "soft"}, "Nothing but seeds and names."));
}
function comparison() {
  const head = h("header", {}, h("p", {class: "meta"}, h("b", {}, count(DATA.groups.reduce((n, g) => n + g.runs.length, 0), "run"), " in ", count(DATA.groups.length, "group"))),
    h("div", {class: "lead"}, (DATA.learned.length ? DATA.learned : ["These runs share no evaluation, so only their curves can be compared."]).map(said => h("p", {}, said))),
    h("dl", {class: "tiles"}, DATA.groups.map((g, i) => h("div", {}, h("dt", {}, ink_of(i)), h("dd", {}, h("small", {}, g.runs.map((name, k) => `${name}, seed ${g.seeds[k] || "?"}`).join("; ")))))));
  return [head, ["Held-out", pairedTable()], ["Finals", finalsTable()], ["Curves", comparedCurves()], ["Config", configTable()]];
}
