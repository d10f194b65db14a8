"use strict";

/* The map: the image, the cells above it, and what is told of the cell under the pointer.

   Places are (metres north of the map's bottom, metres east of its left): Leaflet's CRS.Simple with a
   metre as its unit. Nothing is warped. */

/* Cells are drawn as squares of so many canvas pixels that hatching fits into them. */
const CANVAS_PX = 2048;
const MOST_PX_PER_CELL = 16;
const STRIPE_PX = 4;
/* In a piece a cell is one pixel, and hatching has to show on a few of them. */
const PIECE_STRIPE_PX = 2;

/* From so many screen pixels a cell on, pieces are laid over the overview. */
const LEAST_PX_PER_CELL = 0.5;
/* Pieces are laid as far beside the map as this share of its size, so that a small move shows no gap. */
const BESIDE = 0.2;
/* So many unpacked pieces of cells are kept, at 1.5 MB each. */
const MOST_UNPACKED = 48;

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/* The bytes of a piece or an overview, which to_text of pages/pieces.py wrote: two digits are 13 bits. */
function contentOf(id, digits) {
  const text = document.getElementById(id).textContent;
  const values = new Uint8Array(128);
  for (let digit = 0; digit < digits.length; digit += 1) values[digits.charCodeAt(digit)] = digit;
  const bytes = new Uint8Array(Math.floor((text.length / 2) * (13 / 8)));
  let bits = 0;
  let count = 0;
  for (let from = 0, to = 0; from < text.length; from += 2) {
    bits = (bits << 13) | (values[text.charCodeAt(from)] * digits.length + values[text.charCodeAt(from + 1)]);
    for (count += 13; count >= 8; to += 1) bytes[to] = bits >> (count -= 8);
    bits &= 255;
  }
  const length = new DataView(bytes.buffer).getUint32(0);
  return bytes.subarray(4, 4 + length);
}

/* What a raster holds of a piece: rows, columns and where it begins. */
function extentOf(raster, row, col) {
  const [rows, cols] = raster.shape;
  const [top, left] = [row * raster.side, col * raster.side];
  return { top, left, rows: Math.min(raster.side, rows - top), cols: Math.min(raster.side, cols - left) };
}

/* A piece of the cells, as pages/pieces.py packs it: two tables, and the place of each cell in them. */
async function unpackPiece(data, row, col) {
  const raw = await inflate(contentOf(`cells-${row}-${col}`, data.digits));
  const extent = extentOf(data.cells, row, col);
  const count = extent.rows * extent.cols;
  const head = new DataView(raw.buffer);
  const layers = [["classes", "status", "covers", "second"], ["confidence", "secondShare"]];
  const lengths = [head.getUint32(0, true), head.getUint32(4, true)];
  const tables = [8, 8 + 4 * lengths[0]];
  let at = tables[1] + 2 * lengths[1];
  const piece = { ...extent };
  layers.forEach((names, index) => {
    const low = raw.subarray(at, (at += count));
    const high = lengths[index] > 256 ? raw.subarray(at, (at += count)) : undefined;
    names.forEach((name, layer) => {
      const values = new Uint8Array(count);
      for (let cell = 0; cell < count; cell += 1) {
        const entry = high ? low[cell] + 256 * high[cell] : low[cell];
        values[cell] = raw[tables[index] + entry * names.length + layer];
      }
      piece[name] = values;
    });
  });
  return piece;
}

/* The overview of the cells: planes of what pages/pieces.py names. */
async function unpackOverview(data) {
  const raw = await inflate(contentOf("cells-overview", data.digits));
  const [rows, cols] = data.cells.shape.map((side) => Math.ceil(side / data.cells.overview_factor));
  const plane = (index) => raw.subarray(index * rows * cols, (index + 1) * rows * cols);
  return { rows, cols, classes: plane(0), status: plane(1), confidence: plane(2), covers: plane(3) };
}

/* Unpacks pieces once and keeps those unpacked last. */
class Pieces {
  constructor(data) {
    this.data = data;
    this.kept = new Map(); // by row and column: a promise, later the piece
  }

  /* The piece, or a promise of it. */
  get(row, col) {
    const key = `${row}-${col}`;
    if (!this.kept.has(key)) {
      const promise = unpackPiece(this.data, row, col).then((piece) => {
        if (this.kept.get(key) === promise) this.kept.set(key, piece);
        return piece;
      });
      this.kept.set(key, promise);
      if (this.kept.size > MOST_UNPACKED) this.kept.delete(this.kept.keys().next().value);
    }
    return this.kept.get(key);
  }
}

