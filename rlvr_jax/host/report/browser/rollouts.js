// Rollouts: a set for each step and evaluation, read when it is chosen; rows are drawn as they scroll into view.
const KINDS = {logprob: "log-prob", ratio: "probability ratio", token_reward: "token reward of the PRM", advantage: "advantage", p1: "verifier p(1)"};
const STEP_OF_LIST = 10, MOST_ROWS = 12;
const FILTERS = [["all", "all", () => true], ["right", "right", r => r.status === "right"], ["wrong", "wrong", r => r.status === "wrong"],
  ["hacked", "wrong but rewarded", r => has(r.oracle) && r.oracle < .5 && r.reward >= .5],
  ["missed", "right but unrewarded", r => has(r.oracle) && r.oracle >= .5 && has(r.reward) && r.reward < .5],
  ["cut", "cut off", r => r.status === "cut off"], ["crashed", "crashed", r => r.status === "crashed"]];
const ORDERS = {"": ["as sampled", null], long: ["longest first", r => -size(r)], reward: ["highest reward", r => -(r.reward ?? -1e9)],
  low: ["lowest reward", r => r.reward ?? 1e9], advantage: ["largest advantage", r => -Math.abs(r.advantage ?? 0)]};
const text = r => r.text ?? (r.pieces || []).join("");
const size = r => r.pieces ? r.pieces.length : text(r).length / 4;
const times = rows => rows.reduce((n, r) => n + (r.times || 1), 0);
const TONE = {right: "good", wrong: "bad", "cut off": "warn", crashed: "warn"}, SIGN = {right: "✓ ", wrong: "✗ "};

// A set is a data block of the page, or a script in the folder beside it that calls receiveSet.
const sets = new Map(), waiting = new Map();
function receiveSet(i, problems) { keepSet(i, problems); waiting.get(i)?.(problems); waiting.delete(i); }
function keepSet(i, problems) {
  sets.set(i, problems);
  if (sets.size > 6) sets.delete(sets.keys().next().value);
}
function readSet(i, then, failed) {
  if (sets.has(i)) return then(sets.get(i));
  const block = document.getElementById("set-" + i);
  if (block) { keepSet(i, JSON.parse(block.textContent)); return then(sets.get(i)); }
  waiting.set(i, then);
  document.head.append(h("script", {src: DATA.sets[i].file, onerror: failed, onload: e => e.target.remove()}));
}

function values(r, kind) {
  if (kind === "p1") return has(r.parts?.p1) && r.pieces ? r.pieces.map(() => r.parts.p1) : null;
  return r.values?.[kind];
}
function scaleOf(rows, kind) {  // how a value becomes a depth from -1 to 1; one outlier must not pale the rest
  if (kind === "p1") return {depth: v => 2 * v - 1, low: "0", high: "1"};
  if (kind === "ratio") return {depth: v => Math.max(-1, Math.min(1, Math.log(v) / Math.log(1.5))), low: "⅔", high: "1½"};
  const found = rows.flatMap(r => values(r, kind) || []).filter(has).map(Math.abs).sort((a, b) => a - b);
  const most = quantile(found, .98) || found.at(-1) || 1;
  return {depth: v => Math.max(-1, Math.min(1, v / most)), low: plain(fmt(-most, 2)), high: kind === "logprob" ? "0" : "+" + fmt(most, 2)};
}
const ink = depth => `rgba(var(--${depth < 0 ? "minus" : "plus"}), ${(.62 * Math.abs(depth) ** .8).toFixed(3)})`;

