// Times in node, for benchmarks/javascript.py: js/distill.js against onnxruntime-web (WebAssembly, one thread).
//
//     node javascript.mjs distill.js FOLDER_OF_ONNXRUNTIME_WEB job.json result.json
//
// The job is { student, onnx, rows, nFeatures, repeat }, with paths of files; rows are float32. Both are measured in
// turns; a time is that of the fastest repetition.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [source, onnxruntime, jobFile, resultFile] = process.argv.slice(2);
const began = performance.now();
const ort = await import(pathToFileURL(join(onnxruntime, "dist", "ort.node.min.mjs")));
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";
const imported = performance.now();
const { load } = await import(pathToFileURL(source));
const job = JSON.parse(readFileSync(jobFile, "utf8"));

const file = readFileSync(job.student);
const rowsFile = readFileSync(job.rows);
const values = new Float32Array(rowsFile.buffer.slice(rowsFile.byteOffset, rowsFile.byteOffset + rowsFile.byteLength));
const nRows = values.length / job.nFeatures;
const rows = Array.from({ length: nRows }, (_, row) => values.subarray(row * job.nFeatures, (row + 1) * job.nFeatures));
const milliseconds = (start) => performance.now() - start;

let start = performance.now();
let student = load(file);
const firstLoad = milliseconds(start);
start = performance.now();
student.predict(rows[0]);
const firstRow = milliseconds(start);
start = performance.now();
const session = await ort.InferenceSession.create(readFileSync(job.onnx), { executionProviders: ["wasm"] });
const create = milliseconds(start);

const tensors = rows.slice(0, 300).map((row) => new ort.Tensor("float32", row, [1, job.nFeatures]));
const single = rows.slice(0, tensors.length);
const times = { load: [], one: [], many: [], ortOne: [], ortMany: [] };
const batch = new ort.Tensor("float32", values, [nRows, job.nFeatures]);
for (let repetition = 0; repetition < job.repeat; repetition++) {
  start = performance.now();
  student = load(file);
  times.load.push(milliseconds(start));
  start = performance.now();
  for (const row of single) student.predict(row);
  times.one.push(milliseconds(start) / single.length);
  start = performance.now();
  for (const tensor of tensors) await session.run({ X: tensor }, ["label"]);
  times.ortOne.push(milliseconds(start) / tensors.length);
  start = performance.now();
  student.predict(rows);
  times.many.push(milliseconds(start) / nRows);
  start = performance.now();
  await session.run({ X: batch }, ["label"]);
  times.ortMany.push(milliseconds(start) / nRows);
}
const best = Object.fromEntries(Object.entries(times).map(([name, found]) => [name, Math.min(...found)]));
const { label } = await session.run({ X: batch }, ["label"]);
writeFileSync(
  resultFile,
  JSON.stringify({
    node: process.version,
    ...best,
    firstLoad,
    firstRow,
    create,
    import: imported - began,
    labels: student.predict(rows),
    ortLabels: Array.from(label.data, Number),
    probabilities: Buffer.from(
      Float32Array.from(student.predictProba(rows).flatMap((row) => Array.from(row))).buffer,
    ).toString("base64"),
  }),
);
