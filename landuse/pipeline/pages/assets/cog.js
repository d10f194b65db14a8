"use strict";

/* Reads cloud-optimised GeoTIFFs as landuse writes them by HTTP ranges: bytes, in tiles, plain or deflated.

   Everything in a file is hostile until it was checked: no number of it decides how much is allocated, read
   or looped over beyond the bounds below. */

const HEAD_BYTES = 65536;
const MOST_TILES = 4e6; // of one level
const MOST_LEVELS = 32;
const MOST_TILE_PX = 2048;
const MOST_STORED_BYTES = 32e6; // of one tile, as it is stored
const DEFLATE = [8, 32946];

/* So many bytes of unpacked tiles are kept, those used last. */
const KEPT_BYTES = 64e6;

class ChangedOnDisk extends Error {}

/* One file behind HTTP. All answers are of the same state of it: a later one is refused. */
class RangedFile {
  constructor(url) {
    Object.assign(this, { url, etag: null });
  }

  /* Bytes from one place on; fewer where the file ends. */
  async read(start, length, signal) {
    const headers = { Range: `bytes=${start}-${start + length - 1}` };
    if (this.etag) headers["If-Match"] = this.etag;
    // A browser's cache lets ranges of one address wait for each other, so it is left out.
    const answer = await fetch(this.url, { headers, signal, cache: "no-store" });
    if (answer.status === 412) throw new ChangedOnDisk(`${this.url} was made again. Load this page anew.`);
    if (answer.status !== 206) throw new Error(`${this.url} answers ${answer.status} where 206 is expected`);
    this.etag ??= answer.headers.get("ETag");
    return new Uint8Array(await answer.arrayBuffer());
  }
}

/* The numbers of a field. ``file`` gives bytes that the head does not hold. */
async function numbersOf(field, file, head, big) {
  const sizes = { 1: 1, 3: 2, 4: 4, 16: 8 };
  const size = sizes[field.type];
  if (!size) throw new Error(`a field of type ${field.type} where whole numbers are expected`);
  const bytes = size * field.count;
  if (field.count > MOST_TILES) throw new Error(`a table of ${field.count} numbers`);
  let view;
  if (bytes <= (big ? 8 : 4)) view = new DataView(head.buffer, head.byteOffset + field.at, bytes);
  else {
    const start = field.offset;
    const inHead = start + bytes <= head.length;
    const found = inHead ? head.subarray(start, start + bytes) : await file.read(start, bytes);
    if (found.length !== bytes) throw new Error("it ends within a table");
    view = new DataView(found.buffer, found.byteOffset, bytes);
  }
  const values = new Float64Array(field.count);
  for (let i = 0; i < field.count; i += 1) {
    if (size === 1) values[i] = view.getUint8(i);
    else if (size === 2) values[i] = view.getUint16(2 * i, true);
    else if (size === 4) values[i] = view.getUint32(4 * i, true);
    else values[i] = Number(view.getBigUint64(8 * i, true));
  }
  return values;
}

