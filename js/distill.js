/**
 * Read a student file and predict with it, without dependencies, in browsers and Node.
 *
 *     import { load } from "mbn-distill";
 *     const student = load(await (await fetch("digits.student")).arrayBuffer());
 *     student.predict(pixels);
 *
 * This file follows docs/format.md of the Python package: bytes, entropy-coded symbols, random numbers, layers, the
 * sections before them, the file, predictions. Weights have the same bits as in Python. The outputs of a layer are sums
 * in float64 over its inputs in their order, then the bias, rounded to float32.
 */

/** The bytes are not a student file that this version can read; the message names the reason. */
export class StudentFileError extends Error {
  name = "StudentFileError";
}

// Short names of these keep the file small
const { ceil, exp, floor, fround, imul, max, min, sqrt } = Math;
const list = (length, make) => Array.from({ length }, (_, index) => make(index));
const varints = (count) => list(count, () => varint());
const sum = (values) => values.reduce((a, b) => a + b, 0);
const product = (values) => values.reduce((a, b) => a * b, 1);
const areFinite = (values) => values.every(Number.isFinite);

// Methods, and functions of the outputs, as numbers in a file
const PREDICT = 0;
const PROBABILITIES = 1;
const TRANSFORM = 2;
const SOFTMAX = 1;
const LOGISTIC = 2;
const RELU = 3;
const relu = (x) => (x < 0 ? 0 : x); // NaN stays NaN
const logistic = (x) => 1 / (1 + exp(-x));
const ACTIVATIONS = [(x) => x, relu, Math.tanh, logistic];

// ---------------------------------------------------------------------------------------------------------------------
// Bytes

/** The bytes that are being read, the place and the end of what may be read, and its name: one file at a time. */
let [bytes, at, end, where] = [];

function refuse(reason) {
  throw new StudentFileError(reason);
}

function demand(condition, what = "content") {
  if (!condition) refuse(`${where} is damaged (${what})`);
}

function take(count) {
  demand(count <= end - at, "length");
  at += count;
  return bytes.subarray(at - count, at);
}

function byte() {
  return take(1)[0];
}

function signedByte() {
  return (byte() << 24) >> 24;
}

/** An unsigned integer of up to 64 bits as BigInt: seven bits per byte, the lowest first, without zeros at the end. */
function bigVarint() {
  let value = 0n;
  for (let shift = 0n; shift < 64n; shift += 7n) {
    const part = byte();
    value |= BigInt(part & 127) << shift;
    if (part < 128) {
      demand(!(value >> 64n) && (part || !shift));
      return value;
    }
  }
  return demand(0);
}

function varint(limit = 2 ** 32 - 1) {
  const value = bigVarint();
  demand(value <= limit);
  return Number(value);
}

/** A signed integer of 64 bits as BigInt. */
function zigzag() {
  const value = bigVarint();
  return (value >> 1n) ^ -(value & 1n);
}

function string() {
  const text = take(varint());
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(text);
  } catch {
    return demand(0, "names");
  }
}

/** Packed codes of up to 32 bits. */
function packed(width, count) {
  const data = take(ceil((count * width) / 8));
  const codes = new Uint32Array(count);
  let [place, used] = [0, 0]; // the byte, and how many of its bits have been taken
  for (let index = 0; index < count; index++) {
    for (let got = 0; got < width;) {
      const bits = min(8 - used, width - got);
      codes[index] |= ((data[place] >> used) & ((1 << bits) - 1)) << got;
      got += bits;
      used += bits;
      if (used > 7) {
        place++;
        used = 0;
      }
    }
  }
  demand(!used || !(data[place] >> used));
  return codes;
}

/** The number of bits of packed codes with this many different values. */
function widthOf(nValues) {
  return nValues > 1 ? 32 - Math.clz32(nValues - 1) : 0;
}

/** Floats of `size` bytes: Float64Array for 8, else Float32Array. */
function floats(size, count, data = take(size * count)) {
  // Neither the place of the bytes nor the byte order of the machine need be right for a typed array
  const view = new DataView(data.buffer, data.byteOffset);
  const values = new (size > 4 ? Float64Array : Float32Array)(count);
  for (let index = 0; index < count; index++) {
    const place = size * index;
    values[index] =
      size > 4
        ? view.getFloat64(place, true)
        : size > 2
          ? view.getFloat32(place, true)
          : half(view.getUint16(place, true));
  }
  return values;
}

/** The value of a float of 16 bits. */
function half(bits) {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  // A number that is not finite is never valid, whichever it is
  const size = exponent > 30 ? NaN : exponent ? (fraction + 1024) * 2 ** (exponent - 25) : fraction / 2 ** 24;
  return bits >> 15 ? -size : size;
}

function finiteFloats(size, count) {
  const values = floats(size, count);
  demand(areFinite(values));
  return values;
}

/** Floats of 16 bits times a power of two, rounded to float32. */
function halfArray(count) {
  const factor = 2 ** signedByte();
  const values = floats(2, count).map((value) => value * factor);
  demand(areFinite(values));
  return values;
}

function crc32(data) {
  let crc = -1;
  for (const part of data) {
    crc ^= part;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (-(crc & 1) & 0xedb88320);
  }
  return ~crc >>> 0;
}

