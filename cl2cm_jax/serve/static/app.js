// The page. Query and filters are in the address after "#", so that back, reload and bookmarks work. An uploaded picture
// is represented there by a key, which is lost when the page is reloaded.
const $ = (selector, within = document) => within.querySelector(selector);
const form = $("#form"), query = $("#query"), results = $("#results"), status = $("#status"), viewer = $("#viewer");
const FILTERS = ["language", "path", "since", "until"];
const EXAMPLES = [
  ["de", "ein roter Apfel"], ["ja", "犬"], ["ar", "قطة مبتسمة"], ["es", "gato sonriente"],
  ["ru", "красное сердце"], ["zh", "一只鸟"], ["fr", "un bateau sur la mer"], ["ko", "달"], ["en", "a birthday cake"],
];
const number = new Intl.NumberFormat();
const languages = new Intl.DisplayNames(undefined, { type: "language", fallback: "code" });
let latest = 0; // number of the newest request; answers to older ones are dropped
let shown = null;
let pictures = 0;
let byKeyboard = false; // whether the last input was a key
const uploads = new Map(); // by key: the uploaded file and its object URL

const languageName = (code) => {
  try { return code && code !== "und" ? languages.of(code) : ""; } catch { return code; }
};

async function request(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    throw new Error("The service does not answer. Is it still running?");
  }
}

async function errorDetail(response) {
  try { return (await response.json()).detail; } catch { return `error ${response.status}`; } // a proxy's page
}

async function fetchJson(path, options = {}) {
  const response = await request(path, options);
  if (response.ok) return response.json();
  if (response.status === 401) {
    $("#login").open || $("#login").showModal();
    throw new Error("A token is required.");
  }
  throw new Error(response.status === 413 ? "This picture is too large; the limit is 20 MB." : await errorDetail(response));
}

function filterParameters() {
  const parameters = new URLSearchParams();
  for (const name of FILTERS) if ($(`#${name}`).value) parameters.set(name, $(`#${name}`).value);
  return parameters;
}

function showFilters(open) {
  $("#filters").hidden = !open;
  $("#narrow").setAttribute("aria-expanded", String(open));
}

function setFilters(wanted) {
  for (const name of FILTERS) {
    const value = wanted.get(name) ?? "", field = $(`#${name}`);
    field.value = value;
    if (name === "language" && field.value !== value) field.append(new Option(languageName(value) || value, value, false, true));
  }
  if (FILTERS.some((name) => wanted.has(name))) showFilters(true);
}

function setState(name, text) {
  document.body.dataset.state = name;
  status.textContent = text;
}

function busy() {
  if (document.body.dataset.state === "start") setState("busy", "");
  document.body.dataset.state = "busy";
}

function navigate(subject) {
  const hash = new URLSearchParams([...subject, ...filterParameters()]).toString();
  if (location.hash.slice(1) === hash) { route(); return; }
  if (subject.length) busy(); // now, since hashchange is sent later
  location.hash = hash;
}

// The text in the box, else the subject in the address.
function currentSubject() {
  const text = query.value.trim();
  return text ? [["q", text]] : [...new URLSearchParams(location.hash.slice(1))].filter(([name]) => !FILTERS.includes(name));
}

function showError(message) {
  latest++;
  results.replaceChildren();
  subject("");
  setState("error", message);
}

async function show(send) {
  const mine = ++latest;
  busy();
  try {
    const answer = await send();
    if (mine !== latest) return;
    results.replaceChildren(...answer.results.map(card));
    if (byKeyboard && document.activeElement === document.body) $(".card", results)?.focus();
    if (answer.results.length) setState("results", summary(answer));
    else setState("empty", answer.notice ? `Nothing found: ${answer.notice}.` : "No picture matches the filters.");
  } catch (error) {
    if (mine !== latest) return;
    showError(error.message);
  }
}

const summary = (answer) =>
  [languageName(answer.language), `best ${answer.results.length} of ${filterParameters().size ? "the matching pictures" : number.format(pictures)}`, `${Math.round(answer.milliseconds)} ms`, answer.notice]
    .filter(Boolean).join(" · ");

function subject(source, text) {
  $("#subject").hidden = !source;
  if (!source) return;
  $("#subject img").hidden = false;
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
  image.alt = ""; // its text is beside it
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
  image.alt = ""; // as in a card
  $(".caption", viewer).textContent = result.caption;
  $(".caption", viewer).hidden = !result.caption;
  const day = result.date ? new Date(result.date * 1000).toLocaleDateString(undefined, { dateStyle: "medium" }) : "";
  $(".facts", viewer).textContent =
    [result.path, languageName(result.caption_language), day, `score ${result.score.toFixed(3)}`].filter(Boolean).join(" · ");
  viewer.showModal();
}

function similar(result) {
  viewer.close();
  query.value = "";
  navigate([["similar", result.id]]);
}

