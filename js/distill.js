/**
 * Read a student file and predict with it, without dependencies, in browsers and Node.
 *
 *     import { load } from "mbn-distill";
 *     const student = load(await (await fetch("digits.student")).arrayBuffer());
 *     student.predict(pixels);
 *
 * This file follows docs/format.md of the Python package from top to bottom: bytes, entropy-coded symbols, random numbers,
 * layers, the sections before them, and predictions. Weights have the same bits as in Python. The outputs of a layer are
 * sums in float64 over its inputs in their order, then the bias, rounded to float32.
 */

/** The bytes are not a student file that this version can read; the message names the reason. */
export class StudentFileError extends Error {
  name = "StudentFileError";
}

function refuse(reason) {
  throw new StudentFileError(reason);
}

const { fround } = Math;
const METHODS = ["predict", "predictProba", "transform", "decisionFunction"];
const [PREDICT, PROBABILITIES, TRANSFORM] = [0, 1, 2];
const [IDENTITY, SOFTMAX, LOGISTIC, RELU] = [0, 1, 2, 3];
const ACTIVATIONS = [
  (x) => x,
  (x) => (x < 0 ? 0 : x), // not max, which takes twice as long; NaN stays NaN
  Math.tanh,
  (x) => 1 / (1 + Math.exp(-x)),
];
/** Largest varint but for labels. */
const MAX_UNSIGNED = 2 ** 32 - 1;

// ---------------------------------------------------------------------------------------------------------------------
// Bytes

/** A cursor over bytes that refuses to go beyond their end. Nothing is allocated before the bytes for it are there. */
class Reader {
  constructor(bytes, where) {
    this.bytes = bytes;
    this.where = where;
    this.at = 0;
  }

  refuse(reason) {
    refuse(this.where + reason);
  }

  get left() {
    return this.bytes.length - this.at;
  }

  take(count) {
    if (count > this.left) this.refuse(` ends too early: ${count} bytes are needed and ${this.left} are left`);
    this.at += count;
    return this.bytes.subarray(this.at - count, this.at);
  }

  byte() {
    return this.take(1)[0];
  }

  signedByte() {
    return (this.byte() << 24) >> 24;
  }

  /** An unsigned integer as BigInt: seven bits per byte, the lowest first. */
  bigVarint() {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = this.byte();
      value |= BigInt(byte & 127) << shift;
      if (value >> 64n) this.refuse(" has an integer beyond 64 bits");
      if (byte < 128) {
        if (!byte && shift) this.refuse(" has an integer with useless zeros at its end");
        return value;
      }
      if (shift > 62n) this.refuse(" has an integer of more than ten bytes");
    }
  }

  varint(limit = MAX_UNSIGNED) {
    const value = this.bigVarint();
    if (value > limit) this.refuse(` has ${value} where ${limit} is the largest possible value`);
    return Number(value);
  }

  /** A signed integer of 64 bits as BigInt. */
  zigzag() {
    const value = this.bigVarint();
    return (value >> 1n) ^ -(value & 1n);
  }

  string() {
    const bytes = this.take(this.varint());
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      return this.refuse(" has a string that is not UTF-8");
    }
  }

  /** Floats of `size` bytes: Float64Array for 8, else Float32Array. */
  floats(size, count) {
    return floatsIn(this.take(size * count), size, count);
  }

  /** Packed codes of up to 32 bits. */
  packed(width, count) {
    const bytes = this.take(Math.ceil((count * width) / 8));
    const codes = new Uint32Array(count);
    let [place, used] = [0, 0]; // the byte, and how many of its bits have been taken
    for (let index = 0; index < count; index++) {
      for (let got = 0; got < width; ) {
        const bits = Math.min(8 - used, width - got);
        codes[index] |= ((bytes[place] >> used) & ((1 << bits) - 1)) << got;
        got += bits;
        used += bits;
        if (used == 8) {
          place++;
          used = 0;
        }
      }
    }
    if (used && bytes[place] >> used) this.refuse(" has padding bits that are not zero");
    return codes;
  }

  /** Floats of 16 bits times a power of two, rounded to float32. */
  halfArray(count) {
    const factor = 2 ** this.signedByte();
    const values = this.floats(2, count).map((value) => value * factor);
    if (!areFinite(values)) this.refuse(" has codewords, scales or biases that are not finite");
    return values;
  }

  finish() {
    if (this.left) this.refuse(` goes on for ${this.left} bytes after its end`);
  }
}

/** Little-endian floats in bytes; DataView, because neither their place nor the machine need be right for a view. */
function floatsIn(bytes, size, count) {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const values = new (size == 8 ? Float64Array : Float32Array)(count);
  for (let index = 0; index < count; index++) {
    const at = size * index;
    values[index] =
      size == 8 ? view.getFloat64(at, true) : size == 4 ? view.getFloat32(at, true) : half(view.getUint16(at, true));
  }
  return values;
}

/** The value of a float of 16 bits. */
function half(bits) {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const magnitude =
    exponent == 31 ? (fraction ? NaN : Infinity) : exponent ? (fraction + 1024) * 2 ** (exponent - 25) : fraction * 2 ** -24;
  return bits >> 15 ? -magnitude : magnitude;
}

function areFinite(values) {
  return values.every(Number.isFinite);
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

function product(values) {
  return values.reduce((total, value) => total * value, 1);
}

/** The number of bits of packed codes with this many different values. */
function widthOf(nValues) {
  return nValues > 1 ? 32 - Math.clz32(nValues - 1) : 0;
}

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (-(crc & 1) & 0xedb88320);
  }
  return ~crc >>> 0;
}

