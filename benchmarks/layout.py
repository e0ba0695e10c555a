"""Measure the layout of a checkout: imports, moves of the network, lengths, words and copies.

Run it before and after a change of the layout. Only the network's moves need the packages to be importable.

    python benchmarks/layout.py --root . --json layout.json

- A *room* is a folder or a top-level module of `distill`; in `compressors`, each paper is a room, and so are the
  modules that papers share. `distill/__init__.py` and `distill/__main__.py` are not counted. *Arrows* are the pairs of
  rooms of which the first imports the second.
- *Upward imports* are those that break a rule of the checkout's `tests/test_architecture.py`; where it has none, arrows
  between rooms that lie on a cycle of rooms.
- *Private names* are imported or taken from a module of ours; *private attributes* belong to another object than `self`
  or `cls` and are not defined in the same file.
- The *network's moves* in a compressor's fit are the calls from one room to another that hand over a network as an
  argument, while `_compress` runs; each pair of calling and called function counts once. A network is a `Network`, a
  torch module, an array of the shape of a layer, or a tuple, list, dict or object of the package that holds one. `self`
  is not an argument here, and methods of `Network` are not calls to another room.
- *Fidelity* is computed by functions that take the mean of an equality or call `explained_variance`.
- *Code lines* of a function are those of its body with more than comments and docstrings. *Complexity* is one more than
  the number of ifs, loops, handlers, cases, comprehensions and their conditions, further operands of `and` and `or`.
- *Comments* are counted in percent of the lines that are not blank.
- *Old words* are counted in docstrings, comments, strings and identifiers of the packages.
  Uses that stay: "random numbers" and the public `n_numbers` of random codes, numbers of things, partial sums of a
  product (not logits), squared deviations of a statistic, the share of a weight in a hash, forward pass, "passed on",
  evidence lower bound, data frame, rows that enter a layer, and deprecated names that still work.
- *Copies* are pairs of runs of six or more equal lines in all Python files, blank lines and comments left out.
"""

import argparse
import ast
import dataclasses
import inspect
import io
import json
import re
import runpy
import sys
import tokenize
import warnings
from collections import Counter, defaultdict
from functools import partial
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

PACKAGES = ("distill", "mbn")
SHARED = {"__init__", "base", "answers", "budget", "pruning"}  # modules of compressors/ that belong to no paper
ALIASES = {"pruned_file": "spike_slab", "matrix_gaussian_file": "matrix_gaussian"}
COPIED_LINES = 6
MOST_COMPLEX, MOST_PARAMETERS = 15, 12

# As regular expressions on lower-case text in which identifiers are split into words
WORDS = {
    "sums": r"\bsums\b",
    "answer, ask": r"\b(answer(s|ed|ing)?|ask(s|ed|ing)?)\b",
    "numbers": r"(?<!random )(?<!normal )\bnumbers\b",
    "deviation": r"(?<!standard )\bdeviations?\b",
    "share": r"\bshares?\b",
    "pass": r"\bpass(es)?\b",
    "evidence": r"\bevidence\b",
    "belief, believe": r"\b(beliefs?|believe[sd]?)\b",
    "remains, leave": r"\b(remains|leaves?)\b",
    "frame, enter": r"\b(frames?|enter(s|ing)?|inward|outward|scattered|narrowed)\b",
    "imitation": r"\bimitations?\b",
    "tails, coarser": r"\b(tails|coarser)\b|(?<!degrees of )\bfreedom\b",
    "hurry": r"\bhurry\b",
    "judge, tell": r"\b(judges?|tells?|wanted|settle noise)\b",
    "British": r"\b(?!(?:a|p)?rises?\b|promise|exercise|premise|comprise)\w*[tmlrn]is(?:e[sdr]?|ing|ations?|ers?)\b"
    r"|\b\w*(?:neighbour|behaviour|colour|favour|centre|labell|modell)\w*",
    "verbs of people": r"\b(says?|knows?|wants?)\b",
    "relative clauses": r"\b(whatever|so many|of its own|looked at|what is left|what is wrapped|makes? good)\b",
}


def load_checks(root: Path) -> SimpleNamespace:
    """Return what the architecture tests of a checkout define."""
    return SimpleNamespace(**runpy.run_path(str(root / "tests" / "test_architecture.py")))