/** Raw deflate data (RFC 1951) of exactly `length` bytes when inflated; refuses what zlib refuses. */
function inflate(data, length) {
  const output = new Uint8Array(length);
  let [next, bit] = [0, 0]; // places in output (bytes) and data (bits)
  const check = (condition) => demand(condition, "names");

  function bits(count) {
    let value = 0;
    for (let index = 0; index < count; index++, bit++) {
      check(bit >>> 3 < data.length);
      value |= ((data[bit >>> 3] >> (bit & 7)) & 1) << index;
    }
    return value;
  }

  function write(value) {
    check(next < length);
    output[next++] = value;
  }

  /** A canonical Huffman code: symbols at the places of their bits, which follow a 1. */
  function huffman(lengths, mayBeIncomplete) {
    const symbols = [];
    let code = 0;
    for (let size = 1; size < 16; size++) {
      code *= 2;
      lengths.forEach((found, symbol) => {
        if (found == size) symbols[2 ** size + code++] = symbol;
      });
      check(code <= 2 ** size);
    }
    // Only a single code of one bit, or none at all, may leave others unused
    check(code > 32767 || (mayBeIncomplete && max(...lengths) < 2));
    return symbols;
  }

  function symbolIn(symbols) {
    let code = 1;
    while (!(code in symbols)) {
      code = 2 * code + bits(1);
      check(code < 65536);
    }
    return symbols[code];
  }

  /** The two codes of a block that brings its own. */
  function ownCodes() {
    const [nLiterals, nDistances, nLengths] = [bits(5) + 257, bits(5) + 1, bits(4) + 4];
    check(nLiterals < 287 && nDistances < 31);
    const sizes = Array(19).fill(0);
    [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]
      .slice(0, nLengths)
      .forEach((size) => (sizes[size] = bits(3)));
    const code = huffman(sizes);
    const lengths = [];
    while (lengths.length < nLiterals + nDistances) {
      let symbol = symbolIn(code);
      let count = 1;
      if (symbol == 16) {
        symbol = lengths.at(-1);
        count = 3 + bits(2);
        check(lengths.length);
      } else if (symbol > 16) {
        count = symbol > 17 ? 11 + bits(7) : 3 + bits(3);
        symbol = 0;
      }
      while (count--) lengths.push(symbol);
    }
    check(lengths.length == nLiterals + nDistances && lengths[256]);
    return [huffman(lengths.slice(0, nLiterals), 1), huffman(lengths.slice(nLiterals), 1)];
  }

  /** A length or distance less the smallest one: each group of symbols has one more bit than the group before. */
  function extent(symbol, groupSize) {
    const more = max(floor(symbol / groupSize) - 1, 0);
    return (symbol < groupSize ? symbol : (groupSize + (symbol % groupSize)) << more) + bits(more);
  }

  for (let isLast; !isLast;) {
    isLast = bits(1);
    const kind = bits(2);
    check(kind < 3);
    if (kind) {
      const fixed = list(288, (symbol) => (symbol < 144 || symbol > 279 ? 8 : symbol < 256 ? 9 : 7));
      const [literals, distances] = kind > 1 ? ownCodes() : [huffman(fixed), huffman(Array(32).fill(5))];
      for (let symbol; (symbol = symbolIn(literals)) != 256;) {
        if (symbol < 256) write(symbol);
        else {
          check(symbol < 286);
          let count = symbol > 284 ? 258 : 3 + extent(symbol - 257, 4);
          const far = symbolIn(distances);
          check(far < 30);
          const distance = 1 + extent(far, 2);
          check(distance <= next);
          while (count--) write(output[next - distance]);
        }
      }
    } else {
      bit = (bit + 7) & ~7;
      let count = bits(16);
      check(count + bits(16) == 65535);
      while (count--) write(bits(8));
    }
  }
  check(next == length && (bit + 7) >>> 3 == data.length);
  return output;
}

// ---------------------------------------------------------------------------------------------------------------------
// Entropy-coded symbols

/** Symbols with their frequencies. The caller bounds `count`: symbols of probability one take no bytes. */
function readSymbols(count, nSymbols) {
  const precision = byte();
  demand(precision && precision < 17);
  const frequencies = [];
  while (frequencies.length < nSymbols - 1) {
    const frequency = varint(2 ** precision);
    frequencies.push(frequency);
    if (!frequency) for (let more = varint(nSymbols - 1 - frequencies.length); more--;) frequencies.push(0);
  }
  return readMessage(count, precision, [frequencies]);
}

/** Symbols of a rANS message: `tables` has all frequencies but the last of each context, `contexts` each symbol's. */
function readMessage(count, precision, tables, contexts) {
  const [total, nSymbols] = [1 << precision, tables[0].length + 1];
  const symbolAt = new Uint16Array(tables.length * total);
  const [frequency, start] = list(2, () => new Uint32Array(tables.length * nSymbols));
  tables.forEach((table, context) => {
    const last = total - sum(table);
    demand(last >= 0);
    let first = 0;
    [...table, last].forEach((value, symbol) => {
      const row = context * nSymbols + symbol;
      frequency[row] = value;
      start[row] = first;
      symbolAt.fill(symbol, context * total + first, context * total + (first += value));
    });
  });

  const [nLanes, nWords] = [varint(1024), varint()];
  const words = take(2 * nWords);
  let next = 0;
  const take16 = () => {
    demand(next < nWords);
    return words[2 * next] | (words[2 * next++ + 1] << 8);
  };
  const many = nLanes > 1;
  // The only lane of a short message begins at zero, so that its state is low when no words are left
  const mayTake = () => many || next < nWords;
  const states = new Uint32Array(nLanes);
  for (let part = 0; part < 2; part++) {
    for (let lane = 0; lane < nLanes; lane++) if (mayTake()) states[lane] = states[lane] * 65536 + take16();
  }

  const symbols = new Uint16Array(count);
  for (let index = 0, lane = 0; index < count; index++) {
    const state = states[lane];
    const context = contexts ? contexts[index] : 0;
    const slot = state & (total - 1);
    const symbol = (symbols[index] = symbolAt[context * total + slot]);
    const row = context * nSymbols + symbol;
    states[lane] = frequency[row] * (state >>> precision) + slot - start[row];
    if (states[lane] < 65536 && mayTake()) states[lane] = states[lane] * 65536 + take16();
    if (++lane == nLanes) lane = 0;
  }
  demand(nLanes && next == nWords && states.every((state) => state == (many ? 65536 : 0)));
  return symbols;
}

// ---------------------------------------------------------------------------------------------------------------------
// Random numbers

/** The present 64-bit word, its upper and its lower half. BigInt, and variables beyond 31 bits, allocate memory. */
const word = new Uint32Array(2);

/** Upper half of the product of two unsigned integers of 32 bits. */
function upperHalf(a, b) {
  const al = a & 65535;
  const ah = a >>> 16;
  const bl = b & 65535;
  const bh = b >>> 16;
  const middle = ah * bl + ((al * bl) >>> 16);
  return ah * bh + (middle >>> 16) + ((al * bh + (middle & 65535)) >>> 16);
}

