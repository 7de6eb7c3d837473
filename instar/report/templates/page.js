"use strict";
// The page reads well without this file. With it, cells of a confusion matrix show their pictures, pictures open, and
// the methods sentence copies. Text goes in as text, never as markup.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  document.documentElement.classList.add("js");
  const pictures = all("figure.picture");

  const copyOf = (picture) => {
    const copy = picture.cloneNode(true);
    copy.removeAttribute("id");
    return copy;
  };

  const showCell = (confusion, link) => {
    const [pairs, chosen] = [confusion.querySelector(".pairs"), confusion.querySelector(".chosen")];
    const found = pictures.filter((picture) => picture.dataset.cell === link.dataset.cell);
    all("a[aria-current]", confusion).forEach((other) => other.removeAttribute("aria-current"));
    all(".matrix a", confusion)
      .filter((other) => other.dataset.cell === link.dataset.cell)
      .forEach((cell) => cell.setAttribute("aria-current", "true"));
    chosen.querySelector("h3").textContent = link.title;
    chosen.querySelector(".grid").replaceChildren(...found.map(copyOf));
    const count = Number(link.dataset.count);
    chosen.querySelector(".hint").textContent =
      found.length === 0 ? "None of them is in this page." : found.length < count ? `${found.length} of ${count} are in this page.` : "";
    pairs.hidden = true;
    chosen.hidden = false;
    chosen.cameFrom = link;
    chosen.querySelector("h3").focus({ preventScroll: true });
    const box = chosen.getBoundingClientRect();
    if (box.top < 0 || box.top > innerHeight - 160) chosen.scrollIntoView({ block: "nearest" });
  };

  const hideCell = (confusion) => {
    const chosen = confusion.querySelector(".chosen");
    if (chosen.hidden) return;
    chosen.hidden = true;
    confusion.querySelector(".pairs").hidden = false;
    all("a[aria-current]", confusion).forEach((cell) => cell.removeAttribute("aria-current"));
    chosen.cameFrom?.focus({ preventScroll: true });
  };

  // Arrow keys go from cell to cell, past the empty ones.
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const neighbour = (link, [down, right]) => {
    const rows = link.closest("tbody").rows;
    let row = link.closest("tr").sectionRowIndex + down;
    let column = link.closest("td").cellIndex + right;
    for (; rows[row]?.cells[column]; row += down, column += right) {
      const next = rows[row].cells[column].querySelector("a");
      if (next) return next;
    }
    return null;
  };

  for (const confusion of all(".confusion")) {
    // One stop for the Tab key, not thousands; from there the arrows lead on.
    all(".matrix a", confusion).forEach((link, index) => (link.tabIndex = index ? -1 : 0));
    confusion.addEventListener("click", (event) => {
      const link = event.target.closest("a[data-cell]");
      if (link) {
        event.preventDefault();
        showCell(confusion, link);
      } else if (event.target.closest(".back")) hideCell(confusion);
    });
    confusion.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hideCell(confusion);
      const link = event.target.closest(".matrix a");
      const next = link && steps[event.key] && neighbour(link, steps[event.key]);
      if (!next) return;
      event.preventDefault();
      [link.tabIndex, next.tabIndex] = [-1, 0];
      next.focus();
    });
  }

  const closer = document.getElementById("closer");
  document.addEventListener("click", (event) => {
    const look = event.target.closest(".look");
    if (look && !closer.contains(look)) {
      closer.querySelector("div").replaceChildren(copyOf(look.closest("figure")));
      closer.showModal();
    } else if (event.target === closer || event.target.closest(".close")) closer.close();
  });

  for (const button of all(".copy")) {
    button.addEventListener("click", async () => {
      const sentence = button.closest("figure").querySelector("blockquote");
      getSelection().selectAllChildren(sentence);
      try {
        await navigator.clipboard.writeText(sentence.textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Selected: press Ctrl-C";
      }
    });
  }
})();
