"use strict";

/* The page of `landuse view`: maps and changes at full resolution, read by ranges from the server that gave
   the page.

   Places are (metres north of the first map's top, metres east of its left) in the UTM zone of the first map;
   at zoom 0 a pixel of the screen is one of the finest raster, at -1 two, as in the rasters' overviews. Maps
   of other zones are warped by the nearest pixel. */

const TILE_PX = 256;
/* A tile is drawn one pixel wider and higher: between two that a browser places at fractions of a pixel the ground
   would show. */
const DRAWN_PX = TILE_PX + 1;
const STRIPE_PX = 4;
/* A raster of another zone is placed exactly at so many nodes along a tile's side, and between them by lines. */
const WARP_STEPS = 8;
/* Pixels may be coarser than the screen's by this much before a finer overview is taken: those of a raster with
   an odd size are a little off a half. */
const SLACK = 1.05;
/* Of the pointer's rest, before what lies under it is read. */
const REST_MS = 50;
const MOST_PX_PER_PIXEL = 40;

const ui = (id) => document.getElementById(id);

/* ---- Places ---- */

/* From metres in the zone of one folder to those in that of another. */
function between(from, to) {
  if (from.zone === to.zone && from.is_north === to.is_north) return null;
  return (east, north) => {
    const [lon, lat] = lonLatOfUtm(east, north, from.zone, from.is_north);
    return utmOfLonLat(lon, lat, to.zone, to.is_north);
  };
}

/* What the page knows of the folders, made ready: readers, and how their places lie to those of the first. */
function prepare(data, store) {
  const base = data.folders[0];
  const [left, top] = Object.values(base.rasters)[0].origin_m;
  const frame = { base, left, top, unit: Infinity };
  for (const folder of data.folders) {
    folder.toOwn = between(base, folder);
    folder.toBase = between(folder, base);
    for (const [name, raster] of Object.entries(folder.rasters)) {
      Object.assign(raster, { name, folder, cog: new Cog(raster.url, raster.bands, raster.nodata, store) });
      frame.unit = Math.min(frame.unit, raster.pixel_m);
    }
  }
  return frame;
}

/* The rectangle of a raster on the map: of another zone's the one around its outline. */
function boundsOf(raster, frame) {
  const [west, north] = raster.origin_m;
  const [rows, cols] = raster.shape;
  const east = west + cols * raster.pixel_m;
  const south = north - rows * raster.pixel_m;
  const places = [];
  for (let step = 0; step <= 16; step += 1) {
    const [x, y] = [west + ((east - west) * step) / 16, south + ((north - south) * step) / 16];
    places.push([x, south], [x, north], [west, y], [east, y]);
  }
  const there = raster.folder.toBase ? places.map(([x, y]) => raster.folder.toBase(x, y)) : places;
  return L.latLngBounds(there.map(([x, y]) => [y - frame.top, x - frame.left]));
}

/* ---- Pixels ---- */

/* The finest level that is not finer than needed, of those that are there. */
function levelFor(levels, raster, metres) {
  let index = 0;
  while (index + 1 < levels.length) {
    const next = (raster.pixel_m * levels[0].cols) / levels[index + 1].cols;
    if (next > metres * SLACK) break;
    index += 1;
  }
  return index;
}

/* Columns and rows of a level at the nodes of a square of the screen, (node row, node col) as pairs, and how many
   pixels of the screen lie between two nodes. */
function nodesOf(raster, level, levels, square) {
  const steps = raster.folder.toOwn ? WARP_STEPS : 1;
  const apart = Math.ceil(DRAWN_PX / steps);
  const metres = (apart * square.side) / TILE_PX;
  const [west, north] = raster.origin_m;
  const across = level.cols / (levels[0].cols * raster.pixel_m);
  const down = level.rows / (levels[0].rows * raster.pixel_m);
  const places = new Float64Array(2 * (steps + 1) ** 2);
  for (let row = 0, at = 0; row <= steps; row += 1) {
    for (let col = 0; col <= steps; col += 1, at += 2) {
      let east = square.east + col * metres;
      let up = square.north - row * metres;
      if (raster.folder.toOwn) [east, up] = raster.folder.toOwn(east, up);
      places[at] = (east - west) * across;
      places[at + 1] = (north - up) * down;
    }
  }
  return { steps, apart, places };
}

/* What a raster holds at the pixels of a square of the screen, (row, col, band): the nearest pixel of the level
   that suits. Where it has none, its value for no data. */
