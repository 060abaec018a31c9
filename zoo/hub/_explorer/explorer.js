"use strict";

const $ = (selector) => document.querySelector(selector);
const data = JSON.parse($("#content").textContent);
const status = $("#status");
const MAX_SEED = 10n ** 18n - 1n;

// Random numbers: those of zoo.runtime.rng, so that a seed means the same images as in Python -------------------------

const MASK = (1n << 64n) - 1n;
const IV = [
  0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n,
  0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n,
];
const SIGMA = [
  "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "9057fac2e1bd683c",
  "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0",
].map((row) => [...row].map((digit) => parseInt(digit, 16)));

/** The first 8 bytes of BLAKE2b (RFC 7693) with an 8-byte digest, of at most 128 bytes, as a big-endian number. */
function blake2b8(text) {
  const bytes = new Uint8Array(128);
  const length = new TextEncoder().encodeInto(text, bytes).written;
  const view = new DataView(bytes.buffer);
  const m = Array.from({ length: 16 }, (_, i) => view.getBigUint64(8 * i, true));
  const h = [IV[0] ^ 0x01010008n, ...IV.slice(1)];
  const v = [...h, ...IV];
  v[12] ^= BigInt(length);
  v[14] ^= MASK;
  const turn = (x, n) => (x >> n) | ((x << (64n - n)) & MASK);
  const mix = (a, b, c, d, x, y) => {
    v[a] = (v[a] + v[b] + x) & MASK; v[d] = turn(v[d] ^ v[a], 32n);
    v[c] = (v[c] + v[d]) & MASK; v[b] = turn(v[b] ^ v[c], 24n);
    v[a] = (v[a] + v[b] + y) & MASK; v[d] = turn(v[d] ^ v[a], 16n);
    v[c] = (v[c] + v[d]) & MASK; v[b] = turn(v[b] ^ v[c], 63n);
  };
  const places = [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15], [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]];
  for (let round = 0; round < 12; round++) {
    const s = SIGMA[round % 10];
    places.forEach((place, i) => mix(...place, m[s[2 * i]], m[s[2 * i + 1]]));
  }
  view.setBigUint64(0, h[0] ^ v[0] ^ v[8], true);
  return view.getBigUint64(0, false);
}

const deriveSeed = (...parts) => blake2b8(parts.join("/")) >> 1n;

