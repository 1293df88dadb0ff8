// The page: what is searched stands in the address after "#", so that back, reload and a bookmark work.
const $ = (selector, within = document) => within.querySelector(selector);
const form = $("#form"), query = $("#query"), results = $("#results"), status = $("#status"), viewer = $("#viewer");
const FILTERS = ["language", "path", "since", "until"];
const EXAMPLES = [
  ["de", "ein roter Apfel"], ["ja", "犬"], ["ar", "قطة مبتسمة"], ["es", "gato sonriente"],
  ["ru", "красное сердце"], ["zh", "一只鸟"], ["fr", "un bateau sur la mer"], ["ko", "달"], ["en", "a birthday cake"],
];
const number = new Intl.NumberFormat();
const languages = new Intl.DisplayNames(undefined, { type: "language", fallback: "code" });
let latest = 0; // the newest request; answers to older ones are dropped
let waiting; // what to do again after the token was given
let shown = null;
let picture = null; // the file that is searched with
let pictures = 0;

const named = (code) => {
  try { return code && code !== "und" ? languages.of(code) : ""; } catch { return code; }
};

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The service does not answer. Is it still running?");
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  if (response.status === 401) {
    $("#login").open || $("#login").showModal();
    throw new Error("A token is needed.");
  }
  let detail = `error ${response.status}`;
  try { detail = (await response.json()).detail; } catch { /* a proxy's page */ }
  throw new Error(response.status === 413 ? "That picture is too large. Take one of less than 20 MB." : detail);
}

function narrowed() {
  const parameters = new URLSearchParams();
  for (const name of FILTERS) if ($(`#${name}`).value) parameters.set(name, $(`#${name}`).value);
  return parameters;
}

function state(name, text) {
  document.body.dataset.state = name;
  status.textContent = text;
}

function busy() {
  if (document.body.dataset.state === "start") state("busy", "");
  document.body.dataset.state = "busy";
}

// At once, since the browser tells of its new address only later.
function visit(hash) {
  busy();
  location.hash = hash;
}

async function show(request, describe) {
  const mine = ++latest;
  busy();
  try {
    const answer = await request();
    if (mine !== latest) return;
    results.replaceChildren(...answer.results.map(card));
    if (answer.results.length) state("results", describe(answer));
    else state("empty", "Nothing fits what you narrowed the search to.");
  } catch (error) {
    if (mine !== latest) return;
    waiting = () => show(request, describe);
    results.replaceChildren();
    state("error", error.message);
  }
}

const counted = (answer) =>
  [named(answer.language), `best ${answer.results.length} of ${number.format(pictures)}`, `${Math.round(answer.milliseconds)} ms`]
    .filter(Boolean).join(" · ");

function subject(source, text) {
  $("#subject").hidden = !source;
  if (!source) return;
  $("#subject img").src = source;
  $("#subject span").textContent = text;
}

function card(result) {
  const item = document.createElement("li"), button = document.createElement("button");
  button.type = "button";
  button.className = "card";
  const frame = document.createElement("span"), image = new Image();
  frame.className = "frame";
  image.loading = "lazy";
  image.decoding = "async";
  image.alt = result.caption || result.path;
  image.onerror = () => frame.classList.add("gone");
  image.src = `api/pictures/${result.id}/thumbnail`;
  frame.append(image);
  const text = document.createElement("span"), words = document.createElement("bdi"), score = document.createElement("span");
  text.className = "text";
  words.dir = "auto";
  if (result.caption) words.lang = result.caption_language;
  else words.className = "path";
  words.textContent = result.caption || result.path.split("/").pop();
  score.className = "score";
  score.title = "cosine of query and picture";
  score.textContent = result.score.toFixed(2);
  text.append(words, score);
  button.append(frame, text);
  button.onclick = () => open(result);
  const more = document.createElement("button");
  more.type = "button";
  more.className = "more";
  more.tabIndex = -1;
  more.textContent = "Similar";
  more.setAttribute("aria-label", `Similar to ${result.caption || result.path}`);
  more.onclick = () => similar(result);
  item.append(button, more);
  item.result = result;
  return item;
}

function open(result) {
  shown = result;
  const image = $("img", viewer);
  image.removeAttribute("src");
  image.src = `api/pictures/${result.id}/large`;
  image.alt = result.caption || result.path;
  $(".caption", viewer).textContent = result.caption;
  $(".caption", viewer).hidden = !result.caption;
  const day = result.date ? new Date(result.date * 1000).toLocaleDateString(undefined, { dateStyle: "medium" }) : "";
  $(".facts", viewer).textContent =
    [result.path, named(result.caption_language), day, `score ${result.score.toFixed(3)}`].filter(Boolean).join(" · ");
  viewer.showModal();
}

