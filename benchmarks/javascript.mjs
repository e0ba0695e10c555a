// Times in node, for benchmarks/javascript.py: js/distill.js against onnxruntime-web (WebAssembly, one thread).
//
//     node javascript.mjs distill.js FOLDER_OF_ONNXRUNTIME_WEB job.json result.json
//
// The job is { student, onnx, rows, nFeatures, repeat }, with paths of files; rows are float32. Without `repeat` only the
// first load and the first row are timed, which is done in fresh processes. Else both are measured in turns, in time of
// the processor, which other programs of the machine do not use; a time is that of the fastest repetition.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [source, onnxruntime, jobFile, resultFile] = process.argv.slice(2);
const { load } = await import(pathToFileURL(source));
const job = JSON.parse(readFileSync(jobFile, "utf8"));
const [file, onnx, rowsFile] = [job.student, job.onnx, job.rows].map((path) => readFileSync(path));
const values = new Float32Array(new Uint8Array(rowsFile).buffer);
const nRows = values.length / job.nFeatures;
const rows = Array.from({ length: nRows }, (_, row) => values.subarray(row * job.nFeatures, (row + 1) * job.nFeatures));

async function sessionOf(bytes) {
  const ort = await import(pathToFileURL(join(onnxruntime, "dist", "ort.node.min.mjs")));
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "error";
  return [ort, await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] })];
}

/** Milliseconds until the first label, with nothing compiled yet. */
async function cold() {
  const began = performance.now();
  const student = load(file);
  const loaded = performance.now();
  student.predict(rows[0]);
  const predicted = performance.now();
  await sessionOf(onnx);
  return { firstLoad: loaded - began, firstRow: predicted - loaded, session: performance.now() - predicted };
}

/** Milliseconds of the processor for each row, or each load, in the fastest repetition. */
async function warm() {
  const [ort, session] = await sessionOf(onnx);
  const student = load(file);
  const single = rows.slice(0, 300);
  const tensors = single.map((row) => new ort.Tensor("float32", row, [1, job.nFeatures]));
  const batch = new ort.Tensor("float32", values, [nRows, job.nFeatures]);
  const competitors = {
    load: [1, () => load(file)],
    one: [single.length, () => single.forEach((row) => student.predict(row))],
    ortOne: [
      tensors.length,
      async () => {
        for (const tensor of tensors) await session.run({ X: tensor }, ["label"]);
      },
    ],
    many: [nRows, () => student.predict(rows)],
    ortMany: [nRows, () => session.run({ X: batch }, ["label"])],
  };
  const best = {};
  for (let repetition = 0; repetition < job.repeat; repetition++) {
    for (const [name, [count, call]] of Object.entries(competitors)) {
      const before = process.cpuUsage();
      await call();
      const { user, system } = process.cpuUsage(before);
      best[name] = Math.min(best[name] ?? Infinity, (user + system) / 1000 / count);
    }
  }
  const { label } = await session.run({ X: batch }, ["label"]);
  const probabilities = Float32Array.from(student.predictProba(rows).flatMap((row) => Array.from(row)));
  return {
    ...best,
    node: process.version,
    labels: student.predict(rows),
    ortLabels: Array.from(label.data, Number),
    probabilities: Buffer.from(probabilities.buffer).toString("base64"),
  };
}

writeFileSync(resultFile, JSON.stringify(await (job.repeat ? warm() : cold())));