/* Which values are chosen by what is hidden: those of the classes, but where the covers are shown. */
function legendLayer(layer) {
  return layer === "covers" ? "covers" : "classes";
}

/* The canvas of the cells' classes, covers or confidences, each cell a square of so many pixels. Those without
   a class are hatched, those of a hidden one transparent. */
function paint(canvas, cells, side, data, look) {
  const { rows, cols } = cells;
  const stripe = side > 1 ? STRIPE_PX : PIECE_STRIPE_PX;
  canvas.width = cols * side;
  canvas.height = rows * side;
  const ids = cells[legendLayer(look.layer)];
  const hidden = look.hidden[legendLayer(look.layer)];
  const byConfidence = look.layer === "confidence";
  const values = byConfidence ? cells.confidence : ids;
  const palette = new Uint32Array(256);
  if (byConfidence) {
    for (let v = 0; v <= data.share_steps; v += 1) palette[v] = packed(rampColor(v / data.share_steps));
  } else data.layers[look.layer].legend.forEach((entry) => (palette[entry.id] = packed(entry.color)));
  const shows = new Uint8Array(256).fill(1);
  hidden.forEach((id) => (shows[id] = 0));
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
      const striped = (x + y) % (2 * stripe) < stripe;
      if (ids[cell] !== data.nodata_id) pixels[at] = shows[ids[cell]] * palette[values[cell]];
      else pixels[at] = (striped ? stripes : grounds)[cells.status[cell]];
    }
  }
  context.putImageData(picture, 0, 0);
}

function sideOf(cells) {
  return Math.max(1, Math.min(MOST_PX_PER_CELL, Math.floor(CANVAS_PX / Math.max(cells.rows, cells.cols))));
}

/* Lays pieces of a raster over its overview, where somebody looks and the overview would blur.

   metres are the sides of one of the raster's pixels, height is the map's in metres, and
   make(row, col, bounds) makes a layer of a piece, or promises one. */
class LaidPieces {
  constructor(map, raster, metres, height, overview, make) {
    Object.assign(this, { map, raster, metres, height, overview, make });
    this.laid = new Map();
    if (raster.overview_factor > 1) {
      map.on("move viewreset zoomend resize", () => this.update());
      this.update();
    }
  }

  /* A rectangle of the raster on the map. */
  bounds({ top, left, rows, cols }) {
    const { x, y } = this.metres;
    return L.latLngBounds([this.height - top * y, left * x], [this.height - (top + rows) * y, (left + cols) * x]);
  }

  /* Rows and columns of the pieces in sight. */
  inSight() {
    const seen = this.map.getBounds().pad(BESIDE);
    const { x, y } = this.metres;
    const range = (from, to, metres, length) => {
      const side = this.raster.side * metres;
      const first = Math.max(0, Math.floor(from / side));
      const last = Math.min(Math.ceil(length / this.raster.side) - 1, Math.floor(to / side));
      return Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => first + index);
    };
    const rows = range(this.height - seen.getNorth(), this.height - seen.getSouth(), y, this.raster.shape[0]);
    const cols = range(seen.getWest(), seen.getEast(), x, this.raster.shape[1]);
    return rows.flatMap((row) => cols.map((col) => [row, col]));
  }

  /* The layers that lie on the map now. */
  layers() {
    return [...this.laid.values()].map((piece) => piece.layer).filter(Boolean);
  }

  update() {
    const fine = this.metres.x * 2 ** this.map.getZoom() >= LEAST_PX_PER_CELL;
    const wanted = new Map((fine ? this.inSight() : []).map(([row, col]) => [`${row}-${col}`, [row, col]]));
    for (const [key, piece] of this.laid) {
      if (!wanted.has(key)) {
        this.laid.delete(key);
        piece.layer?.remove();
      }
    }
    for (const [key, [row, col]] of wanted) {
      if (!this.laid.has(key)) this.lay(key, row, col);
    }
    this.cover();
  }

  async lay(key, row, col) {
    const piece = {};
    this.laid.set(key, piece);
    const layer = await this.make(row, col, this.bounds(extentOf(this.raster, row, col)));
    if (this.laid.get(key) !== piece) return; // out of sight again
    piece.layer = layer.addTo(this.map);
    this.cover();
  }

  /* The overview is seen until every piece in sight lies there: through holes in them it must not be. */
  cover() {
    const whole = this.laid.size > 0 && [...this.laid.values()].every((piece) => piece.layer);
    this.overview.getElement().style.visibility = whole ? "hidden" : "visible";
  }
}

