"use strict";

/* What stands beside the map. Every text may be hostile: it is only ever set as text. */

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

/* Halves are rounded to even, as Python does: page, terminal and preview say the same. */
function fixed(value, digits) {
  const form = { minimumFractionDigits: digits, maximumFractionDigits: digits, roundingMode: "halfEven" };
  return value.toLocaleString("en", form);
}

/* A share that is there never reads 0.0, and one that is not whole never 100.0. */
function percent(share) {
  if (share > 0 && share < 0.0005) return "<0.1";
  if (share < 1 && share > 0.9995) return ">99.9";
  return fixed(100 * share, 1);
}

function rgb(color) {
  return `rgb(${color.join(" ")})`;
}

function hatch(kind) {
  return `repeating-linear-gradient(135deg, ${rgb(kind.stripe)} 0 3px, ${rgb(kind.color)} 3px 6px)`;
}

function swatch(background) {
  const made = element("span", "", "swatch");
  made.style.background = background;
  return made;
}

function row(cells) {
  const made = document.createElement("tr");
  made.append(...cells);
  return made;
}

function heading(...content) {
  const made = element("th");
  made.scope = "row";
  made.append(...content);
  return made;
}

function named(background, title, tag = "span") {
  const made = element(tag, "", "named");
  made.append(swatch(background), element("span", title, "foreign"));
  return made;
}

function fillPanel(data) {
  const put = (id, text) => {
    document.getElementById(id).textContent = text;
  };
  const used = data.scenes.filter((scene) => !scene.spare);
  const days = (used.length ? used : data.scenes).map((scene) => scene.acquired.slice(0, 10)).sort();
  const span = days[0] === days.at(-1) ? days[0] : `${days[0]} to ${days.at(-1)}`;
  const totalKm2 = (data.cover.cells * data.cell_m ** 2) / 1e6;
  document.title = `${data.title} · land use`;
  put("title", data.title);
  const parts = [span, `${fixed(totalKm2, 2)} km²`, `${data.cell_m} m cells`].filter(Boolean);
  put("subtitle", parts.map((part) => part.replaceAll(" ", "\u00a0")).join(" · ")); // lines break between parts
  fillDetail(data);
  fillWarnings(data.warnings);
  fillCover(data);
  fillScenes(data);
  fillAbout(data);
  fillFiles(data.files);
  put("citation", data.citation);
  put("attribution", data.attribution);
}

/* What the page leaves out of the map, so that it stays small. */
function fillDetail(data) {
  const { shown_m: shownM } = data.cells;
  const told = [];
  if (shownM > data.cell_m) told.push(`of each square of ${shownM} m the cell of ${data.cell_m} m in its upper left corner`);
  if (data.share_step > 1) told.push(`probabilities in steps of ${fixed((100 * data.share_step) / data.share_steps, 0)} %`);
  if (told.length === 0) return;
  const detail = document.getElementById("detail");
  detail.hidden = false;
  detail.textContent = `This page shows ${told.join(", and ")}. The files beside it hold all; areas are counted on all cells.`;
}

function fillWarnings(warnings) {
  document.getElementById("warnings").hidden = warnings.length === 0;
  document.querySelector("#warnings ul").append(...warnings.map((warning) => element("li", warning)));
}

/* The table of areas of the classes or of the covers; each name hides its class on the map and shows it. */
function fillAreas(layer) {
  const titles = new Map(layer.legend.map((entry) => [entry.id, entry]));
  const largest = Math.max(...layer.areas.map((area) => area.share));
  const areas = [...layer.areas].sort((a, b) => b.area_m2 - a.area_m2);
  const figures = (m2, share) => [
    element("td", fixed(m2 / 1e4, 1)),
    element("td", fixed(m2 / 1e6, 2)),
    element("td", percent(share)),
  ];
  const rows = areas.map((area) => {
    const color = rgb(titles.get(area.id).color);
    const bar = element("span", "", "bar");
    bar.style.background = color;
    bar.style.width = `${(100 * area.share) / largest}%`;
    const button = named(color, titles.get(area.id).title, "button");
    button.type = "button";
    button.value = area.id;
    button.classList.add("toggle");
    return row([heading(button, bar), ...figures(area.area_m2, area.share)]);
  });
  document.querySelector("#areas tbody").replaceChildren(...rows);
  const total = areas.reduce((sum, area) => sum + area.area_m2, 0);
  const whole = row([heading("Classified"), ...figures(total, total ? 1 : 0)]);
  document.querySelector("#areas tfoot").replaceChildren(whole);
  const found = new Set(areas.map((area) => area.id));
  const absent = layer.legend.filter((entry) => !found.has(entry.id)).map((entry) => entry.title);
  document.getElementById("absent").textContent = absent.length ? `Not found: ${absent.join(", ")}` : "";
}

