// The admin page: it asks the admin port for JSON and draws it. Recorded text is a stranger's: it only ever becomes textContent.
"use strict";

const SHOWN = 12; // rows of the live table
const CELLS = 400; // steps of the strip
const $ = (id) => document.getElementById(id);
const state = { ladder: [], unit: "", last: null, paused: false, steps: [], episodes: [], status: null };

// Making elements

/** An element with properties (a function listens, `style` sets variables, data-* and aria-* are attributes) and children. */
function make(tag, properties = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "circle", "g"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else if (name === "style") for (const [key, to] of Object.entries(value)) node.style.setProperty(key, to);
    else if (svg || name.includes("-")) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const cell = (content, className = "") => make("td", { className }, content);
const fill = (node, ...children) => node.replaceChildren(...children.filter(Boolean));
const rows = (id, found, empty) => {
  const width = $(id).tHead.rows[0].cells.length;
  fill($(id).tBodies[0], ...(found.length ? found : [make("tr", {}, make("td", { colSpan: width, className: "soft" }, empty))]));
};

// Words for numbers

const known = (value) => value !== null && value !== undefined && Number.isFinite(value);
const percent = (value, digits = 0) => (known(value) ? `${(100 * value).toFixed(digits)} %` : "–");
const css = (share) => `${(100 * share).toFixed(2)}%`;
const number = (value) => (known(value) ? value.toLocaleString("en", { maximumFractionDigits: Math.abs(value) < 10 ? 2 : 0 }) : "–");
const seconds = (value) => (!known(value) ? "–" : value === 0 ? "0" : value < 1 ? `${(value * 1000).toFixed(value < 0.01 ? 1 : 0)} ms` : `${value.toFixed(value < 10 ? 2 : 1)} s`);
const clock = (at, exact = true) => new Date(at * 1000).toLocaleTimeString("en-GB", exact ? {} : { hour: "2-digit", minute: "2-digit" });
const day = (at) => (new Date(at * 1000).toDateString() === new Date().toDateString() ? clock(at) : new Date(at * 1000).toLocaleString("en-GB"));
const short = (id) => (id.length > 14 ? `${id.slice(0, 12)}…` : id);
const score = (value) => (known(value) ? value.toPrecision(3) : "–");
const saved = (row) => (row.all_high > 0 ? 1 - row.cost / row.all_high : null);

// Precision as a colour, a height and a name

const height = (variant) => {
  const rung = state.ladder.indexOf(variant);
  return rung < 0 ? null : rung / Math.max(1, state.ladder.length - 1);
};
const tone = (variant) => {
  const up = height(variant);
  return up === null ? "var(--soft)" : `color-mix(in oklab, var(--high) ${100 * up}%, var(--low))`;
};
const chip = (variant) => make("span", { className: "chip", style: { "--tone": tone(variant) } }, variant ?? "none");
const shareBar = (share) =>
  known(share) ? make("span", {}, make("span", { className: "bar" }, make("i", { style: { width: css(share) } })), percent(share)) : "–";

/** An estimate as a dot with its interval, on a scale from 0 to 1, and in figures. */
function range(estimate, colour) {
  if (!estimate) return make("span", { className: "soft" }, "not reported");
  const { value, low, high } = estimate;
  const drawn = make("span", { className: "range", style: { "--tone": colour } },
    make("i", { style: { left: css(low), width: css(high - low) } }),
    make("b", { style: { left: css(value) } }));
  return make("span", { title: `95 % interval ${percent(low, 1)} to ${percent(high, 1)}` }, drawn, `${percent(value)} `,
    make("span", { className: "soft" }, `${percent(low).slice(0, -2)}–${percent(high)}`));
}

// Charts

/**
 * Curves over time or steps in a figure. `curves` are {name, colour, dashed, area, points: [[x, y | null], ...]}; a null breaks
 * the curve. `format` writes a y, `when` an x. The pointer reads the nearest x off into the caption.
 */
function chart(figure, { curves, from, to, top, format, when, summary }) {
  const caption = figure.querySelector("figcaption");
  caption.dataset.title ??= caption.textContent;
  const at = make("span", { className: "at" });
  fill(caption, caption.dataset.title, ...curves.map((curve) =>
    make("span", { className: curve.dashed ? "key dashed" : "key", style: { "--tone": curve.colour } }, curve.name)), at);
  for (const old of figure.querySelectorAll("svg, .empty")) old.remove();
  const ys = curves.flatMap((curve) => curve.points.map(([, y]) => y).filter(known));
  if (!ys.length) {
    figure.append(make("p", { className: "empty" }, "Nothing in this time yet."));
    return;
  }
  const [width, tall, left, bottom] = [figure.clientWidth || 300, 150, 44, 18];
  const [low, high] = [Math.min(0, ...ys), nice(top ?? Math.max(...ys))];
  const x = (value) => left + ((value - from) / (to - from || 1)) * (width - left - 6);
  const y = (value) => 6 + (1 - (value - low) / (high - low || 1)) * (tall - bottom - 6);
  const svg = make("svg", { role: "img", "aria-label": `${caption.dataset.title}: ${summary}`, height: tall, viewBox: `0 0 ${width} ${tall}` });
  for (const part of [0, 0.5, 1]) {
    const value = low + part * (high - low);
    svg.append(make("line", { class: "grid", x1: left, x2: width - 6, y1: y(value), y2: y(value) }),
      make("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, format(value)));
  }
  for (const [value, anchor] of [[from, "start"], [to, "end"]]) {
    svg.append(make("text", { x: x(value), y: tall - 3, "text-anchor": anchor }, when(value)));
  }
  for (const curve of curves) {
    for (const run of runs(curve.points)) {
      const path = run.map(([px, py], i) => `${i ? "L" : "M"}${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join("");
      const style = { "--tone": curve.colour };
      if (curve.area) svg.append(make("path", { class: "area", style, d: `${path}L${x(run.at(-1)[0])} ${y(low)}L${x(run[0][0])} ${y(low)}Z` }));
      if (run.length > 1) svg.append(make("path", { class: curve.dashed ? "curve dashed" : "curve", style, d: path }));
      else svg.append(make("circle", { class: "mark", style, cx: x(run[0][0]), cy: y(run[0][1]), r: 2.5 }));
    }
    for (const [px, py, colour] of curve.points) {
      if (colour) svg.append(make("circle", { class: "mark", style: { "--tone": colour }, cx: x(px), cy: y(py), r: 4.5 }));
    }
  }
  const cursor = make("line", { class: "cursor", y1: 6, y2: tall - bottom, visibility: "hidden" });
  const xs = [...new Set(curves.flatMap((curve) => curve.points.map(([px]) => px)))];
  svg.append(cursor);
  svg.addEventListener("pointermove", (event) => {
    const over = event.clientX - svg.getBoundingClientRect().left;
    const near = xs.reduce((best, px) => (Math.abs(x(px) - over) < Math.abs(x(best) - over) ? px : best));
    cursor.setAttribute("x1", x(near));
    cursor.setAttribute("x2", x(near));
    cursor.setAttribute("visibility", "visible");
    const read = curves.map((curve) => format(curve.points.find(([px]) => px === near)?.[1])).join(" / ");
    at.textContent = `${when(near)}: ${read}`;
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    at.textContent = "";
  });
  figure.append(svg);
}

/** The next round number at or above a positive one. */
function nice(value) {
  if (!(value > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((step) => step * unit).find((step) => step >= value * 0.9999);
}

/** Points without gaps, run by run. */
function runs(points) {
  const found = [[]];
  for (const point of points) {
    if (known(point[1])) found.at(-1).push(point);
    else if (found.at(-1).length) found.push([]);
  }
  return found.filter((run) => run.length);
}

// Asking

async function ask(path, options) {
  const response = await fetch(path, options);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ?? `status ${response.status}`);
  return body;
}

/** Run `work` now and every so many seconds while the page is looked at. */
function every(pause, work) {
  let timer = 0;
  let busy = false;
  const turn = async () => {
    clearTimeout(timer);
    if (busy) return;
    busy = true;
    try {
      if (!document.hidden) {
        await work();
        connected(null);
      }
    } catch (error) {
      connected(error);
    }
    busy = false;
    timer = setTimeout(turn, pause * 1000);
  };
  document.addEventListener("visibilitychange", () => document.hidden || turn());
  turn();
  return turn;
}

function connected(error) {
  const text = error === null ? "live" : `no answer: ${error.message}`;
  if ($("link").textContent === text) return;
  $("link").textContent = text;
  $("link").className = error === null ? "on" : "off";
}

// The state now, and the switch

async function refreshStatus() {
  showStatus(await ask("status.json"));
}

function showStatus(status) {
  if (state.ladder.join() !== status.ladder.join()) {
    state.ladder = status.ladder;
    fill($("legend"), ...state.ladder.map((name) => make("li", {}, chip(name))));
    const choices = [[null, "Router decides"], ...state.ladder.toReversed().map((name) => [name, `All to ${name}`])];
    fill($("choices"), ...choices.map(([variant, label]) =>
      make("button", { type: "button", value: variant ?? "", className: variant ? "forced" : "", click: () => confirmSwitch(variant) }, label)));
  }
  state.status = status;
  state.unit = status.unit;
  const { policy, records } = status;
  $("what").textContent = [policy.policy, policy.mode, known(policy.budget) ? `budget ${policy.budget}` : null].filter(Boolean).join(" · ");
  const forced = policy.switch ?? null;
  for (const button of $("choices").children) button.setAttribute("aria-pressed", String(button.value === (forced ?? "")));
  $("switch-note").textContent = forced ? `Everything goes to ${forced}.` : "Sends every request to one variant at once.";
  const alarms = [
    forced && `The kill switch is on: everything goes to ${forced}.`,
    ...policy.arms.filter((arm) => arm.alarm).map((arm) => `${arm.policy} (${arm.name}): realised share ${percent(arm.realised)}, budget ${percent(arm.budget)}.`),
    records.dropped > 0 && `${records.dropped} records were lost.`,
  ].filter(Boolean);
  $("alert").hidden = !alarms.length;
  if ($("alert").textContent !== alarms.join(" ")) $("alert").textContent = alarms.join(" ");
  rows("replicas", status.replicas.map((replica) => make("tr", {},
    cell(chip(replica.variant)), cell(replica.url, "address"),
    cell(replica.healthy ? "● healthy" : "✕ down", replica.healthy ? "good" : "bad"),
    cell(number(replica.in_flight), "n"), cell(number(replica.failures), "n"))), "No replicas.");
  facts($("facts"), [
    ["Records waiting", number(records.pending)], ["Records lost", number(records.dropped)], ["Database refusals", number(records.failures)],
    ["Router errors", number(policy.router_errors)], ["Late decisions", number(policy.late)], ["Refused reloads", number(policy.reload_errors)], ["Keys", status.keys ? "required" : "not required"],
    ["Text", status.content ? "stored" : "not stored"], ["Version", status.version],
  ]);
}

function facts(list, pairs) {
  fill(list, ...pairs.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function confirmSwitch(variant) {
  if ((state.status.policy.switch ?? null) === variant) return;
  $("confirm-title").textContent = variant ? `Send everything to ${variant}?` : "Let the router decide again?";
  $("confirm-text").textContent = variant
    ? `Every new step goes to ${variant}, whatever the router says, until you let it decide again. Requests in flight end as they began.`
    : "New steps go to the variant that the router picks for them.";
  $("confirm-yes").textContent = variant ? `All to ${variant}` : "Router decides";
  const dialog = $("confirm");
  dialog.returnValue = "no";
  dialog.onclose = async () => {
    if (dialog.returnValue !== "yes") return;
    try {
      const headers = { "content-type": "application/json" };
      showStatus(await ask("switch", { method: "POST", headers, body: JSON.stringify({ variant }) }));
    } catch (error) {
      $("alert").textContent = `The switch was not set: ${error.message}`;
      $("alert").hidden = false;
    }
  };
  dialog.showModal();
}

// The course and what it comes to

async function refreshCourse() {
  const { start, end, parts, points } = await ask(`course.json?window=${$("window").value}`);
  // A part without steps breaks a curve, so that a pause is not drawn as a slope.
  const width = (end - start) / parts;
  const filled = [];
  for (const [i, point] of points.entries()) {
    if (i && point.at - points[i - 1].at > 1.5 * width) filled.push({ at: points[i - 1].at + width });
    filled.push(point);
  }
  // The running part is drawn once it has some length; costs are drawn by the minute, so that it is not a fall.
  const drawn = filled.filter((point) => point.seconds === undefined || point.seconds > 0.3 * width);
  const curve = (read) => drawn.map((point) => [point.at + width / 2, read(point)]);
  const rate = (name) => (point) => (known(point[name]) ? (60 * point[name]) / point.seconds : null);
  const sum = (read) => points.reduce((total, point) => total + (read(point) ?? 0), 0);
  const n = sum((p) => p.n);
  const routed = sum((p) => p.routed);
  const share = routed ? sum((p) => (p.share ?? 0) * p.routed) / routed : null;
  const budget = routed ? sum((p) => (p.budget ?? 0) * p.routed) / routed : null;
  const total = { cost: sum((p) => p.cost), all_high: sum((p) => p.all_high) };
  const window_ = $("window").selectedOptions[0].textContent;
  const common = { from: start, to: end, when: (at) => clock(at, false) };
  chart($("chart-share"), {
    ...common, top: 1, format: (v) => percent(v), summary: `${percent(share)} of ${number(routed)} routed steps, budget ${percent(budget)}`,
    curves: [{ name: "share", colour: "var(--high)", area: true, points: curve((p) => p.share) },
      { name: "budget", colour: "var(--ink)", dashed: true, points: curve((p) => p.budget) }],
  });
  const [p50, p95] = [middle(points, "p50"), middle(points, "p95")];
  chart($("chart-took"), {
    ...common, format: seconds, summary: `median ${seconds(p50)}, slowest 5 % from ${seconds(p95)}`,
    curves: [{ name: "median", colour: "var(--low)", points: curve((p) => p.p50) },
      { name: "slowest 5 %", colour: "var(--soft)", points: curve((p) => p.p95) }],
  });
  chart($("chart-cost"), {
    ...common, format: number, summary: `${number(total.cost)} ${state.unit} where all-high would be ${number(total.all_high)}`,
    curves: [{ name: "spent", colour: "var(--low)", area: true, points: curve(rate("cost")) },
      { name: "all-high", colour: "var(--high)", dashed: true, points: curve(rate("all_high")) }],
  });
  $("share").textContent = percent(share, 1);
  $("share-note").textContent = `of routed steps, budget ${percent(budget)}`;
  $("saved").textContent = percent(saved(total), 1);
  $("saved-note").textContent = `${number(total.all_high - total.cost)} of ${number(total.all_high)} ${state.unit}`;
  $("took").textContent = seconds(p50);
  $("took-note").textContent = `median; slowest 5 % from ${seconds(p95)}`;
  $("count").textContent = number(n);
  $("count-note").textContent = `answered in ${window_}`;
}

/** The mean over parts, weighted by their steps: near enough to a quantile of all to read at a glance. */
function middle(points, name) {
  const n = points.reduce((total, point) => total + point.n, 0);
  return n ? points.reduce((total, point) => total + point[name] * point.n, 0) / n : null;
}

// Live steps

async function refreshSteps() {
  const first = state.last === null;
  const { steps } = await ask(`steps.json?limit=200${first ? "" : `&after=${state.last}`}`);
  if (!state.ladder.length || (!steps.length && !first)) return;
  state.last = steps.length ? steps.at(-1).id : state.last ?? 0;
  state.steps = [...state.steps, ...steps].slice(-CELLS);
  if (!state.paused) showSteps(steps);
}

function showSteps(added) {
  const strip = $("strip");
  strip.append(...added.map((step) => make("i", {
    className: step.ended === "complete" ? "" : "failed", click: () => openEpisode(step.scope, step.episode),
    title: `${step.variant ?? "no answer"}, step ${step.step} of ${step.episode}`,
    style: { "--tone": tone(step.variant), "--height": height(step.variant) ?? 0 },
  })));
  while (strip.children.length > CELLS) strip.firstChild.remove();
  rows("steps", state.steps.slice(-SHOWN).reverse().map((step) => make("tr", {},
    cell(clock(step.at)), cell(episodeLink(step.scope, step.episode)), cell(step.step, "n"), cell(chip(step.variant)),
    cell(score(step.score), "n"), cell(because(step)), cell(number((step.prefill ?? 0) + (step.cached ?? 0) + (step.decode ?? 0)), "n"),
    cell(seconds(step.total), "n"), cell(ending(step), step.ended === "complete" ? "" : "bad"))), "No step yet.");
}

const because = (step) => {
  const notes = [step.reason ?? "named by the client"];
  if (step.intended && step.intended !== step.decision) notes.push(`router: ${step.intended}`);
  if (step.decision && step.variant && step.variant !== step.decision) notes.push(`fallback from ${step.decision}`);
  if (step.retry) notes.push("retry");
  return notes.join(", ");
};
const ending = (step) => (step.ended === "complete" ? String(step.status) : `${step.ended} ${step.status || ""}`);
const episodeLink = (scope, id) => make("button", { type: "button", className: "link", title: id, click: () => openEpisode(scope, id) }, short(id));

// Policies and episodes

async function refreshPolicies() {
  const { policies } = await ask("policies.json");
  rows("policies", policies.map((row) => make("tr", {},
    cell([row.policy || "none", row.arm === "main" ? null : row.arm].filter(Boolean).join(" · ")), cell(number(row.episodes), "n"),
    cell(range(row.success, "var(--good)")), cell(range(row.share, "var(--high)")),
    cell(make("span", { title: `95 % interval ${number(row.cost.low)} to ${number(row.cost.high)} ${state.unit} an episode` }, number(row.cost.value)), "n"),
    cell(make("span", { title: row.saved ? `95 % interval ${percent(row.saved.low, 1)} to ${percent(row.saved.high, 1)}` : "" }, percent(row.saved?.value)), "n"))),
  "No episode yet.");
}

const PAGE = 25;

async function refreshEpisodes() {
  if (state.episodes.length > PAGE) return; // older ones are being read: they stay
  const { episodes } = await ask(`episodes.json?limit=${PAGE}`);
  state.episodes = episodes;
  showEpisodes(episodes.length === PAGE);
}

async function olderEpisodes() {
  const { episodes } = await ask(`episodes.json?limit=${PAGE}&before=${state.episodes.at(-1).started}`);
  state.episodes.push(...episodes);
  showEpisodes(episodes.length === PAGE);
}

function showEpisodes(more) {
  $("older").hidden = !more;
  rows("episodes", state.episodes.map((row) => make("tr", {},
    cell(day(row.started)), cell(episodeLink(row.scope, row.id)), cell(policyOf(row)), cell(number(row.steps), "n"), cell(shareBar(row.share)),
    cell(number(row.cost), "n"), cell(percent(saved(row)), "n"), cell(outcome(row)))), "No episode yet.");
}

const policyOf = (row) => [row.policy ?? "none", row.arm === "main" ? null : row.arm].filter(Boolean).join(" · ");
const outcome = (row) => {
  const reward = known(row.reward) ? ` (reward ${number(row.reward)})` : "";
  if (row.success === null) return make("span", { className: "soft" }, `not reported${reward}`);
  return make("span", { className: row.success ? "good" : "bad" }, `${row.success ? "✓ success" : "✕ failure"}${reward}`);
};

// One episode

async function openEpisode(scope, id) {
  let row;
  try {
    row = await ask(`episode.json?scope=${encodeURIComponent(scope)}&id=${encodeURIComponent(id)}`);
  } catch (error) {
    connected(error);
    return;
  }
  $("episode-title").textContent = `Episode ${row.id}`;
  facts($("episode-facts"), [
    ["Outcome", outcome(row)], ["Policy", policyOf(row)], ["High precision", shareBar(row.share)], ["Cost", `${number(row.cost)} ${state.unit}`],
    ["Saved", percent(saved(row))], ["Started", day(row.started)], ["Session", row.session], ["Key", row.scope || "none"],
    ...(row.parent ? [["Branch of", `${row.parent}, ${row.parent_step} steps shared`]] : []),
    ...(row.first > 0 ? [["First recorded step", String(row.first)]] : []),
  ]);
  fill($("played"), ...row.played.map(playedStep));
  $("episode").showModal();
  const scored = row.played.filter((step) => known(step.score));
  $("episode-chart").hidden = !scored.length;
  if (scored.length) {
    const at = row.played.map((step) => step.step);
    chart($("episode-chart"), {
      from: Math.min(...at), to: Math.max(...at, Math.min(...at) + 1), format: score, when: (step) => `step ${Math.round(step)}`,
      summary: `${scored.length} scored steps`,
      curves: [{ name: "score", colour: "var(--soft)", points: scored.map((step) => [step.step, step.score, tone(step.variant)]) },
        { name: "threshold", colour: "var(--ink)", dashed: true, points: scored.map((step) => [step.step, step.threshold]) }],
    });
  }
}

function playedStep(step) {
  const versus = known(step.score) ? `score ${score(step.score)}${known(step.threshold) ? ` ${step.score >= step.threshold ? "≥" : "<"} ${score(step.threshold)}` : ""}` : null;
  const tokens = known(step.prefill) ? `${number(step.prefill)} prefilled, ${number(step.cached)} cached, ${number(step.decode)} decoded` : null;
  const times = [known(step.router) ? `router ${seconds(step.router)}` : null, known(step.first_token) ? `first byte ${seconds(step.first_token)}` : null, `total ${seconds(step.total)}`];
  const part = (text, className = "") => (text ? make("span", { className }, text) : null);
  return make("li", { style: { "--tone": tone(step.variant) } },
    make("div", { className: "line" }, make("b", {}, `Step ${step.step}`), chip(step.variant), part(because(step)), part(versus),
      part(step.flipped ? "flipped" : null), part(step.tool ? `tool ${step.tool}` : null), part(step.ended === "complete" ? null : ending(step), "bad")),
    make("div", { className: "line soft" }, part(tokens), part(`cost ${number(step.cost)}`), part(times.filter(Boolean).join(", ")),
      part(step.attempts.length > 1 ? `${step.attempts.length} tries: ${step.attempts.map((t) => `${t.variant} ${t.status ?? t.error}`).join(", ")}` : null)),
    step.message === null ? null : make("pre", {}, step.message), step.action === null ? null : make("pre", { className: "said", title: "the answer" }, step.action),
    make("details", {}, make("summary", {}, "All that is recorded"), recorded(step)));
}

/** Every fact of a step by its name, the ones that are not known left out. */
function recorded(step) {
  const list = make("dl");
  const pairs = Object.entries(step).filter(([name, value]) => value !== null && name !== "message" && name !== "action");
  facts(list, pairs.map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]));
  return list;
}

// Beginning

$("pause").addEventListener("click", () => {
  state.paused = !state.paused;
  $("pause").setAttribute("aria-pressed", String(state.paused));
  if (!state.paused) {
    fill($("strip"));
    showSteps(state.steps);
  }
});
$("older").addEventListener("click", () => olderEpisodes().catch(connected));

refreshStatus().catch(connected).finally(() => {
  every(2, refreshStatus);
  every(1, refreshSteps);
  const course = every(5, refreshCourse);
  every(5, refreshEpisodes);
  every(15, refreshPolicies);
  $("window").addEventListener("change", course);
  let settled = 0;
  addEventListener("resize", () => {
    clearTimeout(settled);
    settled = setTimeout(course, 200);
  });
});