/* Where each level's directory lies, and its fields: from the finest level to the coarsest. */
async function directoriesOf(file) {
  const head = await file.read(0, HEAD_BYTES);
  const start = new DataView(head.buffer, head.byteOffset, head.length);
  if (head.length < 16 || start.getUint16(0, true) !== 0x4949) throw new Error("it is no little-endian TIFF");
  const version = start.getUint16(2, true);
  const big = version === 43;
  if (!big && version !== 42) throw new Error(`it is a TIFF of version ${version}`);
  const pointer = (view, at) => (big ? Number(view.getBigUint64(at, true)) : view.getUint32(at, true));
  const [countBytes, entryBytes] = big ? [8, 20] : [2, 12];
  const found = [];
  let at = big ? pointer(start, 8) : pointer(start, 4);
  while (at) {
    if (found.length === MOST_LEVELS) throw new Error(`it has more than ${MOST_LEVELS} levels`);
    // A directory of a hundred fields, with the pointer to the next one.
    const needed = countBytes + 100 * entryBytes + 8;
    const inHead = at + needed <= head.length;
    const bytes = inHead ? head.subarray(at, at + needed) : await file.read(at, needed);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const count = big ? Number(view.getBigUint64(0, true)) : view.getUint16(0, true);
    if (count > 100) throw new Error(`a directory of ${count} fields`);
    const fields = new Map();
    for (let index = 0; index < count; index += 1) {
      const from = countBytes + index * entryBytes;
      const length = big ? Number(view.getBigUint64(from + 4, true)) : view.getUint32(from + 4, true);
      const inline = from + (big ? 12 : 8);
      fields.set(view.getUint16(from, true), {
        type: view.getUint16(from + 2, true),
        count: length,
        at: inline,
        offset: pointer(view, inline),
        bytes,
      });
    }
    found.push(fields);
    at = pointer(view, countBytes + count * entryBytes);
  }
  return { found, head, big };
}

async function inflateAll(bytes, expected) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const reader = stream.getReader();
  const whole = new Uint8Array(expected);
  let filled = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (filled + value.length > expected) {
      await reader.cancel();
      throw new Error("a tile unpacks to more than its size");
    }
    whole.set(value, filled);
    filled += value.length;
  }
  if (filled !== expected) throw new Error("a tile unpacks to less than its size");
  return whole;
}

/* Undo TIFF's horizontal differences, row by row. */
function accumulate(values, rows, rowBytes, step) {
  for (let row = 0; row < rows; row += 1) {
    const end = (row + 1) * rowBytes;
    for (let at = row * rowBytes + step; at < end; at += 1) values[at] += values[at - step];
  }
}

/* Unpacked tiles of all rasters, those used last, and what is being fetched. */
class TileStore {
  constructor() {
    Object.assign(this, { kept: new Map(), bytes: 0, most: KEPT_BYTES, read: 0, coming: new Map() });
  }

  peek(key) {
    const values = this.kept.get(key);
    if (values) {
      this.kept.delete(key);
      this.kept.set(key, values);
    }
    return values;
  }

  put(key, values) {
    this.kept.set(key, values);
    this.bytes += values.length;
    this.read += 1;
    for (const [old, held] of this.kept) {
      if (this.bytes <= this.most) break;
      this.kept.delete(old);
      this.bytes -= held.length;
    }
  }

  /* A tile: at once where it is kept, else a promise. ``signal`` withdraws this wish for it; the request ends
     when nobody wishes for it any more. */
  get(key, fetchTile, signal) {
    const values = this.peek(key);
    if (values) return values;
    let coming = this.coming.get(key);
    if (!coming) {
      coming = { control: new AbortController(), users: 0 };
      coming.promise = fetchTile(coming.control.signal).then(
        (found) => {
          this.coming.delete(key);
          this.put(key, found);
          return found;
        },
        (error) => {
          if (this.coming.get(key) === coming) this.coming.delete(key);
          throw error;
        },
      );
      this.coming.set(key, coming);
    }
    coming.users += 1;
    signal?.addEventListener("abort", () => {
      coming.users -= 1;
      if (coming.users > 0 || this.coming.get(key) !== coming) return;
      this.coming.delete(key);
      coming.control.abort();
    });
    return coming.promise;
  }
}

/* One raster: its levels, and the tiles of each. */
class Cog {
  constructor(url, bands, nodata, store) {
    Object.assign(this, { url, bands, nodata, store, file: new RangedFile(url) });
  }

  /* Its levels, from the finest to the coarsest; read once. */
  levels() {
    this.opened ??= this.open().catch((error) => {
      this.opened = undefined;
      throw error instanceof ChangedOnDisk ? error : new Error(`${this.url} cannot be read: ${error.message}`);
    });
    return this.opened;
  }