/** Raw deflate data (RFC 1951) of exactly `length` bytes when inflated; refuses what zlib refuses. */
function inflate(data, length) {
  const output = new Uint8Array(length);
  let [at, bit] = [0, 0]; // places in output (bytes) and data (bits)

  function damaged() {
    refuse(`the deflated names are damaged, or not ${length} bytes long`);
  }

  function bits(count) {
    let value = 0;
    for (let index = 0; index < count; index++, bit++) {
      if (bit >>> 3 >= data.length) damaged();
      value |= ((data[bit >>> 3] >> (bit & 7)) & 1) << index;
    }
    return value;
  }

  function write(byte) {
    if (at == length) damaged();
    output[at++] = byte;
  }

  /** A canonical Huffman code: how many codes have each length, and their symbols in order. */
  function huffman(lengths, mayBeIncomplete) {
    const counts = new Uint16Array(16);
    const symbols = [];
    let spare = 1;
    for (let size = 1; size < 16; size++) {
      lengths.forEach((found, symbol) => found == size && symbols.push(symbol));
      counts[size] = symbols.length - sum(counts);
      spare = 2 * spare - counts[size];
      if (spare < 0) damaged();
    }
    // Only a single code of one bit, or none at all, may leave codes unused
    if (spare && !(mayBeIncomplete && symbols.length == counts[1])) damaged();
    return { counts, symbols };
  }

  function symbolOf({ counts, symbols }) {
    let [code, first, index] = [0, 0, 0];
    for (let size = 1; size < 16; size++) {
      code = 2 * code + bits(1);
      first *= 2;
      if (code - first < counts[size]) return symbols[index + code - first];
      first += counts[size];
      index += counts[size];
    }
    return damaged();
  }

  function codes() {
    const [nLiterals, nDistances, nLengths] = [bits(5) + 257, bits(5) + 1, bits(4) + 4];
    if (nLiterals > 286 || nDistances > 30) damaged();
    const own = Array(19).fill(0);
    for (let index = 0; index < nLengths; index++) {
      own[[16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15][index]] = bits(3);
    }
    const code = huffman(own);
    const lengths = [];
    while (lengths.length < nLiterals + nDistances) {
      const symbol = symbolOf(code);
      if (symbol < 16) lengths.push(symbol);
      else {
        const repeated = symbol == 16 ? lengths.at(-1) ?? damaged() : 0;
        const count = symbol == 16 ? 3 + bits(2) : symbol == 17 ? 3 + bits(3) : 11 + bits(7);
        lengths.push(...Array(count).fill(repeated));
      }
    }
    if (lengths.length > nLiterals + nDistances || !lengths[256]) damaged();
    return [huffman(lengths.slice(0, nLiterals), true), huffman(lengths.slice(nLiterals), true)];
  }

  /** Copy a part of the output whose length has this symbol. */
  function copy(symbol, distances) {
    const [size, extra] = [symbol - 257, symbol < 265 || symbol == 285 ? 0 : ((symbol - 257) >> 2) - 1];
    if (size > 28) damaged();
    const count = (size < 8 ? 3 + size : size == 28 ? 258 : ((4 + (size & 3)) << extra) + 3) + bits(extra);
    const far = symbolOf(distances);
    if (far > 29) damaged();
    const more = far < 4 ? 0 : (far >> 1) - 1;
    const distance = (far < 4 ? 1 + far : ((2 + (far & 1)) << more) + 1) + bits(more);
    if (distance > at) damaged();
    for (let index = 0; index < count; index++) write(output[at - distance]);
  }

  function stored() {
    bit = (bit + 7) & ~7;
    const count = bits(16);
    if (count != (~bits(16) & 65535)) damaged();
    for (let index = 0; index < count; index++) write(bits(8));
  }

  for (let isLast = 0; !isLast; ) {
    isLast = bits(1);
    const kind = bits(2);
    if (kind == 3) damaged();
    if (kind == 0) stored();
    else {
      const fixed = Array.from({ length: 288 }, (_, symbol) => (symbol < 144 ? 8 : symbol < 256 ? 9 : symbol < 280 ? 7 : 8));
      const [literals, distances] = kind == 2 ? codes() : [huffman(fixed), huffman(Array(32).fill(5))];
      for (let symbol; (symbol = symbolOf(literals)) != 256; ) {
        if (symbol < 256) write(symbol);
        else copy(symbol, distances);
      }
    }
  }
  if (at != length || (bit + 7) >>> 3 != data.length) damaged();
  return output;
}

// ---------------------------------------------------------------------------------------------------------------------
// Entropy-coded symbols

/** Symbols with their frequencies. The caller bounds `count`: symbols of probability one take no bytes. */
function readSymbols(reader, count, nSymbols) {
  const precision = reader.byte();
  if (precision < 1 || precision > 16) reader.refuse(` has frequencies that sum to 2^${precision}`);
  const frequencies = [];
  while (frequencies.length < nSymbols - 1) {
    const frequency = reader.varint(2 ** precision);
    frequencies.push(frequency);
    if (!frequency) {
      for (let more = reader.varint(nSymbols - 1 - frequencies.length); more; more--) frequencies.push(0);
    }
  }
  return readMessage(reader, count, precision, [withLast(reader, frequencies, precision)]);
}

/** Frequencies and the last one, which follows from their sum. */
function withLast(reader, frequencies, precision) {
  const last = 2 ** precision - sum(frequencies);
  if (last < 0) reader.refuse(` has frequencies that sum to more than 2^${precision}`);
  return [...frequencies, last];
}

/** Symbols of a rANS message; `tables` are the frequencies in each context, `contexts` that of each symbol. */
function readMessage(reader, count, precision, tables, contexts) {
  const nSymbols = tables[0].length;
  const symbolAt = new Uint16Array(tables.length << precision);
  const [frequency, start] = [new Uint32Array(tables.length * nSymbols), new Uint32Array(tables.length * nSymbols)];
  tables.forEach((table, context) => {
    let total = 0;
    table.forEach((value, symbol) => {
      const [row, first] = [context * nSymbols + symbol, context << precision];
      frequency[row] = value;
      start[row] = total;
      symbolAt.fill(symbol, first + total, first + (total += value));
    });
  });

  const [nLanes, nWords] = [reader.varint(1024), reader.varint()];
  const bytes = reader.take(2 * nWords);
  const wordAt = (index) => (index < nWords ? bytes[2 * index] | (bytes[2 * index + 1] << 8) : damaged());
  const damaged = () => reader.refuse(" has damaged symbols");
  if (!nLanes) damaged();
  const many = nLanes > 1;
  const states = new Uint32Array(nLanes);
  for (let lane = 0; many && lane < nLanes; lane++) states[lane] = wordAt(lane) * 65536 + wordAt(nLanes + lane);
  if (!many && nWords) states[0] = nWords > 1 ? wordAt(0) * 65536 + wordAt(1) : wordAt(0);
  let next = many ? 2 * nLanes : Math.min(2, nWords);

  const symbols = new Uint16Array(count);
  const mask = 2 ** precision - 1;
  for (let index = 0, lane = 0; index < count; index++) {
    const context = contexts ? contexts[index] : 0;
    const slot = states[lane] & mask;
    const symbol = symbolAt[(context << precision) + slot];
    const row = context * nSymbols + symbol;
    let state = frequency[row] * (states[lane] >>> precision) + slot - start[row];
    // The only lane of a short message began at zero, so that its state is low when no words are left
    if (state < 65536 && (many || next < nWords)) state = state * 65536 + wordAt(next++);
    symbols[index] = symbol;
    states[lane] = state;
    if (++lane == nLanes) lane = 0;
  }
  if (next != nWords || states.some((state) => state != (many ? 65536 : 0))) damaged();
  return symbols;
}

// ---------------------------------------------------------------------------------------------------------------------
// Random numbers

/** The 64-bit word of the random numbers, in two halves: BigInt takes twenty times as long. */
let [high, low] = [0, 0];

/** Upper half of the product of two unsigned integers of 32 bits. */
function upperHalf(a, b) {
  const [al, ah, bl, bh] = [a & 65535, a >>> 16, b & 65535, b >>> 16];
  const middle = ah * bl + ((al * bl) >>> 16);
  return ah * bh + (middle >>> 16) + ((al * bh + (middle & 65535)) >>> 16);
}

/** word = word * factor. */
function multiply(factorHigh, factorLow) {
  high = (upperHalf(low, factorLow) + Math.imul(high, factorLow) + Math.imul(low, factorHigh)) >>> 0;
  low = Math.imul(low, factorLow) >>> 0;
}

/** word = word ^ word >> count. */
function fold(count) {
  low = (low ^ ((low >>> count) | (high << (32 - count)))) >>> 0;
  high = (high ^ (high >>> count)) >>> 0;
}