/** word = word * factor. */
function multiply(factorHigh, factorLow) {
  const low = word[1];
  word[0] = upperHalf(low, factorLow) + imul(word[0], factorLow) + imul(low, factorHigh);
  word[1] = imul(low, factorLow);
}

/** word = word ^ word >> count. */
function fold(count) {
  word[1] ^= (word[1] >>> count) | (word[0] << (32 - count));
  word[0] ^= word[0] >>> count;
}

/** word = mix(state + number g), the finalizer of splitmix64. */
function mix(stateHigh, stateLow, number) {
  word[0] = number / 2 ** 32;
  word[1] = number;
  multiply(0x9e3779b9, 0x7f4a7c15);
  const low = word[1] + stateLow;
  word[0] += stateHigh + low / 2 ** 32;
  word[1] = low;
  fold(30);
  multiply(0xbf58476d, 0x1ce4e5b9);
  fold(27);
  multiply(0x94d049bb, 0x133111eb);
  fold(31);
}

/** The state of the stream named by keys, in two halves. */
function stream(...keys) {
  word.fill(0);
  for (const key of keys) mix(word[0], word[1], key + 1);
  return [...word];
}

/** 0 .. count - 1 in the order of the words of a stream, by a radix sort. */
function permutation(seed, number, count) {
  const [stateHigh, stateLow] = stream(seed, 1, number);
  let [order, highs, lows] = list(3, () => new Uint32Array(count));
  for (let index = 0; index < count; index++) {
    mix(stateHigh, stateLow, index + 1);
    highs[index] = word[0];
    lows[index] = word[1];
    order[index] = index;
  }
  for (const words of [lows, highs]) {
    for (let shift = 0; shift < 32; shift += 8) {
      const starts = new Uint32Array(257);
      words.forEach((half) => starts[((half >>> shift) & 255) + 1]++);
      for (let digit = 0; digit < 256; digit++) starts[digit + 1] += starts[digit];
      const sorted = new Uint32Array(count);
      order.forEach((place) => (sorted[starts[(words[place] >>> shift) & 255]++] = place));
      order = sorted;
    }
  }
  return order;
}

/** Quantiles that have been computed; none is 0. */
const quantiles = new Float32Array(65536);

/**
 * The standard normal quantile of p = (index + 1/2) / 65536.
 *
 * Phi(x) = 1/2 + odd / (even sqrt(2 pi)), with odd and even the sums of x^n / n!! over odd and even n; a Newton step u
 * and two more terms of the series of the quantile lead from x to the next x. Only operations that IEEE 754 defines are
 * used, so that the value rounded to float32 has the same bits everywhere; Math.exp may differ between browsers.
 */
function quantile(index) {
  const gap = (0.5 - (index + 0.5) / 65536) * sqrt(2 * Math.PI);
  let x = 0;
  let u = 1;
  // What is left is of the size of u^4
  while (u * u > 1e-9) {
    const square = x * x;
    let even = 1;
    let odd = x;
    let evenTerm = 1;
    let oddTerm = x;
    for (let n = 2; evenTerm > 1e-17; n += 2) {
      even += evenTerm *= square / n;
      odd += oddTerm *= square / (n + 1);
    }
    u = -gap * even - odd;
    x += u * (1 + u * (x / 2 + (u * (1 + 2 * square)) / 6));
  }
  return x;
}

// ---------------------------------------------------------------------------------------------------------------------
// Layers: weights and biases, both Float32Array; the weights of the first input first

/** The reader of one layer of floats of `size` bytes. */
const dense = (size) => (nInputs, nOutputs) => [floats(size, nInputs * nOutputs), floats(size, nOutputs)];

/** 1 for each used input, else 0; the form is 0 for all, 1 for packed bits, 3 for coded ones. */
function readUsed(nInputs, form) {
  demand(form != 2);
  return form ? (form > 1 ? readSymbols(nInputs, 2) : packed(1, nInputs)) : new Uint8Array(nInputs).fill(1);
}

/** Weights of used inputs from a function of their number, input (among the used ones) and output; 0 for the others. */
function weightsOf(used, nOutputs, valueOf) {
  const weights = new Float32Array(used.length * nOutputs);
  let [number, row] = [0, 0];
  used.forEach((isUsed, input) => {
    if (!isUsed) return;
    for (let output = 0; output < nOutputs; output++)
      weights[input * nOutputs + output] = valueOf(number++, row, output);
    row++;
  });
  return weights;
}

/** Codes below `nCodewords` for each used input and each output. */
function readCodes(nUsed, nOutputs, nCodewords) {
  const [form, count] = [byte(), nUsed * nOutputs];
  demand(form < 3);
  if (!form) return below(nCodewords, packed(widthOf(nCodewords), count));
  if (form < 2) return readSymbols(count, nCodewords);
  const [nRows, nColumns] = [byte(), byte()];
  const nContexts = nRows * nColumns;
  demand(nContexts && nContexts <= 256);
  const [rows, columns] = [readSymbols(nUsed, nRows), readSymbols(nOutputs, nColumns)];
  const tables = list(nContexts, () => list(nCodewords - 1, () => varint(4096)));
  const contexts = new Uint8Array(count).map(
    (_, index) => rows[floor(index / nOutputs)] * nColumns + columns[index % nOutputs],
  );
  return readMessage(count, 12, tables, contexts);
}

function below(limit, codes) {
  demand(codes.every((code) => code < limit));
  return codes;
}

function codebook(nInputs, nOutputs) {
  const [flags, nCodewords, nGroups] = [byte(), byte() + 1, varint(nOutputs)];
  demand(flags < 16 && nGroups);
  const groups = flags & 2 ? below(nGroups, packed(widthOf(nGroups), nOutputs)) : readSizes(nGroups, nOutputs);
  const used = readUsed(nInputs, flags >> 2);
  const scaled = flags & 1;
  const codewords = halfArray(scaled ? nCodewords : nGroups * nCodewords);
  const scales = scaled && halfArray(nGroups);
  const biases = halfArray(nOutputs);
  const codes = readCodes(sum(used), nOutputs, nCodewords);
  const weightOf = (number, _, output) =>
    scaled ? codewords[codes[number]] * scales[groups[output]] : codewords[groups[output] * nCodewords + codes[number]];
  return [weightsOf(used, nOutputs, weightOf), biases];
}

