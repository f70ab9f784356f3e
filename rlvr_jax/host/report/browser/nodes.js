"use strict";
// Nodes: text only ever enters through createTextNode, so nothing in a run is read as markup.
const DATA = JSON.parse(document.getElementById("data").textContent);
const NOTES = new Map(Object.entries(DATA.notes || {})), HEALTHY = new Map(Object.entries(DATA.healthy || {}));

function fill(node, attrs, kids) {
  for (const [k, v] of Object.entries(attrs || {})) {
    if (k.startsWith("on")) node.addEventListener(k.slice(2), v);
    else if (v !== undefined && v !== null && v !== false) node.setAttribute(k, v === true ? "" : v);
  }
  for (const kid of kids.flat(3)) if (kid !== null && kid !== undefined && kid !== false)
    node.appendChild(kid instanceof Node ? kid : document.createTextNode(String(kid)));
  return node;
}
const h = (tag, attrs, ...kids) => fill(document.createElement(tag), attrs, kids);
const s = (tag, attrs, ...kids) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attrs, kids);

// One tool tip for everything.
const tip = document.getElementById("tip");
function say(event, text) {
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(event.clientX + 12, innerWidth - box.width - 8)) + "px";
  tip.style.top = (event.clientY > box.height + 20 ? event.clientY - box.height - 12 : event.clientY + 18) + "px";
}

function segments(items, value, change, label) {
  const box = h("div", {class: "seg", role: "group", "aria-label": label}, items.map(([k, name]) =>
    h("button", {type: "button", "data-k": k, onclick: () => set(k)}, name)));
  const mark = k => { for (const b of box.children) b.setAttribute("aria-pressed", b.dataset.k === k); };
  function set(k) { mark(k); change(k); }
  mark(value); box.mark = mark;
  return box;
}
const options = (items, chosen) => items.map(([value, name]) => h("option", {value, selected: value === chosen}, name));
function table(head, rows) {
  return h("div", {class: "card wide"}, h("table", {}, h("thead", {}, h("tr", {}, head.map(name => h("th", {class: name.className === "words" ? "words" : null}, name)))),
    h("tbody", {}, rows.map(cells => h("tr", {}, cells.map(cell => cell instanceof Node && cell.tagName === "TD" ? cell : h("td", {}, cell)))))));
}