/** word = mix(state + number * golden ratio), the finalizer of splitmix64. */
function mix(stateHigh, stateLow, number) {
  high = number > MAX_UNSIGNED ? 1 : 0;
  low = number >>> 0;
  multiply(0x9e3779b9, 0x7f4a7c15);
  low += stateLow;
  high = (high + stateHigh + (low > MAX_UNSIGNED ? 1 : 0)) >>> 0;
  low >>>= 0;
  fold(30);
  multiply(0xbf58476d, 0x1ce4e5b9);
  fold(27);
  multiply(0x94d049bb, 0x133111eb);
  fold(31);
}

/** The state of the stream named by keys, in two halves. */
function stream(keys) {
  high = low = 0;
  for (const key of keys) mix(high, low, key + 1);
  return [high, low];
}

/** 0 .. count - 1 in the order of the words of a stream, by a radix sort. */
function permutation(seed, number, count) {
  const [stateHigh, stateLow] = stream([seed, 1, number]);
  const [highs, lows] = [new Uint32Array(count), new Uint32Array(count)];
  let [order, next] = [new Uint32Array(count), new Uint32Array(count)];
  for (let index = 0; index < count; index++) {
    mix(stateHigh, stateLow, index + 1);
    highs[index] = high;
    lows[index] = low;
    order[index] = index;
  }
  for (const words of [lows, highs]) {
    for (const shift of [0, 16]) {
      const starts = new Uint32Array(65537);
      for (const word of words) starts[((word >>> shift) & 65535) + 1]++;
      for (let digit = 0; digit < 65536; digit++) starts[digit + 1] += starts[digit];
      for (const place of order) next[starts[(words[place] >>> shift) & 65535]++] = place;
      [order, next] = [next, order];
    }
  }
  return order;
}

/** Coefficients of Wichura's algorithm AS 241 (Applied Statistics 37, 1988), the highest power first. */
const CENTRAL = [
  [
    2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457, 13731.693765509461125,
    1971.5909503065514427, 133.14166789178437745, 3.387132872796366608,
  ],
  [
    5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867, 5394.1960214247511077,
    687.1870074920579083, 42.313330701600911252, 1,
  ],
];
const TAIL = [
  [
    7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
    3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734,
  ],
  [
    1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
    0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1,
  ],
];

/**
 * The standard normal quantile of (index + 1/2) / 65536, in float64; rounded to float32 it has the same bits everywhere.
 * Only operations that IEEE 754 defines are used: Math.log may differ between browsers in the last digit.
 */
function quantile(index) {
  const below = (Math.min(index, 65535 - index) + 0.5) / 65536;
  const central = 0.5 - below;
  const isCentral = central <= 0.425;
  const size = isCentral
    ? central * ratio(0.180625 - central * central, CENTRAL)
    : ratio(Math.sqrt(-logarithm(below)) - 1.6, TAIL);
  return index < 32768 ? -size : size;
}

const quantiles = new Float32Array(65536); // none is 0, so that 0 is for one not computed yet

function ratio(x, coefficients) {
  const [numerator, denominator] = coefficients.map((terms) => terms.reduce((total, term) => total * x + term, 0));
  return numerator / denominator;
}

/** log(m 2^e) = 2 artanh((m - 1) / (m + 1)) + e log 2, with m in [1/2, 1). */
function logarithm(x) {
  let exponent = 0;
  for (; x < 0.5; x *= 2) exponent--;
  const s = (x - 1) / (x + 1);
  let [term, total] = [s, s];
  for (let odd = 3; odd < 41; odd += 2) {
    term *= s * s;
    total += term / odd;
  }
  return 2 * total + exponent * 0.6931471805599453;
}

// ---------------------------------------------------------------------------------------------------------------------
// Layers: { weights: Float32Array, those of the first input first; biases: Float32Array }

/** Read one layer of floats of `size` bytes. */
const readDense = (size) => (reader, nInputs, nOutputs) => ({
  weights: reader.floats(size, nInputs * nOutputs),
  biases: reader.floats(size, nOutputs),
});

/** 1 for each used input, else 0; the form is 0 for all, 1 for packed bits, 3 for coded ones. */
function readUsed(reader, nInputs, form) {
  if (form == 2) reader.refuse(" has impossible flags");
  return form == 0 ? new Uint8Array(nInputs).fill(1) : form == 1 ? reader.packed(1, nInputs) : readSymbols(reader, nInputs, 2);
}

/** Call `visit(place of the weight, number of the code)` for the weights of all used inputs, in order. */
function eachUsed(used, nOutputs, visit) {
  let number = 0;
  used.forEach((isUsed, input) => {
    for (let output = 0; isUsed && output < nOutputs; output++) visit(input * nOutputs + output, number++, output);
  });
}

/** Codes below `nCodewords` for each used input and each output. */
function readCodes(reader, nUsed, nOutputs, nCodewords) {
  const [form, count] = [reader.byte(), nUsed * nOutputs];
  if (form == 0) {
    const codes = reader.packed(widthOf(nCodewords), count);
    if (codes.some((code) => code >= nCodewords)) reader.refuse(" has a code without a codeword");
    return codes;
  }
  if (form == 1) return readSymbols(reader, count, nCodewords);
  if (form > 2) reader.refuse(` has codes of unknown form ${form}`);
  const [nRows, nColumns] = [reader.byte(), reader.byte()];
  if (!(nRows * nColumns) || nRows * nColumns > 256) reader.refuse(` has codes in ${nRows} times ${nColumns} contexts`);
  const [rows, columns] = [readSymbols(reader, nUsed, nRows), readSymbols(reader, nOutputs, nColumns)];
  const tables = Array.from({ length: nRows * nColumns }, () =>
    withLast(reader, Array.from({ length: nCodewords - 1 }, () => reader.varint(4096)), 12),
  );
  const contexts = new Uint8Array(count);
  for (let index = 0; index < count; index++) {
    contexts[index] = rows[Math.floor(index / nOutputs)] * nColumns + columns[index % nOutputs];
  }
  return readMessage(reader, count, 12, tables, contexts);
}

function readCodebook(reader, nInputs, nOutputs) {
  const [flags, nCodewords, nGroups] = [reader.byte(), reader.byte() + 1, reader.varint(nOutputs)];
  if (flags > 15 || !nGroups) reader.refuse(" has impossible flags or no groups");
  const groups = readGroups(reader, nGroups, nOutputs, flags & 2);
  const used = readUsed(reader, nInputs, flags >> 2);
  const codebooks = reader.halfArray(flags & 1 ? nCodewords : nGroups * nCodewords);
  const scales = flags & 1 && reader.halfArray(nGroups);
  const biases = reader.halfArray(nOutputs);
  const codes = readCodes(reader, sum(used), nOutputs, nCodewords);
  const weights = new Float32Array(nInputs * nOutputs);
  eachUsed(used, nOutputs, (place, number, output) => {
    const group = groups[output];
    const code = codes[number];
    weights[place] = scales ? codebooks[code] * scales[group] : codebooks[group * nCodewords + code];
  });
  return { weights, biases };
}

/** The group of each output. */
function readGroups(reader, nGroups, nOutputs, inAnyOrder) {
  if (inAnyOrder) {
    const groups = reader.packed(widthOf(nGroups), nOutputs);
    if (groups.some((group) => group >= nGroups)) reader.refuse(" has a group of too high a number");
    return groups;
  }
  const groups = new Uint32Array(nOutputs).fill(nGroups - 1);
  for (let group = 0, first = 0; group < nGroups - 1; group++) {
    const size = reader.varint(nOutputs - first);
    groups.fill(group, first, (first += size));
  }
  return groups;
}