function viewer() {
  const files = DATA.sets;
  if (!files.length) return null;
  const main = files.map(f => f.kind).lastIndexOf("rollouts");
  const pick = {set: main >= 0 ? main : files.length - 1, domain: "", filter: "all", text: "", order: "", kind: ""};
  let problems = [], groups = [], shown = 0, scale = null;
  const list = h("div"), info = h("p", {class: "small soft num", role: "status"}), legend = h("span", {class: "ctl small soft num"});
  const end = h("p", {class: "rest"}), filters = h("div"), domains = h("span"), kinds = h("span");
  const name = f => f.kind === "answers" ? "evaluation " + f.label : (files.some(g => g.label !== f.label) ? f.label + " " : "") + (has(f.step) ? "step " + pretty(f.step) : "samples");

  function highlight(string) {
    const needle = pick.text.toLowerCase(), low = string.toLowerCase(), out = [];
    if (!needle || low.length !== string.length) return [string];
    let at = 0, hit;
    while ((hit = low.indexOf(needle, at)) >= 0) { out.push(string.slice(at, hit), h("mark", {}, string.slice(hit, hit + needle.length))); at = hit + needle.length; }
    return [...out, string.slice(at)];
  }
  function tokens(r) {
    const column = values(r, pick.kind);
    if (!r.pieces) return highlight(text(r));
    return r.pieces.map((piece, i) => {
      const inside = pick.text && piece.toLowerCase().includes(pick.text.toLowerCase()) ? h("mark", {}, piece) : piece;
      const node = h("s", {"data-i": i}, inside);
      if (column && has(column[i])) node.style.background = ink(scale.depth(column[i]));
      return node;
    });
  }
  function told(r, i) {  // all values of a token
    const lines = Object.entries(KINDS).map(([kind, word]) => [word, values(r, kind)?.[i]]).filter(([, v]) => has(v));
    return JSON.stringify(r.pieces[i]) + lines.map(([word, v]) => `\n${word} ${fmt(v)}`).join("");
  }
  function facts(r) {
    const fact = (word, v) => h("span", {}, word + " ", h("b", {}, v));
    return h("div", {class: "facts"}, r.answer && fact("final answer", highlight(r.answer)), has(r.reward) && fact("reward", fmt(r.reward)),
      Object.entries(r.parts || {}).map(([word, v]) => fact(word === "p1" ? "verifier p(1)" : word, fmt(v))),
      has(r.advantage) && fact("advantage", signed(r.advantage, fmt(r.advantage))), has(r.oracle) && fact("oracle", fmt(r.oracle)),
      r.pieces && fact("tokens", pretty(r.pieces.length) + (r.cut ? "+" : "")), r.greedy && h("span", {}, "greedy"),
      r.status === "cut off" && h("em", {}, "cut off at the token limit"), r.status === "crashed" && h("em", {}, "its grading crashed or took too long"),
      FILTERS[3][2](r) && h("em", {}, "rewarded though wrong"), FILTERS[4][2](r) && h("em", {}, "right but not rewarded"), r.cut && h("em", {}, "shortened in this page"));
  }
  function row(r, opened) {
    const inside = h("div", {class: "open", hidden: true}), peek = r.answer || text(r).trim().slice(-160).replace(/\s+/g, " ");
    function open(on) {
      line.setAttribute("aria-expanded", on);
      inside.hidden = !on;
      if (!on || inside.firstChild) return;
      const body = h("div", {class: "text"}, tokens(r));
      const over = event => { const token = event.target.closest("s"); say(event, token ? told(r, +token.dataset.i) : ""); };
      for (const kind of ["pointermove", "click"]) body.addEventListener(kind, over);
      body.addEventListener("pointerleave", () => say(null, ""));
      inside.append(facts(r), body);
    }
    const line = h("button", {class: "line", type: "button", "aria-expanded": "false", onclick: () => open(inside.hidden)},
      h("span", {class: "mark " + (TONE[r.status] || "")}, (SIGN[r.status] || "") + (r.status || "no verdict")),
      h("span", {}, has(r.reward) ? fmt(r.reward) : has(r.oracle) ? fmt(r.oracle) : ""), h("span", {class: "peek"}, highlight(peek)),
      h("span", {class: "end"}, (r.times > 1 ? `×${r.times} · ` : "") + (r.pieces ? count(r.pieces.length, "token") : "")));
    if (opened) open(true);
    return h("div", {class: "roll"}, line, inside);
  }
  function problem({problem: p, rows}, first) {
    const body = h("div"), more = h("button", {class: "line", type: "button", onclick: () => { body.append(...rows.slice(MOST_ROWS).map(r => row(r))); more.remove(); }},
      h("span", {class: "soft"}, `${pretty(rows.length - MOST_ROWS)} more`));
    body.append(...rows.slice(0, MOST_ROWS).map((r, i) => row(r, first && i === 0)));
    const whole = times(p.rollouts), right = times(p.rollouts.filter(r => r.status === "right"));
    return h("div", {class: "card problem"}, h("div", {class: "ask"}, h("div", {class: "q"}, highlight(p.question || "(no question)")),
      p.reference ? h("div", {class: "ref"}, h("span", {class: "soft"}, "reference "), highlight(p.reference)) : null,
      h("div", {class: "side num"}, p.domain, p.domain ? h("br") : null, `${right} of ${whole} right`),
      p.prompt ? h("details", {}, h("summary", {}, "the prompt as it was sent"), h("pre", {}, p.prompt)) : null),
      body, rows.length > MOST_ROWS ? more : null);
  }
  function extend() {  // draw a few more problems, as the end of the list comes into view
    const next = groups.slice(shown, shown + STEP_OF_LIST);
    list.append(...next.map((g, i) => problem(g, shown === 0 && i === 0)));
    shown += next.length;
    end.textContent = groups.length > shown ? `${count(groups.length - shown, "problem")} more below` : groups.length ? "" : "No rollout matches.";
  }
  new IntersectionObserver(seen => { if (seen.some(x => x.isIntersecting) && shown < groups.length) extend(); }, {rootMargin: "800px"}).observe(end);

  function select() {
    const needle = pick.text.toLowerCase(), test = FILTERS.find(([k]) => k === pick.filter)[2], by = ORDERS[pick.order][1];
    const found = (p, r) => !needle || [p.question, p.reference, text(r)].some(t => (t || "").toLowerCase().includes(needle));
    groups = [];
    for (const p of problems) {
      if (pick.domain && p.domain !== pick.domain) continue;
      const rows = p.rollouts.filter(r => test(r) && found(p, r));
      if (by) rows.sort((a, b) => by(a) - by(b));
      if (rows.length) groups.push({problem: p, rows});
    }
    if (by) groups.sort((a, b) => by(a.rows[0]) - by(b.rows[0]));
    scale = scaleOf(problems.flatMap(p => p.rollouts), pick.kind);
    const file = files[pick.set], kept = groups.flatMap(g => g.rows), total = times(kept);
    info.textContent = `${count(total, "rollout")} of ${pretty(file.kept)}` + (file.total > file.kept ? ` (${pretty(file.total)} in the file)` : "") +
      ` · ${count(groups.length, "problem")}` + (total ? ` · ${percent(times(kept.filter(r => r.status === "right")) / total, 0)} right` : "");
    legend.hidden = !pick.kind;
    legend.replaceChildren(scale.low, h("span", {class: "ramp", style: "background:linear-gradient(90deg,rgba(var(--minus),.62),transparent" +
      (pick.kind === "logprob" ? ")" : ",rgba(var(--plus),.62))")}), scale.high);
    list.replaceChildren(); shown = 0; extend();
  }
  function controls() {  // what there is to choose depends on the set
    const rows = problems.flatMap(p => p.rollouts), found = [...new Set(problems.map(p => p.domain).filter(Boolean))].sort();
    const items = FILTERS.map(([k, word, test]) => [k, word, times(rows.filter(test))]).filter(([k, , n]) => k === "all" || n || k === pick.filter);
    const there = Object.keys(KINDS).filter(kind => rows.some(r => values(r, kind)));
    if (!there.includes(pick.kind)) pick.kind = there.includes("token_reward") ? "token_reward" : there[0] || "";
    if (!found.includes(pick.domain)) pick.domain = "";
    filters.replaceChildren(segments(items.map(([k, word, n]) => [k, [word, h("small", {}, pretty(n))]]), pick.filter, k => change("filter", k), "which rollouts"));
    domains.replaceChildren(found.length > 1 ? h("select", {"aria-label": "domain", onchange: e => change("domain", e.target.value)},
      options([["", "all domains"], ...found.map(d => [d, d])], pick.domain)) : "");
    kinds.replaceChildren(there.length ? h("label", {class: "ctl"}, "tokens by", h("select", {"aria-label": "colour of the tokens", onchange: e => change("kind", e.target.value)},
      options([...there.map(k => [k, KINDS[k]]), ["", "no colour"]], pick.kind))) : "");
  }
  function open(i) {
    pick.set = i; steps.value = i; back.disabled = i === 0; on.disabled = i === files.length - 1;
    info.textContent = "reading …";
    readSet(i, found => { if (pick.set === i) { problems = found; controls(); select(); } },
      () => { problems = []; groups = []; list.replaceChildren(); end.textContent = ""; info.textContent = `${files[i].file} is not beside this page.`; });
  }
  const change = (key, value) => { pick[key] = value; select(); };
  const steps = h("select", {"aria-label": "step or evaluation", onchange: e => open(+e.target.value)}, files.map((f, i) => h("option", {value: i}, name(f))));
  const back = h("button", {type: "button", "aria-label": "earlier", onclick: () => open(pick.set - 1)}, "‹");
  const on = h("button", {type: "button", "aria-label": "later", onclick: () => open(pick.set + 1)}, "›");
  const section = h("section", {id: "rollouts"}, h("div", {class: "head"}, h("h2", {}, "Rollouts"), info),
    h("div", {class: "filters"}, h("span", {class: "ctl"}, back, steps, on), domains,
      h("select", {"aria-label": "order", onchange: e => change("order", e.target.value)}, options(Object.entries(ORDERS).map(([k, [word]]) => [k, word]), "")),
      h("input", {type: "search", placeholder: "search text", "aria-label": "search text", oninput: e => change("text", e.target.value)}), kinds, legend), filters, list, end);
  open(pick.set);
  return section;
}
