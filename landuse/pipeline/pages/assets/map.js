"use strict";

/* The map: the image, the cells above it, and what is told of the cell under the pointer.

   Places are (metres north of the map's bottom, metres east of its left): Leaflet's CRS.Simple with a
   metre as its unit. Nothing is warped. */

const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis

/* Cells are drawn as squares of so many canvas pixels that hatching fits into them. */
const CANVAS_PX = 2048;
const MOST_PX_PER_CELL = 16;
const STRIPE_PX = 4;

async function inflate(base64) {
  const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function packed(color) {
  return new Uint32Array(new Uint8Array([...color, 255]).buffer)[0];
}

function rampColor(share) {
  const place = share * (RAMP.length - 1);
  const index = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[index].map((low, i) => Math.round(low + (RAMP[index + 1][i] - low) * (place - index)));
}

/* The canvas of the cells' classes or confidences; those without a class are hatched. */
function paint(canvas, cells, data, layer) {
  const [rows, cols] = data.shape;
  const side = Math.max(1, Math.min(MOST_PX_PER_CELL, Math.floor(CANVAS_PX / Math.max(rows, cols))));
  canvas.width = cols * side;
  canvas.height = rows * side;
  const values = layer === "classes" ? cells.classes : cells.confidence;
  const palette = new Uint32Array(256);
  if (layer === "classes") data.legend.forEach((entry) => (palette[entry.id] = packed(entry.color)));
  else for (let v = 0; v <= data.share_steps; v += 1) palette[v] = packed(rampColor(v / data.share_steps));
  const grounds = new Uint32Array(256);
  const stripes = new Uint32Array(256);
  for (const kind of data.no_class) {
    grounds[kind.status] = packed(kind.color);
    stripes[kind.status] = packed(kind.stripe);
  }
  const context = canvas.getContext("2d");
  const picture = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(picture.data.buffer);
  for (let y = 0, at = 0; y < canvas.height; y += 1) {
    const first = Math.floor(y / side) * cols;
    for (let x = 0; x < canvas.width; x += 1, at += 1) {
      const cell = first + Math.floor(x / side);
      const striped = (x + y) % (2 * STRIPE_PX) < STRIPE_PX;
      if (cells.classes[cell] !== data.nodata_id) pixels[at] = palette[values[cell]];
      else pixels[at] = (striped ? stripes : grounds)[cells.status[cell]];
    }
  }
  context.putImageData(picture, 0, 0);
}

function drawMap(data, cells) {
  const [left, bottom, right, top] = data.bounds_m;
  const [rows, cols] = data.shape;
  const bounds = L.latLngBounds([0, 0], [top - bottom, right - left]);
  const cellM = { x: (right - left) / cols, y: (top - bottom) / rows };
  const imageM = (right - left) / data.image_shape[1];
  const map = L.map("map", {
    crs: L.CRS.Simple,
    attributionControl: false, // it takes markup; the page names its sources as text
    zoomSnap: 0.25,
    zoomDelta: 0.5,
    minZoom: -20,
    maxZoom: Math.log2(40 / Math.min(imageM, cellM.x)),
    maxBounds: bounds.pad(0.6),
  });
  L.control.scale({ imperial: false, position: "bottomright", maxWidth: 120 }).addTo(map);
  for (const [name, zIndex] of [["image", 250], ["cells", 350]]) map.createPane(name).style.zIndex = zIndex;
  const image = L.imageOverlay(data.image, bounds, { pane: "image", alt: "Satellite image" }).addTo(map);
  const canvas = document.createElement("canvas");
  canvas.id = "cells";
  // An SVGOverlay lays any element over the map, a canvas too.
  L.svgOverlay(canvas, bounds, { pane: "cells", className: "crisp" }).addTo(map);
  map.fitBounds(bounds);
  map.setMinZoom(map.getZoom() - 1);

  // Enlarged pixels keep their edges; a reduced image is smoothed, or it would flicker.
  const sharpen = () => image.getElement().classList.toggle("crisp", imageM * 2 ** map.getZoom() >= 1);
  map.on("zoomend", sharpen);
  sharpen();
  new ResizeObserver(() => map.invalidateSize()).observe(map.getContainer());
  connectReadout(map, data, cells, cellM);
  connectControls(map, canvas, data, cells);
}

function connectReadout(map, data, cells, cellM) {
  const [left, bottom, right, top] = data.bounds_m;
  const [rows, cols] = data.shape;
  const titles = new Map(data.legend.map((entry) => [entry.id, entry]));
  const kinds = new Map(data.no_class.map((kind) => [kind.status, kind]));
  const outline = L.rectangle([[0, 0], [0, 0]], { className: "outline", fill: false, interactive: false });
  const text = (id, value) => {
    document.getElementById(id).textContent = value;
  };
  const degrees = (value, positive, negative) => `${Math.abs(value).toFixed(5)}° ${value < 0 ? negative : positive}`;

  function describe(place) {
    const box = document.querySelector("#cell .swatch");
    const row = Math.floor((top - bottom - place.lat) / cellM.y);
    const col = Math.floor(place.lng / cellM.x);
    const inside = row >= 0 && row < rows && col >= 0 && col < cols;
    const at = row * cols + col;
    const entry = inside ? titles.get(cells.classes[at]) : undefined;
    const kind = inside ? kinds.get(cells.status[at]) : undefined;
    box.hidden = !entry && !kind;
    if (entry) {
      box.style.background = rgb(entry.color);
      const share = cells.confidence[at] / data.share_steps;
      text("cell-class", `${entry.title}, ${fixed(100 * share, 1)} %`);
    } else if (kind) {
      box.style.background = hatch(kind);
      text("cell-class", kind.title);
    } else text("cell-class", "Outside the area");
    const [east, north] = [left + place.lng, bottom + place.lat];
    const [lon, lat] = lonLatOfUtm(east, north, data.utm_zone, data.is_north);
    text("cell-lonlat", `${degrees(lat, "N", "S")}, ${degrees(lon, "E", "W")}`);
    text("cell-utm", `UTM ${data.utm_zone}${data.is_north ? "N" : "S"}: ${east.toFixed(0)} E, ${north.toFixed(0)} N`);
    if (!inside) {
      outline.remove();
      return;
    }
    const corner = [top - bottom - row * cellM.y, col * cellM.x];
    outline.setBounds([corner, [corner[0] - cellM.y, corner[1] + cellM.x]]).addTo(map);
  }

  map.on("mousemove click", (event) => describe(event.latlng));
  // Who moves the map by keys has no pointer: the middle of the map is told.
  map.on("moveend", () => {
    if (map.getContainer().matches(":focus-visible")) describe(map.getCenter());
  });
}

function connectControls(map, canvas, data, cells) {
  const form = document.getElementById("controls");
  const divider = document.getElementById("divider");
  const pane = map.getPane("cells");
  let divided = 0.5;

  function arrange() {
    const view = form.elements.view.value;
    pane.hidden = view === "image";
    divider.hidden = view !== "swipe";
    const size = map.getSize();
    const [from, to] = [map.containerPointToLayerPoint([divided * size.x, 0]), map.containerPointToLayerPoint(size)];
    const corners = [[from.x, from.y], [to.x, from.y], [to.x, to.y], [from.x, to.y]];
    const clip = `polygon(${corners.map(([x, y]) => `${x}px ${y}px`).join()})`;
    pane.style.clipPath = view === "swipe" ? clip : "none";
    divider.style.left = `${100 * divided}%`;
    divider.setAttribute("aria-valuenow", Math.round(100 * divided));
  }
  function divide(share) {
    divided = Math.min(1, Math.max(0, share));
    arrange();
  }
  function fade() {
    pane.style.opacity = form.elements.opacity.value / 100;
    document.getElementById("opacity-value").textContent = `${form.elements.opacity.value} %`;
  }
  function repaint() {
    paint(canvas, cells, data, form.elements.layer.value);
    document.getElementById("ramp").hidden = form.elements.layer.value !== "confidence";
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.elements.view.forEach((radio) => radio.addEventListener("change", arrange));
  form.elements.layer.forEach((radio) => radio.addEventListener("change", repaint));
  form.elements.opacity.addEventListener("input", fade);
  map.on("move viewreset zoomend resize", arrange);
  divider.addEventListener("pointerdown", (event) => divider.setPointerCapture(event.pointerId));
  divider.addEventListener("pointermove", (event) => {
    const box = map.getContainer().getBoundingClientRect();
    if (divider.hasPointerCapture(event.pointerId)) divide((event.clientX - box.left) / box.width);
  });
  divider.addEventListener("keydown", (event) => {
    const places = {
      ArrowLeft: divided - 0.02,
      ArrowDown: divided - 0.02,
      ArrowRight: divided + 0.02,
      ArrowUp: divided + 0.02,
      Home: 0,
      End: 1,
    };
    if (!(event.key in places)) return;
    event.preventDefault();
    divide(places[event.key]);
  });
  const stops = RAMP.map(rgb).join();
  document.getElementById("ramp-colors").style.background = `linear-gradient(to right, ${stops})`;
  form.reset(); // a browser may keep what was chosen before a reload
  fade();
  repaint();
  arrange();
}

async function start() {
  const data = JSON.parse(document.getElementById("data").textContent);
  fillPanel(data);
  const raw = await inflate(data.cells);
  const count = data.shape[0] * data.shape[1];
  const [classes, confidence, status] = [0, 1, 2].map((i) => raw.subarray(i * count, (i + 1) * count));
  drawMap(data, { classes, confidence, status });
  document.documentElement.dataset.ready = "true";
}

start().catch((error) => {
  const trouble = document.getElementById("trouble");
  trouble.textContent = `The map cannot be drawn (${error.message}). Open this page with a current browser.`;
  trouble.hidden = false;
  throw error;
});
