// The page: what was learned and whether to trust it, then held-out problems, curves, rollouts, config.
const TRUST = {good: "Nothing speaks against these numbers.", care: "Read these numbers with care.",
  bad: "Something is wrong here.", unknown: "Whether this can be trusted is not known."};

let pickStage = () => {};
function band(stage, key) {  // around a mean: one deviation to each side, but within the least and the most of that step
  const base = key.slice(0, -4), of = name => stage.series[base + name];
  if (!key.endsWith("mean") || !of("min") || !of("max")) return null;
  const deviation = of("std"), middle = stage.series[key], low = of("min"), high = of("max");
  const edge = (i, sign, limit, pick) => !deviation ? limit[i] : has(middle[i]) && has(deviation[i]) && has(limit[i]) ? pick(limit[i], middle[i] + sign * deviation[i]) : null;
  const out = {low: middle.map((_, i) => edge(i, -1, low, Math.max)), high: middle.map((_, i) => edge(i, 1, high, Math.min)), deviation: !!deviation};
  return out.low.some((v, i) => has(v) && v !== out.high[i]) ? out : null;
}
function plots(stage) {
  const out = [], constant = [], hidden = new Set(), known = [...NOTES.keys()];
  const bands = new Map(Object.keys(stage.series).map(key => [key, band(stage, key)]).filter(([, b]) => b));
  for (const key of bands.keys()) hidden.add(key.slice(0, -4) + "min").add(key.slice(0, -4) + "max");
  for (const [key, column] of Object.entries(stage.series)) {
    const seen = column.filter(has);
    if (hidden.has(key) || /^(audit|eval\/accuracy)\//.test(key)) continue;  // they are above
    if (seen.every(v => v === seen[0]) && !bands.has(key)) { constant.push([key, seen[0]]); continue; }
    const lost = stage.nonfinite[key], b = bands.get(key);
    const note = [NOTES.get(key), b && (b.deviation ? "The band is one deviation to each side, in that step." : "The band is minimum to maximum of that step."),
      key === "time/step" && "Without the time of compiling.", lost && `${count(lost, "value")} not finite.`].filter(Boolean).join(" ");
    const sparse = key.startsWith("eval/") || seen.length < .5 * column.length;
    out.push({key, note, stage: stage.name, lines: [{step: stage.step, column, band: b, sparse}]});
  }
  const place = key => NOTES.has(key) ? known.indexOf(key) : known.length;
  out.sort((a, b) => place(a.key) - place(b.key) || (a.key < b.key ? -1 : 1));
  return {out, constant};
}
function curves() {
  if (!DATA.stages.length) return null;
  const body = h("div"), order = [...DATA.stages].sort((a, b) => (b.type === "rl") - (a.type === "rl")), standing = charts;
  function draw(stage) {
    const {out, constant} = plots(stage), histograms = Object.entries(stage.histograms);
    const names = [...new Set([...out.map(plot => plot.key), ...histograms.map(([key]) => key)].map(group))];
    const cards = [...out.map(chart), ...histograms.map(([key, data]) => strip(stage, key, data))];
    cards.sort((a, b) => names.indexOf(a.group) - names.indexOf(b.group));
    const grid = h("div", {class: "grid"});
    const only = name => { const kept = cards.filter(c => !name || c.group === name); charts = [...standing, ...kept]; grid.replaceChildren(...kept.map(c => c.card)); redraw(); };
    body.replaceChildren(names.length > 1 ? h("div", {class: "head"}, segments([["", "all"], ...names.map(n => [n, n])], "", only, "which metrics")) : "", grid);
    if (constant.length) body.append(h("h3", {}, "The same at every step"), h("p", {class: "flat"}, constant.map(([k, v]) =>
      h("span", {title: NOTES.get(k), class: outside(k, v) ? "out" : "", id: anchor(stage.name, k)}, k + " ", h("b", {class: "num"}, show(k, v))))));
    if (!out.length && !constant.length && !histograms.length) body.append(h("p", {class: "soft"}, "This stage wrote no numbers."));
    only("");
  }
  const tabs = segments(order.map(x => [x.name, x.name]), order[0].name, k => draw(order.find(x => x.name === k)), "stage");
  pickStage = name => { const stage = order.find(x => x.name === name); tabs.mark(name); draw(stage); };
  const range = h("input", {type: "range", min: 0, max: 5, step: .5, value: smoothing, oninput: e => { smoothing = +e.target.value; redraw(); }});
  requestAnimationFrame(() => draw(order[0]));
  return h("section", {id: "curves"}, h("div", {class: "head"}, h("h2", {}, "Curves"), order.length > 1 && tabs,
    h("label", {class: "ctl"}, "smoothing", range)), body);
}
function alert({text: said, stage, key, value}) {
  if (!key) return h("li", {}, said);
  const go = event => { event.preventDefault(); pickStage(stage); document.getElementById(anchor(stage, key))?.scrollIntoView({block: "center"}); };
  return h("li", {}, h("a", {href: "#" + anchor(stage, key), onclick: go}, `${key} of ${stage} is ${show(key, value)}`), ". ", h("span", {class: "soft"}, said));
}
function trust() {
  if (!DATA.learned.length) return null;
  const {level, why} = DATA.trust;
  return h("div", {class: `trust ${level}-level`}, h("b", {}, TRUST[level]), h("ul", {class: "soft"}, why.map(reason => h("li", {}, reason))));
}
function header() {
  return h("header", {}, h("p", {class: "meta"}, h("b", {}, DATA.name), `  ·  ${DATA.state.text}  ·  last written ${DATA.written}`),
    h("div", {class: "lead"}, (DATA.learned.length ? DATA.learned : ["Nothing was measured yet."]).map(said => h("p", {}, said))), trust(),
    DATA.tiles.length ? h("dl", {class: "tiles"}, DATA.tiles.map(([label, value, note]) => h("div", {}, h("dt", {}, label), h("dd", {}, h("b", {}, value), note && h("small", {}, note))))) : null,
    DATA.attention.length ? h("div", {class: "attention"}, h("h3", {}, "Worth a look"), h("ul", {}, DATA.attention.map(alert))) : null);
}
function config() {
  return DATA.config ? h("section", {id: "config"}, h("details", {}, h("summary", {}, "Config"), h("pre", {class: "card"}, DATA.config))) : null;
}
function body() {
  const sections = DATA.kind === "comparison" ? comparison() : [header(), ["Held-out", heldOut()], ["Curves", curves()], ["Rollouts", viewer()], ["Config", config()]];
  const [head, ...named] = sections, there = named.filter(([, node]) => node);
  document.getElementById("app").append(
    h("nav", {class: "bar"}, h("div", {}, h("h1", {}, DATA.name), there.map(([name, node]) => h("a", {href: "#" + node.id}, name)))),
    h("main", {}, head, there.map(([, node]) => node),
      h("footer", {}, "Points are the logged values, lines their Gaussian smoothing; dashed lines are healthy limits. Long runs are shown at 2,000 evenly spread steps.")));
}
body();
let pending = 0;
addEventListener("resize", () => { cancelAnimationFrame(pending); pending = requestAnimationFrame(redraw); });
addEventListener("scroll", () => say(null, ""), {passive: true});