/** The group of each output, where outputs are sorted by group. */
function readSizes(nGroups, nOutputs) {
  const groups = new Uint32Array(nOutputs).fill(nGroups - 1);
  for (let group = 0, first = 0; group < nGroups - 1; group++)
    groups.fill(group, first, (first += varint(nOutputs - first)));
  return groups;
}

function sparse(nInputs, nOutputs) {
  const flags = byte();
  demand(flags < 8);
  const size = flags & 1 ? 2 : 4;
  const used = readUsed(nInputs, (flags >> 1) & 1);
  const mask = readCodes(sum(used), nOutputs, 2);
  const values = flags & 4 ? splitFloats(size, sum(mask)) : floats(size, sum(mask));
  let next = 0;
  const weights = weightsOf(used, nOutputs, (number) => (mask[number] ? values[next++] : 0));
  return [weights, floats(size, nOutputs)];
}

/** Floats whose last bytes come first and are entropy-coded. */
function splitFloats(size, count) {
  const last = readSymbols(count, 256);
  const rest = size - 1;
  const others = take(count * rest);
  const place = (index) =>
    index % size < rest ? others[floor(index / size) * rest + (index % size)] : last[floor(index / size)];
  return floats(
    size,
    count,
    new Uint8Array(count * size).map((_, index) => place(index)),
  );
}

/** 2^(level / 4); a power that is no integer may differ between browsers in the last digit. */
function power(level) {
  return [1, 1.189207115002721, Math.SQRT2, 1.681792830507429][level & 3] * 2 ** (level >> 2);
}

function grid(nInputs, nOutputs) {
  const flags = byte();
  demand(flags < 64 && (flags & 20) != 16);
  const factor = signedByte();
  const used = readUsed(nInputs, flags & 3);
  const [columns, rows] = [readLevels(nOutputs), readLevels(sum(used) + 1)];
  // Standard deviations of predictions are left out, but their numbers are checked
  demand(
    !(flags & 8) || [rows, columns].every((levels) => levels.every((level) => fround(power(2 * level)) < Infinity)),
  );
  if (flags & 32) readLevels(rows.length).forEach((level, row) => (rows[row] += level));
  const valueOf = (code, row, output) => code * power(rows[row] + columns[output] + factor);
  const codes = readClassedCodes(rows.slice(0, -1), columns);
  const weights = weightsOf(used, nOutputs, (number, row, output) => valueOf(codes[number], row, output));
  const biases = new Float32Array(readIntegers(nOutputs).map((code, output) => valueOf(code, rows.length - 1, output)));
  if (flags & 4) demand(finiteFloats(4, nOutputs).every((noise) => noise >= 0));
  if (flags & 16) demand(finiteFloats(4, nOutputs).every((degrees) => degrees > 2));
  return [weights, biases];
}

function readLevels(count) {
  const lowest = byte() | (signedByte() << 8);
  return new Int32Array(readSymbols(count, varint(2047) + 1)).map((symbol) => lowest + symbol);
}

/** Codes of weights, which are stored in classes of similar steps. */
function readClassedCodes(rows, columns) {
  const nClasses = byte();
  demand(nClasses && nClasses < 17);
  const extreme = (choose) => rows.reduce((a, b) => choose(a, b), rows[0]) + columns.reduce((a, b) => choose(a, b));
  const [lowest, span] = [extreme(min), extreme(max) - extreme(min) + 1];
  const sizes = Array(nClasses).fill(0);
  const classes = new Uint8Array(rows.length * columns.length).map((_, index) => {
    const level = rows[floor(index / columns.length)] + columns[index % columns.length];
    const found = floor(((level - lowest) * nClasses) / span);
    sizes[found]++;
    return found;
  });
  const parts = sizes.map((size) => readIntegers(size));
  const next = sizes.fill(0);
  return new Float64Array(classes).map((found) => parts[found][next[found]++]);
}

function readIntegers(count) {
  const [top, nLow] = [byte(), byte()];
  demand(nLow < 25);
  const upper = readSymbols(count, top + 1);
  const lower = packed(nLow, count);
  const integers = new Float64Array(upper).map((value, index) => value * 2 ** nLow + lower[index]);
  const signs = packed(1, sum(integers.map((value) => (value ? 1 : 0))));
  let next = 0;
  return integers.map((value) => (value && signs[next++] ? -value : value));
}

/** All layers of the given shapes, from the codes of random numbers; `small` are those of section 21. */
function randomCode(shapes, small) {
  const bits = byte();
  const [seed, nBlocks] = [varint(), varint()];
  const factors = small ? shapes.map(() => 1) : varints(shapes.length);
  const extents = varints(varint(8));
  const sizes = shapes.map(product);
  if (extents.length) {
    const [nInputs, nOutputs] = shapes[0];
    demand(product(extents) == nInputs);
    const nWaves = varint(nInputs);
    // A few bytes of a forged file could demand any number of multiplications
    demand(nWaves && workOf(extents, nWaves, nOutputs) <= 2 ** 28);
    sizes[0] = nWaves * nOutputs;
  }
  demand(bits > 3 && bits < 25 && factors.every((factor, index) => factor && factor <= sizes[index]));
  const counts = shapes.flatMap(([, nOutputs], index) => [ceil(sizes[index] / factors[index]), nOutputs]);
  demand(nBlocks && nBlocks <= sum(counts));
  const scales = finiteFloats(2, counts.length);
  demand(scales.every((scale) => 1 / scale > 0)); // not -0
  const numbers = (small ? smallNumbers : blockNumbers)(seed, packed(bits, nBlocks), sum(counts), 2 ** bits);
  let used = 0;
  const parts = counts.map((count) => numbers.subarray(used, (used += count)));
  return shapes.map(([, nOutputs], index) => {
    let weights = shared(seed, index + 1, factors[index], parts[2 * index], sizes[index]);
    if (!index && extents.length) weights = synthesized(weights, extents, nOutputs);
    return [weights, parts[2 * index + 1]].map((values, isBias) =>
      values.map((value) => value * scales[2 * index + isBias]),
    );
  });
}

