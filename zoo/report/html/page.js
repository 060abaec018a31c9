"use strict";
// Without this script the page shows everything except the quiz; with it tables sort and grids can be enlarged.

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
document.documentElement.classList.add("js");

/* Light or dark */
{
  const button = $("#theme");
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.style.colorScheme || (system.matches ? "dark" : "light")) === "dark";
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.style.colorScheme = dark() ? "light" : "dark";
    label();
  });
  system.addEventListener("change", label);
  label();
}

/* Tables: the first click on a heading sorts the best first, the second the worst; missing values stay last */
for (const table of $$("table.sorts")) {
  const heads = $$("thead th", table);
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    if (row.classList.contains("broken") && column > 0) return null;
    if (column === 0) return $(".name", cell)?.textContent ?? cell.textContent.trim();
    return cell?.dataset.key === undefined ? null : Number(cell.dataset.key);
  };
  const compare = (a, b) => typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
  const sort = (head, order) => {
    const column = heads.indexOf(head);
    for (const body of table.tBodies) {
      const rows = [...body.rows].map((row) => [keyOf(row, column), Number(row.dataset.rank), row]);
      rows.sort(([a, i], [b, j]) => {
        if (a === null || b === null) return (a === null) - (b === null) || i - j;
        return compare(a, b) * (order === "best" ? 1 : -1) || i - j;
      });
      body.append(...rows.map(([, , row]) => row));
    }
    markOrder(head, order);
  };
  const markOrder = (head, order) => {
    for (const other of heads) {
      delete other.dataset.order;
      if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    }
    head.dataset.order = order;
    // Closest to a value is neither ascending nor descending.
    const up = { match: "other", higher: order === "best" ? "descending" : "ascending" };
    head.setAttribute("aria-sort", up[head.dataset.better] ?? (order === "best" ? "ascending" : "descending"));
  };
  for (const head of heads.filter((one) => $(".sort", one))) {
    $(".sort", head).addEventListener("click", () => {
      const order = head.dataset.order === "best" ? "worst" : "best";
      sort(head, order);
      const first = head.dataset.better === "name" ? (order === "best" ? "A first" : "Z first") : `${order} first`;
      $("#sorted").textContent = `Sorted by ${$(".sort", head).textContent}, ${first}.`;
    });
  }
  const ranking = heads.find((head) => head.hasAttribute("data-ranks"));
  if (ranking) markOrder(ranking, "best");
}

/* Wide tables: a hint where there is more to the right */
for (const region of $$(".scroll")) {
  const hint = document.createElement("p");
  hint.className = "more-right";
  hint.textContent = "The rest is to the right: scroll sideways →";
  region.before(hint);
  const set = () => { hint.hidden = region.scrollWidth - region.clientWidth < 8; };
  addEventListener("resize", set);
  addEventListener("load", set);
  set();
}

for (const box of $$(".show-baselines")) {
  box.checked = !matchMedia("(max-width: 42rem)").matches;  // a phone's page would be twice as long
  const set = () => {
    $(`table[data-group="${box.dataset.group}"] .baselines`).hidden = !box.checked;
    for (const track of $$(`.forest[data-group="${box.dataset.group}"] .baseline`)) track.hidden = !box.checked;
  };
  box.addEventListener("change", set);
  set();
}

/* Enlarged grids; the arrow keys change the generator */
{
  const viewer = $("#viewer");
  const image = $("#viewer-image");
  const grids = $$(".zoom");
  let at = 0;
  const show = (index) => {
    at = (index + grids.length) % grids.length;
    const source = $("img", grids[at]);
    image.src = source.src;
    image.alt = source.alt;
    image.className = source.naturalWidth < 700 ? "pixels" : "";
    $("#viewer-title").textContent = $(".name", grids[at].closest("figure"))?.textContent ?? "";
  };
  for (const id of ["#viewer-back", "#viewer-next"]) $(id).hidden = grids.length < 2;
  grids.forEach((grid, index) => grid.addEventListener("click", () => { show(index); viewer.showModal(); }));
  $("#viewer-back").addEventListener("click", () => show(at - 1));
  $("#viewer-next").addEventListener("click", () => show(at + 1));
  $("#viewer-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer || event.target === image) viewer.close(); });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") show(at - 1);
    if (event.key === "ArrowRight") show(at + 1);
  });
  viewer.addEventListener("close", () => { image.removeAttribute("src"); grids[at]?.focus(); });
}

/* Curves: a name in the legend highlights its curve in every chart; a click makes that permanent */
for (const set of $$(".curveset")) {
  let pinned = null;
  const only = (slot) => {
    if (slot === null) delete set.dataset.only; else set.dataset.only = slot;
    for (const series of $$(".series", set)) series.classList.toggle("on", series.dataset.slot === slot);
  };
  for (const button of $$(".legend button", set)) {
    const slot = button.dataset.slot;
    for (const name of ["pointerenter", "focus"]) button.addEventListener(name, () => only(slot));
    for (const name of ["pointerleave", "blur"]) button.addEventListener(name, () => only(pinned));
    button.addEventListener("click", () => {
      pinned = pinned === slot ? null : slot;
      for (const other of $$(".legend button", set)) other.setAttribute("aria-pressed", String(other.dataset.slot === pinned));
      only(pinned);
    });
  }
}