/** The Mersenne Twister of torch's CPU generator, of which only 32 bits of the seed count. */
function twister(seed) {
  const state = new Uint32Array(624);
  state[0] = Number(seed & 0xffffffffn);
  for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let place = 624;
  return () => {
    if (place === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      place = 0;
    }
    let y = state[place++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

/** `torch.randn` of `size` numbers: Box-Muller in blocks of 16, or one by one below 16 numbers. */
function normals(draw, size) {
  const values = new Float32Array(size);
  if (size < 16) {
    const uniform = () => { const high = draw() & 0x1fffff; return (high * 2 ** 32 + draw()) / 2 ** 53; };
    for (let i = 0; i < size; i += 2) {
      const angle = 2 * Math.PI * uniform();
      const radius = Math.sqrt(-2 * Math.log1p(-uniform()));
      values[i] = radius * Math.cos(angle);
      if (i + 1 < size) values[i + 1] = radius * Math.sin(angle);
    }
    return values;
  }
  const uniform = () => (draw() & 0xffffff) / 2 ** 24;
  const transform = (start) => {
    for (let i = start; i < start + 8; i++) {
      const radius = Math.sqrt(-2 * Math.log(1 - values[i]));
      const angle = 2 * Math.PI * values[i + 8];
      values[i] = radius * Math.cos(angle);
      values[i + 8] = radius * Math.sin(angle);
    }
  };
  for (let i = 0; i < size; i++) values[i] = uniform();
  for (let i = 0; i + 16 <= size; i += 16) transform(i);
  if (size % 16) { // the last block is drawn again, and overlaps the one before
    for (let i = size - 16; i < size; i++) values[i] = uniform();
    transform(size - 16);
  }
  return values;
}

const latent = (seed, index) => normals(twister(deriveSeed(seed, "sample", index)), data.latent);

function drawnClass(seed, index) {
  const total = data.shares.reduce((sum, share) => sum + share, 0);
  const u = Number(deriveSeed(seed, "label", index)) / 2 ** 63;
  let edge = 0;
  const found = data.shares.findIndex((share) => u < (edge += share / total));
  return found < 0 ? data.shares.length - 1 : found;
}

/** The noise maps of all images of a seed, one array each. */
function drawNoise(seed) {
  const sizes = data.noise.map((shape) => shape.reduce((product, side) => product * side, 1));
  const whole = sizes.reduce((sum, size) => sum + size, 0);
  const noise = Array.from({ length: data.batch }, () => new Float32Array(whole));
  const draw = twister(deriveSeed(seed, "noise", 0));
  let start = 0;
  for (const size of sizes) {
    const map = normals(draw, data.batch * size);
    noise.forEach((values, i) => values.set(map.subarray(i * size, (i + 1) * size), start));
    start += size;
  }
  return noise;
}

// The network ---------------------------------------------------------------------------------------------------------

async function unpack(name) {
  const element = $(`#block-${name}`);
  const text = element.textContent;
  element.remove(); // frees its memory
  const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const sessions = {};
let turn = Promise.resolve(); // one run at a time

function runNetwork(name, inputs) {
  const feeds = {};
  for (const [key, values] of Object.entries(inputs)) {
    if (values === undefined) continue;
    const dims = key === "w" ? [1, data.styles, values.length / data.styles] : key === "label" ? [1] : [1, values.length];
    feeds[key] = key === "label" ? new ort.Tensor("int64", [BigInt(values)], dims) : new ort.Tensor("float32", values, dims);
  }
  turn = turn.catch(() => {}).then(() => sessions[name].run(feeds));
  return turn.then((outputs) => Object.values(outputs)[0].data);
}

function draw(canvas, pixels) {
  const side = data.resolution, area = side * side;
  const image = new ImageData(side, side);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) { // a clamped array rounds, as Python does
      image.data[4 * i + c] = (pixels[(data.channels === 3 ? c * area : 0) + i] + 1) * 127.5;
    }
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// State: what the address holds ---------------------------------------------------------------------------------------

const view = { seed: "0", a: 0, b: 1, label: "", psi: 1, moves: data.directions.map(() => 0), t: 0.5, cut: data.styles >> 1 };
let points = []; // of the images of the seed: latents, or styles
let labels = [];
let noise = [];

function writeAddress() {
  const parts = { seed: view.seed, a: view.a + 1, b: view.b + 1, t: view.t, directions: view.moves.join(",") };
  if (data.styles) Object.assign(parts, { psi: view.psi, cut: view.cut });
  if (view.label !== "") parts.class = view.label;
  history.replaceState(null, "", `#${new URLSearchParams(parts).toString().replaceAll("%2C", ",")}`);
}

function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const number = (name, low, high, fallback) => {
    const value = parts.has(name) ? Number(parts.get(name)) : NaN;
    return value >= low && value <= high ? value : fallback;
  };
  if (/^[0-9]{1,18}$/.test(parts.get("seed") ?? "")) view.seed = String(BigInt(parts.get("seed")));
  view.a = Math.round(number("a", 1, data.batch, view.a + 1)) - 1;
  view.b = Math.round(number("b", 1, data.batch, view.b + 1)) - 1;
  view.t = number("t", 0, 1, view.t);
  view.psi = number("psi", 0, 1.5, view.psi);
  view.cut = Math.round(number("cut", 0, data.styles, view.cut));
  if (parts.has("class")) view.label = parts.get("class") in data.classes ? parts.get("class") : "";
  (parts.get("directions") ?? "").split(",").forEach((text, i) => {
    if (text !== "" && i < view.moves.length && Math.abs(Number(text)) <= 4) view.moves[i] = Number(text);
  });
}

function show() {
  const set = (id, value, text) => {
    const input = $(`#${id}`);
    if (!input) return;
    input.value = value;
    const output = $(`output[for="${id}"]`);
    if (output) output.textContent = text ?? value;
  };
  set("seed", view.seed);
  set("class", view.label);
  set("psi", view.psi, view.psi.toFixed(2));
  set("t", view.t, view.t.toFixed(2));
  set("cut", view.cut);
  view.moves.forEach((move, i) => set(`direction-${i}`, move, move.toFixed(1)));
  document.querySelectorAll(".tile").forEach((tile, i) => {
    tile.classList.toggle("a", i === view.a);
    tile.classList.toggle("b", i === view.b);
    tile.querySelector(".mark").innerHTML = (i === view.a ? "<b>A</b>" : "") + (i === view.b ? "<b>B</b>" : "");
    const picked = [i === view.a && "A", i === view.b && "B"].filter(Boolean).join(" and ");
    tile.setAttribute("aria-label", `Image ${i + 1}${picked ? `, picked as ${picked}` : ""}`);
  });
  $("#changed-caption").textContent = `image ${view.a + 1}${view.moves.some(Boolean) ? ", changed" : ""}`;
  $("#between-caption").textContent = `image ${view.a + 1} to image ${view.b + 1}`;
  const psi = data.styles && view.psi !== 1 ? ` --truncation ${view.psi}` : "";
  const label = view.label === "" ? "" : ` --class ${view.label}`;
  $("#command").textContent = `zoo sample ${data.name} -n ${data.batch} --seed ${view.seed}${label}${psi}`;
}

// Drawing -------------------------------------------------------------------------------------------------------------

let order = 0; // of the latest change: work for an older one is dropped
const pause = () => new Promise((done) => setTimeout(done)); // lets the browser show what was drawn

const towardsMean = (w) => (view.psi === 1 ? w : w.map((x, i) => data.mean[i] + view.psi * (x - data.mean[i])));

async function findPoints() {
  const indices = Array.from({ length: data.batch }, (_, i) => i);
  noise = data.noise.length ? drawNoise(view.seed) : [];
  labels = indices.map((i) => (!data.classes.length ? undefined : view.label === "" ? drawnClass(view.seed, i) : Number(view.label)));
  const latents = indices.map((i) => latent(view.seed, i));
  if (!data.styles) return latents;
  const styles = [];
  for (const i of indices) styles.push(Float32Array.from(await runNetwork("mapping", { z: latents[i], label: labels[i] })));
  return styles;
}

/** The image of a point, with class and noise of image `index`; `fine` are the styles from the cut on. */
function synthesise(point, index, fine) {
  if (!data.styles) return runNetwork("synthesis", { z: point, label: labels[index], noise: noise[index] });
  const w = new Float32Array(data.styles * point.length);
  for (let k = 0; k < data.styles; k++) w.set(fine && k >= view.cut ? fine : point, k * point.length);
  return runNetwork("synthesis", { w, noise: noise[index] });
}

const pointOf = (index) => (data.styles ? towardsMean(points[index]) : points[index]);

function moved(point) {
  const result = Float32Array.from(point);
  data.directions.forEach((direction, k) => direction.forEach((x, i) => { result[i] += view.moves[k] * x; }));
  return result;
}

function between(a, b, t) {
  if (data.styles) return a.map((x, i) => x + t * (b[i] - x));
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  const angle = Math.acos(Math.max(-1, Math.min(1, dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b)))));
  if (Math.abs(Math.sin(angle)) < 1e-6) return a.map((x, i) => x + t * (b[i] - x));
  const [p, q] = [Math.sin((1 - t) * angle) / Math.sin(angle), Math.sin(t * angle) / Math.sin(angle)];
  return a.map((x, i) => p * x + q * b[i]);
}

/** Yield canvases with what they show, the most wanted first. */
function* plan(what) {
  const [a, b] = [pointOf(view.a), pointOf(view.b)];
  if (what.has("change")) yield ["changed", moved(a), view.a];
  if (what.has("t")) yield ["between", between(a, b, view.t), view.t < 0.5 ? view.a : view.b];
  if (what.has("mix") && data.styles) yield ["mixed", a, view.a, b];
  if (what.has("grid")) for (let i = 0; i < data.batch; i++) yield [`tile-${i}`, pointOf(i), i];
  if (what.has("strip")) for (let i = 0; i < 7; i++) yield [`step-${i}`, between(a, b, i / 6), i < 3 ? view.a : view.b];
}

const ALL = ["seed", "change", "t", "mix", "grid", "strip"];
const waiting = new Set(); // parts that an earlier, dropped change had to draw

async function update(...what) {
  const mine = ++order;
  what.forEach((part) => waiting.add(part));
  show();
  writeAddress();
  document.body.setAttribute("aria-busy", "true");
  if (waiting.has("seed")) {
    const found = await findPoints();
    if (mine !== order) return;
    points = found;
    waiting.delete("seed");
  }
  for (const [id, point, index, fine] of plan(new Set(waiting))) {
    draw($(`#${id}`), await synthesise(point, index, fine));
    await pause();
    if (mine !== order) return;
  }
  waiting.clear();
  document.body.removeAttribute("aria-busy");
}

// Controls ------------------------------------------------------------------------------------------------------------

function listen() {
  const onSlider = (id, apply, ...what) => $(`#${id}`)?.addEventListener("input", (event) => {
    apply(Number(event.target.value));
    update(...what);
  });
  onSlider("psi", (value) => { view.psi = value; }, "grid", "change", "t", "mix", "strip");
  onSlider("t", (value) => { view.t = value; }, "t");
  onSlider("cut", (value) => { view.cut = value; }, "mix");
  view.moves.forEach((_, i) => onSlider(`direction-${i}`, (value) => { view.moves[i] = value; }, "change"));
  $("#reset").addEventListener("click", () => { view.moves.fill(0); update("change"); });
  $("#seed").addEventListener("change", (event) => {
    if (/^[0-9]{1,18}$/.test(event.target.value)) { view.seed = String(BigInt(event.target.value)); update(...ALL); }
    else show();
  });
  $("#next").addEventListener("click", () => {
    const next = BigInt(view.seed) + 1n;
    view.seed = String(next > MAX_SEED ? 0n : next);
    update(...ALL);
  });
  $("#class")?.addEventListener("change", (event) => { view.label = event.target.value; update(...ALL); });
  $("#grid").addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    if (!tile) return;
    view[$("input[name=pick]:checked").value] = Number(tile.dataset.index);
    update("change", "t", "mix", "strip");
  });
  $("#copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      status.textContent = "The address of this view was copied.";
    } catch {
      status.textContent = `The address of this view: ${location.href}`;
    }
  });
  addEventListener("hashchange", () => { readAddress(); update(...ALL); });
}

