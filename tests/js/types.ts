// Compiled by tsc --strict, never run: the declarations allow what distill.js offers, and nothing else.
import {
  load,
  StudentFileError,
  type Label,
  type Method,
  type Row,
  type Student,
  type Values,
} from "../../js/distill.js";

declare const bytes: Uint8Array;
declare const buffer: ArrayBuffer;
const student: Student = load(bytes);
load(buffer);

const one: Row = new Float32Array(3);
const named: Row = { height: 1, width: 2 };
const rows: Row[] = [one, named, [1, 2, 3], new Uint8ClampedArray(3)];
const label: Label | Values = student.predict(one);
const labels: Array<Label | Values> = student.predict(rows);
const probabilities: Float32Array = student.predictProba([1, 2, 3]);
const largest: number = Math.max(...probabilities);
const many: Float32Array[] = student.predictProba([[1, 2, 3]]);
const embedding: Values = student.transform(named);
const decisions: Values[] = student.decisionFunction([named]);
const methods: readonly Method[] = student.methods;
const names: readonly string[] | null = student.featureNames;
const classes: readonly Label[] | null = student.classes;
const sizes: [number, number] = [student.nFeatures, student.nOutputs];
export const all = [label, labels, largest, many, embedding, decisions, methods, names, classes, sizes];

try {
  load(bytes);
} catch (error) {
  if (error instanceof StudentFileError) error.message.toUpperCase();
}

// @ts-expect-error a promise is not awaited
load(fetch("digits.student"));
// @ts-expect-error a path is no file
load("digits.student");
// @ts-expect-error text is no number
student.predict(["1", "2"]);
// @ts-expect-error labels may be text
const sum: number = student.predict(one) + 1;
// @ts-expect-error there may be no names
student.featureNames.length;
// @ts-expect-error nothing may be changed
student.nFeatures = 3;
// @ts-expect-error Python's name
student.predict_proba(one);
export { sum };

// Rows of interfaces, and one row or several
interface Flower {
  height: number;
  width: number;
}
const flower: Flower = { height: 1, width: 2 };
const ofFlower: Label | Values = student.predict(flower);
const ofFlowers: Float32Array[] = student.predictProba([flower, flower]);
const either: Row | Row[] = ofFlowers.length > 1 ? [1, 2] : [[1, 2]];
const answers: Values | Values[] = student.transform(either);
// @ts-expect-error a feature is no string
student.predict({ height: "1", width: 2 });
export { ofFlower, answers };
