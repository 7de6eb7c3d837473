"use strict";
document.documentElement.classList.add("js");  // what only works with it may be seen
const by = (id) => document.getElementById(id);
const [drop, image, wrong, first, classes, how] = ["drop", "image", "wrong", "first", "classes", "how"].map(by);
const [looked, toggle, note] = ["looked", "toggle", "note"].map(by);
let asked = 0;
let shown = { picture: "", overlay: "" };

const percent = (share) => `${(100 * share).toFixed(1)}\u202f%`;

// Every name is somebody else's text: it goes in as text, never as markup.
const element = (name, text = "") => Object.assign(document.createElement(name), { textContent: text });

function draw() {
  const over = shown.overlay && toggle.getAttribute("aria-pressed") === "true";
  image.src = over ? shown.overlay : shown.picture;
}

toggle.addEventListener("click", () => {
  toggle.setAttribute("aria-pressed", String(toggle.getAttribute("aria-pressed") !== "true"));
  draw();
});

function show(said) {
  shown = said;
  draw();
  looked.hidden = !said.overlay;
  note.textContent = said.note;
  image.alt = `What the model saw: ${said.rows.map((row) => row.name).slice(0, 1).join("")}`;
  image.hidden = false;
  image.classList.toggle("tiny", said.tiny);
  drop.classList.add("full");
  first.replaceChildren(said.rows.length ? said.rows[0].name : said.title);
  if (said.rows.length) first.append(element("small", percent(said.rows[0].share)));
  classes.replaceChildren(...said.rows.map((row) => {
    const line = element("li"), name = element("span", row.name);
    line.style.setProperty("--v", row.share.toFixed(4));
    if (row.colour) {
      const swatch = element("i");
      swatch.style.background = row.colour;
      name.prepend(swatch);
    }
    line.append(name, element("b", percent(row.share)));
    return line;
  }));
  how.textContent = said.how;
}

async function ask(file) {
  const number = ++asked;
  wrong.hidden = true;
  drop.classList.add("busy");
  try {
    const answer = await fetch("answer", { method: "POST", body: file, headers: { "Content-Type": file.type || "application/octet-stream" } });
    const said = await answer.json();
    if (number !== asked) return;
    if (!answer.ok) throw new Error(said.error);
    show(said);
  } catch (error) {
    wrong.textContent = error instanceof TypeError ? "The server has ended. Start it again with: instar serve" : error.message;
    wrong.hidden = false;
  } finally {
    if (number === asked) drop.classList.remove("busy");
  }
}

const files = (list) => { if (list && list.length) ask(list[0]); };
by("file").addEventListener("change", (event) => { files(event.target.files); event.target.value = ""; });
addEventListener("paste", (event) => files(event.clipboardData.files));
addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); files(event.dataTransfer.files); });
