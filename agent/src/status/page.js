// Draws what /status.json tells. Whatever comes from there is text and never markup: only textContent and attributes of our own.
"use strict";

const EVERY = 2000;        // between two looks, ms
const PATIENCE = 8000;     // for one answer
const SPAN = 300000;       // of the chart
const STAGES_SPAN = 30000; // of the bars
const SHOWN = 4;           // disks of one session that need no touch
const WAYS = ["hotadd", "nbd", "export"];
const SVG = "http://www.w3.org/2000/svg";
const STAGES = [
  ["source_us", "source", "waiting for the disk or its server"],
  ["agent_us", "agent", "looking for zeros, hashing, compressing"],
  ["outlet_us", "outlet", "waiting for the client and the network to it"],
  ["paced_us", "paced", "held back by a limit of yours"],
];

const $ = (id) => document.getElementById(id);
const opened = new Set();  // <details> that somebody opened
let looks = [];            // {up, at, bytes by way, stages}, oldest first
let answered = null;       // when the agent last answered, ms
let trouble = "";
let timer = 0;
let asking = false;

// An element with a class and what is in it: elements, or text.
function make(tag, name, ...inside) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  for (const part of inside) {
    if (part !== null && part !== "") made.append(part instanceof Node ? part : document.createTextNode(String(part)));
  }
  return made;
}

function shape(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// A page that is hidden asks nobody: what it knew then is not what is so now.
function title(word) { document.title = `${document.hidden ? "not looking" : word} – hotadd-agent`; }

// Only what changed is written, so that screen readers do not say it again.
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function none(text) { return make("p", "none", text); }

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) { bytes /= 1024; at += 1; }
  return `${bytes >= 100 || at === 0 ? Math.round(bytes) : bytes.toFixed(1)} ${units[at]}`;
}