def room_of(module: str) -> str | None:
    """Return the room of a module of `distill`, None for modules that belong to none."""
    package, *parts = module.split(".")
    if package != "distill" or parts[0] in ("__init__", "__main__"):
        return None
    if parts[0] != "compressors":
        return parts[0]
    return "compressors" if parts[1] in SHARED else f"compressors.{ALIASES.get(parts[1], parts[1])}"


def components(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of two or more nodes that reach each other."""
    reached = {}
    for start in list(graph):
        found, waiting = set(), [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - found
            found |= new
            waiting += new
        reached[start] = found
    return list({frozenset(b for b in reached[a] if a in reached.get(b, ())) for a in reached if a in reached[a]})


def measure_imports(root: Path, checks) -> dict:
    """Count cycles, upward imports, private names, rooms and the arrows between them."""
    modules = checks.sources(root, *PACKAGES)
    trees = {module: ast.parse(path.read_text("utf-8")) for module, path in modules.items()}
    graph, arrows = defaultdict(set), defaultdict(set)
    for module, tree in trees.items():
        for _, target, _ in checks.imports(module, tree, modules):
            if target in modules and target != module:
                graph[module].add(target)
                one, other = room_of(module), room_of(target)
                if one and other and one != other:
                    arrows[one].add(other)
    upward = [f"{a} -> {b}" for loop in components(arrows) for a in loop for b in arrows[a] & loop]
    pairs = [(a, b) for a in sorted(arrows) for b in sorted(arrows[a])]
    if (root / "tests" / "test_architecture.py").exists():
        rules = load_checks(root)
        upward = [
            f"{module}:{line} -> {target}: {rule}"
            for module, tree in trees.items()
            if rules.find_room(module)
            for line, target, _ in rules.imports(module, tree, modules)
            if (rule := rules.broken_rule(module, target))
        ]
    result = {
        "import cycles": [sorted(loop) for loop in components(graph)],
        "upward imports": upward,
        "rooms": sorted({room for module in modules if (room := room_of(module))}),
        "arrows between rooms": [f"{a} -> {b}" for a, b in pairs],
        "arrows between rooms, but those to network": [f"{a} -> {b}" for a, b in pairs if b != "network"],
    }
    scripts = checks.sources(root, "benchmarks", "examples", "tests")
    ours = {*PACKAGES, *(path.stem for path in scripts.values())}
    for folder in (PACKAGES, ("benchmarks",), ("examples",), ("tests",)):
        names, attributes = [], []
        for path in checks.sources(root, *folder).values():
            tree, file = ast.parse(path.read_text("utf-8")), str(path.relative_to(root))
            names += {f"{file}: {name}" for _, name in checks.private_uses(tree, ours)}
            attributes += [f"{file}:{line}: {name}" for line, name in private_attributes(tree, checks)]
        place = folder[0] if len(folder) == 1 else "packages"
        result[f"private names, {place}"] = sorted(names)
        result[f"private attributes, {place}"] = attributes
    return result


def private_attributes(tree: ast.AST, checks) -> list[tuple[int, str]]:
    """Return line and name of private attributes of objects other than self that this file does not define."""
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and checks.is_private(node.attr)]
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.attr for node in used if isinstance(node.ctx, ast.Store)}
    return [
        (node.lineno, node.attr)
        for node in used
        if node.attr not in own and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]


def code_lines(source: str, tree: ast.AST) -> set[int]:
    """Return the numbers of the lines that hold more than comments and docstrings."""
    documented = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documented |= set(range(node.lineno, node.end_lineno + 1))
    lines = set()
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - documented


def complexity(function: ast.AST) -> int:
    branches = ast.If | ast.IfExp | ast.For | ast.While | ast.ExceptHandler | ast.match_case
    total = 1
    for node in ast.walk(function):
        total += isinstance(node, branches)
        total += len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0
        total += 1 + len(node.ifs) if isinstance(node, ast.comprehension) else 0
    return total


def computes_fidelity(function: ast.AST) -> bool:
    def is_call(node: ast.AST, name: str) -> bool:
        return isinstance(node, ast.Call) and name == getattr(node.func, "attr", getattr(node.func, "id", None))

    def compares(node: ast.AST) -> bool:
        return any(isinstance(part, ast.Compare) and isinstance(part.ops[0], ast.Eq) for part in ast.walk(node))

    return any(
        is_call(node, "explained_variance") or (is_call(node, "mean") and compares(node)) for node in ast.walk(function)
    )


def measure_functions(root: Path, checks) -> dict:
    """Measure length, complexity and parameters of functions and the comments, and find where fidelity is computed."""
    rows, fidelity, n_lines, n_comments = [], [], 0, 0
    for module, path in checks.sources(root, *PACKAGES).items():
        source = path.read_text("utf-8")
        tree = ast.parse(source)
        lines = code_lines(source, tree)
        n_lines += sum(bool(line.strip()) for line in source.splitlines())
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        n_comments += sum(token.type == tokenize.COMMENT for token in tokens)
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        inner = {id(part) for node in functions for part in ast.walk(node) if part is not node}
        for node in functions:
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            size = len(lines & set(range(node.body[0].lineno, node.end_lineno + 1)))
            n_parameters = sum(argument.arg not in ("self", "cls") for argument in arguments)
            rows.append((f"{module}.{node.name}:{node.lineno}", size, complexity(node), n_parameters))
            if id(node) not in inner and computes_fidelity(node):
                fidelity.append(f"{module}.{node.name}:{node.lineno}")
    return {
        "fidelity is computed in": fidelity,
        "longest functions": [[row[0], row[1]] for row in sorted(rows, key=lambda row: -row[1])[:20]],
        f"complexity above {MOST_COMPLEX}": [[row[0], row[2]] for row in rows if row[2] > MOST_COMPLEX],
        f"functions of more than {MOST_PARAMETERS} parameters": [
            [row[0], row[3]] for row in rows if row[3] > MOST_PARAMETERS
        ],
        "comments, %": round(100 * n_comments / n_lines, 2),
    }


def phrases(source: str) -> list[str]:
    """Return comments, strings and identifiers as lower-case text."""
    found, before = [], ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            found.append(re.sub(r"\s+", " ", re.sub(r"(?<=[a-z])_(?=[a-z])", " ", token.string)).lower())
        elif token.type == tokenize.NAME and token.string not in ("pass", "numbers") and before != "import":
            found.append(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", token.string).lower().strip())
        before = token.string
    return found


def measure_words(root: Path, checks) -> dict[str, int]:
    """Count the old words in the packages."""
    counts = Counter(dict.fromkeys(WORDS, 0))
    for module, path in checks.sources(root, *PACKAGES).items():
        source, is_teacher = path.read_text("utf-8"), module.startswith("mbn")
        text = phrases(source)
        for word, pattern in WORDS.items():
            if not (is_teacher and word == "remains, leave"):  # trees have leaves
                counts[word] += sum(len(re.findall(pattern, phrase)) for phrase in text)
        counts["entropy (a seed)"] += is_teacher and len(re.findall(r"\bentropy\b", source))
        counts["random (a Generator)"] += len(re.findall(r"(?<![.\w])random(?=\.\w|\s?:| = |[,)])", source))
    return dict(counts)


def measure_copies(root: Path, checks) -> list[str]:
    """Return the pairs of places that share a run of equal lines."""
    places, texts = defaultdict(list), {}
    for path in checks.sources(root, *PACKAGES, "benchmarks", "examples", "tests").values():
        lines = enumerate((" ".join(line.split()) for line in path.read_text("utf-8").splitlines()), 1)
        lines = texts[path] = [(number, line) for number, line in lines if line and not line.startswith("#")]
        for start in range(len(lines) - COPIED_LINES + 1):
            run = tuple(line for _, line in lines[start : start + COPIED_LINES])
            places[run].append((path, start))
    windows = {pair for found in places.values() for pair in combinations(found, 2)}
    copies = []
    for (path, start), (other, place) in sorted(windows):
        if ((path, start - 1), (other, place - 1)) in windows:
            continue
        size = COPIED_LINES
        while ((path, start + size - COPIED_LINES + 1), (other, place + size - COPIED_LINES + 1)) in windows:
            size += 1
        first, second = texts[path][start][0], texts[other][place][0]
        copies.append(f"{path.relative_to(root)}:{first} = {other.relative_to(root)}:{second} ({size} lines)")
    return copies


def trace_networks(root: Path) -> dict[str, list[str]]:
    """Fit each compressor around a tiny distilled network and return the network's moves between rooms."""
    sys.path.insert(0, str(root))
    import torch
    from sklearn.cluster import KMeans
    from sklearn.datasets import load_digits
    from sklearn.frozen import FrozenEstimator

    import distill

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X = load_digits().data[:300]
    teacher = KMeans(5, n_init=1, random_state=0)
    distiller = distill.Distiller(teacher, hidden_layer_sizes=(16, 8), max_iter=3, random_state=0).fit(X)
    small = {"max_iter": 3, "fine_tune_iter": 2, "n_steps": 60, "n_steps_between_blocks": 1, "random_state": 0}
    moves = {}
    for name in ("CodebookCompressor", "RandomCodeCompressor", "SpikeSlabCompressor", "MatrixGaussianCompressor"):
        compressor = getattr(distill, name)(FrozenEstimator(distiller))
        known = compressor.get_params(deep=False)
        compressor.set_params(**{key: value for key, value in small.items() if key in known})
        if name == "RandomCodeCompressor":
            compressor.set_params(max_bytes=600)
        moves[name] = trace_moves(partial(compressor.fit, X), root, distiller.network_)
    return moves


def trace_moves(fit, root: Path, network) -> list[str]:
    """Call `fit` and return the calls between rooms that hand over a network, in their order."""
    import torch

    package, values = str(root / "distill"), str(root / "distill" / "network.py")
    shapes = {weight.shape for weight in network.weights}
    shapes |= {(n_inputs + 1, n_outputs) for n_inputs, n_outputs in shapes}
    moves: dict[str, None] = {}
    running = []  # the frame of `_compress`

    def carries(value, depth: int = 0) -> bool:
        if isinstance(value, type(network) | torch.nn.Module):
            return True
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            return tuple(value.shape) in shapes
        if depth > 2 or isinstance(value, type) or hasattr(value, "get_params"):
            return False
        is_ours = dataclasses.is_dataclass(value) or type(value).__module__.startswith("distill")
        parts = value if isinstance(value, tuple | list) else getattr(value, "__dict__", {}) if is_ours else value
        parts = parts.values() if isinstance(parts, dict) else parts if isinstance(parts, tuple | list) else ()
        return len(parts) < 50 and any(carries(part, depth + 1) for part in parts)

    def is_skipped(code) -> bool:
        return code.co_name.startswith("<") or not code.co_filename.startswith(package)

    def room(code) -> str | None:
        return room_of(".".join(Path(code.co_filename).relative_to(root).with_suffix("").parts))

    def profile(frame, event, _):
        code, caller = frame.f_code, frame.f_back
        if event == "return" and frame in running:
            running.clear()
            sys.setprofile(None)
        if event != "call" or is_skipped(code):
            return
        if not running:
            running.extend([frame] if code.co_name in ("_compress", "compress") else [])
            return
        while caller and is_skipped(caller.f_code):
            caller = caller.f_back
        start, end = room(caller.f_code) if caller else None, room(code)
        if start in (None, end) or code.co_filename == values or code.co_flags & inspect.CO_GENERATOR:
            return
        move = f"{start}.{caller.f_code.co_qualname} -> {end}.{code.co_qualname}"
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if move not in moves and any(carries(frame.f_locals[name]) for name in names if name != "self"):
            moves[move] = None

    sys.setprofile(profile)
    try:
        fit()
    finally:
        sys.setprofile(None)
    return list(moves)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="a checkout")
    parser.add_argument("--json", type=Path, help="write everything that is counted to this file")
    parser.add_argument("--no-trace", action="store_true", help="do not fit compressors to follow their networks")
    options = parser.parse_args()
    root, checks = options.root.resolve(), load_checks(Path(__file__).parents[1])
    results = measure_imports(root, checks)
    moves = {} if options.no_trace else trace_networks(root)
    results |= {f"network's moves, {name}": steps for name, steps in moves.items()}
    results |= measure_functions(root, checks)
    results["copies"] = measure_copies(root, checks)
    results["old words"] = measure_words(root, checks)
    for name, value in results.items():
        details = value.items() if isinstance(value, dict) else value[:5] if name == "longest functions" else ()
        total = sum(value.values()) if isinstance(value, dict) else len(value) if isinstance(value, list) else value
        print(f"{name:56} {value[0][1] if name == 'longest functions' else total:6}")
        for detail, count in details:
            print(f"  {detail:54} {count:6}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
