// The map of embeddings: drawn point by point into one picture, so that it is the same with and without a graphics card.
// Text goes in as text, never as markup.
(() => {
  const NONE = 65535;
  const NOBODY = 0xffffffff;
  const FIRST = [[0.57, 0.13, 250], [0.69, 0.15, 55], [0.61, 0.12, 155], [0.56, 0.18, 18], [0.54, 0.16, 300], [0.77, 0.14, 92], [0.7, 0.1, 205], [0.66, 0.17, 345], [0.5, 0.1, 125], [0.42, 0.11, 270]];

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const words = (text) => new Uint16Array(bytes(text).buffer);
  const numbers = (text) => new Uint32Array(bytes(text).buffer);
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  // OKLCH to sRGB, after https://bottosson.github.io/posts/oklab/.
  const rgb = ([light, chroma, hue]) => {
    const [a, b] = [chroma * Math.cos((hue * Math.PI) / 180), chroma * Math.sin((hue * Math.PI) / 180)];
    const l = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3;
    const m = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3;
    const s = (light - 0.0894841775 * a - 1.291485548 * b) ** 3;
    return [4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s, -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s, -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s].map((value) =>
      Math.round(255 * clamp(value <= 0.0031308 ? 12.92 * value : 1.055 * value ** (1 / 2.4) - 0.055, 0, 1)),
    );
  };
  const colourOf = (number, dark) => {
    const [light, chroma, hue] = FIRST[number] ?? [[0.48, 0.6, 0.72][number % 3], 0.12, (number * 137.508) % 360];
    return rgb([dark ? 0.3 + 0.68 * light : light, chroma, hue]);
  };
  const alongScale = (share, dark) => rgb([(dark ? 0.5 : 0.38) + 0.42 * share, 0.13, 285 - 200 * share]);
  const css = (colour) => `rgb(${colour.join(" ")})`;
  const make = (tag, text = "", name = "") => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (name) made.className = name;
    return made;
  };

  const start = (root) => {
    const one = (selector) => root.querySelector(selector);
    const data = JSON.parse(one("script.data").textContent);
    const count = data.names.length;
    const [x, y] = [words(data.x), words(data.y)];
    const branch = bytes(data.branch);
    const [partner, near] = [numbers(data.partner), numbers(data.near)];
    const stampOf = numbers(data.stamps.of);
    const colourings = data.colourings.map((one) => ({ ...one, of: words(one.of) }));
    const [points, over, plane] = [one("canvas.points"), one("canvas.over"), one(".plane")];
    const [ink, drawing] = [points.getContext("2d", { alpha: false }), over.getContext("2d")];
    const sheets = [...root.querySelectorAll(".sheets img")];
    const darkness = matchMedia("(prefers-color-scheme: dark)");
    const [tip, chosenBox, listBox] = [one(".tip"), one(".one"), one(".list")];
    root.classList.toggle("pixels", data.stamps.tiny);

    const state = { scale: 1, left: 0, top: 0, colouring: 0, hidden: new Set(), lit: null, hover: -1, chosen: -1, listed: [], found: null, lasso: null, mode: "move", joined: false, printing: false };
    let [width, height, ratio, dirty, moving] = [0, 0, 1, false, 0];
    const nameOf = (point) => data.shown[point] ?? data.names[point];
    const groupOf = (point) => colourings[state.colouring].of[point];
    const isShown = (point) => !state.hidden.has(groupOf(point));
    const dark = () => darkness.matches && !state.printing;

    // One order for all drawings, in which no group lies on all others. 7919 is a prime that shares no factor with count.
    const order = Uint32Array.from({ length: count }, (_, at) => at);
    let seed = 1;
    for (let at = count - 1; at > 0; at--) {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      const other = seed % (at + 1);
      [order[at], order[other]] = [order[other], order[at]];
    }

    const palette = () => {
      const colouring = colourings[state.colouring];
      const size = colouring.scale ? 256 : colouring.names.length;
      return Array.from({ length: size }, (_, at) => (colouring.scale ? alongScale(at / 255, dark()) : colourOf(at, dark())));
    };
    const inkOf = (point, colours) => {
      const group = groupOf(point);
      if (group === NONE) return dark() ? [108, 116, 124] : [158, 164, 170];
      return colours[colourings[state.colouring].scale ? group >> 8 : group];
    };

    // --- where things are --------------------------------------------------------------------------------------
    const fit = () => Math.min(width, height) * 0.94;
    const atX = (point) => width / 2 + ((x[point] / 65535 - 0.5) * fit() - state.left) * state.scale;
    const atY = (point) => height / 2 - ((y[point] / 65535 - 0.5) * fit() - state.top) * state.scale;
    const radius = () => clamp((count > 12000 ? 1.9 : count > 4000 ? 2.4 : count > 800 ? 3.2 : 4.5) * Math.sqrt(state.scale) ** 0.8, 1.5, 9);
    const nearest = (px, py, within) => {
      let [best, least] = [-1, within * within];
      for (let point = 0; point < count; point++) {
        if (!isShown(point)) continue;
        const [dx, dy] = [atX(point) - px, atY(point) - py];
        const far = dx * dx + dy * dy;
        if (far < least) [best, least] = [point, far];
      }
      return best;
    };

    // --- drawing -----------------------------------------------------------------------------------------------
    let picture = null;
    let pixels = null;
    const mask = (size, ring) => {
      const reach = Math.ceil(size);
      const side = 2 * reach + 1;
      const cover = new Uint8Array(side * side);
      for (let row = 0; row < side; row++)
        for (let column = 0; column < side; column++) {
          const far = Math.hypot(row - reach, column - reach);
          const outer = clamp(size + 0.5 - far, 0, 1);
          const inner = ring ? clamp(size * 0.5 + 0.5 - far, 0, 1) : 0;
          cover[row * side + column] = Math.round(225 * (outer - inner));
        }
      return { reach, side, cover };
    };
    const stampAll = () => {
      const colours = palette();
      const shapes = [mask(radius() * ratio, false), mask(radius() * 1.15 * ratio, true)];
      const [across, down] = [points.width, points.height];
      pixels.fill(state.ground);
      const lit = state.lit;
      for (const pass of lit === null && state.found === null ? [0] : [1, 2]) {
        for (let at = 0; at < count; at++) {
          const point = order[at];
          const group = groupOf(point);
          if (state.hidden.has(group)) continue;
          const bright = (lit === null || group === lit) && (state.found === null || state.found.has(point));
          if (pass && (pass === 2) !== bright) continue;
          const [red, green, blue] = inkOf(point, colours);
          const { reach, side, cover } = shapes[Math.min(1, branch[point])];
          const [left, top] = [Math.round(atX(point) * ratio) - reach, Math.round(atY(point) * ratio) - reach];
          if (left + side <= 0 || top + side <= 0 || left >= across || top >= down) continue;
          const [first, last] = [Math.max(0, -left), Math.min(side, across - left)];
          const strength = pass === 1 ? 40 : 256;
          for (let row = Math.max(0, -top); row < Math.min(side, down - top); row++) {
            let to = (top + row) * across + left + first;
            for (let from = row * side + first; from < row * side + last; from++, to++) {
              const share = (cover[from] * strength) >> 8;
              if (share === 0) continue;
              const under = pixels[to];
              const [r, g, b] = [under & 255, (under >> 8) & 255, (under >> 16) & 255];
              pixels[to] = 0xff000000 | ((b + (((blue - b) * share) >> 8)) << 16) | ((g + (((green - g) * share) >> 8)) << 8) | (r + (((red - r) * share) >> 8));
            }
          }
        }
      }
      ink.putImageData(picture, 0, 0);
    };
    const ring = (point, size, colour, thick) => {
      drawing.beginPath();
      drawing.arc(atX(point), atY(point), size, 0, 7);
      drawing.lineWidth = thick;
      drawing.strokeStyle = colour;
      drawing.stroke();
    };
    const lines = (pairs, colour, thick) => {
      drawing.beginPath();
      for (const [from, to] of pairs) {
        drawing.moveTo(atX(from), atY(from));
        drawing.lineTo(atX(to), atY(to));
      }
      drawing.lineWidth = thick;
      drawing.strokeStyle = colour;
      drawing.stroke();
    };
    const drawOver = () => {
      drawing.setTransform(ratio, 0, 0, ratio, 0, 0);
      drawing.clearRect(0, 0, width, height);
      const [inkColour, soft] = dark() ? ["#e7e4dd", "rgb(231 228 221 / .28)"] : ["#1c2126", "rgb(28 33 38 / .22)"];
      if (state.joined && !moving) {
        const pairs = [];
        for (let point = 0; point < count; point++)
          if (partner[point] !== NOBODY && partner[point] > point && isShown(point) && isShown(partner[point])) pairs.push([point, partner[point]]);
        lines(pairs, soft, pairs.length > 2000 ? 0.5 : 0.9);
      }
      for (const point of new Set([state.hover, state.chosen])) {
        if (point >= 0 && partner[point] !== NOBODY) lines([[point, partner[point]]], inkColour, 1.3);
      }
      if (state.listed.length && state.listed.length <= 4000) for (const point of state.listed) if (isShown(point)) ring(point, radius() + 1.5, soft, 1);
      if (state.chosen >= 0) {
        for (const point of neighboursOf(state.chosen)) ring(point, radius() + 2.5, inkColour, 1);
        ring(state.chosen, radius() + 4, inkColour, 2.2);
      }
      if (state.hover >= 0) ring(state.hover, radius() + 2.5, inkColour, 1.5);
      if (state.lasso) {
        drawing.beginPath();
        state.lasso.forEach(([px, py], at) => (at ? drawing.lineTo(px, py) : drawing.moveTo(px, py)));
        drawing.closePath();
        drawing.fillStyle = dark() ? "rgb(121 180 218 / .14)" : "rgb(29 95 134 / .1)";
        drawing.fill();
        drawing.lineWidth = 1.5;
        drawing.strokeStyle = dark() ? "#79b4da" : "#1d5f86";
        drawing.stroke();
      }
    };
    const paint = (what) => {
      dirty = false;
      const began = performance.now();
      if (what !== "over") stampAll();
      drawOver();
      root.dataset.milliseconds = (performance.now() - began).toFixed(2);
    };
    let wanted = "over";
    const draw = (what = "all") => {
      wanted = what === "all" ? "all" : dirty ? wanted : "over";
      if (dirty) return;
      dirty = true;
      requestAnimationFrame(() => paint(wanted));
    };
    const settle = () => {
      clearTimeout(moving);
      moving = setTimeout(() => {
        moving = 0;
        draw("over");
      }, 160);
    };
    const measure = () => {
      ratio = Math.min(2, devicePixelRatio || 1);
      [width, height] = [plane.clientWidth, plane.clientHeight];
      const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
      // Setting a size empties a canvas, to black where it has no alpha: only where the size is another, and never to be
      // seen, because it is painted below before the browser shows anything. A frame later would be a black flash.
      if (picture === null || points.width !== across || points.height !== down) {
        for (const canvas of [points, over]) [canvas.width, canvas.height] = [across, down];
        picture = ink.createImageData(Math.max(1, across), Math.max(1, down));
        pixels = new Uint32Array(picture.data.buffer);
      }
      const ground = state.printing ? [255, 255, 255] : getComputedStyle(plane).backgroundColor.match(/\d+/g).map(Number);
      state.ground = (0xff000000 | (ground[2] << 16) | (ground[1] << 8) | ground[0]) >>> 0;
      paint("all");
    };

    // --- moving ------------------------------------------------------------------------------------------------
    const zoom = (factor, px = width / 2, py = height / 2) => {
      const scale = clamp(state.scale * factor, 0.5, 400);
      state.left += ((px - width / 2) / state.scale) * (1 - state.scale / scale);
      state.top -= ((py - height / 2) / state.scale) * (1 - state.scale / scale);
      state.scale = scale;
      settle();
      draw();
    };
    const pan = (dx, dy) => {
      state.left -= dx / state.scale;
      state.top += dy / state.scale;
      settle();
      draw();
    };
    const whole = () => {
      [state.scale, state.left, state.top] = [1, 0, 0];
      draw();
    };
    const bringIn = (point) => {
      const [px, py] = [atX(point), atY(point)];
      if (px < 30 || py < 30 || px > width - 30 || py > height - 30) pan(width / 2 - px, height / 2 - py);
    };

    // --- pictures and words ------------------------------------------------------------------------------------
    const stampOn = (canvas, point) => {
      const side = data.stamps.side;
      [canvas.width, canvas.height] = [side, side];
      const number = stampOf[point];
      if (number === NOBODY) return;
      const each = data.stamps.columns * data.stamps.rows;
      const [sheet, place] = [sheets[Math.floor(number / each)], number % each];
      const from = [(place % data.stamps.columns) * side, Math.floor(place / data.stamps.columns) * side];
      const put = () => canvas.getContext("2d").drawImage(sheet, from[0], from[1], side, side, 0, 0, side, side);
      if (sheet.complete) put();
      else sheet.addEventListener("load", put, { once: true });
    };
    const said = (colouring, point) => {
      const group = colouring.of[point];
      if (group === NONE) return colouring.none;
      return colouring.scale ? new Date((colouring.low + (group / 65534) * (colouring.high - colouring.low)) * 1000).toISOString().slice(0, 16).replace("T", " ") : colouring.seen[group];
    };
    const headOf = (point) => {
      const words = said(colourings[state.colouring], point);
      return data.branches.length > 1 ? `${words} · ${data.branches[branch[point]]}` : words;
    };
    const neighboursOf = (point) => [...near.subarray(point * data.near_each, (point + 1) * data.near_each)];
    const entry = (point, colours) => {
      const [item, button, head] = [make("li"), make("button"), make("b", headOf(point))];
      button.type = "button";
      button.title = nameOf(point);
      const canvas = make("canvas");
      stampOn(canvas, point);
      const dot = make("i");
      dot.style.setProperty("--c", css(inkOf(point, colours)));
      head.prepend(dot);
      button.append(canvas, head, make("span", nameOf(point).split("/").pop()));
      button.addEventListener("click", () => choose(point, true));
      button.addEventListener("pointerenter", () => hover(point, false));
      item.append(button);
      return item;
    };
    const hover = (point, withTip = true) => {
      if (point === state.hover && withTip === !tip.hidden) return;
      state.hover = point;
      tip.hidden = point < 0 || !withTip;
      over.classList.toggle("at-point", point >= 0);
      if (!tip.hidden) {
        stampOn(tip.querySelector("canvas"), point);
        tip.querySelector("canvas").hidden = stampOf[point] === NOBODY;
        tip.querySelector("b").textContent = headOf(point);
        tip.querySelector("span").textContent = nameOf(point);
        const [px, py] = [atX(point), atY(point)];
        tip.style.left = `${px + 14 + tip.offsetWidth > width ? Math.max(4, px - 14 - tip.offsetWidth) : px + 14}px`;
        tip.style.top = `${clamp(py - 20, 4, Math.max(4, height - tip.offsetHeight - 4))}px`;
      }
      draw("over");
    };
    const choose = (point, focus = false) => {
      state.chosen = point;
      chosenBox.hidden = point < 0;
      if (point >= 0) {
        const title = chosenBox.querySelector("h3");
        title.textContent = nameOf(point);
        stampOn(chosenBox.querySelector(".stamp canvas"), point);
        const facts = colourings.map((colouring) => [colouring.name, said(colouring, point)]);
        if (data.branches.length > 1) facts.unshift(["branch", data.branches[branch[point]]]);
        chosenBox.querySelector("dl").replaceChildren(
          ...facts.map(([name, value]) => {
            const row = make("div");
            row.append(make("dt", name), make("dd", value));
            return row;
          }),
        );
        const colours = palette();
        chosenBox.querySelector(".strip").replaceChildren(...neighboursOf(point).map((other) => entry(other, colours)));
        bringIn(point);
        if (focus) title.focus({ preventScroll: false });
      }
      draw("over");
    };

    // --- lists -------------------------------------------------------------------------------------------------
    const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const csv = (listed) => {
      const head = ["id", "branch", ...colourings.map((colouring) => colouring.name), "x", "y"];
      const rows = listed.map((point) => [data.names[point], data.branches[branch[point]], ...colourings.map((colouring) => (colouring.of[point] === NONE ? "" : colouring.scale ? said(colouring, point) : colouring.names[colouring.of[point]])), data.low[0] + (x[point] / 65535) * data.span, data.low[1] + (y[point] / 65535) * data.span]);
      return [head, ...rows].map((row) => row.map((value) => cell(typeof value === "number" ? value.toFixed(3) : value)).join(",")).join("\n") + "\n";
    };
    const list = (found) => {
      state.listed = found;
      listBox.hidden = found.length === 0;
      const download = listBox.querySelector(".download");
      if (download.href) URL.revokeObjectURL(download.href);
      if (found.length) {
        download.href = URL.createObjectURL(new Blob([csv(found)], { type: "text/csv" }));
        listBox.querySelector(".how-many").textContent = found.length === 1 ? "1 point" : `${found.length.toLocaleString("en").replaceAll(",", "\u202f")} points`;
        const colouring = colourings[state.colouring];
        const parts = new Map();
        if (!colouring.scale) found.forEach((point) => parts.set(said(colouring, point), (parts.get(said(colouring, point)) ?? 0) + 1));
        const largest = [...parts].sort((a, b) => b[1] - a[1]);
        listBox.querySelector(".made-of").textContent = largest.slice(0, 8).map(([name, many]) => `${many} ${name}`).join(" · ") + (largest.length > 8 ? ` · ${largest.length - 8} more` : "");
        const colours = palette();
        listBox.querySelector(".strip").replaceChildren(...found.slice(0, 200).map((point) => entry(point, colours)));
        listBox.querySelector(".more").textContent = found.length > 200 ? "The first 200 are shown; the CSV has all." : "";
        listBox.querySelector(".copy-list").textContent = "Copy as CSV";
      }
      draw("over");
    };
    const inside = (polygon) => {
      const found = [];
      for (let point = 0; point < count; point++) {
        if (!isShown(point)) continue;
        const [px, py] = [atX(point), atY(point)];
        let odd = false;
        for (let at = 0, before = polygon.length - 1; at < polygon.length; before = at++) {
          const [[ax, ay], [bx, by]] = [polygon[at], polygon[before]];
          if (ay > py !== by > py && px < ((bx - ax) * (py - ay)) / (by - ay) + ax) odd = !odd;
        }
        if (odd) found.push(point);
      }
      return found;
    };

    // --- the key -----------------------------------------------------------------------------------------------
    const showKey = () => {
      const colouring = colourings[state.colouring];
      const [names, scale] = [one(".names"), one(".scale-key")];
      [names.hidden, one(".both").hidden, scale.hidden] = [Boolean(colouring.scale), Boolean(colouring.scale), !colouring.scale];
      if (colouring.scale) {
        const stops = Array.from({ length: 9 }, (_, at) => css(alongScale(at / 8, dark())));
        scale.querySelector("i").style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
        const ends = [0, 1].map((end) => new Date((end ? colouring.high : colouring.low) * 1000).toISOString().slice(0, 16).replace("T", " "));
        scale.querySelectorAll("span").forEach((span, at) => (span.textContent = ends[at]));
        return;
      }
      const sizes = new Map();
      for (let point = 0; point < count; point++) sizes.set(groupOf(point), (sizes.get(groupOf(point)) ?? 0) + 1);
      const groups = [...colouring.seen.map((name, group) => [group, name]), [NONE, colouring.none]].filter(([group]) => sizes.has(group));
      names.replaceChildren(
        ...groups.map(([group, name]) => {
          const [item, button, dot, label] = [make("li"), make("button"), make("i"), make("span", name || "(no name)")];
          button.type = "button";
          button.title = name;
          button.setAttribute("aria-pressed", String(!state.hidden.has(group)));
          dot.style.setProperty("--c", group === NONE ? "var(--faint)" : css(colourOf(group, dark())));
          button.append(dot, label, make("b", sizes.get(group).toLocaleString("en").replaceAll(",", "\u202f")));
          button.addEventListener("click", (event) => {
            if (event.shiftKey) {
              const alone = groups.every(([other]) => (other === group) !== state.hidden.has(other));
              state.hidden = alone ? new Set() : new Set(groups.map(([other]) => other).filter((other) => other !== group));
            } else if (!state.hidden.delete(group)) state.hidden.add(group);
            [...names.querySelectorAll("button")].forEach((other, at) => other.setAttribute("aria-pressed", String(!state.hidden.has(groups[at][0]))));
            state.lit = null;
            draw();
          });
          button.addEventListener("pointerenter", (event) => {
            if (event.pointerType !== "mouse" || state.hidden.has(group)) return;
            state.lit = group;
            draw();
          });
          button.addEventListener("pointerleave", () => {
            if (state.lit === null) return;
            state.lit = null;
            draw();
          });
          item.append(button);
          return item;
        }),
      );
    };
    const everyGroup = (shown) => {
      const found = new Set();
      if (!shown) for (let point = 0; point < count; point++) found.add(groupOf(point));
      state.hidden = found;
      showKey();
      draw();
    };

    // --- what a hand does --------------------------------------------------------------------------------------
    const pointers = new Map();
    let [gone, pinch] = [0, 0];
    const place = (event) => {
      const box = over.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const setMode = (mode) => {
      state.mode = mode;
      over.classList.toggle("lassoing", mode === "lasso");
      for (const name of ["move", "lasso"]) one(`.tools .${name}`).setAttribute("aria-pressed", String(name === mode));
    };
    over.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      over.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, place(event));
      gone = 0;
      if (pointers.size === 2) {
        const [[ax, ay], [bx, by]] = [...pointers.values()];
        [pinch, state.lasso] = [Math.hypot(ax - bx, ay - by), null];
      } else if (state.mode === "lasso" || event.shiftKey) state.lasso = [place(event)];
    });
    over.addEventListener("pointermove", (event) => {
      const [px, py] = place(event);
      const before = pointers.get(event.pointerId);
      if (!before) return hover(nearest(px, py, Math.max(9, radius() + 4)));
      pointers.set(event.pointerId, [px, py]);
      gone += Math.hypot(px - before[0], py - before[1]);
      if (pointers.size === 2) {
        const [[ax, ay], [bx, by]] = [...pointers.values()];
        const wide = Math.hypot(ax - bx, ay - by);
        if (pinch > 0) zoom(wide / pinch, (ax + bx) / 2, (ay + by) / 2);
        pinch = wide;
      } else if (state.lasso) {
        state.lasso.push([px, py]);
        draw("over");
      } else if (gone > 4) {
        over.classList.add("dragging");
        hover(-1);
        pan(px - before[0], py - before[1]);
      }
    });
    const release = (event) => {
      if (!pointers.delete(event.pointerId)) return;
      over.classList.remove("dragging");
      const lasso = state.lasso;
      lasso?.push(place(event));
      state.lasso = null;
      if (event.type === "pointercancel") return draw("over");
      if (lasso && gone > 8) list(inside(lasso));
      else if (gone <= 4 && pointers.size === 0) choose(nearest(...place(event), Math.max(12, radius() + 6)));
      draw("over");
    };
    over.addEventListener("pointerup", release);
    over.addEventListener("pointercancel", release);
    over.addEventListener("pointerleave", () => hover(-1));
    over.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey && document.activeElement !== over) return;
        event.preventDefault();
        zoom(Math.exp(-clamp(event.deltaY * (event.deltaMode === 1 ? 18 : 1), -200, 200) * 0.0022), ...place(event));
      },
      { passive: false },
    );
    const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const towards = ([dx, dy]) => {
      const [px, py] = [atX(state.chosen), atY(state.chosen)];
      let [best, least] = [-1, Infinity];
      for (let point = 0; point < count; point++) {
        const [ax, ay] = [atX(point) - px, atY(point) - py];
        const along = ax * dx + ay * dy;
        const cost = along + 3 * Math.abs(ax * dy - ay * dx);
        if (point !== state.chosen && along > 0.5 && cost < least && isShown(point)) [best, least] = [point, cost];
      }
      return best;
    };
    over.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const step = directions[event.key];
      if (step && state.chosen >= 0) {
        const next = towards(step);
        if (next >= 0) choose(next);
      } else if (step) pan(-60 * step[0], -60 * step[1]);
      else if (event.key === "+" || event.key === "=") zoom(1.4);
      else if (event.key === "-") zoom(1 / 1.4);
      else if (event.key === "0") whole();
      else if (event.key === "l") setMode(state.mode === "lasso" ? "move" : "lasso");
      else if (event.key === "Enter") choose(state.chosen >= 0 ? state.chosen : nearest(width / 2, height / 2, Infinity), state.chosen >= 0);
      else if (event.key === "Escape") {
        choose(-1);
        list([]);
      } else return;
      event.preventDefault();
    });

    // --- buttons -----------------------------------------------------------------------------------------------
    const colour = one("select.colour");
    colour.replaceChildren(...colourings.map((colouring, at) => new Option(colouring.name, String(at))));
    const recolour = () => {
      [state.hidden, state.lit] = [new Set(), null];
      showKey();
      if (state.chosen >= 0) choose(state.chosen);
      list(state.listed);
      draw();
    };
    colour.addEventListener("change", () => {
      state.colouring = Number(colour.value);
      recolour();
    });
    const on = (selector, what) => one(selector).addEventListener("click", what);
    on(".tools .move", () => setMode("move"));
    on(".tools .lasso", () => setMode("lasso"));
    on(".nearer", () => zoom(1.5));
    on(".farther", () => zoom(1 / 1.5));
    on(".whole", whole);
    on(".every", () => everyGroup(true));
    on(".none", () => everyGroup(false));
    on(".in-view", () => list(inside([[0, 0], [width, 0], [width, height], [0, height]])));
    on(".close-one", () => {
      choose(-1);
      over.focus({ preventScroll: true });
    });
    on(".clear", () => {
      list([]);
      over.focus({ preventScroll: true });
    });
    on(".copy-list", async (event) => {
      const text = csv(state.listed);
      try {
        await navigator.clipboard.writeText(text);
        event.target.textContent = "Copied";
      } catch {
        event.target.textContent = "Not allowed here: download it";
      }
    });
    one(".find").addEventListener("input", (event) => {
      const wanted = event.target.value.trim().toLowerCase();
      const found = [];
      if (wanted) for (let point = 0; point < count; point++) if (nameOf(point).toLowerCase().includes(wanted)) found.push(point);
      state.found = wanted ? new Set(found) : null;
      list(found);
      draw();
    });
    if (data.branches.length > 1) {
      one(".joins").hidden = false;
      one(".join").addEventListener("change", (event) => {
        state.joined = event.target.checked;
        draw("over");
      });
      one(".shapes").hidden = false;
      one(".shapes").textContent = `● ${data.branches[0]}   ○ ${data.branches[1]}`;
    }
    const themed = () => {
      recolour();
      measure();
    };
    darkness.addEventListener("change", themed);
    const print = (now) => () => {
      state.printing = now;
      themed();
    };
    addEventListener("beforeprint", print(true));
    addEventListener("afterprint", print(false));
    showKey();
    new ResizeObserver(measure).observe(plane); // which measures at once, too
  };

  document.querySelectorAll(".map").forEach(start);
})();
