// Maps laid over images: coloured here, so that sliders change all of them at once.
(() => {
  // From nothing through violet and red to a bright yellow, lighter all the way: good in grey and for colour-blind eyes.
  const STOPS = [[13, 8, 60], [92, 18, 130], [178, 45, 100], [237, 105, 52], [252, 180, 45], [252, 253, 165]];
  const ramp = Array.from({ length: 256 }, (_, at) => {
    const place = (at / 255) * (STOPS.length - 1);
    const [low, share] = [Math.min(STOPS.length - 2, Math.floor(place)), place % 1];
    return STOPS[low].map((value, channel) => value + (STOPS[low + 1][channel] - value) * (at === 255 ? 1 : share));
  });
  const start = (root) => {
    const one = (selector) => root.querySelector(selector);
    const figures = [...root.querySelectorAll(".seen")];
    const [which, opacity, threshold, alike, told] = [one(".which"), one(".opacity"), one(".threshold"), one(".alike"), one("output")];
    const small = document.createElement("canvas");
    const pen = small.getContext("2d", { willReadFrequently: true });
    one(".ramp i").style.background = `linear-gradient(90deg, ${ramp.filter((_, at) => at % 51 === 0).map((c) => `rgb(${c.map(Math.round).join(" ")})`).join(", ")})`;

    const mapOf = (figure) => {
      const maps = [...figure.querySelectorAll(".maps img")];
      return maps.find((map) => which && map.alt === which.value) ?? maps[0];
    };
    const paint = (figure, top) => {
      const map = mapOf(figure);
      const image = figure.querySelector(".plain-image");
      const canvas = figure.querySelector("canvas");
      [canvas.width, canvas.height] = [Math.max(240, image.naturalWidth), Math.round((Math.max(240, image.naturalWidth) * image.naturalHeight) / image.naturalWidth)];
      const to = canvas.getContext("2d", { willReadFrequently: true });
      to.imageSmoothingEnabled = true;
      to.imageSmoothingQuality = "high";
      // A coarse map is stretched by half a place each way, so that the middle of a place lies where it was seen.
      [small.width, small.height] = [map.naturalWidth, map.naturalHeight];
      pen.drawImage(map, 0, 0);
      to.drawImage(small, 0, 0, canvas.width, canvas.height);
      const drawn = to.getImageData(0, 0, canvas.width, canvas.height);
      const [strength, least] = [Number(opacity.value) / 100, Number(threshold.value) / 100];
      const scale = alike.checked && top > 0 ? Number(map.dataset.peak) / top : 1;
      for (let at = 0; at < drawn.data.length; at += 4) {
        const value = (drawn.data[at] / 255) * scale;
        const colour = ramp[Math.round(value * 255)];
        [drawn.data[at], drawn.data[at + 1], drawn.data[at + 2]] = colour;
        drawn.data[at + 3] = value < least || value === 0 ? 0 : 255 * strength * (0.35 + 0.65 * value);
      }
      to.putImageData(drawn, 0, 0);
    };
    let asked = false;
    const all = () => {
      asked = false;
      told.textContent = `${threshold.value}\u202f%`;
      const top = Math.max(...figures.map((figure) => Number(mapOf(figure).dataset.peak)));
      figures.forEach((figure) => paint(figure, top));
    };
    const soon = () => {
      if (!asked) requestAnimationFrame(all);
      asked = true;
    };
    for (const input of [which, opacity, threshold, alike]) input?.addEventListener("input", soon);
    const images = [...root.querySelectorAll("img")];
    Promise.all(images.map((image) => image.decode().catch(() => {}))).then(all);
  };
  document.querySelectorAll(".overlays").forEach(start);
})();