/** The numbers of the blocks with these codes, in the order of the layers. */
function blockNumbers(seed, codes, total) {
  const [order, numbers] = [permutation(seed, 0, total), new Float32Array(total)];
  codes.forEach((code, block) => {
    const [stateHigh, stateLow] = stream(seed, 0, block, code);
    for (let index = 0, place = block; place < total; index++, place += codes.length) {
      // A word has four indices of 16 bits
      if (!(index & 3)) mix(stateHigh, stateLow, index / 4 + 1);
      const pair = word[index & 2 ? 0 : 1];
      const found = index & 1 ? pair >>> 16 : pair & 65535;
      numbers[order[place]] = quantiles[found] ||= quantile(found);
    }
  });
  return numbers;
}

/** The same of section 21, with arithmetic of 32 bits. */
function smallNumbers(seed, codes, total, nCodes) {
  const mixed = (word) => {
    word = imul(word ^ (word >>> 16), 0x7feb352d);
    word = imul(word ^ (word >>> 15), 0x846ca68b);
    return word ^ (word >>> 16);
  };
  const common = (a, b) => (b ? common(b, a % b) : a);
  let stride = floor((total * 40503) / 65536);
  while (common(stride, total) > 1) stride++;
  let place = 0;
  const table = new Float32Array(256);
  return new Float32Array(total).map(() => {
    const [block, index] = [place % codes.length, floor(place / codes.length)];
    const state = mixed(mixed(seed + 0x9e3779b9) + imul(block * nCodes + codes[block] + 1, 0x9e3779b9));
    const found = (mixed(state + imul(index / 4 + 1, 0x9e3779b9)) >>> (8 * (index & 3))) & 255;
    place = (place + stride) % total;
    return (table[found] ||= quantile(256 * found + 127.5));
  });
}

/** The matrix in which each number stands for several weights. */
function shared(seed, number, factor, numbers, size) {
  if (factor < 2) return numbers;
  const weights = new Float32Array(size);
  permutation(seed, number, size).forEach((place, index) => {
    weights[place] = numbers[floor(index / factor)] * ((index % factor) & 1 ? -1 : 1);
  });
  return weights;
}

/** Multiplications of `synthesized`, at most. */
function workOf(extents, nWaves, nOutputs) {
  const kept = extents.map((extent) => min(extent, nWaves));
  return sum(
    kept.map((count, axis) => count * product(extents.slice(0, axis + 1)) * product(kept.slice(axis + 1)) * nOutputs),
  );
}

/** Weights on a grid of inputs from the amplitudes of its waves of lowest frequency; one axis after the other. */
function synthesized(amplitudes, extents, nOutputs) {
  const waves = lowestWaves(extents, amplitudes.length / nOutputs);
  const counts = extents.map((_, axis) => 1 + waves.reduce((most, wave) => max(most, wave[axis]), 0));
  const values = new Float32Array(product(counts) * nOutputs);
  waves.forEach((wave, index) => {
    const place = wave.reduce((total, number, axis) => total * counts[axis] + number, 0);
    values.set(amplitudes.subarray(index * nOutputs, (index + 1) * nOutputs), place * nOutputs);
  });
  return extents.reduce((given, extent, axis) => {
    const [count, inner, outer] = [
      counts[axis],
      product(counts.slice(axis + 1)) * nOutputs,
      product(extents.slice(0, axis)),
    ];
    const sums = new Float32Array(outer * extent * inner);
    for (let wave = 0; wave < count; wave++) {
      for (let x = 0; x < extent; x++) {
        const height = waveHeight(wave, x, extent);
        for (let o = 0; o < outer; o++) {
          const from = (o * count + wave) * inner;
          const to = (o * extent + x) * inner;
          for (let i = 0; i < inner; i++) sums[to + i] += fround(height * given[from + i]);
        }
      }
    }
    return sums;
  }, values);
}

/** The wave numbers of the lowest frequencies on a grid. */
function lowestWaves(extents, count) {
  const strides = extents.map((_, axis) => product(extents.slice(axis + 1)));
  const waveAt = (place) => extents.map((extent, axis) => floor(place / strides[axis]) % extent);
  const frequencies = new Float64Array(product(extents));
  const candidates = [];
  frequencies.forEach((_, place) => {
    const wave = waveAt(place);
    frequencies[place] = sum(wave.map((number, axis) => (number / extents[axis]) ** 2));
    // Waves that are not higher along any axis come before this one: of a large grid few waves are sorted
    if (product(wave.map((number) => number + 1)) <= count) candidates.push(place);
  });
  // The sort is stable: waves of one frequency stay in the order of the grid
  return candidates
    .sort((a, b) => frequencies[a] - frequencies[b])
    .slice(0, count)
    .map(waveAt);
}

/** sqrt(2 / E) cos(pi / 2 m / E) for m = k (2 x + 1), as a sine, which is 0 exactly where the cosine is. */
function waveHeight(wave, x, extent) {
  const multiple = (wave * (2 * x + 1)) % (4 * extent);
  const angle = ((extent - min(multiple, 4 * extent - multiple)) * (Math.PI / 2)) / extent;
  return fround(wave ? Math.sin(angle) * sqrt(2 / extent) : sqrt(1 / extent));
}

/** Readers of one layer, by the kind of their section. */
const LAYERS = { 16: dense(4), 17: dense(2), 18: codebook, 22: grid, 24: sparse };

// ---------------------------------------------------------------------------------------------------------------------
// Sections before the weights, by their kind. Each adds to the description of the network

const SECTIONS = [readPreprocessing, readClasses, readNames, readInput, readOutput];

/** Steps: functions from a row in float64, which they may overwrite, to another one. */
function readPreprocessing(network) {
  let width = (network.nFeatures = varint());
  let nSteps = byte();
  demand(width && nSteps);
  while (nSteps--) {
    const flags = byte();
    const operation = flags & 7;
    demand(flags < 32 && operation < 7 && !(operation > 3 && flags & 8) && !(operation > 4 && flags & 16));
    network.isMixed |= operation > 4;
    if (operation > 5) network.steps.push(readMoments(width));
    else if (operation > 4) {
      const nOutputs = varint();
      demand(nOutputs);
      network.steps.push(productStep(finiteFloats(4, width * nOutputs), width, nOutputs));
      width = nOutputs;
    } else network.steps.push(readElementwise(operation, flags, width));
  }
  demand(width == network.sizes[0]);
}

