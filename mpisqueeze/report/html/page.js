"use strict";
// Charts that readers can act on, in place of the pictures, which remain where this does not run and in print.
(() => {
  const steps = {
    bytes: [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]],
    seconds: [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]],
    rate: [[1e12, "Tbit/s"], [1e9, "Gbit/s"], [1e6, "Mbit/s"], [1e3, "kbit/s"], [1, "bit/s"]],
  };
  const digits = (value) => {
    const size = Math.abs(value);
    if (value === 0) return "0";
    if (size < 1e-4 || size >= 1e6) return value.toExponential(2);
    return value.toFixed(Math.max(0, 2 - Math.floor(Math.log10(size))));
  };
  const say = (value, unit) => {
    if (unit === "count") return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, "\u202f");
    if (!steps[unit]) return digits(value);
    const [factor, name] = steps[unit].find(([f]) => Math.abs(value) >= f * 0.9995) || steps[unit].at(-1);
    return `${digits(value / factor)} ${name}`;
  };
  const element = (parent, name, text = "", kind = "") => {
    const made = parent.appendChild(document.createElement(name));
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  // A tip beside the pointer, kept within its figure.
  const place = (figure, tip, event) => {
    const box = figure.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    tip.style.left = `${Math.max(0, x + 16 + tip.offsetWidth > box.width ? x - tip.offsetWidth - 16 : x + 16)}px`;
    tip.style.top = `${Math.max(0, y - tip.offsetHeight / 2)}px`;
  };
  // How high a line is at a place across, both in pixels; undefined beyond its ends, but for a finger's breadth.
  const height = (points, at) => {
    const next = points.findIndex((point) => point[0] >= at);
    const [before, after] = [points[(next < 0 ? points.length : next) - 1], points[next]];
    if (before && after) return before[1] + (after[1] - before[1]) * (at - before[0]) / (after[0] - before[0] || 1);
    const end = before || after;
    return end && Math.abs(end[0] - at) < 12 ? end[1] : undefined;
  };
  // The values of all lines where the pointer is.
  const follow = (figure, view, about) => {
    const live = figure.querySelector(".live");
    let tip, rule;
    const hide = () => { tip?.remove(); rule?.remove(); };
    live.addEventListener("pointerleave", hide);
    const show = (event) => {
      hide();
      const svg = live.querySelector("svg").getBoundingClientRect(), [left, top] = view.origin();
      const at = event.clientX - svg.left - left, down = event.clientY - svg.top - top;
      const dragging = event.buttons && event.pointerType !== "touch";
      if (dragging || at < 0 || at > view.width() || down < -8 || down > view.height() + 8) return;
      const x = view.scale("x"), y = view.scale("y"), hidden = new Set(view.data("hidden_store").map((row) => row.values[0]));
      const lines = view.data("line").filter((line) => !hidden.has(line.i));
      const seen = lines.map((line) => {
        const points = line.x.flatMap((value, k) => line.y[k] === null ? [] : [[x(value), y(line.y[k])]]);
        return [view.signal("names")[line.i], height(points, at)];
      });
      const shown = seen.filter(([, up]) => up !== undefined).sort((one, other) => one[1] - other[1]);
      if (!shown.length) return;
      rule = element(live, "div", "", "rule");
      Object.assign(rule.style, { left: `${left + at}px`, top: `${top}px`, height: `${view.height()}px` });
      tip = element(figure, "div", "", "tip");
      element(tip, "p", say(x.invert(at) * about.x.factor, about.x.unit));
      const table = element(tip, "table");
      for (const [name, up] of shown) {
        const row = element(table, "tr");
        element(row, "th", name);
        const beyond = up < -0.05 * view.height() ? "above" : up > 1.05 * view.height() ? "below" : "";
        element(row, "td", beyond || say(y.invert(up) * about.y.factor, about.y.unit));
      }
      place(figure, tip, event);
    };
    live.addEventListener("pointerdown", show);
    live.addEventListener("pointermove", show);
  };
  const draw = async (figure) => {
    const live = figure.querySelector(".live"), spec = JSON.parse(figure.querySelector("script").textContent);
    let tip;
    const tooltip = (_, event, item, value) => {
      tip?.remove();
      if (!value || spec.usermeta.lines) return;
      tip = element(figure, "div", String(value), "tip");
      place(figure, tip, event);
    };
    const options = { mode: "vega", ast: true, actions: false, defaultStyle: false, renderer: "svg", tooltip };
    const { view } = await window.vegaEmbed(live, spec, options);
    const wide = view.height();
    // As wide as there is room, for which what stands beside the plot has to be known.
    const fit = async () => {
      const room = figure.clientWidth, narrow = matchMedia("(max-width: 720px)").matches;
      const taken = () => live.querySelector("svg").getBoundingClientRect().width;
      if (!room) return;
      if (spec.usermeta.narrow_height) view.height(narrow ? spec.usermeta.narrow_height : wide);
      await view.signal("narrow", narrow).runAsync();
      // Beside a narrow plot there is its axis; the names below it may be wider than it is. Twice, since what stands
      // beside a plot may depend on its width.
      for (let pass = 0; pass < 2; pass++) {
        const beside = narrow ? view.origin()[0] + 16 : taken() - view.width();
        await view.width(Math.max(80, room - beside)).runAsync();
      }
      if (taken() > room) await view.width(view.width() - (taken() - room)).runAsync();
    };
    figure.classList.add("drawn");
    await fit();
    document.body.classList.add("acting");
    let width = figure.clientWidth;
    new ResizeObserver(() => { if (figure.clientWidth !== width) { width = figure.clientWidth; fit(); } }).observe(figure);
    if (spec.usermeta.lines) follow(figure, view, spec.usermeta);
  };
  const start = async () => {
    const packed = Uint8Array.from(atob(document.getElementById("vega").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((one) => one.isIntersecting)) {
        seen.unobserve(entry.target);
        draw(entry.target);
      }
    }, { rootMargin: "600px" });
    for (const figure of document.querySelectorAll("figure")) seen.observe(figure);
  };
  if (document.querySelector("figure") && window.DecompressionStream) start();
  // What is folded away is printed, too.
  addEventListener("beforeprint", () => { for (const folded of document.querySelectorAll("details")) folded.open = true; });
})();