function readSparse(reader, nInputs, nOutputs) {
  const flags = reader.byte();
  if (flags > 7) reader.refuse(" has impossible flags");
  const size = flags & 1 ? 2 : 4;
  const used = readUsed(reader, nInputs, (flags >> 1) & 1);
  const mask = readCodes(reader, sum(used), nOutputs, 2);
  const count = sum(mask);
  const values = flags & 4 ? readSplit(reader, size, count) : reader.floats(size, count);
  const weights = new Float32Array(nInputs * nOutputs);
  let next = 0;
  eachUsed(used, nOutputs, (place, number) => {
    if (mask[number]) weights[place] = values[next++];
  });
  return { weights, biases: reader.floats(size, nOutputs) };
}

/** Floats whose last bytes come first and are entropy-coded. */
function readSplit(reader, size, count) {
  const last = readSymbols(reader, count, 256);
  const others = reader.take(count * (size - 1));
  const bytes = new Uint8Array(count * size);
  for (let index = 0; index < count; index++) {
    bytes.set(others.subarray(index * (size - 1), (index + 1) * (size - 1)), index * size);
    bytes[(index + 1) * size - 1] = last[index];
  }
  return floatsIn(bytes, size, count);
}

/** 2^(level / 4) from the roots in double precision, which a power function need not give. */
function power(level) {
  return [1, 1.189207115002721, 1.4142135623730951, 1.681792830507429][level & 3] * 2 ** (level >> 2);
}

function readGrid(reader, nInputs, nOutputs) {
  const flags = reader.byte();
  if (flags > 63 || (flags & 20) == 16) reader.refuse(" has impossible flags");
  const factor = reader.signedByte();
  const used = readUsed(reader, nInputs, flags & 3);
  const columns = readLevels(reader, nOutputs);
  const rows = readLevels(reader, sum(used) + 1);
  // The variances themselves serve for standard deviations, which this reader does not predict
  if (flags & 8 && ![...rows, ...columns].every((level) => fround(power(2 * level)) < Infinity)) {
    reader.refuse(" has variances that are not finite");
  }
  if (flags & 32) readLevels(reader, rows.length).forEach((level, index) => (rows[index] += level));
  const weights = new Float32Array(nInputs * nOutputs);
  const value = (code, row, column) => code * power(rows[row] + columns[column] + factor);
  const codes = readClassedCodes(reader, rows.subarray(0, -1), columns);
  eachUsed(used, nOutputs, (place, number, output) => {
    weights[place] = value(codes[number], Math.floor(number / nOutputs), output);
  });
  const biases = Float32Array.from(readIntegers(reader, nOutputs), (code, output) => value(code, rows.length - 1, output));
  if (flags & 4 && !reader.floats(4, nOutputs).every((noise) => noise >= 0 && noise < Infinity)) {
    reader.refuse(" has noise that is negative or not finite");
  }
  if (flags & 16 && !reader.floats(4, nOutputs).every((degrees) => degrees > 2 && degrees < Infinity)) {
    reader.refuse(" has degrees of freedom that are not above 2");
  }
  return { weights, biases };
}

function readLevels(reader, count) {
  const lowest = reader.byte() | (reader.signedByte() << 8);
  return Int32Array.from(readSymbols(reader, count, reader.varint(2047) + 1), (symbol) => lowest + symbol);
}

/** Codes of the weights, which are stored in classes of similar steps. */
function readClassedCodes(reader, rows, columns) {
  const nClasses = reader.byte();
  if (nClasses < 1 || nClasses > 16) reader.refuse(` has ${nClasses} classes of codes`);
  const count = rows.length * columns.length;
  // Levels are sums, so that the extremes of the sums are sums of the extremes
  const extreme = (choose) => rows.reduce((a, b) => choose(a, b), rows[0]) + columns.reduce((a, b) => choose(a, b));
  const lowest = extreme(Math.min);
  const span = extreme(Math.max) - lowest + 1;
  const classes = new Uint8Array(count);
  const sizes = Array(nClasses).fill(0);
  for (let number = 0; number < count; number++) {
    const level = rows[Math.floor(number / columns.length)] + columns[number % columns.length];
    sizes[(classes[number] = Math.floor(((level - lowest) * nClasses) / span))]++;
  }
  const parts = sizes.map((size) => readIntegers(reader, size));
  const next = Array(nClasses).fill(0);
  return Float64Array.from(classes, (found) => parts[found][next[found]++]);
}

function readIntegers(reader, count) {
  const [top, nLow] = [reader.byte(), reader.byte()];
  if (nLow > 24) reader.refuse(` has integers with ${nLow} low bits`);
  const upper = readSymbols(reader, count, top + 1);
  const lower = reader.packed(nLow, count);
  const integers = Float64Array.from(upper, (value, index) => value * 2 ** nLow + lower[index]);
  const signs = reader.packed(1, sum(integers.map((value) => (value ? 1 : 0))));
  let next = 0;
  return integers.map((value) => (value && signs[next++] ? -value : value));
}

/** Largest number of multiplications of the synthesis from waves: a few bytes of a forged file could demand more. */
const MAX_WORK = 2 ** 28;

/** Read all layers of the given shapes. */
function readRandomCode(reader, shapes) {
  const bits = reader.byte();
  if (bits < 4 || bits > 24) reader.refuse(` has blocks of ${bits} bits`);
  const [seed, nBlocks] = [reader.varint(), reader.varint()];
  const factors = shapes.map(() => reader.varint());
  const extents = Array.from({ length: reader.varint(8) }, () => reader.varint());
  const nRows = shapes.map(([nInputs]) => nInputs);
  if (extents.length) {
    if (product(extents) != nRows[0]) reader.refuse(` has a grid of ${extents} for ${nRows[0]} inputs`);
    nRows[0] = reader.varint(nRows[0]);
    if (!nRows[0]) reader.refuse(" has a grid without waves");
    if (workOf(extents, nRows[0], shapes[0][1]) > MAX_WORK) reader.refuse(" has too many waves to be computed");
  }
  const sizes = shapes.map(([, nOutputs], index) => nRows[index] * nOutputs);
  const counts = sizes.map((size, index) => Math.ceil(size / factors[index]));
  if (factors.some((factor, index) => factor < 1 || factor > sizes[index])) reader.refuse(" has impossible sharing factors");
  const total = sum(counts) + sum(shapes.map(([, nOutputs]) => nOutputs));
  if (nBlocks < 1 || nBlocks > total) reader.refuse(` has ${nBlocks} blocks for ${total} numbers`);
  const scales = reader.floats(2, 2 * shapes.length);
  if (!scales.every((scale) => 1 / scale > 0)) reader.refuse(" has scales that are negative or not finite");
  const codes = reader.packed(bits, nBlocks);

  const numbers = shuffledNumbers(seed, codes, total);
  let at = 0;
  const take = (count, scale) => numbers.subarray(at, (at += count)).map((number) => number * scale);
  return shapes.map(([, nOutputs], index) => {
    let weights = shared(seed, index, factors[index], take(counts[index], 1), sizes[index]);
    if (!index && extents.length) weights = synthesized(weights, extents, nOutputs);
    const scale = scales[2 * index];
    return { weights: weights.map((weight) => weight * scale), biases: take(nOutputs, scales[2 * index + 1]) };
  });
}