/** x - a, x / a, x * a, x + a, or x clipped. */
function readElementwise(operation, flags, width) {
  const isClip = operation > 3;
  const values = finiteFloats(flags & 16 ? 4 : 8, isClip ? 2 : flags & 8 ? 1 : width);
  const [least, most] = values;
  demand(isClip ? least <= most : operation != 1 || values.every(Boolean));
  const calculate = [
    (x, a) => x - a,
    (x, a) => x / a,
    (x, a) => x * a,
    (x, a) => x + a,
    (x) => min(max(x, least), most),
  ][operation];
  return (row) => row.map((x, index) => calculate(x, values[flags & 8 ? 0 : index]));
}

function productStep(weights, width, nOutputs) {
  const forward = forwardOf([[weights, new Float32Array(nOutputs)]], width);
  return (row) => new Float64Array(forward(new Float32Array(row)));
}

function readMoments(width) {
  const flags = byte();
  demand(flags < 32 && flags & ~8);
  const shape = varints(flags & 8 ? 3 : 2);
  const blur = flags & 16 ? floats(4, 1)[0] : 1;
  demand(product(shape) == width && shape[2] != 1 && blur > 0 && blur <= 64);
  return momentsStep(flags, shape, blur);
}

/** Images moved by their own moments; docs/format.md has the formulas, with the same names. */
function momentsStep(flags, [height, width, nChannels = 1], blur) {
  let weights = list(ceil(4 * blur) + 1, (n) => exp(-(n * n) / (2 * blur * blur)));
  const total = 2 * sum(weights) - 1;
  weights = weights.map((weight) => weight / total);

  return (row) => {
    const channels = list(nChannels, (channel) => row.filter((_, index) => index % nChannels == channel));
    const least = channels.map((values) => values.reduce((a, b) => min(a, b)));
    const images = channels.map((values, channel) => values.map((value) => value - least[channel]));
    const mass = images.reduce((total, values) => total.map((g, pixel) => g + values[pixel]));
    const [y, x] = placesOf(mass, flags, height, width);
    const moved = images.map((values) => {
      values = interpolated(values, height, width, y, x);
      return flags & 16 ? blurred(blurred(values, height, width, weights), width, 1, weights) : values;
    });
    return row.map((_, index) => moved[index % nChannels][floor(index / nChannels)] + least[index % nChannels]);
  };
}

/** The row y[i] and the column x[i * width + j] at which each pixel of the moved image is taken. */
function placesOf(mass, flags, height, width) {
  const total = (valueOf) => {
    let found = 0;
    for (let i = 0; i < height; i++) for (let j = 0; j < width; j++) found += mass[i * width + j] * valueOf(i, j);
    return found;
  };
  let m = sum(mass);
  if (m == 0) m = 1;
  const [r, q] = [total((i) => i) / m, total((_, j) => j) / m];
  const [v, u, t] = [total((i) => (i - r) ** 2), total((_, j) => (j - q) ** 2), total((i, j) => (i - r) * (j - q))];
  const a = flags & 2 && v > 1e-9 * m ? t / v : 0;
  const moment = (v / m + 1 / 12) / height ** 2 + ((u - a * t) / m + 1 / 12) / width ** 2;
  const s = flags & 4 ? sqrt((32 / 3) * moment) : 1;
  const [i0, j0] = flags & 1 ? [(height - 1) / 2, (width - 1) / 2] : [r, q];
  const y = list(height, (i) => r + s * (i - i0));
  return [y, mass.map((_, pixel) => q + s * ((pixel % width) - j0) + a * (y[floor(pixel / width)] - r))];
}

/** The values of an image at the places of its pixels: linear between pixels, 0 outside, NaN where places are. */
function interpolated(values, height, width, y, x) {
  const between = (valueAt, place) => {
    const first = floor(place);
    const value = valueAt(first);
    return value + (valueAt(first + 1) - value) * (place - first);
  };
  // A sheared row of pixels is still one row: first between rows, then along them
  const rows = values.map((_, pixel) =>
    between((i) => (i >= 0 && i < height ? values[i * width + (pixel % width)] : 0), y[floor(pixel / width)]),
  );
  return x.map((column, pixel) =>
    between((j) => (j >= 0 && j < width ? rows[pixel - (pixel % width) + j] : 0), column),
  );
}

/** An image blurred along the axis of this extent, whose neighbors are `stride` pixels apart. */
function blurred(values, extent, stride, weights) {
  return values.map((value, pixel) => {
    const place = floor(pixel / stride) % extent;
    let total = weights[0] * value;
    for (let n = 1; n < min(weights.length, extent); n++) {
      if (n <= place) total += weights[n] * values[pixel - n * stride];
      if (n < extent - place) total += weights[n] * values[pixel + n * stride];
    }
    return total;
  });
}

function readClasses(network) {
  const [count, kind] = [varint(), byte()];
  const { nOutputs, output } = network;
  demand(count == (nOutputs < 2 && output != SOFTMAX ? 2 : nOutputs));
  demand(kind < 5 && (!kind || count <= end - at));
  if (kind) {
    const read = [
      ,
      zigzag,
      string,
      () => {
        const label = byte();
        demand(label < 2);
        return label > 0;
      },
      () => floats(8, 1)[0],
    ][kind];
    network.classes = list(count, read);
    // All of one type
    if (kind < 2 && network.classes.every(isSafe)) network.classes = network.classes.map(Number);
  } else {
    const first = zigzag();
    const last = first + BigInt(count - 1);
    demand(!(last >> 63n) || last < 0);
    network.classes = list(
      count,
      isSafe(first) && isSafe(last) ? (index) => Number(first) + index : (index) => first + BigInt(index),
    );
  }
}

/** Whether a number holds this BigInt and its neighbors. */
function isSafe(integer) {
  return Number.isSafeInteger(Number(integer));
}

function readNames(network) {
  const isDeflated = byte();
  demand(isDeflated < 2, "names");
  const outside = [bytes, end, end];
  if (isDeflated) {
    const length = varint();
    const data = take(end - at);
    demand(length <= 64 * (data.length + 5), "names");
    [bytes, at, end] = [inflate(data, length), 0, length];
  }
  demand(network.nFeatures <= end - at, "names");
  network.names = list(network.nFeatures, string);
  demand(at == end, "names");
  [bytes, at, end] = outside;
}

