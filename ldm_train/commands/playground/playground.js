// What the page's own script does: send files and the painted mask, and show them again. Gradio does the rest.
"use strict";
const playground = (() => {
  const names = {}; // of the files that were sent, by their slots
  let painted = false; // since the mask was last sent

  const slot = (name) => document.querySelector(`.upload[data-slot="${CSS.escape(name)}"]`);
  const shown = (name) => slot(name)?.querySelector("canvas");

  async function send(content) {
    const answer = await fetch("uploads", { method: "POST", body: content });
    const text = await answer.text();
    if (!answer.ok) throw new Error(text);
    return text;
  }

  function report(place, text) {
    const line = place.querySelector(".problem");
    line.textContent = text;
    line.hidden = !text;
  }

  function load(image, address) {
    return new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(new Error("the picture cannot be shown"));
      image.src = address;
    });
  }

  async function put(place, name) {
    names[place.dataset.slot] = name;
    const image = place.querySelector("img"), canvas = place.querySelector("canvas");
    await load(image, `uploads/${name}`);
    place.querySelector(".chosen").hidden = false;
    if (!canvas) return;
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    clear(canvas);
  }

  function remove(place) {
    delete names[place.dataset.slot];
    place.querySelector(".chosen").hidden = true;
    place.querySelector("input[type=file]").value = "";
    report(place, "");
    if (place.querySelector("canvas")) clear(place.querySelector("canvas"));
  }

  function clear(canvas) {
    canvas.getContext("2d", { willReadFrequently: true }).clearRect(0, 0, canvas.width, canvas.height);
    delete names.mask;
    painted = false;
  }

  function paint(event) {
    const canvas = event.target, box = canvas.getBoundingClientRect(), pen = canvas.getContext("2d", { willReadFrequently: true });
    const scale = canvas.width / box.width, x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    const last = canvas.last || [x, y];
    pen.strokeStyle = "#e0399b";
    pen.lineCap = "round";
    pen.lineWidth = Number(canvas.closest(".upload").querySelector("input[type=range]").value) * scale;
    pen.beginPath();
    pen.moveTo(...last);
    pen.lineTo(x, y);
    pen.stroke();
    canvas.last = [x, y];
    painted = true;
  }

  async function sendMask(canvas) {
    const mask = document.createElement("canvas"), pen = mask.getContext("2d", { willReadFrequently: true });
    [mask.width, mask.height] = [canvas.width, canvas.height];
    pen.drawImage(canvas, 0, 0);
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = "white";
    pen.fillRect(0, 0, mask.width, mask.height);
    pen.globalCompositeOperation = "destination-over";
    pen.fillStyle = "black";
    pen.fillRect(0, 0, mask.width, mask.height);
    names.mask = await send(await new Promise((resolve) => mask.toBlob(resolve, "image/png")));
    painted = false;
  }

  async function showMask(canvas, name) {
    const image = new Image(), pen = canvas.getContext("2d", { willReadFrequently: true });
    await load(image, `uploads/${name}`);
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < pixels.data.length; i += 4) pixels.data.set([224, 57, 155, pixels.data[i]], i);
    pen.putImageData(pixels, 0, 0);
    names.mask = name;
  }

  document.addEventListener("change", async (event) => {
    const place = event.target.closest?.(".upload");
    if (!place || event.target.type !== "file" || !event.target.files.length) return;
    report(place, "");
    try {
      await put(place, await send(event.target.files[0]));
    } catch (error) {
      remove(place);
      report(place, error.message);
    }
  });
  document.addEventListener("click", (event) => {
    const place = event.target.closest?.(".upload");
    if (place && event.target.matches(".remove")) remove(place);
    if (place && event.target.matches(".clear")) clear(place.querySelector("canvas"));
  });
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.matches?.(".upload canvas")) return;
    event.target.setPointerCapture(event.pointerId);
    event.target.last = null;
    paint(event);
  });
  document.addEventListener("pointermove", (event) => {
    if (event.target.matches?.(".upload canvas") && event.buttons) paint(event);
  });

  return {
    // The values of all inputs, of which the first three are the files.
    async collect(values) {
      const canvas = shown("picture");
      if (names.picture && painted && canvas) await sendMask(canvas);
      const maps = Object.entries(names).filter(([name]) => name.startsWith("map."));
      const files = JSON.stringify(Object.fromEntries(maps.map(([name, file]) => [name.slice(4), file])));
      return [names.picture || "", (names.picture && names.mask) || "", files, ...values.slice(3)];
    },
    // Show the files of a picture that was restored.
    async show(picture, mask, maps) {
      const files = { picture, ...Object.fromEntries(Object.entries(JSON.parse(maps || "{}")).map(([k, v]) => [`map.${k}`, v])) };
      for (const place of document.querySelectorAll(".upload")) {
        const name = files[place.dataset.slot];
        if (!name) remove(place);
        else if (names[place.dataset.slot] !== name || place.querySelector("canvas")) await put(place, name);
      }
      if (picture && mask && shown("picture")) await showMask(shown("picture"), mask);
    },
  };
})();
window.playground = playground;