function similar(result) {
  viewer.close();
  query.value = "";
  visit(new URLSearchParams({ similar: result.id }));
}

function go() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const text = wanted.get("q"), id = wanted.get("similar");
  if (wanted.has("picture") && picture) {
    subject(URL.createObjectURL(picture), "Pictures like yours");
    const file = picture;
    show(() => ask(`api/search/picture?${narrowed()}`, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } }), counted);
  } else if (text) {
    if (query.value !== text) query.value = text;
    subject("");
    show(() => ask(`api/search?${new URLSearchParams([["q", text], ...narrowed()])}`), counted);
  } else if (/^[0-9a-f]{32}$/.test(id ?? "")) {
    subject(`api/pictures/${id}/thumbnail`, "Similar to this");
    show(() => ask(`api/pictures/${id}/similar?${narrowed()}`), counted);
  } else {
    latest++;
    results.replaceChildren();
    subject("");
    state("start", "");
  }
}

function search() {
  const text = query.value.trim();
  const hash = text ? new URLSearchParams({ q: text }).toString() : "";
  if (location.hash.slice(1) === hash) go();
  else visit(hash);
}

function withPicture(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) { results.replaceChildren(); subject(""); state("error", "That is no picture."); return; }
  picture = file;
  query.value = "";
  visit(`picture=${Date.now()}`);
}

form.onsubmit = (event) => { event.preventDefault(); search(); query.blur(); };
query.addEventListener("search", () => { if (!query.value) search(); });
addEventListener("hashchange", go);
$("#pick").onclick = () => $("#file").click();
$("#file").onchange = (event) => { withPicture(event.target.files[0]); event.target.value = ""; };
$("#narrow").onclick = () => {
  const filters = $("#filters");
  filters.hidden = !filters.hidden;
  $("#narrow").setAttribute("aria-expanded", String(!filters.hidden));
};
for (const name of FILTERS) $(`#${name}`).onchange = () => { if (location.hash.length > 1) go(); };

let depth = 0;
addEventListener("dragenter", (event) => { event.preventDefault(); depth++; document.body.classList.add("dropping"); });
addEventListener("dragleave", () => { if (--depth <= 0) { depth = 0; document.body.classList.remove("dropping"); } });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dropping");
  withPicture(event.dataTransfer.files[0]); // files alone; addresses of pictures elsewhere are not fetched
});
addEventListener("paste", (event) => { if (event.clipboardData.files.length) withPicture(event.clipboardData.files[0]); });

$(".similar", viewer).onclick = () => similar(shown);
$(".close", viewer).onclick = () => viewer.close();
viewer.onclick = (event) => { if (event.target === viewer) viewer.close(); };

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = /INPUT|SELECT/.test(document.activeElement?.tagName);
  if (event.key === "/" && !typing && !viewer.open) { event.preventDefault(); query.select(); return; }
  if (viewer.open && event.key === "s") { similar(shown); return; }
  const cards = [...results.querySelectorAll(".card")], here = cards.indexOf(document.activeElement);
  if (here < 0) {
    if (event.key === "ArrowDown" && document.activeElement === query && cards.length) { event.preventDefault(); cards[0].focus(); }
    return;
  }
  if (event.key === "s") { similar(cards[here].parentElement.result); return; }
  const columns = getComputedStyle(results).gridTemplateColumns.split(" ").length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  if (!step) return;
  event.preventDefault();
  if (here + step < 0 && event.key === "ArrowUp") query.focus();
  else cards[Math.min(Math.max(here + step, 0), cards.length - 1)].focus();
});

$("#login form").onsubmit = async (event) => {
  event.preventDefault();
  const said = $("#login p");
  said.textContent = "";
  const response = await fetch("api/login", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token: $("#token").value }) });
  if (response.status !== 204) { said.textContent = (await response.json()).detail; return; }
  $("#login").close();
  await about();
  (waiting ?? go)();
};

async function about() {
  let known;
  try { known = await ask("api/about"); } catch (error) { state("error", error.message); waiting = go; return; }
  pictures = known.pictures;
  $("#lead").textContent = `Write in any language, or drop a picture. ${number.format(pictures)} pictures.`;
  $("#language").replaceChildren($("#language").firstElementChild, ...known.caption_languages.map((code) => new Option(named(code) || code, code)));
  $("#language").parentElement.hidden = !known.caption_languages.length;
  const examples = EXAMPLES.filter(([code]) => known.languages.includes(code)).slice(0, 6);
  $("#examples").replaceChildren(...examples.map(([code, text]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.lang = code;
    button.dir = "auto";
    button.textContent = text;
    button.onclick = () => { query.value = text; search(); };
    return button;
  }));
  if (document.body.dataset.state === "error") state("start", "");
}

await about();
if (location.hash.length > 1 && !$("#login").open) go();