/* The canvas of some cells as a layer of the map, painted anew whenever what is shown changes. */
function cellLayer(cells, side, bounds, data, look) {
  const canvas = document.createElement("canvas");
  // An SVGOverlay lays any element over the map, a canvas too.
  const layer = L.svgOverlay(canvas, bounds, { pane: "cells" });
  layer.repaint = () => paint(canvas, cells, side, data, look);
  layer.repaint();
  return layer;
}

function drawMap(data, base, pieces) {
  const [left, bottom, right, top] = data.bounds_m;
  const [height, width] = [top - bottom, right - left];
  const bounds = L.latLngBounds([0, 0], [height, width]);
  const cellM = { x: data.cells.shown_m, y: data.cells.shown_m };
  const imageM = { x: width / data.image.shape[1], y: height / data.image.shape[0] };
  const look = { layer: "classes", hidden: { classes: new Set(), covers: new Set() } };
  const map = L.map("map", {
    crs: L.CRS.Simple,
    attributionControl: false, // it takes markup; the page names its sources as text
    zoomSnap: 0.25,
    zoomDelta: 0.5,
    minZoom: -20,
    maxZoom: Math.log2(40 / Math.min(imageM.x, cellM.x)),
    maxBounds: bounds.pad(0.6),
  });
  L.control.scale({ imperial: false, position: "bottomright", maxWidth: 120 }).addTo(map);
  for (const [name, zIndex] of [["image", 250], ["cells", 350]]) map.createPane(name).style.zIndex = zIndex;
  map.fitBounds(bounds);
  map.setMinZoom(map.getZoom() - 1);

  const layImage = (id, place) => {
    const binary = Array.from(contentOf(id, data.digits), (byte) => String.fromCharCode(byte)).join("");
    const address = `data:${data.image.type};base64,${btoa(binary)}`;
    return L.imageOverlay(address, place, { pane: "image", alt: "Satellite image" });
  };
  const image = layImage("image-overview", bounds).addTo(map);
  new LaidPieces(map, data.image, imageM, height, image, (row, col, place) =>
    layImage(`image-${row}-${col}`, place),
  );

  const [factor, side] = [base.factor, sideOf(base)];
  const place = [[height - base.rows * factor * cellM.y, 0], [height, base.cols * factor * cellM.x]];
  const overview = cellLayer(base, side, place, data, look).addTo(map);
  overview.getElement().id = "cells";
  const laid = new LaidPieces(map, data.cells, cellM, height, overview, async (row, col, place) =>
    cellLayer(await pieces.get(row, col), 1, place, data, look),
  );

  // Enlarged pixels keep their edges; reduced ones are smoothed, or they would flicker.
  const sharpen = () => {
    for (const [name, metres] of [["image", imageM.x], ["cells", cellM.x]]) {
      map.getPane(name).classList.toggle("crisp", metres * 2 ** map.getZoom() >= 1);
    }
  };
  map.on("zoomend", sharpen);
  sharpen();
  new ResizeObserver(() => map.invalidateSize()).observe(map.getContainer());
  const repaint = () => [overview, ...laid.layers()].forEach((layer) => layer.repaint());
  connectReadout(map, data, pieces, cellM);
  connectControls(map, data, look, repaint);
}

