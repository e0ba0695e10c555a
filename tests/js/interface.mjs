// The interface of distill.js: forms of rows, errors, and that calls leave nothing behind.
//
//     node interface.mjs distill.js FOLDER
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [source, folder] = process.argv.slice(2);
const { load, StudentFileError } = await import(pathToFileURL(source));
const bytesOf = (name) => readFileSync(join(folder, `${name}.student`));
const [labels, wide, plain] = ["labels", "wide", "plain"].map((name) => load(bytesOf(name)));

// Bytes in every form
const { buffer, byteOffset, byteLength } = bytesOf("labels");
const apart = buffer.slice(byteOffset, byteOffset + byteLength);
const shifted = new Uint8Array(byteLength + 3);
shifted.set(new Uint8Array(apart), 3);
for (const bytes of [apart, new Uint8Array(apart), shifted.subarray(3), new DataView(apart)]) {
  assert.deepEqual(load(bytes).classes, labels.classes);
}
for (const bytes of [undefined, null, "MBNS", 7, [77, 66, 78, 83], {}, Promise.resolve(apart)]) {
  assert.throws(() => load(bytes), { name: "TypeError", message: /ArrayBuffer/ });
}
assert.throws(
  () => load(new ArrayBuffer(0)),
  (error) => error instanceof StudentFileError && error instanceof Error,
);
assert.throws(() => load(bytesOf("future")), { name: "StudentFileError", message: /version 2/ });
assert.throws(() => load(apart.slice(0, -1)), { name: "StudentFileError", message: /checksum/ });

// What a student is
assert.deepEqual(labels.methods, ["predict", "predictProba"]);
assert.deepEqual([labels.nFeatures, labels.nOutputs], [5, 4]);
assert.deepEqual(labels.featureNames, ["f0", "f1", "f2", "f3", "f4"]);
assert.equal(plain.featureNames, null);
assert.equal(plain.classes, null);
assert.throws(() => labels.transform([1, 2, 3, 4, 5]), {
  name: "Error",
  message: /no transform; it has predict, predictProba/,
});
assert.throws(() => plain.predict([1, 2, 3, 4, 5]), { name: "Error", message: /no predict; it has transform/ });

// One row, in every form
const row = [1, -2, 3, -4, 5];
const label = labels.predict(row);
assert.ok(labels.classes.includes(label));
const named = { f4: 5, f3: -4, f2: 3, f1: -2, f0: 1 };
for (const form of [Float32Array.from(row), Float64Array.from(row), Int8Array.from(row), Int32Array.from(row), named]) {
  assert.equal(labels.predict(form), label);
  assert.deepEqual(labels.predictProba(form), labels.predictProba(row));
}
const bright = Uint8ClampedArray.of(0, 255, 3, 4, 5);
assert.deepEqual(plain.transform(bright), plain.transform([0, 255, 3, 4, 5]));

// Several rows
const other = [0, 0, 0.5, 0, 0];
assert.deepEqual(labels.predict([row, Float32Array.from(other), named]), [label, labels.predict(other), label]);
assert.deepEqual(labels.predict([]), []);
assert.deepEqual(plain.transform([row]), [plain.transform(row)]);
assert.ok(plain.transform(row) instanceof Float32Array);
const { predict } = labels;
assert.equal(predict(row), label); // a method needs no student before its dot

// Answers are copies: a later call changes none, and neither do rows change
const first = plain.transform(row);
const kept = Array.from(first);
plain.transform(other);
assert.deepEqual(Array.from(first), kept);
first.fill(0);
assert.deepEqual(Array.from(plain.transform(row)), kept);
assert.deepEqual(row, [1, -2, 3, -4, 5]);

// Missing values
assert.deepEqual(wide.transform([1, NaN, 3, NaN, 5]), wide.transform([1, 0, 3, 0, 5]));
assert.throws(() => wide.transform([1, Infinity, 3, 4, 5]), /Infinity as feature 1/);

// Rows that are none
const wrong = [
  [[1, 2, 3, 4], /the row has 4 values, and the student needs 5/],
  [new Float32Array(6), /has 6 values/],
  [new Float32Array(0), /has 0 values/],
  [[1, 2, NaN, 4, 5], /NaN as feature "f2"/],
  [[1, 2, 3, 4, 1e39], /1e\+39 as feature "f4"/],
  [[1, 2, 3, 4, "5"], /5 as feature "f4"/],
  [[1, 2, 3, 4, null], /null as feature "f4"/],
  [[1, 2, 3, 4, true], /true as feature "f4"/],
  [[1, 2, 3, 4, 5n], /5 as feature "f4"/],
  [[1, 2, 3, 4, Symbol("x")], /Symbol\(x\) as feature "f4"/],
  [[1, 2, 3, 4, [5]], /5 as feature "f4"/],
  [BigInt64Array.of(1n, 2n, 3n, 4n, 5n), /1 as feature "f0"/],
  [new DataView(new ArrayBuffer(5)), /has undefined values/],
  [{ f0: 1, f1: 2, f2: 3, f3: 4 }, /undefined as feature "f4"/],
  [{ ...named, f5: 6 }, /has "f5", which is no feature/],
  [new Map(Object.entries(named)), /undefined as feature "f0"/],
  [undefined, /must be an array of 5 numbers, or an object/],
  [null, /must be an array/],
  [5, /must be an array/],
  ["12345", /must be an array/],
  [() => 1, /must be an array/],
  [[row, 5], /row 1 must be an array/],
  [[row, other, [1, 2]], /row 2 has 2 values/],
  [[undefined, 1], /row 0 must be an array/],
  [Array(5), /row 0 must be an array/],
  [["1", 2, 3, 4, 5], /row 0 must be an array/],
];
for (const [rows, message] of wrong) assert.throws(() => labels.predict(rows), { name: "TypeError", message });
assert.throws(() => plain.transform({ a: 1 }), { message: /must be an array of 5 numbers$/ });
assert.throws(() => plain.transform([3e38, 3e38, 3e38, -3e38, 3e38]), { name: "TypeError", message: /too large/ });
// Infinity less Infinity, before a relu
const overflowing = load(bytesOf("overflowing"));
assert.throws(() => overflowing.transform([1, 1, 1, 1, 1]), { name: "TypeError", message: /too large/ });
assert.deepEqual(overflowing.transform([-1, -1, -1, -1, -1]), Float32Array.of(0));
assert.equal(labels.predict(row), label);
