"use strict";
// Values under the pointer. Everything that is needed is in the drawing: the paths, and the axes' ends.
(() => {
  const steps = {
    bytes: [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]],
    seconds: [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]],
    rate: [[1e12, "Tbit/s"], [1e9, "Gbit/s"], [1e6, "Mbit/s"], [1e3, "kbit/s"], [1, "bit/s"]],
  };
  const digits = (value) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size < 1e-4 || size >= 1e6) return value.toExponential(2);
    return value.toFixed(Math.max(0, 2 - Math.floor(Math.log10(size))));
  };
  const say = (value, unit) => {
    if (unit === "count") return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, " ");
    if (!steps[unit]) return digits(value);
    const [factor, name] = steps[unit].find(([f]) => Math.abs(value) >= f * 0.9995) || steps[unit].at(-1);
    return `${digits(value / factor)} ${name}`;
  };
  const axis = (text) => {
    const [low, high, kind, unit] = text.split(" ");
    const [a, b] = kind === "log" ? [Math.log10(low), Math.log10(high)] : [Number(low), Number(high)];
    return (place) => say(kind === "log" ? 10 ** (a + place * (b - a)) : a + place * (b - a), unit);
  };
  // The corners of a path of M, l and h.
  const corners = (d) => {
    const found = [];
    let x = 0, y = 0;
    for (const [, kind, rest] of d.matchAll(/([Mlh])([^Mlh]*)/g)) {
      const [a, b] = (rest.match(/-?\d*\.?\d+/g) || []).map(Number);
      if (kind === "M") [x, y] = [a, b];
      else if (kind === "l") [x, y] = [x + a, y + b];
      found.push([x, y]);
    }
    return found;
  };
  // How high a line is at x; undefined beyond its ends, but for a finger's breadth.
  const height = (points, x) => {
    const next = points.findIndex((point) => point[0] >= x);
    const [before, after] = [points[(next < 0 ? points.length : next) - 1], points[next]];
    if (before && after) return before[1] + (after[1] - before[1]) * (x - before[0]) / (after[0] - before[0]);
    const end = before || after;
    return end && Math.abs(end[0] - x) < 12 ? end[1] : undefined;
  };
  for (const svg of document.querySelectorAll("svg[data-frame]")) {
    const [left, top, right, bottom] = svg.dataset.frame.split(" ").map(Number);
    const [sayX, sayY] = [axis(svg.dataset.x), axis(svg.dataset.y)];
    const figure = svg.closest("figure");
    const layer = svg.querySelector(".hover");
    let lines, tip;
    const hide = () => { layer.replaceChildren(); if (tip) tip.remove(); tip = undefined; };
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("pointermove", (event) => {
      lines = lines || [...svg.querySelectorAll(".line")].map((path) => [path.dataset.name, corners(path.getAttribute("d"))]);
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      hide();
      if (at.x < left - 2 || at.x > right + 2 || at.y < top - 8 || at.y > bottom + 8) return;
      const seen = [];
      for (const [name, points] of lines) {
        const y = height(points, at.x);
        if (y !== undefined) seen.push([name, y]);
      }
      if (!seen.length) return;
      seen.sort((one, other) => one[1] - other[1]);
      const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      for (const [key, value] of [["x1", at.x], ["x2", at.x], ["y1", top], ["y2", bottom]]) line.setAttribute(key, value);
      layer.append(line);
      tip = document.createElement("div");
      tip.className = "tip";
      const head = document.createElement("p");
      head.textContent = sayX((at.x - left) / (right - left));
      const table = document.createElement("table");
      for (const [name, y] of seen) {
        const row = table.insertRow();
        const title = document.createElement("th");
        title.textContent = name;
        const place = (bottom - y) / (bottom - top);
        row.append(title);
        row.insertCell().textContent = place > 1.05 ? "above" : place < -0.05 ? "below" : sayY(place);
      }
      tip.append(head, table);
      figure.append(tip);
      const box = figure.getBoundingClientRect();
      const x = event.clientX - box.left, y = event.clientY - box.top;
      tip.style.left = `${Math.max(0, x + 16 + tip.offsetWidth > box.width ? x - tip.offsetWidth - 16 : x + 16)}px`;
      tip.style.top = `${Math.max(0, y - tip.offsetHeight / 2)}px`;
    });
  }
  // What is folded away is printed, too.
  addEventListener("beforeprint", () => { for (const folded of document.querySelectorAll("details")) folded.open = true; });
})();