/** Open the networks' files with ONNX Runtime's optimisations ("all") or as they are ("disabled"); what runs until then uses those that were open before. */
async function open(networks, level) {
  for (const [name, bytes] of Object.entries(networks)) {
    const options = { executionProviders: ["wasm"], graphOptimizationLevel: level };
    const [before, session] = [sessions[name], await ort.InferenceSession.create(bytes, options)];
    sessions[name] = session;
    if (before) turn = turn.catch(() => {}).then(() => before.release());
  }
}

async function start() {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await unpack("wasm");
  const networks = {};
  for (const name of ["mapping", "synthesis"]) if ($(`#block-${name}`)) networks[name] = await unpack(name);
  await open(networks, "disabled"); // optimising takes longer than a few images do
  readAddress();
  listen();
  points = await findPoints();
  draw($("#changed"), await synthesise(moved(pointOf(view.a)), view.a));
  const first = performance.now();
  status.textContent = `First image after ${(first / 1000).toFixed(1)} s.`;
  await update(...ALL);
  await open(networks, "all");
  const again = performance.now();
  await synthesise(pointOf(view.a), view.a);
  const each = performance.now() - again;
  status.textContent = `First image after ${(first / 1000).toFixed(1)} s; then about ${Math.max(1, Math.round(each))} ms each.`;
  return { first, each };
}

globalThis.zooExplorer = start();
globalThis.zooExplorer.catch((error) => {
  status.classList.add("error");
  status.textContent = `This browser cannot run the network: ${error.message ?? error}`;
});