function readInput(network) {
  const flags = varint(1023);
  const isSelective = flags & 512;
  demand(
    flags & ~528 &&
      (flags & 16 || !(flags & 480)) &&
      (flags & 3 || !(flags & 128)) &&
      (flags & 12 || !(flags & 256)) &&
      !(isSelective && (flags & 5 || !(flags & 10))),
  );
  const used = readUsed(network.sizes[0], isSelective ? 1 : 0);
  demand(!isSelective || !used.every(Boolean));
  [network.offset, network.scale] = readAffine(flags, flags & 128 ? 8 : 4, flags & 256 ? 8 : 4, used);
  network.isWide = flags & 16;
  network.isFilled = flags & 64;
  network.limit = flags & 32 ? finiteFloats(4, 1)[0] : Infinity;
  demand(network.limit > 0);
}

function readOutput(network) {
  const flags = byte();
  demand(flags && flags < 16 && !network.output);
  const [offset, scale] = readAffine(flags, 8, 8, readUsed(network.nOutputs, 0));
  demand(!scale || scale.every((factor) => factor > 0));
  [network.outputOffset, network.outputScale] = [offset, scale];
}

/** Offset and scale, 0 for none; flags 1 and 4 for one number, 2 and 8 for one for each used place. */
function readAffine(flags, offsetSize, scaleSize, used) {
  demand((flags & 3) < 3 && (flags & 12) < 12);
  return [flags & 3 && readEach(offsetSize, flags & 1, used), flags & 12 && readEach(scaleSize, flags & 4, used)];
}

/** One number for all places, or one for each used place; as an array, 0 elsewhere. */
function readEach(size, isShared, used) {
  const stored = finiteFloats(size, isShared ? 1 : sum(used));
  let next = 0;
  return new Float64Array(used).map((isUsed) => (isUsed ? stored[isShared ? 0 : next++] : 0));
}

// ---------------------------------------------------------------------------------------------------------------------
// The file

/** The description of the network in a file, and its layers. */
function read(data) {
  const size = data.length;
  [bytes, at, end, where] = [data, 0, size, "the file"];
  if (size < 5 || String.fromCharCode(...take(4)) != "MBNS") refuse("this is no student file");
  const version = byte();
  if (version != 1) refuse(`the file has format version ${version}, and this reader knows 1`);
  at = size - 4;
  if (at < 5 || crc32(data.subarray(0, at)) != packed(32, 1)[0])
    refuse("the file is damaged or cut: its checksum is wrong");
  [at, end] = [5, size - 4];
  const network = readHead(size);
  const { sizes, layers } = network;
  const shapes = sizes.slice(1).map((nOutputs, index) => [sizes[index], nOutputs]);
  for (let last = -1; at < end;) {
    const kind = byte();
    const length = varint();
    const outside = end;
    demand(length <= end - at, "length");
    [end, where] = [at + length, `section ${kind}`];
    const readLayer = LAYERS[kind];
    if (kind < 5) {
      demand(kind > last);
      SECTIONS[kind](network);
    } else if (kind == 20 || kind == 21 || readLayer) {
      demand(layers.length < shapes.length);
      const missing = shapes.slice(layers.length);
      layers.push(...(readLayer ? [readLayer(...missing[0])] : randomCode(missing, kind > 20)));
    } else refuse(`the file has a section of kind ${kind}, which this reader does not know`);
    demand(at == end, "length");
    [end, where, last] = [outside, "the file", kind];
  }
  check(network);
  return network;
}

function readHead(nBytes) {
  const kind = byte();
  const sizes = varints(varint(255) + 1);
  demand((kind & 7) < 4 && sizes.length > 1 && sizes.every(Boolean));
  // A few bytes may describe many weights; this bounds the memory that a forged head can demand
  const nWeights = sum(sizes.slice(1).map((nOutputs, index) => (sizes[index] + 1) * nOutputs));
  demand(nWeights <= min(4096 * nBytes, 2 ** 24 + 64 * nBytes), "too many weights");
  return {
    activation: kind & 7,
    target: (kind >> 3) & 3,
    output: (kind >> 5) & 3,
    squeeze: kind >> 7,
    sizes,
    nFeatures: sizes[0],
    nOutputs: sizes.at(-1),
    classes: null,
    names: null,
    steps: [],
    layers: [],
  };
}

/** Refuse a network that is inconsistent. */
function check({ sizes, nOutputs, layers, classes, target, output, squeeze }) {
  demand(layers.length == sizes.length - 1);
  demand(layers.every((arrays) => arrays.every(areFinite)));
  demand(
    (givesProbabilities(output) ? classes || (output == SOFTMAX && target == TRANSFORM) : target != PROBABILITIES) &&
      !(output == RELU && classes) &&
      !(squeeze && nOutputs > 1),
  );
}

function givesProbabilities(output) {
  return output == SOFTMAX || output == LOGISTIC;
}

// ---------------------------------------------------------------------------------------------------------------------
// Predictions

/**
 * The function from the inputs of layers, a Float32Array, to the outputs of the last one, a Float32Array that the next
 * call overwrites. Inputs that are 0, most pixels of a drawing, take no time.
 */
function forwardOf(layers, nInputs, activate) {
  const widest = layers.reduce((most, [, biases]) => max(most, biases.length), nInputs);
  const [places, values] = [new Int32Array(widest), new Float64Array(widest)];
  const buffers = layers.map(([, biases]) => new Float32Array(biases.length));

  return (inputs) => {
    layers.forEach(([weights, biases], index) => {
      if (index) for (let unit = 0; unit < inputs.length; unit++) inputs[unit] = activate(inputs[unit]);
      multiplyLayer(weights, biases, inputs, buffers[index], places, values);
      inputs = buffers[index];
    });
    return inputs;
  };
}