/** The numbers of the blocks with these codes, in the order of the layers. */
function shuffledNumbers(seed, codes, total) {
  const [order, numbers] = [permutation(seed, 0, total), new Float32Array(total)];
  codes.forEach((code, block) => {
    const [stateHigh, stateLow] = stream([seed, 0, block, code]);
    for (let index = 0, at = block; at < total; index++, at += codes.length) {
      // A word has four indices of 16 bits
      if (!(index & 3)) mix(stateHigh, stateLow, index / 4 + 1);
      const pair = index & 2 ? high : low;
      const found = index & 1 ? pair >>> 16 : pair & 65535;
      numbers[order[at]] = quantiles[found] ||= quantile(found);
    }
  });
  return numbers;
}

/** The matrix in which each number stands for several weights. */
function shared(seed, layer, factor, numbers, size) {
  if (factor == 1) return numbers;
  const weights = new Float32Array(size);
  permutation(seed, layer + 1, size).forEach((place, index) => {
    const number = numbers[Math.floor(index / factor)];
    weights[place] = (index % factor) & 1 ? -number : number;
  });
  return weights;
}

/** Multiplications of `synthesized`, at most. */
function workOf(extents, nWaves, nOutputs) {
  const kept = extents.map((extent) => Math.min(extent, nWaves));
  return sum(
    kept.map((count, axis) => count * product(extents.slice(0, axis + 1)) * product(kept.slice(axis + 1)) * nOutputs),
  );
}

/** Weights on a grid of inputs from the amplitudes of its waves of lowest frequency; one axis after the other. */
function synthesized(amplitudes, extents, nOutputs) {
  const waves = lowestWaves(extents, amplitudes.length / nOutputs);
  const counts = extents.map((_, axis) => waves.reduce((most, wave) => Math.max(most, wave[axis] + 1), 0));
  let grid = new Float32Array(product(counts) * nOutputs);
  waves.forEach((wave, index) => {
    const place = wave.reduce((total, number, axis) => total * counts[axis] + number, 0);
    grid.set(amplitudes.subarray(index * nOutputs, (index + 1) * nOutputs), place * nOutputs);
  });
  extents.forEach((extent, axis) => {
    const [count, inner] = [counts[axis], product(counts.slice(axis + 1)) * nOutputs];
    const outer = product(extents.slice(0, axis));
    const sums = new Float32Array(outer * extent * inner);
    for (let wave = 0; wave < count; wave++) {
      for (let x = 0; x < extent; x++) {
        const height = waveHeight(wave, x, extent);
        for (let o = 0; o < outer; o++) {
          const [from, to] = [(o * count + wave) * inner, (o * extent + x) * inner];
          for (let i = 0; i < inner; i++) sums[to + i] += fround(height * grid[from + i]);
        }
      }
    }
    grid = sums;
  });
  return grid;
}

/** The wave numbers of the lowest frequencies on a grid. */
function lowestWaves(extents, count) {
  const frequencies = new Float64Array(product(extents));
  const candidates = [];
  frequencies.forEach((_, place) => {
    const wave = waveAt(place, extents);
    wave.forEach((number, axis) => (frequencies[place] += (number / extents[axis]) ** 2));
    // Waves that are not higher along any axis come before this one; more than a few are never sorted
    if (product(wave.map((number) => number + 1)) <= count) candidates.push(place);
  });
  // The sort is stable: waves of one frequency stay in the order of the grid
  candidates.sort((a, b) => frequencies[a] - frequencies[b]);
  return candidates.slice(0, count).map((place) => waveAt(place, extents));
}

/** The coordinates of a place in a grid, the last axis running fastest. */
function waveAt(place, extents) {
  return extents.map((extent, axis) => Math.floor(place / product(extents.slice(axis + 1))) % extent);
}

/** sqrt(2 / E) cos(pi / 2 m / E) for m = k (2 x + 1), reduced to the first octant without rounding; by a series. */
function waveHeight(wave, x, extent) {
  if (!wave) return fround(Math.sqrt(1 / extent));
  let multiple = (wave * (2 * x + 1)) % (4 * extent);
  multiple = Math.min(multiple, 4 * extent - multiple);
  const sign = multiple > extent ? -1 : 1;
  multiple = Math.min(multiple, 2 * extent - multiple);
  const isSine = 2 * multiple > extent ? 1 : 0;
  const angle = ((isSine ? extent - multiple : multiple) * (Math.PI / 2)) / extent;
  let total = 0;
  for (let n = 10; n >= 0; n--) {
    let factorial = 1;
    for (let factor = 2; factor <= 2 * n + isSine; factor++) factorial *= factor;
    total = total * (angle * angle) + (n & 1 ? -1 : 1) / factorial;
  }
  return fround((isSine ? total * angle : total) * sign * Math.sqrt(2 / extent));
}

/** Readers of one layer, by the kind of their section; kind 20 contains all layers. */
const RANDOM_CODE = 20;
const LAYERS = { 16: readDense(4), 17: readDense(2), 18: readCodebook, 22: readGrid, 24: readSparse };

// ---------------------------------------------------------------------------------------------------------------------
// Sections before the weights, by their kind. Each adds to the description of the network

const SECTIONS = [readPreprocessing, readLabels, readNames, readInput, readOutput];

/** Functions of a row in float64, in the order of the steps. */
function readPreprocessing(reader, network) {
  let width = (network.nFeatures = reader.varint());
  const nSteps = reader.byte();
  if (!width || !nSteps) reader.refuse(" has no steps or no features");
  for (let step = 0; step < nSteps; step++) {
    const flags = reader.byte();
    const operation = flags & 7;
    if (flags > 31 || operation > 6 || (operation > 4 && flags > 7) || (operation == 4 && flags & 8)) {
      reader.refuse(` has a step ${flags}, which this version cannot read`);
    }
    if (operation > 4) network.mixesFeatures = true;
    if (operation == 6) network.steps.push(readMoments(reader, width));
    else if (operation == 5) {
      const nOutputs = reader.varint();
      if (!nOutputs) reader.refuse(" has a product without outputs");
      const weights = reader.floats(4, width * nOutputs);
      if (!areFinite(weights)) reader.refuse(" has values that are not finite");
      network.steps.push(productStep({ weights, biases: new Float32Array(nOutputs) }, width));
      width = nOutputs;
    } else {
      const values = reader.floats(flags & 16 ? 4 : 8, operation == 4 ? 2 : flags & 8 ? 1 : width);
      if (!areFinite(values)) reader.refuse(" has values that are not finite");
      if (operation == 1 && !values.every(Boolean)) reader.refuse(" divides by zero");
      if (operation == 4 && values[0] > values[1]) reader.refuse(" clips to an empty range");
      network.steps.push(elementwiseStep(operation, values));
    }
  }
  if (width != network.sizes[0]) reader.refuse(` leads to ${width} inputs, and the network has ${network.sizes[0]}`);
}