async function sample(raster, square, signal) {
  const { cog, bands } = raster;
  const values = new Uint8Array(DRAWN_PX * DRAWN_PX * bands);
  if (raster.nodata) values.fill(raster.nodata);
  const levels = await cog.levels();
  const index = levelFor(levels, raster, square.side / TILE_PX);
  const level = levels[index];
  const { steps, apart, places } = nodesOf(raster, level, levels, square);
  let [left, right, above, below] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let at = 0; at < places.length; at += 2) {
    [left, right] = [Math.min(left, places[at]), Math.max(right, places[at])];
    [above, below] = [Math.min(above, places[at + 1]), Math.max(below, places[at + 1])];
  }
  const tiles = (low, high, side, count) => {
    // A pixel's middle lies half a pixel inside of the edges.
    const first = Math.max(0, Math.floor((low + 1e-6) / side));
    return [first, Math.min(count - 1, Math.floor((high - 1e-6) / side))];
  };
  const [firstCol, lastCol] = tiles(left, right, level.tileCols, level.across);
  const [firstRow, lastRow] = tiles(above, below, level.tileRows, level.down);
  if (firstCol > lastCol || firstRow > lastRow) return values;
  const width = lastCol - firstCol + 1;
  const wanted = [];
  for (let row = firstRow; row <= lastRow; row += 1) {
    for (let col = firstCol; col <= lastCol; col += 1) wanted.push(cog.tile(levels, index, row, col, signal));
  }
  const found = await Promise.all(wanted);
  const window = { level, found, firstRow, firstCol, width, bands, values };
  if (raster.folder.toOwn) fillWarped(window, steps, apart, places);
  else fillStraight(window, places, apart);
  return values;
}

/* Fills the values of a square of the same zone: its columns are the same in each row. */
function fillStraight({ level, found, firstRow, firstCol, width, bands, values }, places, apart) {
  const { tileCols, tileRows, cols, rows } = level;
  const [left, above, right, , , below] = places;
  const colOf = new Int32Array(DRAWN_PX);
  for (let x = 0; x < DRAWN_PX; x += 1) {
    const col = Math.floor(left + ((x + 0.5) * (right - left)) / apart);
    colOf[x] = col < cols ? col : -1;
  }
  for (let y = 0; y < DRAWN_PX; y += 1) {
    const row = Math.floor(above + ((y + 0.5) * (below - above)) / apart);
    if (row < 0 || row >= rows) continue;
    const tileRow = Math.floor(row / tileRows);
    let at = y * DRAWN_PX * bands;
    let [from, end, tile] = [0, 0, null]; // of the tile in which the column lies
    for (let x = 0; x < DRAWN_PX; x += 1, at += bands) {
      const col = colOf[x];
      if (col < 0) continue;
      if (col >= end) {
        const tileCol = Math.floor(col / tileCols);
        tile = found[(tileRow - firstRow) * width + tileCol - firstCol];
        from = ((row - tileRow * tileRows) * tileCols - tileCol * tileCols) * bands;
        end = (tileCol + 1) * tileCols;
      }
      const place = from + col * bands;
      values[at] = tile[place];
      for (let band = 1; band < bands; band += 1) values[at + band] = tile[place + band];
    }
  }
}

/* Fills the values of a square of another zone: between nodes places lie on lines. */
function fillWarped({ level, found, firstRow, firstCol, width, bands, values }, steps, apart, places) {
  const { tileCols, tileRows, cols, rows } = level;
  for (let y = 0, at = 0; y < DRAWN_PX; y += 1) {
    const nodeRow = Math.floor(y / apart);
    const downShare = (y + 0.5) / apart - nodeRow;
    for (let nodeCol = 0; nodeCol < steps; nodeCol += 1) {
      const upper = 2 * (nodeRow * (steps + 1) + nodeCol);
      const lower = upper + 2 * (steps + 1);
      const mix = (i) => places[upper + i] + downShare * (places[lower + i] - places[upper + i]);
      const [startCol, startRow, endCol, endRow] = [mix(0), mix(1), mix(2), mix(3)];
      const [stepCol, stepRow] = [(endCol - startCol) / apart, (endRow - startRow) / apart];
      const count = Math.min(apart, DRAWN_PX - nodeCol * apart);
      for (let x = 0; x < count; x += 1, at += bands) {
        const col = Math.floor(startCol + (x + 0.5) * stepCol);
        const row = Math.floor(startRow + (x + 0.5) * stepRow);
        if (col < 0 || row < 0 || col >= cols || row >= rows) continue;
        const tileRow = Math.floor(row / tileRows);
        const tileCol = Math.floor(col / tileCols);
        const tile = found[(tileRow - firstRow) * width + tileCol - firstCol];
        let from = ((row - tileRow * tileRows) * tileCols + col - tileCol * tileCols) * bands;
        for (let band = 0; band < bands; band += 1, from += 1) values[at + band] = tile[from];
      }
    }
  }
}

