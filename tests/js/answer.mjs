// Load student files and predict, for the tests in Python: tests/helpers/javascript.py.
//
//     node answer.mjs distill.js jobs.json answers.json
//
// A job is { data, rows }: a file, and its rows in float64, both base64, or a number of rows of `pattern`, which Python
// has, too. JSON has neither NaN nor integers beyond 2^53: both are strings in answers.
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [source, jobs, answers] = process.argv.slice(2);
const { load, StudentFileError } = await import(pathToFileURL(source));

const decoded = (text) => new Uint8Array(Buffer.from(text, "base64"));

const pattern = (nRows, width) =>
  Array.from({ length: nRows }, (_, row) =>
    Float64Array.from({ length: width }, (_, index) => (row ? (((index * 7 + row * 3) % 11) - 5) / 4 : 1)),
  );

function rowsOf(text, width) {
  const values = new Float64Array(decoded(text).buffer);
  return Array.from({ length: values.length / width }, (_, row) => values.subarray(row * width, (row + 1) * width));
}

function answer({ data, rows }) {
  let student;
  try {
    student = load(decoded(data));
  } catch (error) {
    return error instanceof StudentFileError ? { refused: error.message } : { fault: error.stack };
  }
  const { methods, featureNames, nFeatures, nOutputs, classes } = student;
  const given = typeof rows == "number" ? pattern(rows, nFeatures) : rowsOf(rows, nFeatures);
  const found = {};
  for (const method of methods) {
    found[method] = given.map((row) => {
      try {
        const value = student[method](row);
        return ArrayBuffer.isView(value) ? Array.from(value) : value;
      } catch (error) {
        return { error: error.message };
      }
    });
  }
  return { methods, featureNames, nFeatures, nOutputs, classes, found };
}

const readable = (_, value) =>
  typeof value == "bigint" || (typeof value == "number" && !Number.isFinite(value)) ? String(value) : value;
writeFileSync(answers, JSON.stringify(JSON.parse(readFileSync(jobs, "utf8")).map(answer), readable));