/** x - a, x / a, x * a, x + a, or x clipped; in place. */
function elementwiseStep(operation, values) {
  const stride = values.length > 1 ? 1 : 0;
  const [least, most] = values;
  const calculate = [
    (x, a) => x - a,
    (x, a) => x / a,
    (x, a) => x * a,
    (x, a) => x + a,
    (x) => Math.min(Math.max(x, least), most),
  ][operation];
  return (row) => {
    for (let index = 0; index < row.length; index++) row[index] = calculate(row[index], values[index * stride]);
    return row;
  };
}

function productStep(layer, width) {
  const forward = forwardOf([layer], width);
  const [inputs, outputs] = [new Float32Array(width), new Float64Array(layer.biases.length)];
  return (row) => {
    inputs.set(row);
    outputs.set(forward(inputs));
    return outputs;
  };
}

function readMoments(reader, width) {
  const flags = reader.byte();
  if (flags > 31 || !(flags & ~8)) reader.refuse(` has moments with impossible flags ${flags}`);
  const sizes = Array.from({ length: flags & 8 ? 3 : 2 }, () => reader.varint());
  if (product(sizes) != width || sizes[2] == 1) reader.refuse(` has moments of images of shape ${sizes} for ${width} features`);
  const blur = flags & 16 ? reader.floats(4, 1)[0] : 0;
  if (flags & 16 && !(blur > 0 && blur <= 64)) reader.refuse(` has moments with a blur of ${blur} pixels`);
  return momentsStep(flags, sizes, blur);
}

/** Images moved by their own moments; docs/format.md has the formulas, with the same names. */
function momentsStep(flags, [height, width, nChannels = 1], blur) {
  let weights = Array.from({ length: Math.ceil(4 * blur) + 1 }, (_, n) => Math.exp(-(n * n) / (2 * blur * blur)));
  const total = 2 * sum(weights) - weights[0];
  weights = weights.map((weight) => weight / total);

  return (row) => {
    const images = Array.from({ length: nChannels }, (_, channel) => {
      const values = row.filter((_, index) => index % nChannels == channel);
      const least = values.reduce((a, b) => Math.min(a, b));
      return { least, values: values.map((value) => value - least) };
    });
    const mass = images[0].values.map((_, pixel) => sum(images.map(({ values }) => values[pixel])));
    const [y, x] = placesOf(mass, flags, height, width);
    images.forEach(({ least, values }, channel) => {
      let moved = interpolated(values, height, width, y, x);
      if (blur) moved = blurred(blurred(moved, height, width, weights), width, 1, weights);
      moved.forEach((value, pixel) => (row[pixel * nChannels + channel] = value + least));
    });
    return row;
  };
}

/** The row y[i] and the column x[i * width + j] at which each pixel of the moved image is taken. */
function placesOf(mass, flags, height, width) {
  let [m, r, q, v, u, t] = [0, 0, 0, 0, 0, 0];
  const each = (visit) => mass.forEach((g, pixel) => visit(g, Math.floor(pixel / width), pixel % width));
  each((g, i, j) => {
    m += g;
    r += g * i;
    q += g * j;
  });
  if (m == 0) m = 1;
  r /= m;
  q /= m;
  each((g, i, j) => {
    v += g * (i - r) ** 2;
    u += g * (j - q) ** 2;
    t += g * (i - r) * (j - q);
  });
  const a = flags & 2 && v > 1e-9 * m ? t / v : 0;
  const moment = (v / m + 1 / 12) / height ** 2 + ((u - a * t) / m + 1 / 12) / width ** 2;
  const s = flags & 4 ? Math.sqrt((32 / 3) * moment) : 1;
  const [i0, j0] = flags & 1 ? [(height - 1) / 2, (width - 1) / 2] : [r, q];
  const y = Float64Array.from({ length: height }, (_, i) => r + s * (i - i0));
  const x = mass.map((_, pixel) => q + s * ((pixel % width) - j0) + a * (y[Math.floor(pixel / width)] - r));
  return [y, x];
}

/** The values of an image at the places of its pixels: linear between pixels, 0 outside, NaN where places are. */
function interpolated(values, height, width, y, x) {
  const at = (i, j) => (i >= 0 && i < height && j >= 0 && j < width ? values[i * width + j] : 0);
  return x.map((column, pixel) => {
    const row = y[Math.floor(pixel / width)];
    const [top, left] = [Math.floor(row), Math.floor(column)];
    const between = (j) => at(top, j) + (at(top + 1, j) - at(top, j)) * (row - top);
    return between(left) + (between(left + 1) - between(left)) * (column - left);
  });
}

/** An image blurred along the axis of this extent, whose neighbors are `stride` pixels apart. */
function blurred(values, extent, stride, weights) {
  return values.map((value, pixel) => {
    const place = Math.floor(pixel / stride) % extent;
    let total = weights[0] * value;
    for (let n = 1; n < Math.min(weights.length, extent); n++) {
      if (n <= place) total += weights[n] * values[pixel - n * stride];
      if (n < extent - place) total += weights[n] * values[pixel + n * stride];
    }
    return total;
  });
}

function readLabels(reader, network) {
  const count = reader.varint();
  const expected = network.nOutputs == 1 && network.output != SOFTMAX ? 2 : network.nOutputs;
  if (count != expected) reader.refuse(` has ${count} classes, and the outputs need ${expected}`);
  const kind = reader.byte();
  const each = (read) => Array.from({ length: count }, read);
  if (kind == 0) {
    const first = reader.zigzag();
    const last = first + BigInt(count - 1);
    if (last >> 63n > 0n) reader.refuse(" has labels beyond 64 bits");
    const areSafe = [first, last].every(isSafe);
    const [start, List] = areSafe ? [Number(first), Float64Array] : [first, BigInt64Array];
    network.classes = List.from({ length: count }, (_, index) => start + start.constructor(index));
    return;
  }
  if (count > reader.left) reader.refuse(` has too few bytes for ${count} labels`);
  if (kind == 1) {
    const labels = each(() => reader.zigzag());
    // All of one type
    network.classes = labels.every(isSafe) ? labels.map(Number) : labels;
  } else if (kind == 2) network.classes = each(() => reader.string());
  else if (kind == 3) {
    network.classes = each(() => {
      const label = reader.byte();
      if (label > 1) reader.refuse(" has a boolean that is neither 0 nor 1");
      return label > 0;
    });
  } else if (kind == 4) network.classes = reader.floats(8, count);
  else reader.refuse(` has labels of unknown kind ${kind}`);
}

/** Whether a number keeps all digits of an integer, a BigInt. */
function isSafe(integer) {
  return Number.isSafeInteger(Number(integer));
}

function readNames(reader, network) {
  const kind = reader.byte();
  if (kind > 1) reader.refuse(` has names of unknown form ${kind}`);
  let names = reader;
  if (kind) {
    const length = reader.varint();
    const data = reader.take(reader.left);
    if (length > 64 * (data.length + 5)) reader.refuse(` has ${length} bytes of names in ${data.length} deflated ones`);
    names = new Reader(inflate(data, length), reader.where);
  }
  if (network.nFeatures > names.left) reader.refuse(` has too few bytes for ${network.nFeatures} names`);
  network.names = Array.from({ length: network.nFeatures }, () => names.string());
  names.finish();
}