  async open() {
    const { found, head, big } = await directoriesOf(this.file);
    const levels = [];
    for (const fields of found) {
      const numbers = async (tag, otherwise) => {
        const field = fields.get(tag);
        if (!field) {
          if (otherwise === undefined) throw new Error(`it has no field ${tag}`);
          return [otherwise];
        }
        // What is in the directory itself is read from its own bytes.
        const size = { 1: 1, 3: 2, 4: 4, 16: 8 }[field.type];
        const inline = size * field.count <= (big ? 8 : 4);
        return numbersOf(field, this.file, inline ? field.bytes : head, big);
      };
      const number = async (tag, otherwise) => (await numbers(tag, otherwise))[0];
      if ((await number(254, 0)) & 4) continue; // a mask
      const level = {
        cols: await number(256),
        rows: await number(257),
        tileCols: await number(322),
        tileRows: await number(323),
        compression: await number(259, 1),
        predictor: await number(317, 1),
        isPlanar: (await number(284, 1)) === 2,
      };
      const bits = await numbers(258, 1);
      const bands = await number(277, 1);
      if (bands !== this.bands || bits.some((width) => width !== 8)) {
        throw new Error(`it has ${bands} bands of ${bits[0]} bits, not ${this.bands} of 8`);
      }
      if (level.compression !== 1 && !DEFLATE.includes(level.compression)) {
        throw new Error(`its compression ${level.compression} is not deflate`);
      }
      if (level.predictor !== 1 && level.predictor !== 2) throw new Error(`its predictor is ${level.predictor}`);
      const sides = [level.tileCols, level.tileRows];
      if (sides.some((side) => !(side >= 16 && side <= MOST_TILE_PX))) throw new Error(`its tiles are ${sides}`);
      if (!(level.cols > 0 && level.rows > 0)) throw new Error("it has no pixels");
      level.across = Math.ceil(level.cols / level.tileCols);
      level.down = Math.ceil(level.rows / level.tileRows);
      level.offsets = await numbers(324);
      level.sizes = await numbers(325);
      const tiles = level.across * level.down * (level.isPlanar ? bands : 1);
      if (level.offsets.length !== tiles || level.sizes.length !== tiles) throw new Error("its tables of tiles differ");
      levels.push(level);
    }
    if (levels.length === 0) throw new Error("it has no level");
    return levels.sort((a, b) => b.cols - a.cols);
  }

  /* The values of a tile, (row, col, band) as bytes, at once or promised. */
  tile(levels, index, row, col, signal) {
    const level = levels[index];
    const key = `${this.url} ${index} ${row} ${col}`;
    return this.store.get(key, (stop) => this.fetchTile(level, row, col, stop), signal);
  }

  async fetchTile(level, row, col, signal) {
    const place = row * level.across + col;
    if (!level.isPlanar) return this.fetchPart(level, place, this.bands, signal);
    const whole = new Uint8Array(level.tileRows * level.tileCols * this.bands);
    for (let band = 0; band < this.bands; band += 1) {
      const part = await this.fetchPart(level, place + band * level.across * level.down, 1, signal);
      for (let at = 0; at < part.length; at += 1) whole[at * this.bands + band] = part[at];
    }
    return whole;
  }

  async fetchPart(level, place, bands, signal) {
    const expected = level.tileRows * level.tileCols * bands;
    const [offset, size] = [level.offsets[place], level.sizes[place]];
    if (size === 0) return new Uint8Array(expected).fill(this.nodata); // never written
    if (size > MOST_STORED_BYTES) throw new Error(`${this.url} has a tile of ${size} bytes`);
    const stored = await this.file.read(offset, size, signal);
    if (stored.length !== size) throw new Error(`${this.url} ends within a tile`);
    const values = level.compression === 1 ? stored : await inflateAll(stored, expected);
    if (values.length !== expected) throw new Error(`${this.url} has a tile of another size`);
    if (level.predictor === 2) accumulate(values, level.tileRows, level.tileCols * bands, bands);
    return values;
  }
}