/* What a folder's rasters hold at a place of the first zone, by name: bytes, one a band. */
async function valuesAt(folder, east, north, signal) {
  const [x, y] = folder.toOwn ? folder.toOwn(east, north) : [east, north];
  const found = {};
  const read = async (raster) => {
    const col = Math.floor((x - raster.origin_m[0]) / raster.pixel_m);
    const row = Math.floor((raster.origin_m[1] - y) / raster.pixel_m);
    if (row < 0 || col < 0 || row >= raster.shape[0] || col >= raster.shape[1]) return;
    const levels = await raster.cog.levels();
    const { tileRows, tileCols } = levels[0];
    const [tileRow, tileCol] = [Math.floor(row / tileRows), Math.floor(col / tileCols)];
    const tile = await raster.cog.tile(levels, 0, tileRow, tileCol, signal);
    const at = ((row - tileRow * tileRows) * tileCols + col - tileCol * tileCols) * raster.bands;
    found[raster.name] = tile.subarray(at, at + raster.bands);
  };
  await Promise.all(Object.values(folder.rasters).filter((raster) => raster.kind !== "image").map(read));
  return found;
}

/* ---- Drawing ---- */

/* Colours of a raster's values; those of hidden classes are transparent. */
function paletteOf(raster, data, hidden) {
  const palette = new Uint32Array(256);
  if (raster.kind === "share") {
    for (let value = 0; value <= data.share_steps; value += 1) palette[value] = packed(rampColor(value / data.share_steps));
  } else {
    for (const entry of data.legends[raster.legend].entries) {
      if (!hidden.has(entry.value)) palette[entry.value] = packed(entry.color);
    }
  }
  return palette;
}