function readInput(reader, network) {
  const flags = reader.varint(1023);
  const nInputs = network.sizes[0];
  const [hasOffset, hasScale, isSelective] = [flags & 3, flags & 12, flags & 512];
  if (
    !(flags & ~528) ||
    hasOffset == 3 ||
    hasScale == 12 ||
    (flags & 480 && !(flags & 16)) ||
    (flags & 128 && !hasOffset) ||
    (flags & 256 && !hasScale) ||
    (isSelective && (flags & 5 || !(flags & 10)))
  ) {
    reader.refuse(` has impossible flags ${flags}`);
  }
  const used = isSelective ? reader.packed(1, nInputs) : new Uint8Array(nInputs).fill(1);
  if (isSelective && used.every(Boolean)) reader.refuse(" has a bit of each input, and all are 1");
  network.offset = hasOffset && readEach(reader, flags & 128 ? 8 : 4, flags & 1, used);
  network.scale = hasScale && readEach(reader, flags & 256 ? 8 : 4, flags & 4, used);
  network.isWide = flags & 16;
  network.limit = flags & 32 ? reader.floats(4, 1)[0] : Infinity;
  if (!(network.limit > 0) || (flags & 32 && network.limit == Infinity)) reader.refuse(" has a limit that is not positive");
  network.mayBeMissing = flags & 64;
}

function readOutput(reader, network) {
  const flags = reader.byte();
  if (flags > 15 || !flags || (flags & 3) == 3 || (flags & 12) == 12) reader.refuse(` has impossible flags ${flags}`);
  const all = new Uint8Array(network.nOutputs).fill(1);
  network.outputOffset = flags & 3 && readEach(reader, 8, flags & 1, all);
  network.outputScale = flags & 12 && readEach(reader, 8, flags & 4, all);
  if (network.output != IDENTITY) reader.refuse(" is for values, and the outputs are none");
  if (flags & 12 && !network.outputScale.every((scale) => scale > 0)) reader.refuse(" has a scale that is not positive");
}

/** One finite number for all places, or one for each used place; as an array, 0 elsewhere. */
function readEach(reader, size, isShared, used) {
  const stored = reader.floats(size, isShared ? 1 : sum(used));
  if (!areFinite(stored)) reader.refuse(" has an offset or a scale that is not finite");
  let next = 0;
  return Float64Array.from(used, (isUsed) => (isUsed ? stored[isShared ? 0 : next++] : 0));
}

// ---------------------------------------------------------------------------------------------------------------------
// The file

/** The description of the network in a file, and its layers. */
function read(bytes) {
  if (String.fromCharCode(...bytes.subarray(0, 4)) != "MBNS") refuse("this is no student file: it does not begin with MBNS");
  if (bytes[4] != 1) refuse(`the file has format version ${bytes[4]}, and this reader reads 1`);
  const file = new Reader(bytes.subarray(0, -4), "the file");
  if (bytes.length < 9 || crc32(file.bytes) != new DataView(bytes.buffer, bytes.byteOffset).getUint32(bytes.length - 4, true)) {
    refuse("the file is damaged or cut: its checksum does not match");
  }
  file.at = 5;
  const network = readHeader(file, bytes.length);
  let last = -1;
  while (file.left) {
    const kind = file.byte();
    const section = new Reader(file.take(file.varint()), `section ${kind} of the file`);
    if (kind < 16 && kind <= last) section.refuse(` comes after section ${last}`);
    if (SECTIONS[kind]) SECTIONS[kind](section, network);
    else readLayers(section, kind, network);
    section.finish();
    last = kind;
  }
  check(network);
  return network;
}

