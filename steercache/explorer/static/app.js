// The explorer's script: colours follow the slider, tokens tell their numbers. Pages are whole without it.
"use strict";
document.documentElement.classList.add("script");

const element = (name, more = {}, ...inside) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(more)) {
    if (key === "class") made.className = value;
    else made.setAttribute(key, value);
  }
  made.append(...inside);
  return made;
};
const number = (value, digits = 4) =>
  value === null || value === undefined ? "–" : String(Number(Number(value).toPrecision(digits)));
const soon = (wait, act) => {
  let timer;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => act(...given), wait); };
};

for (const form of document.querySelectorAll("[data-auto]")) {
  form.addEventListener("change", (event) => { if (event.target.type !== "search") form.requestSubmit(); });
}

const sql = document.getElementById("sql");
if (sql) {
  sql.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); sql.requestSubmit(); }
  });
  sql.addEventListener("submit", () => { document.getElementById("busy").textContent = "running ..."; });
}

const view = document.getElementById("view");
if (view) tokenView(view);

function tokenView(view) {
  const data = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const slider = by("layer"), of = by("of"), form = by("controls");
  const tokens = new Map();
  for (const one of view.querySelectorAll(".tok[data-i]")) tokens.set(Number(one.dataset.i), one);
  let shown = data, layers = data.layers, selected = null, asked = 0;
  const known = new Map();

  const kind = () => of.value.split(":")[0];
  const layer = () => layers[Number(slider.value)];
  const query = () => {
    const asked = new URLSearchParams({ of: of.value, layer: layer() });
    if (kind() === "feature") asked.set("feature", by("feature").value || "0");
    if (kind() === "vector") { asked.set("measure", by("measure").value); asked.set("centre", by("centre").value); }
    return asked.toString();
  };
  const options = () => {
    for (const one of form.querySelectorAll("[data-for]")) one.hidden = one.dataset.for !== kind();
    by("centre").disabled = by("measure").value === "norm";
    slider.disabled = layers.length < 2;
  };
  const fetched = async (address) => {
    if (!known.has(address)) {
      const answer = await fetch(address, { headers: { Accept: "application/json" } });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.error || "no answer");
      if (known.size > 400) known.clear();
      known.set(address, found);
    }
    return known.get(address);
  };

  const show = (found) => {
    shown = found;
    if (found.layers.length !== layers.length || found.layers.some((one, i) => one !== layers[i])) {
      layers = found.layers;
      slider.max = layers.length - 1;
      slider.value = layers.indexOf(found.layer);
    }
    by("layer-shown").value = found.layer;
    slider.setAttribute("aria-valuetext", `layer ${found.layer}`);
    tokens.forEach((one, i) => {
      const level = found.levels[i];
      one.classList.remove(...[...one.classList].filter((name) => /^v-?\d+$/.test(name) || name === "none"));
      one.classList.add(level === null ? "none" : `v${level}`);
      label(one, i);
    });
    for (const legend of view.querySelectorAll(".legend")) {
      const scale = found.scales[legend.dataset.scale];
      if (!scale) continue;
      legend.classList.toggle("rises", scale.rises);
      legend.querySelector(".low").textContent = number(scale.low, 3);
      legend.querySelector(".high").textContent = number(scale.high, 3);
      const what = legend.querySelector(".what");
      const noun = legend.dataset.scale === "image" ? "patches" : "text";
      const named = kind() === "vector" ? by("measure").value : kind() === "feature" ? "activation" : "norm";
      what.textContent = `${named} of ${noun}${scale.rises ? "" : `, white at ${number(scale.centre, 3)}`}`;
      legend.setAttribute("aria-label", `Colours of the ${noun}: from ${number(scale.low, 3)} to ${number(scale.high, 3)}`);
    }
    for (const row of document.querySelectorAll("#all tr[data-n]")) {
      const i = Number(row.dataset.n);
      row.cells[3].textContent = number(found.values[i]);
      row.cells[4].textContent = number(found.norms[i]);
    }
    by("note").textContent = found.note || "";
    by("note").hidden = !found.note;
    if (selected !== null) tell(selected);
  };

  const refresh = async () => {
    const mine = ++asked, address = `${view.dataset.url}/values?${query()}`;
    view.classList.add("waits");
    try {
      const found = await fetched(address);
      if (mine !== asked) return;
      by("failed").hidden = true;
      show(found);
      history.replaceState(null, "", `?${query()}${location.hash}`);
      for (const link of document.querySelectorAll("a[data-keep]")) link.search = `?${query()}`;
      document.body.dataset.layer = found.layer;
      if (selected !== null) overLayers(selected);
    } catch (error) {
      if (mine !== asked) return;
      by("failed").textContent = error.message;
      by("failed").hidden = false;
    } finally {
      if (mine === asked) view.classList.remove("waits");
    }
  };

  const label = (one, i) => {
    const about = data.tokens[i];
    const where = about.patch ? `patch ${about.patch}` : about.text;
    one.setAttribute("aria-label", `${where}: ${number(shown.values[i])}`);
  };
  const tell = (i) => {
    const about = data.tokens[i];
    const rows = [["position", about.position], ["kind", about.role ? `${about.kind}, ${about.role}` : about.kind]];
    if (about.id >= 0) rows.push(["token id", about.id]);
    if (about.patch) rows.push(["patch", about.patch]);
    if (about.target) rows.push(["target", about.target]);
    if (kind() === "vector") rows.push(["projection", number(shown.values[i])]);
    if (shown.cosines) rows.push(["cosine", number(shown.cosines[i], 3)]);
    if (kind() === "feature") rows.push(["activation", number(shown.values[i])]);
    rows.push(["norm", number(shown.norms[i])]);
    const list = element("dl");
    for (const [name, value] of rows) list.append(element("dt", {}, name), element("dd", {}, String(value)));
    const name = about.patch ? `patch ${about.patch}` : about.text.replaceAll("\n", "⏎");
    by("token").replaceChildren(element("p", { class: "big" }, name || "·"), list);
  };
  const select = (i, focus) => {
    const one = tokens.get(i);
    if (!one) return;
    view.querySelectorAll(".tok.at").forEach((other) => other.classList.remove("at"));
    for (const other of [...tokens.values()].filter((other) => other.tabIndex === 0)) {
      if (other.parentNode === one.parentNode) other.tabIndex = -1;
    }
    one.tabIndex = 0;
    one.classList.add("at");
    if (focus) one.focus();
    selected = i;
    tell(i);
    overLayers(i);
  };

  const overLayers = soon(120, async (i) => {
    try {
      const found = await fetched(`${view.dataset.url}/token/${i}?${query()}`);
      if (i !== selected) return;
      by("over").replaceChildren(...curve(found.layers, kind() === "vector"));
      const lists = found.features.filter((one) => one.fires.length).map((one) => {
        const list = element("ul", { class: "fires" });
        for (const [feature, value] of one.fires) {
          const link = element("a", { href: `${view.dataset.features}/${one.id}/${view.dataset.url.split("/runs/")[1].slice(0, 64)}?feature=${feature}` }, `feature ${feature}`);
          list.append(element("li", {}, link, element("span", { class: "number" }, number(value, 3))));
        }
        return [element("h3", {}, `${one.sae}, layer ${one.layer}`), list];
      });
      by("fires").replaceChildren(...lists.flat());
    } catch (error) {
      by("over").replaceChildren(element("p", { class: "warn" }, error.message));
    }
  });
  const svg = (name, more, ...inside) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(more)) made.setAttribute(key, value);
    made.append(...inside);
    return made;
  };
  const curve = (found, projected) => {
    const points = found.map(([at, norm, value]) => [at, projected ? value : norm]).filter(([, value]) => value !== null);
    if (points.length < 2) return [];
    const values = points.map(([, value]) => value);
    const low = Math.min(...values, projected ? 0 : Infinity), high = Math.max(...values, projected ? 0 : -Infinity);
    const x = (k) => 8 + (584 * k) / (points.length - 1), y = (value) => 150 - (130 * (value - low)) / (high - low || 1);
    const what = projected ? "projection" : "norm";
    const words = `${what} by layer, from ${number(values[0], 3)} at layer ${points[0][0]} to ${number(values.at(-1), 3)} at layer ${points.at(-1)[0]}`;
    const now = points.findIndex(([at]) => at === shown.layer);
    const drawn = svg("svg", { class: "chart", viewBox: "0 0 600 190", role: "img", "aria-label": words });
    if (projected) drawn.append(svg("line", { class: "grid", x1: 8, x2: 592, y1: y(0), y2: y(0) }));
    if (now >= 0) drawn.append(svg("line", { class: "at", x1: x(now), x2: x(now), y1: 12, y2: 155 }));
    drawn.append(svg("polyline", { class: "line line0", points: points.map(([, value], k) => `${x(k)},${y(value)}`).join(" ") }));
    drawn.append(svg("text", { x: 8, y: 182 }, String(points[0][0])), svg("text", { x: 592, y: 182, "text-anchor": "end" }, `layer ${points.at(-1)[0]}`));
    return [element("h3", {}, `${what} over layers`), drawn];
  };

  view.addEventListener("pointerover", (event) => {
    const one = event.target.closest(".tok[data-i]");
    if (one) select(Number(one.dataset.i), false);
  });
  view.addEventListener("focusin", (event) => {
    const one = event.target.closest(".tok[data-i]");
    if (one && Number(one.dataset.i) !== selected) select(Number(one.dataset.i), false);
  });
  view.addEventListener("keydown", (event) => {
    const one = event.target.closest(".tok[data-i]");
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: "up", ArrowDown: "down", Home: "first", End: "last" };
    if (!one || !(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const all = [...one.parentNode.querySelectorAll(".tok[data-i]")], step = steps[event.key];
    let at = all.indexOf(one);
    if (step === "first") at = 0;
    else if (step === "last") at = all.length - 1;
    else if (typeof step === "number") at += step;
    else at = beyond(all, at, step === "up" ? -1 : 1);
    if (all[at]) select(Number(all[at].dataset.i), true);
  });
  const beyond = (all, at, direction) => { // the nearest one in the line above or below
    const box = all[at].getBoundingClientRect(), middle = box.left + box.width / 2;
    let best = at, least = Infinity;
    all.forEach((other, k) => {
      const its = other.getBoundingClientRect(), down = (its.top - box.top) * direction;
      if (down < box.height / 2) return;
      const distance = down * 1000 + Math.abs(its.left + its.width / 2 - middle);
      if (distance < least) { least = distance; best = k; }
    });
    return best;
  };

  const slide = soon(15, refresh);
  slider.addEventListener("input", () => { by("layer-shown").value = layer(); slide(); });
  for (const id of ["of", "measure", "centre"]) by(id).addEventListener("change", () => { options(); refresh(); });
  by("feature").addEventListener("input", soon(250, refresh));
  form.addEventListener("submit", (event) => { event.preventDefault(); refresh(); });
  if (by("opacity")) by("opacity").addEventListener("input", (event) => {
    const cover = Number(event.target.value) / 100; // the picture has its own colours where it is not covered
    by("patches").style.setProperty("--cover", cover);
    by("patches").style.setProperty("--grey", cover > 0 ? 1 : 0);
  });

  options();
  tokens.forEach(label);
  for (const group of [by("text"), by("patches")]) {
    const first = group && group.querySelector(".tok[data-i]");
    if (first) first.tabIndex = 0;
  }
  show({ layer: layer(), note: by("note").textContent, ...data });
  document.body.dataset.layer = layer();
  const there = location.hash.startsWith("#token-") && document.getElementById(location.hash.slice(1));
  if (there) select(Number(there.dataset.i), false);
}