/* Open all details for printing */
{
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = $$("details:not([open])");
    for (const one of closed) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of closed) one.open = false; });
}

/* Real or fake? Tiles are drawn on canvases, so that the page's elements do not reveal which are which. */
if ($("#quiz-data")) {
  const { seed, tiles, slack, sheets, choices } = JSON.parse($("#quiz-data").textContent);
  const form = $("#quiz-form");
  const board = $("#quiz-board");
  const check = $("#quiz-check");
  const generator = $("#quiz-generator");
  let round = 0;
  let dealt = [];

  // mulberry32: small, and the same in every browser, so that a page always starts with the same tiles.
  const randoms = (state) => () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const shuffled = (items, random) => {
    for (let i = items.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [items[i], items[j]] = [items[j], items[i]];
    }
    return items;
  };
  const images = sheets.map((sheet) => {
    if (sheet.from) return document.getElementById(sheet.from);
    const image = new Image();
    image.src = sheet.uri;
    return image;
  });
  const all = (sheet, kind) => Array.from({ length: sheets[sheet].count }, (_, index) => ({ sheet, kind, index }));

  const deal = () => {
    const choice = choices[generator ? Number(generator.value) : 0];
    const random = randoms(seed + 7919 * round + 104729 * choices.indexOf(choice));
    const fakes = shuffled(all(choice.sheets[choice.odd ? 0 : 1], 1), random);
    const reals = shuffled(all(choice.sheets[choice.odd ? 1 : 0], 0), random);
    const total = Math.min(tiles, 2 * (Math.min(fakes.length, reals.length)));
    let some = Math.round(total / 2) + Math.floor(random() * (2 * slack + 1)) - slack;
    some = Math.max(total - reals.length, Math.min(fakes.length, some));
    dealt = shuffled([...fakes.slice(0, some), ...reals.slice(0, total - some)], random);
  };
  const marked = () => $$("button", board).map((tile) => tile.getAttribute("aria-pressed") === "true");
  const count = () => { $("#quiz-marked").textContent = `${marked().filter(Boolean).length} of ${dealt.length} marked as fake`; };

  const layOut = () => {
    deal();
    board.replaceChildren(...dealt.map((one, place) => {
      const { side, gap, columns } = sheets[one.sheet];
      const tile = document.createElement("button");
      const canvas = document.createElement("canvas");
      const word = document.createElement("span");
      tile.type = "button";
      tile.setAttribute("aria-pressed", "false");
      tile.setAttribute("aria-label", `Image ${place + 1}`);
      canvas.width = canvas.height = side;
      if (side <= 64) canvas.className = "pixels";
      const x = gap + (one.index % columns) * (side + gap);
      const y = gap + Math.floor(one.index / columns) * (side + gap);
      const source = images[one.sheet];
      source.decode().then(() => canvas.getContext("2d").drawImage(source, x, y, side, side, 0, 0, side, side));
      tile.append(canvas, word);
      tile.addEventListener("click", () => {
        const fake = tile.getAttribute("aria-pressed") !== "true";
        tile.setAttribute("aria-pressed", String(fake));
        word.textContent = fake ? "fake" : "";
        count();
      });
      return tile;
    }));
    check.disabled = false;
    $("#quiz-score").textContent = "";
    count();
  };

  // Probability that guessing at random gets k or more of n tiles right (binomial, p = 0.5).
  const chance = (n, k) => {
    let term = 0.5 ** n;
    let sum = 0;
    for (let i = 0; i <= n; i++) {
      if (i >= k) sum += term;
      term *= (n - i) / (i + 1);
    }
    return Math.min(1, sum);
  };
  const formatChance = (share) => share > 0.995 ? "nearly always" : share >= 0.1 ? `in ${Math.round(100 * share)} % of tries`
    : `once in ${Math.round(1 / share).toLocaleString("en")} tries`;

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (check.disabled) return;
    const guesses = marked();
    let right = 0;
    $$("button", board).forEach((tile, place) => {
      const fake = dealt[place].kind === 1;
      const good = fake === guesses[place];
      right += good;
      tile.disabled = true;
      tile.classList.add(good ? "right" : "wrong");
      $("span", tile).textContent = `${good ? "✓" : "✗"} ${fake ? "fake" : "real"}`;
      tile.setAttribute("aria-label", `Image ${place + 1}: ${fake ? "fake" : "real"}, ${good ? "right" : "wrong"}`);
    });
    check.disabled = true;
    const n = dealt.length;
    const strong = document.createElement("strong");
    strong.textContent = `${right} of ${n} right.`;
    $("#quiz-score").replaceChildren(strong, ` Guessing gives ${n / 2} on average, and ${right} or more ${formatChance(chance(n, right))}.`);
    $("#quiz-again").focus({ preventScroll: true });
  });
  $("#quiz-again").addEventListener("click", () => { round += 1; layOut(); });
  generator?.addEventListener("change", () => { round = 0; layOut(); });
  form.hidden = false;
  layOut();
}