function span(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds / 60) % 60} min`;
  return `${Math.floor(seconds / 86400)} days`;
}

function clock(when) {
  const date = new Date(when);
  if (Number.isNaN(date.getTime())) return String(when);
  const two = (number) => String(number).padStart(2, "0");
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  const today = new Date().toDateString() === date.toDateString();
  return today ? time : `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${time}`;
}

function leftOut(list, what) {
  return list.left_out > 0 ? [make("p", "small", `… and ${list.left_out} more ${what} that are not shown.`)] : [];
}

function bar(share, label) {
  const width = Math.max(0, Math.min(100, share * 100));
  const drawn = shape("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": label });
  drawn.append(shape("rect", { class: "rest", width: 100, height: 10 }), shape("rect", { class: "done", width, height: 10 }));
  return drawn;
}

// A, B, … of the sessions and jobs, by which the slots refer to them.
function letters(work) {
  const known = new Map();
  work.items.forEach((row, n) => known.set(row.session, n < 26 ? String.fromCharCode(65 + n) : String(n + 1)));
  return known;
}

function showAgent(told) {
  const { agent, state } = told;
  say($("proxy"), agent.proxy || agent.host);
  const vcenter = agent.vcenter ? ` · vCenter: ${agent.vcenter}` : "";
  say($("agent"), `${state} · hotadd-agent ${agent.version} on ${agent.host} (${agent.moref})${vcenter} · up ${span(agent.up_ms / 1000)} · ${clock(agent.time)}`);
}

function showVerdict(findings) {
  const [first, ...others] = findings;
  $("verdict").className = first.level;
  const word = { ok: "✓ ", wait: "… ", act: "! " }[first.level] || "";
  say($("headline"), word + first.text);
  if (others.map((one) => one.text).join("\n") !== Array.from($("others").children, (item) => item.textContent).join("\n")) {
    $("others").replaceChildren(...others.map((one) => make("li", "", one.text)));
  }
  title({ ok: "OK", wait: "wait", act: "ACT" }[first.level] || "");
}

function showDisk(disk) {
  const asked = disk.required > 0;
  const percent = asked ? Math.floor((100 * disk.bytes) / disk.required) : 0;
  const progress = asked ? `${size(disk.bytes)} of ${size(disk.required)}, ${percent} %` : "nothing read yet";
  const way = disk.reading > 0 ? `${disk.transport}, reading` : disk.transport;
  const name = disk.label || disk.backing;
  return make("div", "disk",
    make("div", "row", make("span", "", name), make("span", "tag", way)),
    make("div", "small", `${progress} · disk of ${size(disk.capacity_bytes)}`),
    bar(asked ? disk.bytes / disk.required : 0, `${name}: ${progress}`));
}

function showWork(work, letter) {
  const rows = work.items.map((row) => {
    const disks = row.disks.items.map(showDisk);
    const rest = disks.splice(SHOWN);
    const item = make("div", "item",
      make("div", "row", make("span", "name", make("b", "badge", letter.get(row.session)), row.vm || "(not found yet)"), make("span", "tag", row.stage)),
      make("div", "small", `${row.kind} ${row.id}`),
      make("div", "small", `client ${row.client || "unknown"} · since ${span(row.seconds)}${row.lease_seconds_left === null ? "" : ` · lease ${span(row.lease_seconds_left)}`}`),
      make("div", "small", `read ${size(row.bytes)}${row.required > 0 ? ` of ${size(row.required)}` : ""}`),
      ...disks);
    if (rest.length > 0) {
      const more = make("details", "", make("summary", "", `${rest.length} more disks`), ...rest);
      more.open = opened.has(row.id);
      more.addEventListener("toggle", () => (more.open ? opened.add(row.id) : opened.delete(row.id)));
      item.append(more);
    }
    item.append(...leftOut(row.disks, "disks"));
    return item;
  });
  $("work").replaceChildren(...(rows.length > 0 ? rows : [none("None runs.")]), ...leftOut(work, "sessions and jobs"));
}

// Bytes a second between two looks, by way.
function rates(before, now) {
  const seconds = (now.up - before.up) / 1000;
  return WAYS.map((way) => Math.max(0, (now.bytes[way] || 0) - (before.bytes[way] || 0)) / seconds);
}

function showRate() {
  const points = [];
  for (let n = 1; n < looks.length; n += 1) {
    const each = rates(looks[n - 1], looks[n]);
    // Nobody looked for a while: a gap, not a line through it.
    points.push({ up: looks[n].up, each, total: each.reduce((sum, one) => sum + one, 0), gap: looks[n].up - looks[n - 1].up > 3 * EVERY });
  }
  const end = looks.length > 0 ? looks[looks.length - 1].up : 0;
  const top = Math.max(1, ...points.map((point) => point.total)) * 1.05;
  const path = (value) => points.map((point, n) => {
    const x = (600 * (1 - (end - point.up) / SPAN)).toFixed(1);
    const y = (148 - (146 * value(point)) / top).toFixed(1);
    return `${n === 0 || point.gap ? "M" : "L"}${x} ${y}`;
  }).join("");
  const drawn = [75].map((y) => shape("path", { class: "scale", d: `M0 ${y}H600` }));
  const used = WAYS.filter((_, way) => points.some((point) => point.each[way] > 0));
  for (const way of used) drawn.push(shape("path", { class: way, d: path((point) => point.each[WAYS.indexOf(way)]) }));
  drawn.push(shape("path", { class: "total", d: path((point) => point.total) }));
  $("rate").replaceChildren(...drawn);
  const last = points[points.length - 1];
  say($("rate-now"), last ? `${size(last.total)}/s` : "measuring …");
  say($("rate-top"), points.length > 0 ? `top: ${size(top)}/s` : "");
  const legend = [["total", last ? last.total : 0], ...used.map((way) => [way, last ? last.each[WAYS.indexOf(way)] : 0])];
  $("rate-legend").replaceChildren(...legend.map(([name, rate]) => make("li", "", make("span", `key ${name}`), `${name} ${size(rate)}/s`)));
}

function showStages() {
  const now = looks[looks.length - 1];
  const before = looks.find((look) => now.up - look.up <= STAGES_SPAN) || now;
  const spent = STAGES.map(([key]) => Math.max(0, now.stages[key] - before.stages[key]));
  const all = spent.reduce((sum, one) => sum + one, 0);
  if (all === 0) {
    say($("stages-span"), "No read has told its times in the last 30 s.");
    $("stages").replaceChildren();
    return;
  }
  say($("stages-span"), `Measured by the agent, all reads of the last ${span((now.up - before.up) / 1000)} together. The largest is the bottleneck.`);
  const most = Math.max(...spent);
  $("stages").replaceChildren(...STAGES.map(([, name, meaning], n) => {
    const percent = Math.round((100 * spent[n]) / all);
    return make("li", spent[n] === most ? "most" : "",
      make("div", "row", make("span", "", `${name}: ${meaning}`), make("span", "", `${percent} %`)),
      bar(spent[n] / all, `${name} ${percent} %`));
  }));
}

function showDuties(duties, late) {
  const rows = duties.items.map((duty) => {
    const tag = duty.doubtful ? "act" : duty.state === "settling" ? "wait" : "";
    const item = make("div", "item",
      make("div", "row", make("span", "name", `${duty.kind} · ${duty.vm}`), make("span", `tag ${tag}`, duty.doubtful ? "needs a person" : duty.state)),
      make("div", "small", duty.what),
      make("div", "small", `open for ${span(duty.seconds)}`));
    if (duty.settling_seconds !== null) {
      const next = duty.next_seconds === null ? "being looked at now" : `next try in ${span(duty.next_seconds)}`;
      item.append(make("div", "small", `settling for ${span(duty.settling_seconds)}, tried ${duty.tries} times, ${next}`));
    }
    if (duty.why) item.append(make("div", "", duty.why));
    return item;
  });
  const waits = late > 0 ? [make("p", "small", `${late} requests without an answer are looked for.`)] : [];
  $("duties").replaceChildren(...(rows.length > 0 ? rows : [none("Nothing is owed.")]), ...leftOut(duties, "duties"), ...waits);
}

const CELLS = { controller: "×", own: "O", late: "~", other: "?" };

function showController(controller, letter) {
  const taken = new Map(controller.taken.map((one) => [one.unit, one]));
  const table = make("table");
  table.setAttribute("aria-label", `Units of controller scsi${controller.bus}`);
  for (let row = 0; row < controller.units; row += 16) {
    const line = table.insertRow();
    for (let unit = row; unit < row + 16; unit += 1) {
      const one = taken.get(unit);
      const cell = line.insertCell();
      let kind = unit === 0 ? "none" : "free", text = unit === 0 ? "×" : "·", words = unit === 0 ? "never used" : "free";
      if (one) {
        kind = one.whose === "controller" ? "none" : one.whose;
        text = one.whose === "hotadd" ? letter.get(one.session) || "+" : CELLS[one.whose] || "?";
        words = one.whose;
      }
      cell.className = `cell ${kind}`;
      cell.textContent = text;
      cell.setAttribute("aria-label", `unit ${unit}: ${words}`);
    }
  }
  const named = controller.taken.filter((one) => one.whose === "hotadd" || one.whose === "other" || one.whose === "late");
  const list = make("ul", "small", ...named.map((one) => {
    const whose = one.whose === "hotadd" ? letter.get(one.session) || "+" : CELLS[one.whose];
    return make("li", "", `scsi${controller.bus}:${one.unit} ${whose} ${one.vm} ${one.backing}`);
  }));
  return make("div", "controller",
    make("div", "row", make("b", "", `scsi${controller.bus} ${controller.kind}`), make("span", "small", `${controller.free} free`)), table, list);
}

function showSlots(slots, letter) {
  const reserved = slots.reserved > 0 ? ` ${slots.reserved} are reserved (no unit is named before it is used).` : "";
  say($("slots-seen"), `As vCenter told them ${span(slots.seen_seconds)} ago, and the journal now.${reserved}`);
  $("slots").replaceChildren(...slots.controllers.map((controller) => showController(controller, letter)));
}

function showEvents(events) {
  const rows = events.items.map((event) => {
    const when = make("time", "", clock(event.time));
    when.dateTime = event.time;
    const what = [event.kind, event.vm, event.code, event.message].filter((part) => part !== "").join(" · ");
    return make("li", "", when, what, make("div", "small", event.id));
  });
  if (events.left_out > 0) rows.push(make("li", "small", `${events.left_out} older ones: hotaddctl watch, and the agent's log.`));
  $("events").replaceChildren(...(rows.length > 0 ? rows : [make("li", "none", "None since the agent began.")]));
}

