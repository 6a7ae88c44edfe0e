"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const ROWS = 12;
  const MASK = "·";

  function make(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "text") node.textContent = value;
      else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value !== null) node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  }

  function draw(name, attributes = {}, ...children) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  // What is packed in the page, opened once.
  const opened = new Map();
  function open(id) {
    if (!opened.has(id)) opened.set(id, unpack($(id)));
    return opened.get(id);
  }
  async function unpack(node) {
    if (!node) return null;
    const bytes = Uint8Array.from(atob(node.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  // --- colors: as in rws_cli/report/colors.py -------------------------------------------------------------------

  const channels = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  function mixed(stops, share) {
    const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
    const first = Math.min(Math.floor(at), stops.length - 2);
    const [a, b] = [channels(stops[first]), channels(stops[first + 1])];
    return a.map((value, n) => Math.round(value + (b[n] - value) * (at - first)));
  }
  function ink(color) {
    const [r, g, b] = color.map((v) => v / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
  }
  const css = (color) => `rgb(${color.join(",")})`;

  // --- trajectories: the content of a completion's positions after each step -------------------------------------------------

  class Trajectory {
    constructor(packed, words) {
      Object.assign(this, { positions: packed.n, rewards: packed.r, scales: packed.x, masked: packed.m });
      this.fixed = (packed.f ?? []).map(([position, text]) => ({ position, text: words[text], sure: null, step: -1 }));
      let token = 0;
      this.steps = packed.k.map((count) => {
        const commits = [];
        for (const end = token + count; token < end; token++) {
          const sure = packed.c[token] === null ? null : packed.c[token] / 1000;
          commits.push({ position: packed.p[token], text: words[packed.t[token]], sure });
        }
        return commits;
      });
    }

    // For each position which step, counted from 0, put which token there; null while it is a mask, step -1 if it was fixed.
    after(n) {
      const places = new Array(this.positions).fill(null);
      for (const token of this.fixed) places[token.position] = token;
      for (let step = 0; step < Math.min(n, this.steps.length); step++) {
        for (const position of this.masked?.[step] ?? []) places[position] = null;
        for (const commit of this.steps[step]) places[commit.position] = { step, ...commit };
      }
      if (n >= this.steps.length) {
        const step = this.steps.length - 1;
        places.forEach((place, n) => { if (!place) places[n] = { step, text: "∎", sure: null }; });
      }
      return places;
    }

    sureness(step) {
      const known = this.steps[step].map((commit) => commit.sure).filter((sure) => sure !== null);
      return known.length ? known.reduce((a, b) => a + b) / known.length : null;
    }

    // The same tokens, as many a step, each step the leftmost.
    leftToRight() {
      const left = Object.assign(Object.create(Trajectory.prototype), { positions: this.positions, fixed: this.fixed });
      const commits = this.after(this.steps.length)
        .map((place, position) => ({ position, text: place.text, sure: place.sure }))
        .filter((commit) => commit.sure !== null);
      left.steps = [];
      let taken = 0;
      for (const { length } of this.steps) {
        if (taken < commits.length) left.steps.push(commits.slice(taken, (taken += length)));
      }
      return left;
    }
  }

  // --- the page -------------------------------------------------------------------------------------------------

  async function start() {
    const index = await open("index");
    const { runs, examples } = index;
    document.querySelectorAll(".dot").forEach((dot) => { dot.style.background = runs[dot.dataset.run].color; });
    const table = new Table(index, (n) => show(n));
    const film = new Film(index);
    let current = null;

    async function show(n, focus = true) {
      if (n < 0 || n >= examples.length) return;
      current = n;
      table.choose(n);
      const [text, trajectories] = await Promise.all(["text", "trajectory"].map((kind) => open(`${kind}-${Math.floor(n / index.chunk)}`)));
      if (current !== n) return;
      $("replay").hidden = false;
      $("replay-title").textContent = examples[n][0];
      ask(text[n % index.chunk]);
      film.show(examples[n], text[n % index.chunk], trajectories && trajectories.rows[n % index.chunk], trajectories?.words);
      history.replaceState(null, "", `#example=${encodeURIComponent(examples[n][0])}`);
      if (focus) {
        $("replay-title").focus({ preventScroll: true });
        $("replay").scrollIntoView({ block: "start" });
      }
    }

    function ask(text) {
      const asked = [];
      for (const [user, assistant] of text.history) {
        asked.push(make("p", { class: "quiet", text: "Earlier turn" }), make("pre", { text: user }), make("pre", { text: assistant }));
      }
      asked.push(make("p", { class: "quiet", text: "Prompt" }), make("pre", { text: text.prompt }));
      if (text.reference) asked.push(make("p", { class: "quiet", text: "Reference" }), make("pre", { text: text.reference }));
      text.choices.forEach((lines, r) => {
        if (lines) asked.push(make("p", { class: "quiet", text: `Log likelihood of each choice (${runs[r].label})` }), make("pre", { text: lines }));
      });
      $("asked").replaceChildren(...asked);
    }

    $("before").addEventListener("click", () => show(table.beside(current, -1)));
    $("after").addEventListener("click", () => show(table.beside(current, 1)));
    const wanted = decodeURIComponent(/^#example=(.*)$/.exec(location.hash)?.[1] ?? "");
    const found = examples.findIndex(([id]) => id === wanted);
    await show(Math.max(found, 0), found >= 0);
    document.body.dataset.ready = "yes";
  }

  // The table of examples: filtered, searched, sorted, a page at a time.
  class Table {
    constructor({ runs, examples, chunk }, chosen) {
      Object.assign(this, { runs, examples, chunk, chosen, page: 0, order: null, down: false, current: null });
      this.columns = [{ name: "example" }, { name: "prompt" }];
      runs.forEach((run, r) => {
        const of = runs.length > 1 ? `${run.label}: ` : "";
        this.columns.push({ name: `${of}grade`, value: (e) => e[2][r], show: (e) => this.grade(e[2][r]) });
        if (runs.length > 2) return; // they would not fit; the replay has them
        if (examples.some((e) => e[3][r] !== null)) {
          this.columns.push({ name: `${of}reward`, value: (e) => e[3][r], show: (e) => e[3][r] ?? "–", extra: true });
        }
        this.columns.push({ name: `${of}GOD`, value: (e) => e[4][r], show: (e) => e[4][r]?.toFixed(2) ?? "–", extra: true });
      });
      this.head();
      for (const id of ["which", "whose"]) $(id)?.addEventListener("change", () => this.filter());
      let waiting;
      $("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => this.filter(), 150); });
      $("filter").addEventListener("submit", (event) => { event.preventDefault(); this.filter(); });
      $("earlier").addEventListener("click", () => this.turn(-1));
      $("later").addEventListener("click", () => this.turn(1));
      this.rows = examples.map((_, n) => n);
      this.draw();
    }

    grade(right) {
      if (right === null) return "–";
      return make("span", { class: right ? "right" : "wrong", text: right ? "✓ right" : "✗ wrong" });
    }

    head() {
      $("table").tHead.replaceChildren(make("tr", {}, ...this.columns.map((column) => {
        const cell = make("th", { scope: "col", class: column.extra ? "extra figure" : null });
        if (!column.value) cell.textContent = column.name;
        else cell.append(make("button", { type: "button", text: column.name, onclick: () => this.sort(column) }));
        return (column.cell = cell);
      })));
    }

    sort(column) {
      this.down = this.order === column ? !this.down : true;
      this.order = column;
      for (const { cell } of this.columns) cell.removeAttribute("aria-sort");
      column.cell.setAttribute("aria-sort", this.down ? "descending" : "ascending");
      this.arrange();
    }

    async filter() {
      const query = $("search").value.trim().toLowerCase();
      const which = $("which").value;
      const run = Number($("whose")?.value ?? 0);
      const token = (this.asked = {});
      let rows = this.examples.map((_, n) => n).filter((n) => {
        const grades = this.examples[n][2];
        if (which === "right") return grades[run] === 1;
        if (which === "wrong") return grades[run] === 0;
        return which !== "differ" || grades.some((grade) => grade !== grades[0]);
      });
      if (query) {
        const chunks = [...new Set(rows.map((n) => Math.floor(n / this.chunk)))];
        const texts = new Map(await Promise.all(chunks.map(async (c) => [c, await open(`text-${c}`)])));
        if (this.asked !== token) return; // the user has typed on
        rows = rows.filter((n) => {
          const text = texts.get(Math.floor(n / this.chunk))[n % this.chunk];
          return [this.examples[n][0], text.prompt, ...text.completions].some((said) => said.toLowerCase().includes(query));
        });
      }
      this.rows = rows;
      this.arrange();
    }

    arrange() {
      if (this.order) {
        const key = (n) => this.order.value(this.examples[n]) ?? -Infinity;
        this.rows.sort((a, b) => (this.down ? -1 : 1) * (key(a) - key(b)) || a - b);
      }
      this.page = 0;
      this.draw();
    }

    turn(by) {
      this.page += by;
      this.draw();
    }

    draw() {
      const pages = Math.max(1, Math.ceil(this.rows.length / ROWS));
      const part = this.rows.slice(this.page * ROWS, (this.page + 1) * ROWS);
      $("table").tBodies[0].replaceChildren(...part.map((n) => this.row(n)));
      $("count").textContent = `${this.rows.length} of ${this.examples.length} examples`;
      $("place").textContent = `Page ${this.page + 1} of ${pages}`;
      $("earlier").disabled = this.page === 0;
      $("later").disabled = this.page >= pages - 1;
    }

    row(n) {
      const example = this.examples[n];
      const [, , ...rest] = this.columns;
      return make("tr", { "data-n": n, class: n === this.current ? "chosen" : null },
        make("td", {}, make("button", { type: "button", text: example[0], onclick: () => this.chosen(n) })),
        make("td", { class: "said", text: example[1] }),
        ...rest.map((column) => make("td", { class: column.extra ? "extra figure" : null }, column.show(example))));
    }

    choose(n) {
      this.current = n;
      for (const row of $("table").tBodies[0].rows) row.classList.toggle("chosen", Number(row.dataset.n) === n);
    }

    beside(n, by) {
      const at = this.rows.indexOf(n);
      return this.rows[Math.min(Math.max(at + by, 0), this.rows.length - 1)] ?? n;
    }
  }

  // One example, replayed in all runs at once.
  class Film {
    constructor({ runs, steps, confidences }) {
      Object.assign(this, { runs, ramps: { step: steps, confidence: confidences }, strips: [], playing: null });
      $("step").addEventListener("input", () => { this.stop(); this.update(); });
      $("color").addEventListener("change", () => this.update());
      $("play").addEventListener("click", () => (this.playing ? this.stop() : this.play()));
    }

    show(example, text, packed, words) {
      this.stop();
      $("film").hidden = !packed?.length; // of choices, which are scored and not decoded, there is nothing to replay
      $("no-replay").hidden = Boolean(packed);
      if (!packed?.length) return;
      const trajectories = packed.map((one) => new Trajectory(one, words));
      this.strips = [{ label: "left to right, for comparison", trajectory: trajectories[0].leftToRight() }];
      trajectories.forEach((trajectory, r) => {
        const [right, reward, god] = [example[2][r], example[3][r], example[4][r]];
        const verdict = right === null ? "" : right ? " · right" : ` · wrong${text.read[r] ? `, read as ${text.read[r]}` : ""}`;
        const figures = (god === null ? "" : ` · GOD ${god.toFixed(2)}`) + (reward === null ? "" : ` · reward ${reward}`);
        this.strips.push({ label: this.runs[r].label, verdict, figures, trajectory, color: this.runs[r].color });
      });
      $("strips").replaceChildren(...this.strips.map((strip) => this.build(strip)));
      this.most = Math.max(...this.strips.map(({ trajectory }) => trajectory.steps.length));
      $("step").max = this.most;
      $("step").value = this.most;
      this.plots();
      this.update();
    }

    build(strip) {
      strip.spans = Array.from({ length: strip.trajectory.positions }, () => make("span"));
      strip.now = make("p", { class: "now" });
      const name = make("h4", { text: strip.label });
      if (strip.color) {
        const dot = make("span", { class: "dot" });
        dot.style.background = strip.color;
        name.prepend(dot, " ");
        name.append(make("span", { class: strip.verdict.startsWith(" · wrong") ? "wrong" : "right", text: strip.verdict }), strip.figures);
      }
      return make("div", { class: "strip" }, name, strip.now, make("div", { class: "tokens" }, ...strip.spans));
    }

    update() {
      const n = Number($("step").value);
      const by = $("color").value;
      $("where").textContent = `${n} of ${this.most}`;
      $("step").setAttribute("aria-valuetext", `after step ${n} of ${this.most}`);
      this.legend(by);
      for (const { trajectory, spans, now } of this.strips) {
        const at = Math.min(n, trajectory.steps.length);
        const last = Math.max(1, trajectory.steps.length - 1);
        trajectory.after(at).forEach((place, position) => {
          const span = spans[position];
          const isNew = place && place.step >= 0 && place.step === at - 1 && at < trajectory.steps.length;
          span.className = isNew ? "new" : place ? "" : "mask";
          if (!place) {
            span.textContent = MASK;
            span.removeAttribute("style");
            span.title = `position ${position}`;
            return;
          }
          if (place.step < 0) {
            span.textContent = place.text.replaceAll("⏎", "⏎\n");
            span.removeAttribute("style");
            span.title = `position ${position}, fixed`;
            return;
          }
          const color = mixed(this.ramps[by], by === "confidence" ? place.sure ?? 1 : place.step / last);
          span.textContent = place.text.replaceAll("⏎", "⏎\n");
          span.classList.toggle("lines", place.text.includes("⏎"));
          span.style.background = css(color);
          span.style.color = ink(color);
          const sure = place.sure === null ? "" : `, confidence ${place.sure.toFixed(3)}`;
          span.title = `position ${position}, step ${place.step}${sure}`;
        });
        const said = [`${trajectory.steps.slice(0, at).reduce((sum, commits) => sum + commits.length, 0)} commits`];
        if (at) {
          const sure = trajectory.sureness(at - 1);
          if (sure !== null) said.push(`confidence ${sure.toFixed(3)}`);
          if (trajectory.rewards) said.push(`reward ${trajectory.rewards[at - 1] ?? "–"}`);
          if (trajectory.scales) said.push(`scale ${trajectory.scales[at - 1] ?? "–"}`);
        }
        now.textContent = said.join(" · ");
      }
      for (const { cursor, x } of this.cursors) {
        cursor.setAttribute("x1", x(n));
        cursor.setAttribute("x2", x(n));
      }
    }

    legend(by) {
      const bar = make("i");
      bar.style.background = `linear-gradient(to right, ${this.ramps[by].join(",")})`;
      const [from, to] = by === "step" ? ["first", "last"] : ["low", "high"];
      $("legend").replaceChildren(from, bar, to);
    }

    // Lines of confidence and reward, and for each run where each step committed.
    plots() {
      const strips = this.strips.slice(1);
      this.cursors = [];
      const drawn = [this.lines("Confidence of the tokens committed at each step", strips.map(({ trajectory, color }) => [trajectory.steps.map((_, k) => trajectory.sureness(k)), color]), [0.9, 1])];
      if (strips.some(({ trajectory }) => trajectory.rewards)) {
        drawn.push(this.lines("Reward at each step", strips.filter(({ trajectory }) => trajectory.rewards).map(({ trajectory, color }) => [trajectory.rewards, color])));
      }
      for (const strip of strips) drawn.push(this.dots(strip));
      $("courses").replaceChildren(...drawn);
    }

    frame(title, height, bottom, top) {
      const svg = draw("svg", { viewBox: `0 0 320 ${height}`, class: "plot", role: "img", "aria-label": title });
      const x = (step) => 44 + (step / Math.max(1, this.most - 1)) * 262;
      svg.append(draw("path", { class: "axis", d: `M44 8V${height - 30}H306` }));
      const label = (text, at) => svg.append(draw("text", at, text));
      label(bottom, { x: 175, y: height - 4, "text-anchor": "middle" });
      label(top[0], { x: 40, y: height - 30, "text-anchor": "end" });
      label(top[1], { x: 40, y: 16, "text-anchor": "end" });
      return { svg, x, figure: make("figure", {}, svg, make("figcaption", { text: title })) };
    }

    // least: bounds that the axis has at least.
    lines(title, curves, least = []) {
      const known = curves.flatMap(([values]) => values.filter((value) => value !== null)).concat(least);
      const [low, high] = [Math.min(...known), Math.max(...known)];
      const format = (value) => Number(value.toPrecision(3)).toString();
      const { svg, x, figure } = this.frame(title, 170, "step", [format(low), high > low ? format(high) : ""]);
      const y = (value) => 140 - (high > low ? (value - low) / (high - low) : 0) * 128;
      for (const [values, color] of curves) {
        const points = values.map((value, k) => (value === null ? null : `${x(k)},${y(value)}`)).filter(Boolean);
        svg.append(draw("polyline", { points: points.join(" "), fill: "none", stroke: color, "stroke-width": 1.8 }));
      }
      const cursor = draw("line", { class: "cursor", y1: 8, y2: 140 });
      svg.append(cursor);
      this.cursors.push({ cursor, x: (n) => x(Math.max(n - 1, 0)) });
      return figure;
    }

    dots({ label, trajectory, color }) {
      const title = `Order: position from left to right, step from top to bottom (${label})`;
      const steps = trajectory.steps.length;
      const { svg, figure } = this.frame(title, 190, "position", [String(steps - 1), "0"]);
      const [wide, high] = [262 / trajectory.positions, 152 / steps];
      trajectory.steps.forEach((commits, step) => {
        for (const { position } of commits) {
          svg.append(draw("rect", { x: 44 + position * wide, y: 8 + step * high, width: Math.max(wide, 1.2), height: Math.max(high, 1.2), fill: color }));
        }
      });
      return figure;
    }

    play() {
      if (Number($("step").value) >= this.most) $("step").value = 0;
      $("play").textContent = "Pause";
      this.playing = setInterval(() => {
        $("step").value = Number($("step").value) + 1;
        this.update();
        if (Number($("step").value) >= this.most) this.stop();
      }, Math.min(500, Math.max(30, 8000 / this.most)));
      this.update();
    }

    stop() {
      clearInterval(this.playing);
      this.playing = null;
      $("play").textContent = "Play";
    }
  }

  start().catch((error) => {
    const old = typeof DecompressionStream === "undefined" ? "This browser is too old to open the examples" : error;
    $("examples").append(make("p", { class: "note", text: `The examples cannot be shown: ${old}.` }));
    throw error;
  });
})();
