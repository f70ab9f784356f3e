// A histogram over time: one column a step, darker where more of its rollouts are.
function strip(stage, key, {step, bins}) {
  const svg = s("svg", {height: 190, role: "img", "shape-rendering": "crispEdges", "aria-label": key + " over time"}), read = h("div", {class: "read soft"});
  const rows = bins.reduce((most, b) => Math.max(most, b.length), 1);
  const share = bins.map(b => { const sum = b.reduce((p, q) => p + q, 0); return b.map(v => sum ? v / sum : 0); });
  const unit = key === "reward/histogram", edge = r => unit ? fmt(r / rows) : String(r);
  const card = h("div", {class: "card chart span"}, h("div", {class: "top"}, h("div", {class: "name"}, title(key)), read), svg,
    h("p", {class: "note"}, NOTES.get(key) || "", " Share of a step’s rollouts: 0 ",
      h("span", {class: "ramp", style: "background:linear-gradient(90deg,transparent,var(--accent))"}), " 100 %."));
  const pad = {left: 46, right: 10, top: 6, bottom: 20};
  const cell = (i, r) => `step ${fmt(step[i], 6)}  ·  ${edge(r)} to ${edge(r + 1)}  ·  ${percent(share[i][r] || 0, 0)}`;
  let wide, tall;
  function draw() {
    const width = svg.clientWidth || 340, height = 190, parts = [];
    wide = (width - pad.left - pad.right) / step.length; tall = (height - pad.top - pad.bottom) / rows;
    share.forEach((column, i) => column.forEach((v, r) => v && parts.push(s("rect", {
      x: Math.round(pad.left + i * wide), width: Math.round(pad.left + (i + 1) * wide) - Math.round(pad.left + i * wide),
      y: pad.top + (rows - 1 - r) * tall, height: tall - 1,
      fill: "var(--accent)", "fill-opacity": Math.sqrt(v).toFixed(3)}))));
    for (const t of unit ? [0, .25, .5, .75, 1] : [0, 1]) parts.push(s("text", {x: pad.left - 7, "text-anchor": "end",
      y: pad.top + (1 - t) * tall * rows + 4}, unit ? fmt(t) : fmt(t * rows)));
    parts.push(s("line", {class: "axis", x1: pad.left, x2: width - pad.right, y1: height - pad.bottom, y2: height - pad.bottom}));
    const round = step.length > 1 ? ticks(step[0], step.at(-1), Math.max(2, width / 110)).filter(Number.isInteger) : step;
    for (const t of round) {  // columns are evenly spread, so a round step may fall between two
      const i = step.findIndex(at => at >= t);
      parts.push(s("text", {x: pad.left + (i + .5) * wide, y: height - 5,
        "text-anchor": pad.left + i * wide > width - 30 ? "end" : "middle"}, fmt(t, 6)));
    }
    svg.replaceChildren(...parts);
  }
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), i = Math.floor((event.clientX - box.left - pad.left) / wide);
    const r = rows - 1 - Math.floor((event.clientY - box.top - pad.top) / tall);
    say(event, i >= 0 && i < step.length && r >= 0 && r < rows ? cell(i, r) : "");
  });
  svg.addEventListener("pointerleave", () => say(null, ""));
  return {stage: stage.name, card, draw, point() {}, rest() {}, group: group(key)};
}