/** outputs = inputs times weights plus biases; `places` and `values` are memory for the inputs that are not 0. */
function multiplyLayer(weights, biases, inputs, outputs, places, values) {
  const nOutputs = biases.length;
  let count = 0;
  for (let input = 0; input < inputs.length; input++) {
    if (inputs[input] !== 0) {
      places[count] = input * nOutputs;
      values[count++] = inputs[input];
    }
  }
  for (let output = 0; output < nOutputs; output += 4) {
    // Four sums at a time are independent of each other, and stay in registers; beyond the last output it is repeated
    const [second, third, fourth] = [1, 2, 3].map((more) => min(more, nOutputs - output - 1));
    let [a, b, c, d] = [0, 0, 0, 0];
    for (let index = 0; index < count; index++) {
      const value = values[index];
      const place = places[index] + output;
      a += value * weights[place];
      b += value * weights[place + second];
      c += value * weights[place + third];
      d += value * weights[place + fourth];
    }
    outputs[output + fourth] = d + biases[output + fourth];
    outputs[output + third] = c + biases[output + third];
    outputs[output + second] = b + biases[output + second];
    outputs[output] = a + biases[output];
  }
}

function softmax(logits) {
  const largest = logits.reduce((a, b) => max(a, b));
  const exponentials = new Float64Array(logits).map((logit) => exp(logit - largest));
  const total = sum(exponentials);
  return new Float32Array(exponentials.map((value) => value / total));
}

/** The student of a network; see distill.d.ts. */
function studentOf(network) {
  const { sizes, layers, activation, target, output, squeeze, nFeatures, nOutputs, classes, names, steps } = network;
  const { offset, scale, limit, isWide, isFilled, isMixed, outputOffset, outputScale } = network;
  const [inputs, forward] = [new Float32Array(sizes[0]), forwardOf(layers, sizes[0], ACTIVATIONS[activation])];
  // One row as it is given; without steps it is as it enters the first layer
  const given = steps.length || isWide ? new Float64Array(nFeatures) : inputs;
  const known = new Set(names);
  const canBeNamed = names && known.size == nFeatures;
  const mayBeMissing = isFilled && !isMixed;

  function reject(where, problem) {
    throw new TypeError(`${where} ${problem}`);
  }

  /** Copy a row, an array or an object of features, to `given`. */
  function receive(row, where) {
    const isArray = Array.isArray(row) || ArrayBuffer.isView(row);
    if (!isArray) {
      if (!row || typeof row != "object" || !canBeNamed) {
        reject(where, `must be an array of ${nFeatures} numbers${canBeNamed ? ", or an object of features" : ""}`);
      }
      const other = Object.keys(row).find((name) => !known.has(name));
      if (other !== undefined) reject(where, `has "${other}", which is no feature of the student`);
    } else if (row.length != nFeatures) reject(where, `has ${row.length} values, and the student needs ${nFeatures}`);
    for (let index = 0; index < nFeatures; index++) {
      const value = row[isArray ? index : names[index]];
      given[index] = typeof value == "number" ? value : Infinity;
      // Not finite as well where it is too large for float32
      if (!Number.isFinite(given[index]) && !(mayBeMissing && value !== value)) {
        const feature = names ? `"${names[index]}"` : index;
        reject(where, `has ${String(value)} as feature ${feature}; it must be a number, finite and not too large`);
      }
    }
  }

  /** The outputs of the last layer for one row. */
  function outputsOf(row, where) {
    receive(row, where);
    const values = steps.reduce((found, step) => step(found), given);
    for (let index = 0; index < inputs.length; index++) {
      let value = values[index];
      if (isWide) {
        if (offset) value -= offset[index];
        if (scale) value *= scale[index];
        value = min(max(value, -limit), limit);
        if (isFilled && value !== value) value = 0;
      }
      inputs[index] = value;
      if (!isWide) {
        if (offset) inputs[index] -= offset[index];
        if (scale) inputs[index] *= scale[index];
      }
      if (!Number.isFinite(inputs[index])) reject(where, "has values too large for the network");
    }
    const outputs = forward(inputs);
    if (!areFinite(outputs)) reject(where, "has values too large for the network");
    return outputs;
  }

  /** Values (an embedding, a regression, decision values) from the outputs of the last layer, as a copy. */
  function valuesOf(outputs) {
    let values = output == SOFTMAX && !classes ? softmax(outputs) : outputs.map(output == RELU ? relu : ACTIVATIONS[0]);
    if (outputOffset || outputScale) {
      values = new Float64Array(values).map(
        (value, index) => value * (outputScale ? outputScale[index] : 1) + (outputOffset ? outputOffset[index] : 0),
      );
    }
    return squeeze ? values[0] : values;
  }

  function labelOf(outputs) {
    if (outputs.length < classes.length) return classes[outputs[0] > 0 ? 1 : 0];
    let best = 0;
    for (let index = 1; index < outputs.length; index++) if (outputs[index] > outputs[best]) best = index;
    return classes[best];
  }

  function probabilitiesOf(outputs) {
    if (output == SOFTMAX) return softmax(outputs);
    const positive = outputs.map(logistic);
    return positive.length > 1 ? positive : Float32Array.of(1 - positive[0], ...positive);
  }

  // In the order of their numbers in a file
  const answers = {
    predict: classes ? labelOf : valuesOf,
    predictProba: probabilitiesOf,
    transform: valuesOf,
    decisionFunction: valuesOf,
  };
  const methods = Object.keys(answers).filter(
    (_, method) =>
      method == target || (classes && (method == PREDICT || (method == PROBABILITIES && givesProbabilities(output)))),
  );
  const student = { nFeatures, nOutputs, featureNames: names, classes, methods };
  for (const name in answers) {
    const answer = (row, where) => answers[name](outputsOf(row, where));
    student[name] = (x) => {
      if (!methods.includes(name)) throw new Error(`this student has no ${name}; it has ${methods.join(", ")}`);
      const isOne = !Array.isArray(x) || typeof x[0] == "number";
      return isOne ? answer(x, "the row") : list(x.length, (index) => answer(x[index], `row ${index}`));
    };
  }
  return student;
}

/** Read a student from the bytes of a student file, an ArrayBuffer or Uint8Array; see distill.d.ts. */
export function load(file) {
  if (!(file?.byteLength >= 0)) throw new TypeError("load takes an ArrayBuffer or a Uint8Array");
  return studentOf(read(new Uint8Array(file.buffer ?? file, file.byteOffset, file.byteLength)));
}