function remember(told) {
  const bytes = Object.fromEntries(told.reads.bytes.map((one) => [one.transport, one.bytes]));
  const look = { up: told.agent.up_ms, bytes, stages: told.reads.stages };
  const last = looks[looks.length - 1];
  // Another run of the agent counts from nothing.
  if (last && look.up < last.up) looks = [];
  if (last && look.up === last.up) return;
  looks.push(look);
  looks = looks.filter((one) => look.up - one.up <= SPAN);
}

function show(told) {
  remember(told);
  const letter = letters(told.work);
  showAgent(told);
  showVerdict(told.findings);
  showWork(told.work, letter);
  showRate();
  showStages();
  showDuties(told.duties, told.late);
  showSlots(told.slots, letter);
  showEvents(told.events);
}

function showTrouble() {
  document.body.classList.toggle("old", trouble !== "");
  $("stale").hidden = trouble === "";
  if (trouble === "") return;
  const since = answered === null
    ? "It has not answered since this page was opened."
    : `These figures are old: from ${clock(answered)}.`;
  say($("stale"), `The agent does not answer (${trouble}). ${since} Trying again every ${EVERY / 1000} s.`);
  title("NO ANSWER");
}

async function ask() {
  const stop = new AbortController();
  const patience = setTimeout(() => stop.abort(), PATIENCE);
  try {
    const answer = await fetch("/status.json", { cache: "no-store", credentials: "same-origin", redirect: "error", signal: stop.signal });
    if (!answer.ok) throw new Error(`${answer.status} ${(await answer.text()).slice(0, 300)}`.trim());
    return await answer.json();
  } catch (error) {
    throw new Error(stop.signal.aborted ? `no answer within ${PATIENCE / 1000} s` : error.message);
  } finally {
    clearTimeout(patience);
  }
}

async function look() {
  if (asking) return;
  asking = true;
  try {
    const told = await ask();
    answered = Date.now();
    trouble = "";
    show(told);
  } catch (error) {
    trouble = error.message || "unknown";
  }
  asking = false;
  showTrouble();
  next();
}

// Nobody looks: nobody asks.
function next() {
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(look, EVERY);
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (document.hidden) { title(""); return; }
  if (answered !== null && Date.now() - answered > 3 * EVERY) { trouble = "not asked while nobody looked"; showTrouble(); }
  look();
});

look();