/* A raster as Leaflet's tiles, each drawn on a canvas from the values that lie in it. */
const RasterTiles = L.GridLayer.extend({
  initialize(raster, viewer, options) {
    L.setOptions(this, {
      tileSize: TILE_PX,
      keepBuffer: 1,
      minNativeZoom: -24,
      maxNativeZoom: 0,
      minZoom: -24,
      maxZoom: 24,
      bounds: boundsOf(raster, viewer.frame),
      updateWhenIdle: false,
      updateWhenZooming: false,
      updateInterval: 60,
      ...options,
    });
    Object.assign(this, { raster, viewer });
    this.status = raster.kind === "image" ? null : raster.folder.rasters.status;
    this.on("tileunload", (event) => {
      const canvas = event.tile;
      canvas.control.abort();
      canvas.width = canvas.height = 0; // else its pixels stay until the browser clears up
      canvas.values = canvas.kinds = null;
      // Leaflet looks whether all is there when a tile comes, and the last one may have gone instead.
      L.Util.requestAnimFrame(() => {
        if (!this._loading || !this._map || !this._noTilesToLoad()) return;
        this._loading = false;
        this.fire("load");
      });
    });
  },

  createTile(coords, done) {
    const canvas = document.createElement("canvas");
    canvas.width = DRAWN_PX;
    canvas.height = DRAWN_PX;
    canvas.control = new AbortController();
    this.fill(canvas, coords).then(
      () => done(null, canvas),
      (error) => {
        if (error.name !== "AbortError") done(error, canvas);
      },
    );
    return canvas;
  },

  async fill(canvas, coords) {
    const { frame } = this.viewer;
    const side = (TILE_PX * frame.unit) / 2 ** coords.z;
    const square = { east: frame.left + coords.x * side, north: frame.top - coords.y * side, side };
    const { signal } = canvas.control;
    const wanted = [this.raster, ...(this.status ? [this.status] : [])];
    [canvas.values, canvas.kinds] = await Promise.all(wanted.map((raster) => sample(raster, square, signal)));
    if (signal.aborted) {
      canvas.values = canvas.kinds = null;
      return;
    }
    canvas.style.width = canvas.style.height = `${DRAWN_PX}px`; // Leaflet has made it as large as a tile
    this.paint(canvas);
  },

  paint(canvas) {
    if (!canvas.values) return;
    const picture = new ImageData(DRAWN_PX, DRAWN_PX);
    const pixels = new Uint32Array(picture.data.buffer);
    const { values, kinds } = canvas;
    if (this.raster.kind === "image") {
      for (let at = 0, from = 0; at < pixels.length; at += 1, from += 3) {
        const color = values[from] | (values[from + 1] << 8) | (values[from + 2] << 16);
        if (color) pixels[at] = color | 0xff000000;
      }
    } else {
      const { palette, grounds, stripes } = this.colors();
      const nodata = this.viewer.data.nodata_id;
      for (let at = 0; at < pixels.length; at += 1) {
        if (values[at] !== nodata) pixels[at] = palette[values[at]];
        else if (kinds) {
          const striped = ((at % DRAWN_PX) + Math.floor(at / DRAWN_PX)) % (2 * STRIPE_PX) < STRIPE_PX;
          pixels[at] = (striped ? stripes : grounds)[kinds[at]];
        }
      }
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
    if (this.raster.kind === "image") canvas.values = null; // it is painted once
  },

  colors() {
    const { data, hidden } = this.viewer;
    const [grounds, stripes] = [new Uint32Array(256), new Uint32Array(256)];
    for (const kind of data.no_class) {
      grounds[kind.status] = packed(kind.color);
      stripes[kind.status] = packed(kind.stripe);
    }
    const palette = paletteOf(this.raster, data, hidden[this.raster.legend] ?? new Set());
    return { palette, grounds, stripes };
  },

  repaint() {
    for (const tile of Object.values(this._tiles)) this.paint(tile.el);
  },
});

/* ---- What is shown, as a link has it ---- */

const SIDES = ["a", "b"];

/* The state as the part of the address behind #. */
function toFragment(state, data) {
  const parts = SIDES.map((side) => `${side}=${state[side].folder}.${state[side].raster}`);
  parts.push(`v=${state.view}`, `x=${state.east.toFixed(1)}`, `y=${state.north.toFixed(1)}`, `z=${state.zoom.toFixed(2)}`);
  parts.push(`d=${state.divided.toFixed(3)}`, `o=${Math.round(state.opacity)}`, `i=${Number(state.image)}`);
  for (const [key, hidden] of Object.entries(state.hidden)) {
    const usual = data.legends[key].hidden;
    const values = [...hidden].sort((one, other) => one - other);
    if (values.join() !== [...usual].sort((one, other) => one - other).join()) parts.push(`h.${key}=${values.join(".")}`);
  }
  return parts.join("&");
}

/* What a fragment says, each part checked; what it says wrong is told. */
function fromFragment(fragment, data) {
  const state = { hidden: {} };
  const problems = [];
  const within = (text, low, high) => {
    const value = text === "" ? NaN : Number(text);
    return value >= low && value <= high ? value : undefined;
  };
  const raster = (text) => {
    const [, key, name] = /^(.*)\.([a-z]+)$/.exec(text) ?? [];
    const folder = data.folders.find((entry) => entry.key === key);
    return folder?.rasters[name]?.kind ? { folder: key, raster: name } : undefined;
  };
  const known = {
    a: ["a", raster],
    b: ["b", raster],
    v: ["view", (text) => (["single", "swipe"].includes(text) ? text : undefined)],
    x: ["east", (text) => within(text, -1e7, 1e7)],
    y: ["north", (text) => within(text, -1e7, 2e7)],
    z: ["zoom", (text) => within(text, -24, 24)],
    d: ["divided", (text) => within(text, 0, 1)],
    o: ["opacity", (text) => within(text, 0, 100)],
    i: ["image", (text) => ({ 0: false, 1: true })[text]],
  };
  for (const [name, text] of new URLSearchParams(fragment)) {
    if (name.startsWith("h.") && Object.hasOwn(data.legends, name.slice(2))) {
      const values = text === "" ? [] : text.split(".").map((part) => within(part, 0, 254));
      if (values.length < 256 && !values.includes(undefined)) {
        state.hidden[name.slice(2)] = new Set(values);
        continue;
      }
    }
    const [field, check] = Object.hasOwn(known, name) ? known[name] : [];
    const value = check?.(text);
    if (value === undefined) problems.push(`${name}=${text.slice(0, 60)}`);
    else state[field] = value;
  }
  return { state, problems };
}

/* ---- The page ---- */

class Viewer {
  constructor(data) {
    this.data = data;
    this.store = new TileStore();
    this.frame = prepare(data, this.store);
    this.hidden = Object.fromEntries(Object.entries(data.legends).map(([key, { hidden }]) => [key, new Set(hidden)]));
    this.layers = {};
    this.waiting = new Set();
    this.whole = data.folders.reduce(
      (all, folder) => all.extend(boundsOf(Object.values(folder.rasters)[0], this.frame)),
      L.latLngBounds([]),
    );
    this.state = this.firstState();
    this.makeMap();
    this.makeControls();
    this.restore(location.hash.slice(1), true);
    this.connectPointer();
    window.addEventListener("hashchange", () => {
      if (location.hash.slice(1) !== this.written) this.restore(location.hash.slice(1), false);
    });
  }

  firstState() {
    const { folders } = this.data;
    const first = (folder) => ({ folder: folder.key, raster: this.drawn(folder)[0].name });
    const [one, other] = [folders[0], folders[1] ?? folders[0]];
    const state = { a: first(one), b: first(other), view: folders[1] ? "swipe" : "single" };
    if (!folders[1]) state.b.raster = this.drawn(one).at(-1).name;
    return { ...state, divided: 0.5, opacity: 85, image: true };
  }

  folder(side) {
    return this.data.folders.find((folder) => folder.key === this.state[side].folder);
  }

  raster(side) {
    return this.folder(side).rasters[this.state[side].raster];
  }

  /* The rasters of a folder that can be drawn. */
  drawn(folder) {
    return Object.values(folder.rasters).filter((raster) => raster.kind);
  }

  shownSides() {
    return this.state.view === "swipe" ? SIDES : ["a"];
  }

  makeMap() {
    const { unit } = this.frame;
    const scaled = new L.Transformation(1 / unit, 0, -1 / unit, 0);
    this.map = L.map("map", {
      crs: L.extend({}, L.CRS.Simple, { transformation: scaled }),
      attributionControl: false, // it takes markup; the page names its sources as text
      fadeAnimation: false, // through a tile that fades in over its image one would see neither
      zoomSnap: 0.25,
      zoomDelta: 0.5,
      wheelPxPerZoomLevel: 90,
      minZoom: -24,
      maxZoom: Math.log2(MOST_PX_PER_PIXEL),
      maxBounds: this.whole.pad(0.6),
    });
    L.control.scale({ imperial: false, position: "bottomright", maxWidth: 120 }).addTo(this.map);
    SIDES.forEach((side, index) => {
      this.map.createPane(`image-${side}`).style.zIndex = 250 + 20 * index;
      this.map.createPane(`cells-${side}`).style.zIndex = 260 + 20 * index;
    });
    this.map.fitBounds(this.whole);
    this.map.setMinZoom(this.map.getBoundsZoom(this.whole) - 1);
    const sharpen = () => {
      // Enlarged pixels keep their edges; reduced ones are smoothed, or they would flicker.
      const zoom = this.map.getZoom();
      ui("map").classList.toggle("enlarged", zoom > 0);
    };
    this.map.on("zoomend", sharpen);
    sharpen();
    this.map.on("move viewreset zoomend resize", () => this.clip());
    this.map.on("moveend", () => this.remember());
    new ResizeObserver(() => {
      this.map.invalidateSize();
      this.map.setMinZoom(this.map.getBoundsZoom(this.whole) - 1);
    }).observe(this.map.getContainer());
  }

  /* Shows what a fragment says, the rest as it is. */
  restore(fragment, isFirst) {
    const { state, problems } = fromFragment(fragment, this.data);
    const { hidden, east, north, zoom, ...rest } = state;
    Object.assign(this.state, rest);
    for (const key of Object.keys(this.hidden)) this.hidden[key] = hidden[key] ?? new Set(this.data.legends[key].hidden);
    if (problems.length) {
      this.tell(`The link says ${problems.slice(0, 3).join(", ")}, which does not fit the maps that are shown here. The rest of it was followed.`);
    }
    if (east !== undefined && north !== undefined) {
      const place = [north - this.frame.top, east - this.frame.left];
      this.map.setView(this.whole.pad(0.5).contains(place) ? place : this.whole.getCenter(), zoom ?? this.map.getZoom(), {
        animate: false,
      });
    } else if (isFirst) this.map.fitBounds(this.whole, { animate: false });
    this.show();
  }

  /* Writes what is shown into the address, without a step in the browser's history. */
  remember() {
    const { lat, lng } = this.map.getCenter();
    const { left, top } = this.frame;
    const where = { east: left + lng, north: top + lat, zoom: this.map.getZoom() };
    this.written = toFragment({ ...this.state, hidden: this.hidden, ...where }, this.data);
    clearTimeout(this.writing);
    this.writing = setTimeout(() => history.replaceState(null, "", `#${this.written}`), 200);
  }

  tell(text) {
    ui("trouble").textContent = text;
    ui("trouble").hidden = !text;
  }

  /* Lays what the state says on the map, and says so in the controls. */
  show() {
    for (const side of SIDES) this.lay(side);
    this.fillControls();
    this.fillLegends();
    this.clip();
    this.remember();
    this.tellPlace();
  }

  lay(side) {
    const shown = this.shownSides().includes(side);
    const raster = this.raster(side);
    const under = raster.kind === "image" ? raster : this.data.folders[this.folder(side).under]?.rasters.image;
    const wanted = {
      [`image-${side}`]: shown && (raster.kind === "image" || this.state.image) ? under : undefined,
      [`cells-${side}`]: shown && raster.kind !== "image" ? raster : undefined,
    };
    for (const [pane, wants] of Object.entries(wanted)) {
      const there = this.layers[pane];
      if (there?.raster === wants) continue;
      there?.remove();
      this.waiting.delete(there);
      this.layers[pane] = wants && new RasterTiles(wants, this, { pane });
      const layer = this.layers[pane];
      if (!layer) continue;
      layer.on("loading", () => this.wait(layer, true));
      layer.on("load", () => this.wait(layer, false));
      layer.on("tileerror", (event) => this.tell(event.error.message));
      layer.addTo(this.map);
    }
    this.map.getPane(`cells-${side}`).style.opacity = this.state.opacity / 100;
    this.wait();
  }

  /* Says on the map whether tiles are on their way. */
  wait(layer, isWaiting) {
    if (layer && isWaiting) this.waiting.add(layer);
    else if (layer) this.waiting.delete(layer);
    ui("map").setAttribute("aria-busy", this.waiting.size > 0);
    ui("busy").hidden = this.waiting.size === 0;
    if (this.waiting.size > 0 || !layer || document.documentElement.dataset.ready) return;
    document.documentElement.dataset.ready = "true"; // the first picture stands
    performance.mark("still");
  }

  clip() {
    const { view, divided } = this.state;
    const size = this.map.getSize();
    const corner = (x, y) => {
      const place = this.map.containerPointToLayerPoint([x, y]);
      return `${place.x}px ${place.y}px`;
    };
    const rectangle = (from, to) => `polygon(${[corner(from, 0), corner(to, 0), corner(to, size.y), corner(from, size.y)].join()})`;
    const middle = divided * size.x;
    for (const kind of ["image", "cells"]) {
      this.map.getPane(`${kind}-a`).style.clipPath = view === "swipe" ? rectangle(0, middle) : "none";
      this.map.getPane(`${kind}-b`).style.clipPath = rectangle(middle, size.x);
    }
    const divider = ui("divider");
    divider.hidden = view !== "swipe";
    divider.style.left = `${100 * divided}%`;
    divider.setAttribute("aria-valuenow", Math.round(100 * divided));
  }

  divide(share) {
    this.state.divided = Math.min(1, Math.max(0, share));
    this.clip();
    this.remember();
  }

  /* ---- Controls ---- */

  makeControls() {
    const { data, state } = this;
    const form = ui("controls");
    form.reset(); // a browser may keep what was chosen before a reload
    form.addEventListener("submit", (event) => event.preventDefault());
    for (const side of SIDES) {
      const options = data.folders.map((folder) => {
        const option = element("option", folder.title);
        option.value = folder.key;
        option.title = folder.days;
        return option;
      });
      form.elements[`folder-${side}`].replaceChildren(...options);
      form.elements[`folder-${side}`].hidden = options.length === 1;
      form.elements[`folder-${side}`].addEventListener("change", (event) => this.choose(side, event.target.value));
      form.elements[`raster-${side}`].addEventListener("change", (event) => {
        state[side].raster = event.target.value;
        this.show();
      });
    }
    form.elements.view.forEach((radio) =>
      radio.addEventListener("change", () => {
        state.view = form.elements.view.value;
        this.show();
      }),
    );
    form.elements.opacity.addEventListener("input", (event) => {
      state.opacity = Number(event.target.value);
      this.show();
    });
    form.elements.image.addEventListener("change", (event) => {
      state.image = event.target.checked;
      this.show();
    });
    ui("whole").addEventListener("click", () => this.map.fitBounds(this.whole));
    ui("link").addEventListener("click", () => this.copyLink());
    connectDivider(ui("divider"), this.map.getContainer(), () => state.divided, (share) => this.divide(share));
    ui("legends").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.toggle(button.dataset.legend, button.value);
    });
    ui("legends").addEventListener("dblclick", (event) => {
      const button = event.target.closest(".toggle");
      if (button) this.showAlone(button.dataset.legend, Number(button.value));
    });
    // Only while the map has the focus: a letter typed elsewhere does nothing.
    ui("map").addEventListener("keydown", (event) => this.pressed(event));
  }

  choose(side, key) {
    const folder = this.data.folders.find((entry) => entry.key === key);
    const names = this.drawn(folder).map((raster) => raster.name);
    const before = this.state[side].raster;
    this.state[side] = { folder: key, raster: names.includes(before) ? before : names[0] };
    this.show();
  }

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { state, data } = this;
    const names = this.drawn(this.folder("a")).map((raster) => raster.name);
    const actions = {
      s: () => (state.view = state.view === "swipe" ? "single" : "swipe"),
      l: () => (state.a.raster = names[(names.indexOf(state.a.raster) + 1) % names.length]),
      i: () => (state.image = !state.image),
      f: () => this.map.fitBounds(this.whole),
      "[": () => this.divide(state.divided - 0.05),
      "]": () => this.divide(state.divided + 0.05),
    };
    const number = Number(event.key);
    if (event.key >= "1" && event.key <= "9" && data.folders[number - 1]) {
      event.preventDefault();
      this.choose("a", data.folders[number - 1].key);
    } else if (Object.hasOwn(actions, event.key)) {
      event.preventDefault();
      actions[event.key]();
      this.show();
    }
  }

  async copyLink() {
    this.remember();
    history.replaceState(null, "", `#${this.written}`);
    try {
      await navigator.clipboard.writeText(location.href);
      ui("copied").textContent = "Copied.";
    } catch {
      ui("copied").textContent = "Copy the address of this page.";
    }
  }

  fillControls() {
    const { state } = this;
    const form = ui("controls");
    form.elements.view.value = state.view;
    form.elements.opacity.value = state.opacity;
    form.elements.image.checked = state.image;
    ui("opacity-value").textContent = `${state.opacity} %`;
    const isSwipe = state.view === "swipe";
    ui("side-b").hidden = !isSwipe;
    ui("name-a").textContent = isSwipe ? "Left" : "Map";
    for (const side of SIDES) {
      form.elements[`folder-${side}`].value = state[side].folder;
      const options = this.drawn(this.folder(side)).map((raster) => {
        const option = element("option", raster.title);
        option.value = raster.name;
        return option;
      });
      form.elements[`raster-${side}`].replaceChildren(...options);
      form.elements[`raster-${side}`].value = state[side].raster;
      ui(`label-${side}`).textContent = this.nameOf(side);
    }
  }

  /* What stands on the map at a side: the day where the maps differ by it, else the name. */
  nameOf(side) {
    const [one, other] = SIDES.map((entry) => this.folder(entry));
    const folder = this.folder(side);
    const raster = this.raster(side).title;
    if (one === other) return raster;
    return [folder.days || folder.title, one.days === other.days ? folder.title : ""].filter(Boolean).join(" · ");
  }

  fillLegends() {
    const { data } = this;
    const rasters = this.shownSides().map((side) => this.raster(side));
    const told = new Set();
    const sections = [];
    for (const raster of rasters) {
      const key = raster.legend || raster.title;
      if (told.has(key) || raster.kind === "image") continue;
      told.add(key);
      sections.push(raster.kind === "share" ? this.rampSection(raster) : this.classSection(raster));
    }
    if (rasters.some((raster) => raster.folder.rasters.status && raster.kind !== "image")) {
      const section = element("section");
      section.append(element("h2", "Without a class"));
      const list = element("ul", "", "classes");
      list.append(
        ...data.no_class.map((kind) => {
          const item = element("li");
          item.append(named(hatch(kind), kind.title));
          return item;
        }),
      );
      section.append(list);
      sections.push(section);
    }
    ui("legends").replaceChildren(...sections);
  }

  classSection(raster) {
    const { entries } = this.data.legends[raster.legend];
    const hidden = this.hidden[raster.legend];
    const section = element("section");
    const title = element("h2", raster.title);
    const all = element("button", hidden.size ? "Show all" : "Hide all", "link");
    all.type = "button";
    all.dataset.legend = raster.legend;
    all.value = "all";
    title.append(all);
    const list = element("ul", "", "classes");
    for (const entry of entries) {
      const button = named(rgb(entry.color), entry.title, "button");
      button.type = "button";
      button.value = entry.value;
      button.dataset.legend = raster.legend;
      button.classList.add("toggle");
      button.setAttribute("aria-pressed", !hidden.has(entry.value));
      const item = element("li");
      item.append(button);
      list.append(item);
    }
    section.append(title, list);
    return section;
  }

  rampSection(raster) {
    const section = element("section");
    const bar = element("div", "", "ramp-colors");
    bar.style.background = rampGradient();
    const ends = element("div", "", "ramp-ends");
    const told = { confidence: "probability of the class", doubt: "unlike the training", difference: "share that moved" };
    ends.append(element("span", "0 %"), element("span", told[raster.name] ?? ""), element("span", "100 %"));
    section.append(element("h2", raster.title), bar, ends);
    return section;
  }

  toggle(key, value) {
    const hidden = this.hidden[key];
    if (value === "all") {
      const values = this.data.legends[key].entries.map((entry) => entry.value);
      this.hidden[key] = new Set(hidden.size ? [] : values);
    } else if (!hidden.delete(Number(value))) hidden.add(Number(value));
    this.showHidden(key);
  }

  showAlone(key, value) {
    const others = this.data.legends[key].entries.map((entry) => entry.value).filter((entry) => entry !== value);
    this.hidden[key] = new Set(others);
    this.showHidden(key);
  }

  showHidden(key) {
    for (const button of document.querySelectorAll("#legends .toggle")) {
      button.setAttribute("aria-pressed", !this.hidden[button.dataset.legend].has(Number(button.value)));
    }
    for (const button of document.querySelectorAll("#legends .link")) {
      button.textContent = this.hidden[button.dataset.legend].size ? "Show all" : "Hide all";
    }
    for (const layer of Object.values(this.layers)) {
      if (layer?.raster.legend === key) layer.repaint();
    }
    this.remember();
  }

  /* ---- Under the pointer ---- */

  connectPointer() {
    this.outline = L.rectangle([[0, 0], [0, 0]], { className: "outline", fill: false, interactive: false });
    this.map.on("mousemove click", (event) => this.point(event.latlng));
    // Who moves the map by keys has no pointer: the middle of the map is told.
    this.map.on("moveend", () => {
      if (this.map.getContainer().matches(":focus-visible")) this.point(this.map.getCenter());
    });
  }

  point(place) {
    this.place = place;
    const { base, left, top } = this.frame;
    const [east, north] = [left + place.lng, top + place.lat];
    const [lon, lat] = lonLatOfUtm(east, north, base.zone, base.is_north);
    ui("cell-lonlat").textContent = lonLatText(lon, lat);
    ui("cell-utm").textContent = `UTM ${base.zone}${base.is_north ? "N" : "S"}: ${east.toFixed(0)} E, ${north.toFixed(0)} N`;
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.tellPlace(), REST_MS);
  }

  /* What lies at the place pointed at, of each folder that is shown. */
  async tellPlace() {
    const { place } = this;
    if (!place) return;
    this.asking?.abort();
    const { signal } = (this.asking = new AbortController());
    const [east, north] = [this.frame.left + place.lng, this.frame.top + place.lat];
    const sides = this.shownSides();
    const folders = [...new Set(sides.map((side) => this.folder(side)))];
    try {
      const found = await Promise.all(folders.map((folder) => valuesAt(folder, east, north, signal)));
      if (signal.aborted) return;
      const several = folders.length > 1;
      ui("cells").replaceChildren(
        ...folders.map((folder, index) => this.cellText(folder, found[index], several ? this.nameOf(sides[index]) : "")),
      );
      this.drawOutline(folders[0], east, north);
    } catch (error) {
      if (error.name !== "AbortError") this.tell(error.message);
    }
  }

  drawOutline(folder, east, north) {
    const raster = Object.values(folder.rasters)[0];
    const col = Math.floor((east - raster.origin_m[0]) / raster.pixel_m);
    const row = Math.floor((raster.origin_m[1] - north) / raster.pixel_m);
    const inside = row >= 0 && col >= 0 && row < raster.shape[0] && col < raster.shape[1];
    if (folder.toOwn || !inside) {
      this.outline.remove(); // in another zone a cell is no rectangle of this one
      return;
    }
    const x = raster.origin_m[0] + col * raster.pixel_m - this.frame.left;
    const y = raster.origin_m[1] - row * raster.pixel_m - this.frame.top;
    this.outline.setBounds([[y, x], [y - raster.pixel_m, x + raster.pixel_m]]).addTo(this.map);
  }

  cellText(folder, values, name) {
    const { data } = this;
    const box = element("div", "", "cell");
    if (name) box.append(element("p", name, "side-name"));
    const entryOf = (raster, value) =>
      data.legends[folder.rasters[raster]?.legend]?.entries.find((entry) => entry.value === value);
    const share = (steps) => (steps > data.share_steps ? "" : `, ${fixed((100 * steps) / data.share_steps, 1)} %`);
    const main = folder.kind === "map" ? "landuse" : "change";
    const value = values[main]?.[0];
    const entry = entryOf(main, value);
    const kind = data.no_class.find((one) => one.status === values.status?.[0]);
    const title = element("p", "", "cell-class");
    if (entry) title.append(swatch(rgb(entry.color)), element("span", entry.title + share(values.confidence?.[0] ?? 255)));
    else if (kind) title.append(swatch(hatch(kind)), element("span", kind.title));
    else title.append(element("span", value === undefined ? "Outside the area" : value === data.nodata_id ? "No class" : `Value ${value}`));
    box.append(title);
    const second = entryOf("landuse", values.second?.[0]);
    if (second) box.append(element("p", `then ${second.title}${share(values.second[1])}`));
    const cover = entryOf("cover", values.cover?.[0]);
    if (cover) box.append(element("p", `Land cover: ${cover.title}`));
    const extras = [];
    if (values.doubt?.[0] <= data.share_steps) extras.push(`Doubt${share(values.doubt[0]).replace(",", "")}`);
    if (values.difference?.[0] <= data.share_steps) extras.push(`Moved${share(values.difference[0]).replace(",", "")} of its probability`);
    extras.forEach((text) => box.append(element("p", text)));
    return box;
  }
}

function fillHead(data) {
  const names = data.folders.map((folder) => folder.title);
  document.title = `${names.join(", ")} · landuse view`;
  ui("title").textContent = names.slice(0, 3).join(", ") + (names.length > 3 ? ` and ${names.length - 3} more` : "");
  const raster = Object.values(data.folders[0].rasters)[0];
  const [rows, cols] = raster.shape;
  const parts = [data.folders[0].days, `${cols} × ${rows} cells of ${raster.pixel_m} m`].filter(Boolean);
  ui("subtitle").textContent = parts.map((part) => part.replaceAll(" ", "\u00a0")).join(" · ");
  ui("attribution").textContent = data.attribution;
}

let viewer; // of the page's one map

try {
  const data = JSON.parse(ui("data").textContent);
  fillHead(data);
  viewer = new Viewer(data);
} catch (error) {
  ui("trouble").textContent = `The maps cannot be drawn (${error.message}). Open this page with a current browser.`;
  ui("trouble").hidden = false;
  throw error;
}