function readHeader(file, nBytes) {
  const kind = file.byte();
  if ((kind & 7) > 3) file.refuse(` has an activation ${kind & 7}, which this version cannot read`);
  const sizes = Array.from({ length: file.varint(255) + 1 }, () => file.varint());
  if (sizes.length < 2 || !sizes.every(Boolean)) file.refuse(` describes an empty network, layer sizes ${sizes}`);
  // A few bytes may describe many weights; this bounds the memory that a forged header can demand
  const nWeights = sum(sizes.slice(1).map((nOutputs, index) => (sizes[index] + 1) * nOutputs));
  if (nWeights > Math.min(4096 * nBytes, 2 ** 24 + 64 * nBytes)) {
    file.refuse(` has layer sizes ${sizes}, too many weights for ${nBytes} bytes`);
  }
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

/** Read the weights of the next layer, or of all. */
function readLayers(section, kind, { sizes, layers }) {
  if (kind != RANDOM_CODE && !LAYERS[kind]) section.refuse(" is of a kind that this version cannot read");
  const shapes = sizes.slice(1).map((nOutputs, index) => [sizes[index], nOutputs]).slice(layers.length);
  if (!shapes.length) section.refuse(" comes after the last layer");
  layers.push(...(kind == RANDOM_CODE ? readRandomCode(section, shapes) : [LAYERS[kind](section, ...shapes[0])]));
}

/** Refuse a network that is inconsistent. */
function check({ sizes, layers, classes, target, output, squeeze, nOutputs }) {
  if (layers.length < sizes.length - 1) refuse(`the file has weights for ${layers.length} of ${sizes.length - 1} layers`);
  for (const { weights, biases } of layers) {
    if (!areFinite(weights) || !areFinite(biases)) refuse("the file has weights that are not finite");
  }
  const isProbable = output == SOFTMAX || output == LOGISTIC;
  if (
    (isProbable && !classes && !(output == SOFTMAX && target == TRANSFORM)) ||
    (output == RELU && classes) ||
    (target == PROBABILITIES && !isProbable) ||
    (squeeze && nOutputs != 1)
  ) {
    refuse("the file has outputs that do not suit its classes or its method");
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Predictions

/**
 * The function from the inputs of layers, Float32Array, to the outputs of the last one, a Float32Array that the next call
 * overwrites. Inputs that are 0, most pixels of a drawing, take no time.
 */
function forwardOf(layers, nInputs, activate) {
  const widest = layers.reduce((most, { biases }) => Math.max(most, biases.length), nInputs);
  const [places, values] = [new Uint32Array(widest), new Float64Array(widest)];
  const buffers = layers.map(({ biases }) => new Float32Array(biases.length));

  return (inputs) => {
    for (let index = 0; index < layers.length; index++) {
      if (index) for (let unit = 0; unit < inputs.length; unit++) inputs[unit] = activate(inputs[unit]);
      multiplyLayer(layers[index], inputs, buffers[index], places, values);
      inputs = buffers[index];
    }
    return inputs;
  };
}

/** outputs = inputs times weights plus biases; `places` and `values` are memory for the inputs that are not 0. */
function multiplyLayer({ weights, biases }, inputs, outputs, places, values) {
  const nOutputs = biases.length;
  let count = 0;
  for (let input = 0; input < inputs.length; input++) {
    if (inputs[input] !== 0) {
      places[count] = input * nOutputs;
      values[count++] = inputs[input];
    }
  }
  let output = 0;
  // Four sums at a time are independent of each other, and stay in registers
  for (; output + 4 <= nOutputs; output += 4) {
    let [a, b, c, d] = [0, 0, 0, 0];
    for (let index = 0; index < count; index++) {
      const [value, place] = [values[index], places[index] + output];
      a += value * weights[place];
      b += value * weights[place + 1];
      c += value * weights[place + 2];
      d += value * weights[place + 3];
    }
    outputs[output] = a + biases[output];
    outputs[output + 1] = b + biases[output + 1];
    outputs[output + 2] = c + biases[output + 2];
    outputs[output + 3] = d + biases[output + 3];
  }
  for (; output < nOutputs; output++) {
    let a = 0;
    for (let index = 0; index < count; index++) a += values[index] * weights[places[index] + output];
    outputs[output] = a + biases[output];
  }
}

function softmax(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const exponentials = Float64Array.from(logits, (logit) => Math.exp(logit - largest));
  const total = sum(exponentials);
  return Float32Array.from(exponentials, (value) => value / total);
}

/** A network that predicts; see distill.d.ts. */
class Student {
  #network;
  #raw; // one row as it is given
  #inputs; // and as it enters the first layer
  #forward;

  constructor(network) {
    const { sizes, layers, activation, classes, output, target, names } = network;
    this.#network = network;
    this.#inputs = new Float32Array(sizes[0]);
    const isPlain = !network.steps.length && !network.isWide;
    this.#raw = isPlain ? this.#inputs : new Float64Array(network.nFeatures);
    this.#forward = forwardOf(layers, sizes[0], ACTIVATIONS[activation]);
    this.nFeatures = network.nFeatures;
    this.nOutputs = network.nOutputs;
    this.featureNames = names;
    this.classes = classes && Array.from(classes);
    this.methods = METHODS.filter(
      (_, method) =>
        method == target ||
        (classes && (method == PREDICT || (method == PROBABILITIES && (output == SOFTMAX || output == LOGISTIC)))),
    );
  }

  predict(x) {
    const { classes } = this.#network;
    return this.#each(0, x, (outputs) => {
      if (!classes) return this.#values(outputs);
      if (outputs.length < classes.length) return classes[outputs[0] > 0 ? 1 : 0];
      let best = 0;
      for (let index = 1; index < outputs.length; index++) if (outputs[index] > outputs[best]) best = index;
      return classes[best];
    });
  }

  predictProba(x) {
    return this.#each(1, x, (outputs) => {
      if (this.#network.output == SOFTMAX) return softmax(outputs);
      const positive = outputs.map(ACTIVATIONS[3]);
      return outputs.length > 1 ? positive : Float32Array.of(1 - positive[0], positive[0]);
    });
  }

  transform(x) {
    return this.#each(2, x, (outputs) => this.#values(outputs));
  }

  decisionFunction(x) {
    return this.#each(3, x, (outputs) => this.#values(outputs));
  }

  /** The answer for the outputs of one row, or an array of answers for an array of rows. */
  #each(method, x, answer) {
    if (!this.methods.includes(METHODS[method])) {
      throw new Error(`this student has no ${METHODS[method]}; it has ${this.methods.join(", ")}`);
    }
    const isOne = !Array.isArray(x) || typeof x[0] == "number";
    return isOne ? answer(this.#outputs(x, "the row")) : Array.from(x, (row, index) => answer(this.#outputs(row, `row ${index}`)));
  }

  /** Values (an embedding, a regression, decision values) from the outputs of the last layer, as a copy. */
  #values(outputs) {
    const { output, classes, outputOffset, outputScale, squeeze } = this.#network;
    let values = output == SOFTMAX && !classes ? softmax(outputs) : outputs.map(ACTIVATIONS[output == RELU ? 1 : 0]);
    if (outputOffset || outputScale) {
      values = Float64Array.from(
        values,
        (value, index) => value * (outputScale ? outputScale[index] : 1) + (outputOffset ? outputOffset[index] : 0),
      );
    }
    return squeeze ? values[0] : values;
  }

  /** The outputs of the last layer for one row. */
  #outputs(row, where) {
    const { steps, isWide, offset, scale, limit, mayBeMissing } = this.#network;
    const inputs = this.#inputs;
    this.#take(row, where);
    let values = this.#raw;
    for (const step of steps) values = step(values);
    if (values != inputs) {
      for (let index = 0; index < inputs.length; index++) {
        let value = values[index];
        if (isWide) {
          if (offset) value -= offset[index];
          if (scale) value *= scale[index];
          value = Math.min(Math.max(value, -limit), limit);
          if (mayBeMissing && value !== value) value = 0;
        }
        inputs[index] = value;
      }
      this.#demandFinite(inputs, `${where} before the network`);
    }
    if (!isWide && (offset || scale)) {
      for (let index = 0; index < inputs.length; index++) {
        if (offset) inputs[index] -= offset[index];
        if (scale) inputs[index] *= scale[index];
      }
    }
    const outputs = this.#forward(inputs);
    this.#demandFinite(outputs, `the output of the network for ${where}`);
    return outputs;
  }

  #demandFinite(values, where) {
    for (let index = 0; index < values.length; index++) {
      if (!Number.isFinite(values[index])) {
        throw new RangeError(`${where} has the value ${values[index]} at ${index}: the given values are too large`);
      }
    }
  }

  /** Copy one row into #raw. */
  #take(row, where) {
    const { nFeatures, names, mayBeMissing, mixesFeatures } = this.#network;
    const isNamed = !Array.isArray(row) && !ArrayBuffer.isView(row);
    if (isNamed) this.#checkNames(row, where);
    else if (row.length !== nFeatures) {
      throw new TypeError(`${where} has ${row.length} values, and the student needs ${nFeatures}`);
    }
    const [raw, isMissingValid] = [this.#raw, mayBeMissing && !mixesFeatures];
    for (let index = 0; index < nFeatures; index++) {
      const value = isNamed ? row[names[index]] : row[index];
      raw[index] = typeof value == "number" ? value : Infinity;
      // Also where a number is too large for float32
      if (!Number.isFinite(raw[index]) && !(isMissingValid && value !== value)) {
        const name = names ? `${index} ("${names[index]}")` : index;
        throw new TypeError(`${where} has ${String(value)} as feature ${name}; it must be a finite number`);
      }
    }
  }

  #checkNames(row, where) {
    const { nFeatures, names } = this.#network;
    if (!row || typeof row != "object" || !names) {
      throw new TypeError(`${where} must be an array of ${nFeatures} numbers${names ? ", or an object of features" : ""}`);
    }
    const known = new Set(names);
    const missing = names.find((name) => !Object.hasOwn(row, name));
    const unknown = Object.keys(row).find((name) => !known.has(name));
    if (missing !== undefined || unknown !== undefined || known.size < nFeatures) {
      throw new TypeError(
        missing !== undefined
          ? `${where} has no feature "${missing}"`
          : unknown !== undefined
            ? `${where} has a feature "${unknown}" that the student does not have`
            : "the student has several features of one name; give an array",
      );
    }
  }
}

/**
 * Read a student from the bytes of a student file.
 *
 * @param {ArrayBuffer | Uint8Array} bytes
 * @returns {Student}
 */
export function load(bytes) {
  if (ArrayBuffer.isView(bytes)) bytes = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  else if (Object.prototype.toString.call(bytes) == "[object ArrayBuffer]") bytes = new Uint8Array(bytes);
  else throw new TypeError("load takes the bytes of a student file, an ArrayBuffer or Uint8Array; await what is not there yet");
  return new Student(read(bytes));
}
