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

  // Parallel coordinates: a range on an axis leaves the lines that go through it.
  for (const parallel of all(".parallel")) {
    const [svg, hint, lines] = [parallel.querySelector("svg"), parallel.querySelector(".hint"), all("path", parallel)];
    const asIs = hint.textContent;
    const ranges = new Map();
    const heights = lines.map((line) => line.dataset.heights.split(",").map((text) => (text ? Number(text) : null)));
    const show = () => {
      let kept = 0;
      lines.forEach((line, index) => {
        const inside = [...ranges].every(([axis, [low, high]]) => {
          const height = heights[index][axis];
          return height !== null && height >= low && height <= high;
        });
        line.classList.toggle("off", !inside);
        kept += inside;
      });
      hint.textContent = ranges.size ? `${kept} of ${lines.length} trials go through there.` : asIs;
    };
    for (const axis of all(".axis", parallel)) {
      const [number, brush] = [Number(axis.dataset.axis), axis.querySelector(".brush")];
      const heightAt = (event) => {
        const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
        return Math.min(1, Math.max(0, 1 - point.y / 240));
      };
      let from = null;
      const drawn = (low, high) => {
        brush.setAttribute("y", 240 * (1 - high));
        brush.setAttribute("height", 240 * (high - low));
      };
      axis.addEventListener("pointerdown", (event) => {
        from = heightAt(event);
        axis.setPointerCapture(event.pointerId);
      });
      axis.addEventListener("pointermove", (event) => {
        if (from === null) return;
        const [low, high] = [from, heightAt(event)].sort((a, b) => a - b);
        if (high - low < 0.01) return;
        drawn(low, high);
        ranges.set(number, [low, high]);
        show();
      });
      axis.addEventListener("pointerup", (event) => {
        if (from !== null && Math.abs(heightAt(event) - from) < 0.01) {
          drawn(0, 0);
          ranges.delete(number);
          show();
        }
        from = null;
      });
    }
  }

  for (const button of all(".copy")) {
    button.addEventListener("click", async () => {
      const sentence = button.closest("figure, .code").querySelector("blockquote, pre");
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
