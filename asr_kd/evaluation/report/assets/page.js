"use strict";
// Draws the browser of utterances. Every text goes through textContent or setAttribute: transcripts are never markup.
(() => {
  const root = document.documentElement;
  const params = new URLSearchParams(location.hash.slice(1));

  // -- light and dark --------------------------------------------------------------------------------------
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const remembered = () => { try { return localStorage.getItem("asr-kd-theme"); } catch { return null; } };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);
  const toggle = document.getElementById("theme");
  function showTheme() {
    root.dataset.shade = isDark() ? "dark" : "light";
    if (toggle) toggle.textContent = isDark() ? "Light" : "Dark";
  }
  const given = params.get("theme") || remembered();
  if (given === "dark" || given === "light") root.dataset.theme = given;
  showTheme();
  prefersDark.addEventListener("change", showTheme);
  if (toggle) toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("asr-kd-theme", root.dataset.theme); } catch { /* a file that may not remember */ }
    showTheme();
  });

  // -- where in the page -----------------------------------------------------------------------------------
  const links = new Map([...document.querySelectorAll(".toc a")].map((a) => [a.getAttribute("href").slice(1), a]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) {
      links.forEach((a) => a.removeAttribute("aria-current"));
      const link = links.get(entry.target.id);
      if (link) { link.setAttribute("aria-current", "true"); }
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  links.forEach((_, id) => { const target = document.getElementById(id); if (target) seen.observe(target); });

  // -- elements --------------------------------------------------------------------------------------------
  const SVG = "http://www.w3.org/2000/svg";
  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
    node.append(...children.filter((child) => child !== null));
    return node;
  }
  function sv(tag, attributes = {}, text = null) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== null) node.textContent = text;
    return node;
  }

  // -- utterances ------------------------------------------------------------------------------------------
  const source = document.getElementById("utterance-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const list = document.getElementById("utterance-list");
  const status = document.getElementById("utterance-status");
  const more = document.getElementById("utterance-more");
  const controls = document.getElementById("utterance-controls");
  const PAGE = 12;
  let shown = PAGE;

  const rows = data.rows.map(([set, id, speaker, reference, outputs, evidence], index) => ({
    set, id, speaker, evidence, index, words: reference ? reference.split(" ") : [], outputs,
    text: [id, speaker, reference, ...Object.values(outputs).map((found) => found[0])].join("\n").toLowerCase(),
  }));
  const errors = (row, key) => (row.outputs[key] ? row.outputs[key][1].replace(/=/g, "").length : 0);
  const kinds = {
    all: () => true,
    student: (row, s, t) => errors(row, s) > 0 && t !== null && errors(row, t) === 0,
    teacher: (row, s, t) => t !== null && errors(row, t) > 0 && errors(row, s) === 0,
    both: (row, s, t) => errors(row, s) > 0 && t !== null && errors(row, t) > 0,
    wrong: (row, s) => errors(row, s) > 0,
    right: (row, s, t) => errors(row, s) === 0 && (t === null || errors(row, t) === 0),
    evidence: (row) => row.evidence,
  };
  const orders = {
    worst: (s, t) => (a, b) => errors(b, s) - errors(a, s) || errors(a, t) - errors(b, t) || a.index - b.index,
    behind: (s, t) => (a, b) => (errors(b, s) - errors(b, t)) - (errors(a, s) - errors(a, t)) || a.index - b.index,
    ahead: (s, t) => (a, b) => (errors(b, t) - errors(b, s)) - (errors(a, t) - errors(a, s)) || a.index - b.index,
    long: () => (a, b) => b.words.length - a.words.length || a.index - b.index,
    id: () => (a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : a.index - b.index),
  };
  const value = (name) => (controls.elements[name] ? controls.elements[name].value : "");

  function current() {
    const student = value("student") || data.student, teacher = data.teacher;
    const words = value("q").toLowerCase().trim();
    return rows
      .filter((row) => (!value("set") || row.set === value("set")) && (!value("speaker") || row.speaker === value("speaker"))
        && kinds[value("only")](row, student, teacher) && (!words || row.text.includes(words)))
      .sort(orders[value("sort")](student, teacher));
  }

  function aligned(row, keys) {
    // One column a word of the reference, and as many before it as any system inserted there.
    const cells = Object.fromEntries(keys.map((key) => [key, place(row.outputs[key], row.words.length)]));
    const columns = [];
    for (let at = 0; at <= row.words.length; at += 1) {
      const inserted = Math.max(0, ...keys.map((key) => cells[key].before[at].length));
      for (let extra = 0; extra < inserted; extra += 1) {
        columns.push({ ref: "", output: keys.map((key) => cells[key].before[at][extra] || null) });
      }
      if (at < row.words.length) columns.push({ ref: row.words[at], output: keys.map((key) => cells[key].at[at]) });
    }
    return columns;
  }
  function place([text, edits], count) {
    const words = text ? text.split(" ") : [], at = [], before = Array.from({ length: count + 1 }, () => []);
    let next = 0;
    for (const edit of edits) {
      if (edit === "i") before[at.length].push({ edit, word: words[next++] });
      else at.push({ edit, word: edit === "d" ? "" : words[next++] });
    }
    return { at, before };
  }
  const EDITS = { s: "substituted", d: "deleted", i: "inserted" };
  function blocks(row, keys, room) {
    // Rows of a gloss, broken where the line is full; a monospaced letter is about 0.6 em.
    const tables = el("div");
    let body = null, used = 0;
    for (const column of aligned(row, keys)) {
      const width = Math.max(column.ref.length, ...column.output.map((output) => (output ? output.word.length : 0)), 1) + 1.4;
      if (!body || used + width > room) {
        body = el("tbody");
        body.append(el("tr", { class: "ref" }, el("th", { scope: "row" }, "reference")));
        for (const key of keys) {
          const name = data.systems[key].name;
          body.append(el("tr", {}, el("th", { scope: "row", class: data.systems[key].kind, title: name }, name)));
        }
        tables.append(el("table", { class: "aligned" }, body));
        used = 0;
      }
      used += width;
      body.rows[0].append(el("td", {}, column.ref));
      column.output.forEach((output, index) => body.rows[index + 1].append(cell(output)));
    }
    return tables;
  }
  function cell(output) {
    if (!output) return el("td");
    if (output.edit === "=") return el("td", {}, output.word);
    const kind = { s: "err", d: "err del", i: "err ins" }[output.edit];
    return el("td", { class: kind, title: EDITS[output.edit] }, output.edit === "d" ? "∅" : output.word);
  }

  function article(row, open) {
    const keys = data.order.filter((key) => row.outputs[key]);
    const counts = keys.map((key) => `${data.systems[key].name} ${errors(row, key)}`).join(" · ");
    const node = el("article", { class: "utterance" },
      el("header", {}, el("h3", {}, row.id), el("span", {}, row.speaker ? `${row.set} · ${row.speaker}` : row.set),
        el("span", {}, `errors: ${counts}`)));
    const wide = list.clientWidth || 800, narrow = wide < 560;
    const letter = narrow ? 7.7 : 8.3;
    node.append(el("div", { class: "scroll" }, blocks(row, keys, Math.max(14, (wide - (narrow ? 92 : 122)) / letter))));
    if (row.evidence) node.append(look(row, keys, open));
    return node;
  }

  // -- audio and posteriors -----------------------------------------------------------------------------------------
  function look(row, keys, open) {
    const details = el("details", { class: "look" }, el("summary", {}, "Audio, spectrogram and posteriors"));
    let filled = false;
    const fill = () => {
      if (filled || !details.open) return;
      filled = true;
      const found = JSON.parse(document.getElementById(row.evidence).textContent);
      const audio = found.audio ? el("audio", { controls: "", preload: "metadata", src: found.audio, "aria-label": `Recording of ${row.id}` }) : null;
      const stage = el("div", { class: "stage", tabindex: "0", role: "group", "aria-label": `Waveform, spectrogram and token posteriors of ${row.id}` });
      if (audio) details.append(audio);
      details.append(stage);
      draw(stage, found, keys.filter((key) => found.posteriors[key]), audio);
    };
    details.addEventListener("toggle", fill);
    if (open) { details.open = true; }
    return details;
  }
  const WAVE = 44, SPECTRUM = 92, LANE = 62, AXIS = 22, LEFT = 8;
  function draw(stage, found, keys, audio) {
    const width = Math.max(stage.clientWidth - 2, found.seconds * 95 + 2 * LEFT, 300);
    const height = WAVE + SPECTRUM + LANE * keys.length + AXIS;
    const x = (seconds) => LEFT + (seconds / found.seconds) * (width - 2 * LEFT);
    const svg = sv("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Waveform, spectrogram and, for each system, the probability of its tokens over time" });
    const peaks = found.envelope, step = (width - 2 * LEFT) / Math.max(peaks.length, 1);
    const half = WAVE / 2 - 3, middle = WAVE / 2;
    const upper = peaks.map((p, i) => `${(LEFT + i * step).toFixed(1)} ${(middle - Math.max(p, 1) / 100 * half).toFixed(1)}`);
    const lower = peaks.map((p, i) => `${(LEFT + i * step).toFixed(1)} ${(middle + Math.max(p, 1) / 100 * half).toFixed(1)}`).reverse();
    if (peaks.length) svg.append(sv("path", { class: "wave", d: `M${upper.join("L")}L${lower.join("L")}Z` }));
    svg.append(sv("image", { href: found.spectrogram, x: LEFT, y: WAVE, width: width - 2 * LEFT, height: SPECTRUM, preserveAspectRatio: "none" }));
    keys.forEach((key, index) => lane(svg, found.posteriors[key], data.systems[key], WAVE + SPECTRUM + LANE * (index + 1), x, found.seconds));
    const bottom = WAVE + SPECTRUM + LANE * keys.length;
    const every = [0.1, 0.2, 0.5, 1, 2, 5, 10].find((gap) => (gap / found.seconds) * width >= 44) || 20;
    for (let at = 0; at <= found.seconds; at += every) {
      svg.append(sv("line", { class: "axis", x1: x(at), x2: x(at), y1: bottom, y2: bottom + 4 }));
      svg.append(sv("text", { class: "tick", x: x(at), y: bottom + 16, "text-anchor": at === 0 ? "start" : "middle" }, `${+at.toFixed(1)} s`));
    }
    stage.append(svg);
    if (audio) follow(svg, stage, audio, x, height, found.seconds);
  }
  function lane(svg, posteriors, system, base, x, seconds) {
    svg.append(sv("line", { class: "lane", x1: 0, x2: x(seconds) + LEFT, y1: base, y2: base }));
    const tall = LANE - 30, at = (frame) => (posteriors.offset_ms + frame * posteriors.shift_ms) / 1000;
    const thick = Math.max((x(posteriors.shift_ms / 1000) - x(0)) * 0.82, 1.2);
    const group = sv("g", { class: system.kind });
    const best = new Map();
    for (let i = 0; i < posteriors.spikes.length; i += 3) {
      const [frame, symbol, percent] = posteriors.spikes.slice(i, i + 3);
      if (at(frame) > seconds) continue;  // the silence a streaming system is given after the end
      const h = (percent / 100) * tall;
      const space = posteriors.symbols[symbol] === "\u2581";
      group.append(sv("rect", { class: space ? "spike gap" : "spike", x: (x(at(frame)) - thick / 2).toFixed(1), y: (base - h).toFixed(1), width: thick.toFixed(1), height: h.toFixed(1) }));
      const before = best.get(`${frame - 1}.${symbol}`);
      if (percent < 30 || space) continue;
      best.delete(`${frame - 1}.${symbol}`);  // one label a run of frames, where it is most likely
      best.set(`${frame}.${symbol}`, before && before.percent >= percent ? before : { frame, symbol, percent });
    }
    svg.append(group);
    let edge = -99;
    for (const { frame, symbol, percent } of [...best.values()].sort((a, b) => a.frame - b.frame)) {
      const text = posteriors.symbols[symbol].replace(/\u2581/g, "␣"), place = x(at(frame));
      const half = text.length * 3.4;
      if (place - half < edge) continue;
      edge = place + half;
      svg.append(sv("text", { class: "token", x: place.toFixed(1), y: (base - (percent / 100) * tall - 3).toFixed(1), "text-anchor": "middle" }, text));
    }
    svg.append(sv("text", { class: `who under ${system.kind}`, x: LEFT, y: base - LANE + 13 }, system.name));
  }
  function follow(svg, stage, audio, x, height, seconds) {
    const head = sv("line", { class: "head", x1: -9, x2: -9, y1: 0, y2: height });
    svg.append(head);
    const move = () => {
      const place = x(Math.min(audio.currentTime, seconds));
      head.setAttribute("x1", place); head.setAttribute("x2", place);
      if (!audio.paused) requestAnimationFrame(move);
    };
    for (const event of ["play", "seeked", "timeupdate"]) audio.addEventListener(event, move);
    svg.addEventListener("click", (event) => {
      const share = (event.clientX - svg.getBoundingClientRect().left - LEFT) / (svg.clientWidth - 2 * LEFT);
      audio.currentTime = Math.max(0, Math.min(1, share)) * seconds;
      audio.play();
    });
  }

  // -- together --------------------------------------------------------------------------------------------
  function show() {
    const found = current();
    list.replaceChildren(...found.slice(0, shown).map((row, index) => article(row, index === 0)));
    more.hidden = found.length <= shown;
    more.textContent = `Show ${Math.min(PAGE, found.length - shown)} more of ${found.length - shown}`;
    status.textContent = found.length ? `${found.length} of ${rows.length} utterances` : "No utterance matches.";
    const state = new URLSearchParams();
    for (const field of controls.elements) if (field.name && field.value !== field.dataset.default) state.set(field.name, field.value);
    if (params.get("theme")) state.set("theme", params.get("theme"));
    const hash = state.toString();
    if (hash !== location.hash.slice(1) && (hash || location.hash.includes("="))) {
      try { history.replaceState(null, "", `#${hash}`); } catch { /* some viewers of files refuse */ }
    }
  }
  for (const field of controls.elements) if (field.name) {
    field.dataset.default = field.value;
    const preset = params.get(field.name);
    if (preset !== null && (field.tagName !== "SELECT" || [...field.options].some((option) => option.value === preset))) field.value = preset;
  }
  controls.addEventListener("input", () => { shown = PAGE; show(); });
  controls.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const before = list.children.length;
    shown += PAGE;
    show();
    const next = list.children[before];
    if (next) { next.tabIndex = -1; next.focus(); }
  });
  let width = list.clientWidth;
  new ResizeObserver(() => { if (Math.abs(list.clientWidth - width) > 40) { width = list.clientWidth; show(); } }).observe(list);
  show();
})();