function route() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const text = wanted.get("q"), id = wanted.get("similar"), key = wanted.get("picture"), upload = uploads.get(key);
  setFilters(wanted);
  viewer.close();
  const title = text || (id ? "Similar pictures" : key ? "Pictures like yours" : "");
  document.title = title ? `${title} · Search` : "Search";
  if (text && query.value !== text) query.value = text;
  else if (!text && (id || key)) query.value = "";
  if (text) {
    subject("");
    show(() => fetchJson(`api/search?${new URLSearchParams([["q", text], ...filterParameters()])}`));
  } else if (/^[0-9a-f]{32}$/.test(id ?? "")) {
    subject(`api/pictures/${id}/thumbnail`, "Similar to this");
    show(() => fetchJson(`api/pictures/${id}/similar?${filterParameters()}`));
  } else if (upload) {
    subject(upload.source, "Pictures like yours");
    show(() => fetchJson(`api/search/picture?${filterParameters()}`, { method: "POST", body: upload.file, headers: { "Content-Type": "application/octet-stream" } }));
  } else if (key) {
    showError("Choose the picture again; it is not kept when the page is reloaded.");
  } else {
    latest++;
    results.replaceChildren();
    subject("");
    setState("start", "");
  }
}

function search() {
  const text = query.value.trim();
  navigate(text ? [["q", text]] : []);
}

function searchByPicture(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) { showError("This file is not a picture."); return; }
  const key = String(Date.now());
  uploads.set(key, { file, source: URL.createObjectURL(file) });
  query.value = "";
  navigate([["picture", key]]);
}

form.onsubmit = (event) => { event.preventDefault(); search(); query.blur(); };
query.addEventListener("search", () => { if (!query.value) search(); });
addEventListener("hashchange", route);
$("#pick").onclick = () => $("#file").click();
$("#file").onchange = (event) => { searchByPicture(event.target.files[0]); event.target.value = ""; };
$("#narrow").onclick = () => showFilters($("#filters").hidden);
for (const name of FILTERS) $(`#${name}`).onchange = () => navigate(currentSubject());
$("#subject img").onerror = (event) => { event.target.hidden = true; };
$(".skip").onclick = (event) => { event.preventDefault(); ($(".card", results) ?? results).focus(); }; // the hash is the query

let depth = 0;
addEventListener("dragenter", (event) => { event.preventDefault(); depth++; document.body.classList.add("dropping"); });
addEventListener("dragleave", () => { if (--depth <= 0) { depth = 0; document.body.classList.remove("dropping"); } });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dropping");
  searchByPicture(event.dataTransfer.files[0]); // files only; URLs are not fetched
});
addEventListener("paste", (event) => { if (event.clipboardData.files.length) searchByPicture(event.clipboardData.files[0]); });

$(".similar", viewer).onclick = () => similar(shown);
$(".close", viewer).onclick = () => viewer.close();
viewer.onclick = (event) => { if (event.target === viewer) viewer.close(); };

// By its position on keyboards without Latin letters.
const isS = ({ key, code }) => key.toLowerCase() === "s" || (code === "KeyS" && !/^[a-z]$/i.test(key));

addEventListener("keydown", () => { byKeyboard = true; }, true);
addEventListener("pointerdown", () => { byKeyboard = false; }, true);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = /INPUT|SELECT/.test(document.activeElement?.tagName);
  if (event.key === "/" && !typing && !viewer.open) { event.preventDefault(); query.select(); return; }
  if (viewer.open && isS(event)) { similar(shown); return; }
  const cards = [...results.querySelectorAll(".card")], here = cards.indexOf(document.activeElement);
  if (here < 0) {
    if (event.key === "ArrowDown" && document.activeElement === query && cards.length) { event.preventDefault(); cards[0].focus(); }
    return;
  }
  if (isS(event)) { similar(cards[here].parentElement.result); return; }
  const columns = getComputedStyle(results).gridTemplateColumns.split(" ").length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  if (!step) return;
  event.preventDefault();
  if (here + step < 0 && event.key === "ArrowUp") query.focus();
  else cards[Math.min(Math.max(here + step, 0), cards.length - 1)].focus();
});

$("#login form").onsubmit = async (event) => {
  event.preventDefault();
  const message = $("#login p");
  message.textContent = "";
  try {
    const response = await request("api/login", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token: $("#token").value }) });
    if (!response.ok) throw new Error(await errorDetail(response));
  } catch (error) {
    message.textContent = error.message;
    return;
  }
  $("#login").close();
  await loadAbout();
  route();
};

async function loadAbout() {
  let known;
  try { known = await fetchJson("api/about"); } catch (error) { setState("error", error.message); return; }
  pictures = known.pictures;
  $("#lead").textContent = `Describe a picture in any language, or ${matchMedia("(hover: none)").matches ? "choose" : "drop"} one. ${number.format(pictures)} pictures.`;
  $("#language").replaceChildren($("#language").firstElementChild, ...known.caption_languages.map((code) => new Option(languageName(code) || code, code)));
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
  if (document.body.dataset.state === "error") setState("start", "");
}

await loadAbout();
if (location.hash.length > 1 && !$("#login").open) route();
