// Numbers as a reader sees them, and arithmetic on columns; a missing value is null.
const MINUS = "\u2212", has = v => v !== null && v !== undefined;
const plain = text => text.replace(/^-/, MINUS).replace("e+", "e").replace("e-", "e" + MINUS);
function trim(v, digits) { return String(Number(v.toPrecision(digits))); }
function fmt(v, digits = 3) {
  if (!has(v)) return "–";
  const a = Math.abs(v);
  if (a === 0) return "0";
  if (a >= 1e15) return plain(v.toExponential(1));
  for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]])
    if (a >= size) return plain(trim(v / (unit === "k" ? 1e3 : size), digits) + unit);
  if (a >= 1000) return plain(String(Math.round(v)));
  if (a < 1e-3) return plain(v.toExponential(digits - 2).replace(/\.?0+e/, "e"));
  return plain(trim(v, digits));
}
const percent = (v, digits = 1) => has(v) ? plain((100 * v).toFixed(digits)) + " %" : "–";
const signed = (v, text) => (v > 0 ? "+" : "") + text;
const points = v => has(v) ? signed(v, plain((100 * v).toFixed(1))) : "–";
const isShare = key => /(_frac|frac_zero_std|accuracy(\/.*)?|greedy|pass_at_k|exact_match|false_positive|false_negative|mass01)$/.test(key);
const show = (key, v) => isShare(key) && v >= 0 && v <= 1 ? percent(v) : fmt(v, 4);
const pretty = n => n.toLocaleString("en-US");
const count = (n, word) => pretty(n) + " " + word + (n === 1 ? "" : "s");
const mean = list => list.reduce((a, b) => a + b, 0) / list.length;
function tail(column) {  // the mean of the last tenth: one noisy last step should not be the headline
  const seen = column.filter(has);
  return seen.length ? mean(seen.slice(-Math.max(1, Math.round(seen.length / 10)))) : null;
}
function outside(key, value) {
  const [low, high] = HEALTHY.get(key) || [null, null];
  return has(value) && ((has(low) && value < low) || (has(high) && value > high));
}
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted, size = 10 ** Math.floor(Math.log10(rough)), f = rough / size;
  const step = size * (f > 5 ? 10 : f > 2 ? 5 : f > 1 ? 2 : 1), out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(i * step);
  return out;
}
function smooth(column, width) {  // Gaussian, renormalised at the ends and over gaps: no lag
  if (width < .5) return column;
  const reach = Math.ceil(2.5 * width), kernel = [];
  for (let d = -reach; d <= reach; d++) kernel.push(Math.exp(-.5 * (d / width) ** 2));
  return column.map((_, i) => {
    let sum = 0, weight = 0;
    for (let d = -reach; d <= reach; d++) if (has(column[i + d])) {
      sum += kernel[d + reach] * column[i + d]; weight += kernel[d + reach];
    }
    return weight ? sum / weight : null;
  });
}
function quantile(list, q) {  // of a list that is sorted
  return list.length ? list[Math.round(q * (list.length - 1))] : null;
}
