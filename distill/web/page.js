// The page: a canvas or number fields, and the answer of the student. Globals: `distill`, the runtime, and `drawing`.

const demo = (() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const image = data.image && drawing.imageForm(data.image.height, data.image.width, data.image.low, data.image.high);
  const state = { strokes: [], row: null, given: null, answer: null, milliseconds: null };
  const KEY_STEP = 1 / 32; // of the side of the canvas
  const TIMED = 4; // milliseconds of a measurement; clocks of browsers tick every 0.005 to 1 ms
  let student, pen = null, pointer = null, cursor = [0.5, 0.5], keyDraws = false, waiting = false;

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const fail = (error) => {
    $("error").hidden = false;
    $("error").textContent = error.message || String(error);
  };
  const number = (value) => {
    const size = Math.abs(value);
    return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  };
  const nameOf = (label) => data.names[String(label)] ?? String(label);

  // The answer for a row: what is shown in large, and the bars

  function answer(row) {
    const has = (method) => student.methods.includes(method);
    const label = student.classes ? student.predict(row) : null;
    const asParts = (values) => typeof values === "number" ? [values] : Array.from(values);
    if (has("predictProba")) return { label, kind: "probability", parts: Array.from(student.predictProba(row)) };
    if (has("decisionFunction")) return { label, kind: "decision value", parts: asParts(student.decisionFunction(row)) };
    if (label !== null) return { label, kind: "", parts: [] };
    return { label, kind: "output", parts: asParts(has("transform") ? student.transform(row) : student.predict(row)) };
  }

  function show(finished) {
    const row = state.row;
    if (!row) {
      state.answer = null;
      $("label").textContent = "\u00a0";
      $("detail").textContent = image ? data.examples.length ? "Draw, or click an example." : "Draw." : "";
      showBars(null);
      return;
    }
    try {
      state.answer = answer(row);
      if (finished) measure(row);
    } catch (error) {
      fail(error);
      return;
    }
    $("error").hidden = true;
    const { label, kind, parts } = state.answer, best = parts.indexOf(Math.max(...parts));
    const percent = kind === "probability" ? `${(100 * Math.max(...parts)).toFixed(1)} %` : "";
    const large = label !== null ? nameOf(label) : parts.length === 1 ? number(parts[0]) : "";
    $("label").textContent = large || "\u00a0";
    $("label").hidden = !large;
    $("label").classList.toggle("long", large.length > 4);
    const what = label === null ? "" : `${data.word} ${label}`;
    $("detail").textContent = [what, percent && `probability ${percent}`].filter(Boolean).join(", ");
    showBars(state.answer, best);
    if (finished) {
      $("status").textContent = large ? `Answer: ${large}. ${percent}` : parts.map(number).join(", ");
      showFacts();
    }
  }

  function measure(row) {
    const began = performance.now();
    let calls = 0;
    do {
      answer(row);
      calls += 1;
    } while (performance.now() - began < TIMED);
    state.milliseconds = (performance.now() - began) / calls;
  }

  function showFacts() {
    const parts = [`model: ${data.bytes.toLocaleString("en")} bytes`];
    if (state.milliseconds !== null) parts.push(`answer: ${state.milliseconds.toPrecision(2)} ms`);
    if (image) parts.push(`input: ${image.height} \u00d7 ${image.width} pixels from ${image.low} to ${image.high}`);
    else parts.push(`input: ${student.nFeatures} numbers`);
    $("facts").replaceChildren(...parts.map((text) => make("span", { textContent: text })));
  }

  // A bar for each part, sorted by name
  function showBars(result, best = -1) {
    const classes = student.classes && Array.from(student.classes);
    const n = result ? result.parts.length : classes ? classes.length : 0;
    const labels = classes && classes.length === n ? classes : null;
    const names = Array.from({ length: n }, (_, k) => labels ? nameOf(labels[k]) : n > 1 ? `output ${k + 1}` : result?.kind ?? "");
    const order = names.map((_, k) => k);
    if (Object.keys(data.names).length) order.sort((a, b) => names[a].localeCompare(names[b], "en", { numeric: true }));
    const most = result && result.kind !== "probability" ? Math.max(...result.parts.map(Math.abs), 1e-300) : 1;
    $("bars").replaceChildren(...order.map((k) => {
      const value = result ? result.parts[k] : 0;
      const bar = make("span", { className: "bar" });
      bar.style.width = `${(100 * Math.abs(value)) / most}%`;
      const text = !result ? "" : result.kind === "probability" ? `${(100 * value).toFixed(1)} %` : number(value);
      const item = make("li", {}, make("span", { className: "name", textContent: names[k] }), make("span", {}, bar),
        make("span", { className: "value", textContent: text }));
      bar.parentNode.setAttribute("aria-hidden", "true");
      item.classList.toggle("best", k === best && labels !== null);
      if (labels) item.title = `${data.word} ${labels[k]}`;
      return item;
    }));
  }

  // Drawing

  function update(finished) {
    if (!state.given) state.row = state.strokes.length ? drawing.prepare(state.strokes, image) : null;
    paint();
    if (state.row) paintPixels($("seen"), state.row);
    else $("seen").getContext("2d").clearRect(0, 0, image.width, image.height);
    show(finished);
  }

  // While a line is drawn, one answer for a frame
  function updateSoon() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (pen) update(false);
    });
  }

  function paint() {
    const canvas = $("canvas"), side = Math.round(canvas.clientWidth * (window.devicePixelRatio || 1));
    if (canvas.width !== side) canvas.width = canvas.height = side;
    const context = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    context.clearRect(0, 0, side, side);
    if (state.given) {
      const picture = make("canvas");
      paintPixels(picture, state.given);
      context.imageSmoothingEnabled = false;
      context.drawImage(picture, 0, 0, side, side);
    }
    context.strokeStyle = context.fillStyle = style.getPropertyValue("--ink");
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = side * 0.06;
    for (const stroke of state.strokes) {
      context.beginPath();
      context.moveTo(stroke[0] * side, stroke[1] * side);
      for (let k = 0; k < stroke.length; k += 2) context.lineTo(stroke[k] * side, stroke[k + 1] * side);
      context.stroke();
    }
    if (document.activeElement === canvas && canvas.matches(":focus-visible")) {
      context.strokeStyle = style.getPropertyValue("--accent");
      context.lineWidth = side * 0.008;
      context.beginPath();
      context.arc(cursor[0] * side, cursor[1] * side, side * 0.04, 0, 2 * Math.PI);
      if (keyDraws) context.fill();
      context.stroke();
    }
  }

  // Draw pixels in the colors of the page: the lowest value transparent, the highest in ink
  function paintPixels(canvas, row) {
    const { height, width, low, high } = image, context = canvas.getContext("2d");
    canvas.width = width;
    canvas.height = height;
    const ink = getComputedStyle(document.body).color.match(/\d+/g).slice(0, 3).map(Number);
    const pixels = context.createImageData(width, height);
    row.forEach((value, k) => pixels.data.set([...ink, Math.round((255 * (value - low)) / (high - low))], 4 * k));
    context.putImageData(pixels, 0, 0);
  }

  function clear() {
    Object.assign(state, { strokes: [], row: null, given: null });
    pen = null;
    keyDraws = false;
    update(true);
  }

  function startStroke(point) {
    if (state.given) Object.assign(state, { given: null, strokes: [] });
    pen = [...point];
    state.strokes.push(pen);
  }

  function addPoint(point) {
    if (point[0] !== pen.at(-2) || point[1] !== pen.at(-1)) pen.push(...point);
  }

  function setUpCanvas() {
    const canvas = $("canvas");
    canvas.setAttribute("aria-label", "Drawing area");
    $("drawing").hidden = false;
    canvas.style.aspectRatio = `${image.width} / ${image.height}`;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (pointer !== null || event.button !== 0) return;
      pointer = event.pointerId;
      canvas.setPointerCapture(pointer);
      keyDraws = false;
      startStroke(place(event));
      updateSoon();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId !== pointer) return;
      const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
      for (const each of events.length ? events : [event]) addPoint(place(each));
      updateSoon();
    });
    const lift = (event) => {
      if (event.pointerId !== pointer) return;
      pointer = pen = null;
      update(true);
    };
    canvas.addEventListener("pointerup", lift);
    canvas.addEventListener("pointercancel", lift);
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (step) {
        cursor = cursor.map((value, k) => Math.min(1, Math.max(0, value + step[k] * KEY_STEP)));
        if (keyDraws) addPoint(cursor);
      } else if (event.key === " ") {
        keyDraws = !keyDraws;
        if (keyDraws) startStroke(cursor);
        else pen = null;
      } else if (event.key === "Escape") {
        clear();
      } else {
        return;
      }
      event.preventDefault();
      update(true);
    });
    for (const name of ["focus", "blur"]) canvas.addEventListener(name, paint);
    $("clear").addEventListener("click", clear);
    window.addEventListener("resize", paint);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      setUpExamples();
      update(false);
    });
  }

  function setUpExamples() {
    const buttons = data.examples.map((example, k) => {
      const isStrokes = Array.isArray(example[0]);
      const button = make("button", { type: "button" });
      if (image) {
        const row = isStrokes ? drawing.prepare(example, image) : example, picture = make("canvas");
        paintPixels(picture, row);
        button.append(picture);
        button.setAttribute("aria-label", `Example ${k + 1}`);
      } else {
        button.textContent = String(k + 1);
        button.setAttribute("aria-label", `Example ${k + 1}`);
      }
      button.addEventListener("click", () => {
        if (!image) {
          fill(example);
          return;
        }
        pen = null;
        keyDraws = false;
        Object.assign(state, isStrokes ? { strokes: example.map((stroke) => [...stroke]), given: null }
          : { strokes: [], given: example, row: example });
        update(true);
      });
      return button;
    });
    $("examples").hidden = !buttons.length;
    $("examples").lastElementChild.replaceChildren(...buttons);
  }

  // Number fields

  function fill(row) {
    inputs().forEach((input, k) => {
      input.value = row[k] === null ? "" : String(row[k]);
    });
    read();
  }

  const inputs = () => Array.from($("fields").querySelectorAll("input"));

  function read() {
    const problems = [], untouched = inputs().every((input) => input.value.trim() === "");
    const row = inputs().map((input, k) => {
      const text = input.value.trim().replace("\u2212", "-"), value = text === "" ? NaN : Number(text);
      const wrong = text === "" ? !data.fills : !Number.isFinite(Math.fround(value));
      input.setAttribute("aria-invalid", String(wrong && !untouched));
      if (wrong) problems.push(`${data.features[k]}: ${text === "" ? "a value is missing" : `${text} is no number`}`);
      return value;
    });
    state.row = problems.length ? null : row;
    show(true);
    if (problems.length) $("detail").textContent = untouched ? "Fill in the fields." : problems.slice(0, 3).join("; ");
  }

  function setUpFields() {
    const form = $("fields");
    form.hidden = false;
    data.features.forEach((name, k) => {
      const input = make("input", { type: "text", inputMode: "decimal", autocomplete: "off" });
      input.addEventListener("input", read);
      form.append(make("label", {}, name, input));
    });
    const paste = make("textarea", { rows: 2, placeholder: "1.5, 2, 0.25, ..." });
    const label = make("label", { className: "wide" }, "or paste a row: numbers with commas or tabs between them", paste);
    paste.addEventListener("input", () => {
      const cells = paste.value.trim().split(/[\s,;]+/);
      paste.setAttribute("aria-invalid", String(cells.length !== data.features.length));
      if (cells.length === data.features.length) fill(cells);
    });
    form.append(label);
    form.addEventListener("submit", (event) => event.preventDefault());
    if (data.examples.length) fill(data.examples[0]);
    else read();
  }

  window.addEventListener("error", (event) => fail(event.error ?? event));
  try {
    student = distill.load(Uint8Array.from(atob(data.student), (character) => character.charCodeAt(0)));
    if (image) setUpCanvas();
    else setUpFields();
    setUpExamples();
    if (image) update(true);
    showFacts();
    $("note").textContent = data.note;
  } catch (error) {
    fail(error);
    throw error;
  }
  return { state, get student() { return student; } };
})();