function fillCover(data) {
  const shares = [
    { title: "Classified", share: data.cover.valid, background: "var(--accent)" },
    ...data.no_class.map((kind) => ({ ...kind, share: data.cover[kind.share], background: hatch(kind) })),
  ];
  for (const entry of shares) {
    const piece = element("span");
    piece.style.background = entry.background;
    piece.style.flexGrow = entry.share;
    piece.hidden = !entry.share;
    document.getElementById("cover-bar").append(piece);
    const line = element("li");
    line.append(named(entry.background, entry.title), element("span", entry.share === null ? "not checked" : `${percent(entry.share)} %`));
    document.getElementById("cover").append(line);
  }
  const doubt = document.getElementById("doubt");
  doubt.hidden = data.cover.doubtful === null;
  doubt.textContent = `${percent(data.cover.doubtful)} % of what is mapped is unlike the imagery that the model was trained on.`;
}

function fillScenes(data) {
  const ways = {
    best: "Of each pixel the best observation is used, in this order of preference.",
    median: "Of each pixel the median of its clear observations is used.",
    medoid: "Of each pixel the clear observation nearest to their median is used.",
    dates: "Each date is classified by itself, and the probabilities of those clear at a pixel are averaged.",
  };
  const told = [ways[data.composite] ?? data.composite];
  if (data.season) told.push(`Imagery of ${data.season}.`);
  if (data.smooth_px) told.push(`Probabilities are smoothed over ${data.smooth_px} × ${data.smooth_px} pixels.`);
  document.getElementById("composite").textContent = told.join(" ");
  for (const scene of data.scenes) {
    const cloud = scene.cloud_percent === null ? "–" : fixed(scene.cloud_percent, 1);
    const acquired = `${scene.acquired.slice(0, 10)} ${scene.acquired.slice(11, 16)}`;
    const name = element("td", scene.id, "foreign id");
    const note = scene.spare ? `${scene.provider} · in reserve, not needed where others could be read` : scene.provider;
    name.append(element("span", note, "muted"));
    name.colSpan = 4;
    document.querySelector("#scenes tbody").append(
      row([heading(acquired), ...[scene.tile || "–", scene.level, cloud].map((text) => element("td", text, "foreign"))]),
      row([name]),
    );
  }
}

function fillAbout(data) {
  const [left, bottom, right, top] = data.bounds_m;
  const facts = [
    ["Model", data.model],
    ["Weights", `sha256 ${data.weights_sha256.slice(0, 16)}`],
    ["Software", `landuse ${data.version}`],
    ["Made", `${data.created.slice(0, 10)} ${data.created.slice(11, 16)} UTC`],
    ["Grid", `${data.crs}, cells of ${data.cell_m} m`],
    ["Extent", `${fixed((right - left) / 1000, 2)} × ${fixed((top - bottom) / 1000, 2)} km`],
    ["Image", `${data.image_bands.join(", ")} as red, green, blue`],
  ];
  for (const [name, value] of facts) {
    document.getElementById("about").append(element("dt", name), element("dd", value, "foreign"));
  }
}

function fillFiles(names) {
  const kinds = {
    "landuse.tif": "classes, GeoTIFF",
    "cover.tif": "land cover, GeoTIFF",
    "second.tif": "second class and its probability, GeoTIFF",
    "doubt.tif": "how unlike what the model was trained on, GeoTIFF",
    "confidence.tif": "probability of the class, GeoTIFF",
    "probabilities.tif": "probability of every class, GeoTIFF",
    "labels.tif": "probability of every label, GeoTIFF",
    "label_bits.tif": "labels that are there, a bit each, GeoTIFF",
    "status.tif": "why a cell has no class, GeoTIFF",
    "image.tif": "the image, GeoTIFF",
    "landuse.gpkg": "polygons, scenes and areas, GeoPackage",
    "item.json": "STAC item of this map",
    "model.json": "STAC item of the network",
    "run.json": "what was done, and every figure",
    "preview.png": "picture for slides",
  };
  for (const name of names) {
    const link = element("a", name, "foreign");
    link.href = `./${encodeURIComponent(name)}`;
    const entry = element("li");
    entry.append(link, element("span", kinds[name] ?? "", "muted"));
    document.getElementById("files").append(entry);
  }
}