function connectReadout(map, data, pieces, cellM) {
  const [left, bottom, , top] = data.bounds_m;
  const [rows, cols] = data.cells.shape;
  const byId = (layer) => new Map((data.layers[layer]?.legend ?? []).map((entry) => [entry.id, entry]));
  const [classes, covers] = [byId("classes"), byId("covers")];
  const kinds = new Map(data.no_class.map((kind) => [kind.status, kind]));
  const outline = L.rectangle([[0, 0], [0, 0]], { className: "outline", fill: false, interactive: false });
  const text = (id, value) => {
    document.getElementById(id).textContent = value;
  };
  let last;

  /* A probability as exactly as the page knows it. */
  function share(steps) {
    const percent = (value) => (100 * value) / data.share_steps;
    if (data.share_step === 1) return `${fixed(percent(steps), 1)} %`;
    const half = percent(data.share_step) / 2;
    if (steps === 0) return `below ${half} %`;
    if (steps === data.share_steps) return `above ${100 - half} %`;
    return `about ${percent(steps)} %`;
  }

  function tellCell(piece, at) {
    const box = document.querySelector("#cell .swatch");
    const entry = piece && classes.get(piece.classes[at]);
    const kind = piece && kinds.get(piece.status[at]);
    const second = piece && classes.get(piece.second[at]);
    const cover = piece && covers.get(piece.covers[at]);
    box.hidden = !entry && !kind;
    if (entry) box.style.background = rgb(entry.color);
    else if (kind) box.style.background = hatch(kind);
    const title = entry ? `${entry.title}, ${share(piece.confidence[at])}` : kind?.title;
    text("cell-class", title ?? "Outside the area");
    text("cell-second", second ? `then ${second.title}, ${share(piece.secondShare[at])}` : "");
    text("cell-cover", cover ? `Land cover: ${cover.title}` : "");
  }

  async function describe(place) {
    last = place;
    const row = Math.floor((top - bottom - place.lat) / cellM.y);
    const col = Math.floor(place.lng / cellM.x);
    const inside = row >= 0 && row < rows && col >= 0 && col < cols;
    const [east, north] = [left + place.lng, bottom + place.lat];
    const [lon, lat] = lonLatOfUtm(east, north, data.utm_zone, data.is_north);
    text("cell-lonlat", lonLatText(lon, lat));
    text("cell-utm", `UTM ${data.utm_zone}${data.is_north ? "N" : "S"}: ${east.toFixed(0)} E, ${north.toFixed(0)} N`);
    if (!inside) {
      tellCell();
      outline.remove();
      return;
    }
    const corner = [top - bottom - row * cellM.y, col * cellM.x];
    outline.setBounds([corner, [corner[0] - cellM.y, corner[1] + cellM.x]]).addTo(map);
    let piece = pieces.get(Math.floor(row / data.cells.side), Math.floor(col / data.cells.side));
    if (piece instanceof Promise) {
      piece = await piece;
      if (last !== place) return; // the pointer is elsewhere by now
    }
    tellCell(piece, (row - piece.top) * piece.cols + col - piece.left);
  }

  map.on("mousemove click", (event) => describe(event.latlng));
  // Who moves the map by keys has no pointer: the middle of the map is told.
  map.on("moveend", () => {
    if (map.getContainer().matches(":focus-visible")) describe(map.getCenter());
  });
}

function connectControls(map, data, look, repaint) {
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
  function choose() {
    look.layer = form.elements.layer.value;
    document.getElementById("ramp").hidden = look.layer !== "confidence";
    fillAreas(data.layers[legendLayer(look.layer)]);
    show();
  }
  /* Hide what is hidden, on the map and in the table. */
  function show() {
    const hidden = look.hidden[legendLayer(look.layer)];
    for (const button of document.querySelectorAll("#areas .toggle")) {
      button.setAttribute("aria-pressed", !hidden.has(Number(button.value)));
    }
    document.getElementById("show-all").hidden = hidden.size === 0;
    repaint();
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.elements.view.forEach((radio) => radio.addEventListener("change", arrange));
  form.elements.layer.forEach((radio) => radio.addEventListener("change", choose));
  form.elements.opacity.addEventListener("input", fade);
  const areas = document.getElementById("areas");
  areas.addEventListener("click", (event) => {
    const button = event.target.closest(".toggle");
    if (!button) return;
    const hidden = look.hidden[legendLayer(look.layer)];
    const id = Number(button.value);
    if (!hidden.delete(id)) hidden.add(id);
    show();
  });
  areas.addEventListener("dblclick", (event) => {
    const button = event.target.closest(".toggle");
    if (!button) return;
    const layer = legendLayer(look.layer);
    const others = data.layers[layer].legend.map((entry) => entry.id).filter((id) => id !== Number(button.value));
    look.hidden[layer] = new Set(others);
    show();
  });
  document.getElementById("show-all").addEventListener("click", () => {
    look.hidden[legendLayer(look.layer)].clear();
    show();
  });
  map.on("move viewreset zoomend resize", arrange);
  connectDivider(divider, map.getContainer(), () => divided, divide);
  document.getElementById("ramp-colors").style.background = rampGradient();
  document.getElementById("covers-choice").hidden = !data.layers.covers;
  document.getElementById("ramp-note").hidden = !data.layers.covers; // a map of patches: calibrated on patches
  form.reset(); // a browser may keep what was chosen before a reload
  fade();
  choose();
  arrange();
}

async function start() {
  const data = JSON.parse(document.getElementById("data").textContent);
  fillPanel(data);
  const pieces = new Pieces(data);
  const base = await (data.cells.overview_factor > 1 ? unpackOverview(data) : pieces.get(0, 0));
  drawMap(data, { ...base, factor: data.cells.overview_factor }, pieces);
  document.documentElement.dataset.ready = "true";
}

start().catch((error) => {
  const trouble = document.getElementById("trouble");
  trouble.textContent = `The map cannot be drawn (${error.message}). Open this page with a current browser.`;
  trouble.hidden = false;
  throw error;
});
