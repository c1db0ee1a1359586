// Sliders over the frames of a film, and plots that can be zoomed, read off, and shown on a logarithmic axis, over the same curves as the page shows without it.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const zooms = new Map(); // by the horizontal axis' name: its whole range, the one in sight, and the plots that share it

  const make = (tag, words, parent) => {
    const found = Object.assign(document.createElement(tag), words);
    if (parent) parent.append(found);
    return found;
  };
  const drawn = (name, kind, parent) => {
    const found = document.createElementNS(SVG, name);
    found.setAttribute("class", kind);
    parent.append(found);
    return found;
  };
  const usable = (value, log) => value !== null && Number.isFinite(value) && (!log || value > 0);

  // Axes as in axes.py
  const text = (value) => {
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e6) return value.toLocaleString("en");
    if (size >= 1e6 || size < 1e-4) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
    return Number(value.toPrecision(size < 1000 ? 4 : 15)).toLocaleString("en", { maximumFractionDigits: size < 1000 ? 8 : 0 });
  };
  const round = (least) => {
    const power = 10 ** Math.floor(Math.log10(least));
    return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least * (1 - 1e-9));
  };
  const ticks = (low, high, log, count) => {
    const found = [];
    if (log && high / low > 8) {
      const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
      const factors = last - first > 3 ? [1] : last - first > 1 ? [1, 2, 5] : [1, 2, 3, 5];
      for (let power = first; power <= last; power += Math.max(1, Math.ceil((last - first) / count)))
        for (const factor of factors) found.push(Number(`${factor}e${power}`));
    } else {
      const step = round((high - low) / count);
      for (let i = Math.ceil(low / step); i <= Math.floor(high / step); i++) found.push(Number((i * step).toPrecision(12)));
    }
    return found.filter((value) => value >= low && value <= high);
  };
  const place = (value, low, high, log) =>
    log ? (100 * Math.log(Math.max(value, low * 1e-9) / low)) / Math.log(high / low) : (100 * (value - low)) / (high - low);

  class Plot {
    constructor(figure) {
      const content = JSON.parse(figure.querySelector("script").textContent);
      Object.assign(this, { figure, lines: content.lines, log: content.log, hidden: new Set(), pointers: new Map() });
      this.canvas = figure.querySelector(".canvas");
      this.svg = figure.querySelector("svg");
      this.axis = figure.querySelector(".axis");
      const xs = this.lines.flatMap((line) => line.x);
      const [low, high] = xs.reduce(([a, b], x) => [Math.min(a, x), Math.max(b, x)], [Infinity, -Infinity]);
      if (!zooms.has(content.x)) zooms.set(content.x, { whole: [low, high], range: null, plots: [] });
      this.zoom = zooms.get(content.x);
      this.zoom.whole = [Math.min(low, this.zoom.whole[0]), Math.max(high, this.zoom.whole[1])];
      this.own = [low, high];
      this.zoom.plots.push(this);
      this.name = this.axis.textContent;
      this.tools();
      this.legend();
      this.listen();
    }

    tools() {
      const tools = make("div", { className: "tools" });
      this.figure.querySelector("figcaption").after(tools);
      this.whole = make("button", { type: "button", className: "whole", textContent: "whole range", hidden: true }, tools);
      this.whole.addEventListener("click", () => this.show(null));
      this.scale = make("button", { type: "button", className: "log", textContent: "log axis" }, tools);
      this.scale.addEventListener("click", () => ((this.log = !this.log), this.draw()));
    }

    legend() {
      this.figure.querySelectorAll(".legend li").forEach((item) => {
        const label = item.textContent;
        const key = make("button", { type: "button" });
        key.append(...item.childNodes);
        key.setAttribute("aria-pressed", "true");
        item.append(key);
        key.addEventListener("click", () => {
          if (!this.hidden.delete(label)) this.hidden.add(label);
          key.setAttribute("aria-pressed", String(!this.hidden.has(label)));
          this.draw();
        });
      });
    }

    listen() {
      const { canvas } = this;
      canvas.tabIndex = 0;
      canvas.setAttribute("role", "group");
      canvas.setAttribute("aria-label", "Plot: plus and minus zoom, arrows move, 0 shows all, L changes the axis");
      this.area = make("div", { className: "area" }, canvas);
      this.chosen = make("div", { className: "chosen", hidden: true }, this.area);
      this.cursor = make("div", { className: "cursor", hidden: true }, this.area);
      canvas.addEventListener("keydown", (event) => this.key(event));
      const on = (name, does) => this.area.addEventListener(name, does);
      on("pointerdown", (event) => this.press(event));
      on("pointermove", (event) => this.move(event));
      on("pointerup", (event) => this.release(event, true));
      on("pointercancel", (event) => this.release(event, false));
      on("pointerleave", () => this.read(null));
      on("dblclick", () => this.show(null));
    }

    get visible() {
      return this.lines.filter((line) => !this.hidden.has(line.label));
    }

    get range() {
      const [low, high] = this.zoom.range || this.own;
      const margin = this.zoom.range ? 0 : 0.01 * (high - low || Math.abs(high) || 1);
      return [low - margin, high + margin];
    }

    share(event) { // of the width, from the left
      const box = this.area.getBoundingClientRect();
      return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    }

    at(share) {
      const [low, high] = this.range;
      return low + share * (high - low);
    }

    show(range) { // in all plots of this axis
      const [first, last] = this.zoom.whole;
      if (range) {
        const width = Math.min(Math.max(range[1] - range[0], (last - first) / 1e4), last - first);
        const low = Math.max(first, Math.min(range[0], last - width));
        range = width >= (last - first) * 0.999 ? null : [low, low + width];
      }
      this.zoom.range = range;
      this.zoom.plots.forEach((plot) => plot.draw());
    }

    key(event) {
      const [low, high] = this.range;
      const width = high - low;
      const moves = { "+": [0.2, -0.2], "=": [0.2, -0.2], "-": [-0.3, 0.3], ArrowLeft: [-0.2, -0.2], ArrowRight: [0.2, 0.2] };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (moves[event.key]) this.show([low + moves[event.key][0] * width, high + moves[event.key][1] * width]);
      else if (event.key === "0" || event.key === "Escape") this.show(null);
      else if (event.key === "l") this.scale.click();
      else return;
      event.preventDefault();
    }

    press(event) {
      if (event.button) return;
      event.preventDefault();
      this.canvas.focus({ preventScroll: true });
      this.area.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, this.share(event));
      this.start = this.share(event);
      this.held = [...this.pointers].slice(0, 2).map(([id, share]) => [id, this.at(share)]); // what is under the fingers
    }

    move(event) {
      const share = this.share(event);
      this.read(share);
      if (!this.pointers.has(event.pointerId)) return;
      this.pointers.set(event.pointerId, share);
      if (this.pointers.size === 1) {
        const [low, high] = [Math.min(share, this.start), Math.max(share, this.start)];
        this.chosen.hidden = false;
        this.chosen.style.left = `${100 * low}%`;
        this.chosen.style.width = `${100 * (high - low)}%`;
      } else {
        this.chosen.hidden = true;
        const [[one, x1], [two, x2]] = this.held;
        const [s1, s2] = [this.pointers.get(one), this.pointers.get(two)];
        if (Math.abs(s1 - s2) < 0.02) return;
        const width = Math.abs((x2 - x1) / (s2 - s1));
        this.show([x1 - s1 * width, x1 + (1 - s1) * width]);
      }
    }

    release(event, meant) {
      const alone = this.pointers.size === 1 && !this.chosen.hidden;
      const share = this.share(event);
      this.pointers.delete(event.pointerId);
      this.chosen.hidden = true;
      const wide = Math.abs(share - this.start) * this.area.clientWidth > 8;
      if (meant && alone && wide) this.show([share, this.start].sort((a, b) => a - b).map((one) => this.at(one)));
      if (this.pointers.size === 1) this.start = [...this.pointers.values()][0];
    }

    read(share) { // the values nearest to a place
      this.cursor.hidden = share === null;
      if (share === null) return void (this.axis.textContent = this.name);
      const wanted = this.at(share);
      const near = (line) => line.x.reduce((best, x, i) => (Math.abs(x - wanted) < Math.abs(line.x[best] - wanted) ? i : best), 0);
      const seen = this.visible.filter((line, i, all) => all.findLastIndex((other) => other.label === line.label) === i);
      if (!seen.length) return;
      const closest = Math.min(...seen.map((line) => Math.abs(line.x[near(line)] - wanted)));
      const x = seen.map((line) => line.x[near(line)]).find((one) => Math.abs(one - wanted) === closest);
      const values = seen.map((line) => [line.label, line.y[line.x.indexOf(x)]]).filter(([, y]) => y !== undefined && y !== null);
      const [low, high] = this.range;
      this.cursor.style.left = `${place(x, low, high, false)}%`;
      this.axis.textContent = [`${this.name} ${text(x)}`, ...values.map(([label, y]) => `${label} ${text(y)}`)].join(" · ");
    }

    draw() {
      const [left, right] = this.range;
      const { visible } = this;
      const strong = visible.filter((line) => !line.kind.includes("faint"));
      const values = (strong.length ? strong : visible).flatMap((line) =>
        [line.y, line.low || [], line.high || []].flatMap((part) =>
          part.filter((y, i) => usable(y, this.log) && line.x[i] >= left && line.x[i] <= right)));
      let [low, high] = values.reduce(([a, b], y) => [Math.min(a, y), Math.max(b, y)], [Infinity, -Infinity]);
      if (!values.length) [low, high] = this.log ? [1, 10] : [0, 1];
      if (this.log) {
        const span = (high / low) ** 0.05 > 1 ? (high / low) ** 0.05 : 10 ** 0.01;
        [low, high] = [low / span, high * span];
      } else {
        const span = 0.05 * (high - low || Math.abs(high) || 1);
        [low, high] = [low - span, high + span];
      }
      const X = (x) => place(x, left, right, false).toFixed(3);
      const Y = (y) => Math.max(-50, Math.min(150, 100 - place(y, low, high, this.log))).toFixed(3);
      this.svg.replaceChildren();
      this.axes(left, right, low, high);
      for (const line of visible) if (line.low) drawn("path", `band c${line.colour}`, this.svg).setAttribute("d", this.band(line, X, Y));
      for (const line of visible) {
        let lift = true;
        const words = line.x.map((x, i) => {
          if (!usable(line.y[i], this.log)) return (lift = true), "";
          const word = `${lift ? "M" : "L"}${X(x)} ${Y(line.y[i])}`;
          lift = false;
          return word;
        });
        drawn("path", `line c${line.colour} ${line.kind}`, this.svg).setAttribute("d", words.join(""));
        if (!line.kind.includes("dots")) continue;
        const dots = words.map((word) => word.replace("L", "M") + (word && "h0")).join("");
        drawn("path", `dot c${line.colour}`, this.svg).setAttribute("d", dots);
      }
      this.whole.hidden = !this.zoom.range;
      this.scale.setAttribute("aria-pressed", String(this.log));
    }

    band(line, X, Y) {
      const kept = line.x.map((x, i) => i).filter((i) => usable(line.low[i], this.log) && usable(line.high[i], this.log));
      const upper = kept.map((i) => `${X(line.x[i])} ${Y(line.high[i])}`);
      const lower = kept.reverse().map((i) => `${X(line.x[i])} ${Y(line.low[i])}`);
      return kept.length ? `M${[...upper, ...lower].join("L")}Z` : "";
    }

    axes(left, right, low, high) {
      const wide = this.canvas.clientWidth;
      for (const [kind, values, at] of [
        ["y", ticks(low, high, this.log, 5), (y) => place(y, low, high, this.log)],
        ["x", ticks(left, right, false, wide < 420 ? 4 : 7), (x) => place(x, left, right, false)],
      ]) {
        const box = this.canvas.querySelector(`.${kind}`);
        box.replaceChildren();
        for (const value of values) {
          const share = at(value);
          make("span", { textContent: text(value) }, box).style[kind === "y" ? "bottom" : "left"] = `${share}%`;
          if (kind === "y") drawn("path", "rule", this.svg).setAttribute("d", `M0 ${100 - share}H100`);
        }
      }
    }
  }

  for (const film of document.querySelectorAll(".film")) {
    const frames = [...film.querySelectorAll(".frames > li")];
    if (frames.length < 2) continue;
    const label = make("label", { className: "slide" });
    const range = make("input", { type: "range", min: 0, max: frames.length - 1, step: 1, value: film.dataset.first });
    const count = make("span");
    label.append(range, count);
    film.querySelector(".frames").before(label);
    film.classList.add("sliding");
    range.setAttribute("aria-label", film.querySelector("figcaption")?.textContent || "frame");
    const show = () => {
      const chosen = Number(range.value);
      frames.forEach((frame, number) => (frame.hidden = number !== chosen));
      range.setAttribute("aria-valuetext", frames[chosen].querySelector(".frame-label")?.textContent || "");
      count.textContent = `${chosen + 1} / ${frames.length}`;
    };
    range.addEventListener("input", show);
    show();
  }

  const plots = [...document.querySelectorAll(".curves")].map((figure) => new Plot(figure));
  const all = () => plots.forEach((plot) => plot.draw());
  all();
  addEventListener("resize", all);
})();
