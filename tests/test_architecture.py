"""The contracts of the rooms, checked on the import statements.

A room is a set of modules with one purpose. `ROOMS` lists them from the ground floor up, with the modules of the
project and the external packages that each may import; the standard library is open to all. Imports inside functions
and under `TYPE_CHECKING` count. A module belongs to the room with the longest matching prefix; `*` matches one name,
so that each paper's folder is a room with the same contract; the file `__init__.py` of a package is the module
`package.__init__`.
"""

import ast
import sys
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGES = ("distill", "mbn")
PROTOCOL = {"_parameter_constraints"}  # a name of scikit-learn that estimators extend


class Room(NamedTuple):
    floor: int
    modules: str  # prefixes; the first is the name of the room
    may_import: str = ""  # prefixes of modules on lower floors
    packages: str = ""  # external ones


# What everything above the runtime may use.
SHIPPED = "distill.network distill.codecs distill.runtime"
TAUGHT = f"{SHIPPED} distill.exceptions distill.teachers distill.training distill.base distill.utils"

ROOMS = [
    Room(0, "distill.network", "", "numpy"),
    Room(0, "distill.exceptions"),
    Room(0, "distill.utils", "", "numpy scipy sklearn joblib filelock"),
    Room(1, "distill.codecs", "distill.network", "numpy"),
    Room(2, "distill.runtime", "distill.network distill.codecs", "numpy"),
    Room(3, "distill.tables", "distill.runtime", "numpy"),
    Room(4, "distill.web", "distill.codecs distill.runtime distill.tables", "numpy"),
    Room(
        9,
        "distill.__main__",
        "distill.codecs.files distill.runtime distill.tables distill.web distill.export distill.onnx",
        "numpy",
    ),
    Room(3, "distill.teachers", "distill.network", "numpy scipy sklearn"),
    Room(
        4,
        "distill.training",
        "distill.network distill.teachers distill.runtime.forward distill.utils",
        "numpy scipy torch sklearn",
    ),
    Room(5, "distill.base", f"{SHIPPED} distill.teachers distill.training.fidelity", "numpy scipy sklearn"),
    Room(6, "distill.distiller", TAUGHT, "numpy scipy sklearn joblib"),
    # The one place where `distill` knows `mbn`: which step of a pipeline becomes which step of a file
    Room(2, "distill.translation", "distill.codecs mbn.preprocessing", "numpy sklearn"),
    Room(6, "distill.pipeline", "distill.codecs distill.base distill.runtime distill.translation", "numpy sklearn"),
    Room(7, "distill.export.students", f"{SHIPPED} distill.pipeline", "sklearn"),
    Room(2, "distill.onnx_tables", "distill.codecs", "numpy"),
    Room(8, "distill.onnx", f"{SHIPPED} distill.export.students", "numpy sklearn onnx"),
    # With NumPy alone for a student file
    Room(8, "distill.export.c", f"{SHIPPED} distill.export.students", "numpy"),
    Room(8, "distill.export.__init__"),
    # Compilers of other machines, as programs; they are given C and not students
    Room(0, "distill.export.toolchain"),
    Room(1, "distill.export.stack", "distill.export.toolchain"),
    Room(2, "distill.export.size", "distill.export.toolchain distill.export.stack"),
    Room(
        7,
        "distill.compressors.base distill.compressors.budget distill.compressors.pruning",
        f"{TAUGHT} distill.distiller",
        "numpy scipy sklearn threadpoolctl",
    ),
    # One paper, one folder: folders do not import each other.
    Room(
        8,
        "distill.compressors.*",
        f"{TAUGHT} distill.compressors.base distill.compressors.budget distill.compressors.pruning",
        "numpy scipy torch numba sklearn joblib",
    ),
    # The registry: names, imported on demand.
    Room(9, "distill.compressors.__init__", "distill.compressors distill.utils.extras"),
    Room(
        10,
        "distill.model_selection",
        f"{TAUGHT} distill.distiller distill.pipeline distill.compressors.base distill.compressors.__init__",
        "numpy sklearn joblib",
    ),
    Room(11, "distill.plotting", "distill.codecs distill.base distill.model_selection", "numpy sklearn matplotlib"),
    Room(12, "distill.__init__", "distill"),
    Room(0, "mbn.parallel", "", "numpy scipy joblib threadpoolctl"),
    Room(0, "mbn.schedule", "", "numpy"),
    Room(0, "mbn.metrics", "", "numpy scipy"),
    Room(0, "mbn.columns", "", "numpy scipy sklearn"),
    Room(1, "mbn.preprocessing", "mbn.columns", "numpy sklearn"),
    Room(1, "mbn.upper", "mbn.parallel", "numpy numba"),
    Room(1, "mbn.neighbors", "mbn.metrics mbn.parallel", "numpy scipy numba"),
    Room(1, "mbn.guides", "", "numpy numba"),
    Room(1, "mbn.output", "mbn.parallel", "numpy scipy numba sklearn threadpoolctl"),
    Room(2, "mbn.rows", "mbn.metrics mbn.parallel mbn.neighbors", "numpy scipy sklearn"),
    Room(2, "mbn.tree", "mbn.metrics mbn.neighbors", "numpy scipy numba"),
    Room(2, "mbn.assign_direct", "mbn.metrics mbn.neighbors mbn.parallel", "numpy scipy numba"),
    Room(3, "mbn.assign_neighbors", "mbn.metrics mbn.neighbors mbn.parallel mbn.assign_direct", "numpy scipy numba"),
    Room(3, "mbn.checkpoint", "mbn.metrics mbn.parallel mbn.rows", "numpy scipy"),
    Room(4, "mbn.accelerator", "mbn.metrics mbn.neighbors mbn.assign_direct mbn.assign_neighbors", "numpy torch"),
    Room(
        5,
        "mbn.layers",
        "mbn.parallel mbn.schedule mbn.metrics mbn.neighbors mbn.rows mbn.tree mbn.assign_direct "
        "mbn.assign_neighbors mbn.upper mbn.output mbn.accelerator mbn.guides",
        "numpy scipy sklearn",
    ),
    Room(
        6,
        "mbn.structure",
        "mbn.schedule mbn.metrics mbn.rows mbn.checkpoint mbn.output mbn.layers mbn.clusters",
        "numpy threadpoolctl",
    ),
    Room(
        7,
        "mbn.estimator",
        "mbn.parallel mbn.schedule mbn.metrics mbn.rows mbn.columns mbn.checkpoint mbn.output "
        "mbn.accelerator mbn.layers mbn.structure",
        "numpy sklearn",
    ),
    Room(0, "mbn.clusters", "", "numpy scipy sklearn threadpoolctl"),
    Room(8, "mbn.clustering", "mbn.columns mbn.clusters mbn.structure mbn.estimator", "numpy sklearn"),
    Room(9, "mbn.__init__", "mbn"),
]


def sources(root: Path, *folders: str) -> dict[str, Path]:
    """Return the modules in `folders` by dotted name, `package.__init__` for a package's own file."""
    paths = sorted(path for folder in folders for path in (root / folder).rglob("*.py"))
    return {".".join(path.relative_to(root).with_suffix("").parts): path for path in paths}


def imports(module: str, tree: ast.AST, known: Collection[str]) -> Iterator[tuple[int, str, str]]:
    """Yield line, imported module and imported name ("" for a whole module) of every import in `tree`."""

    def full(name: str) -> str:
        return f"{name}.__init__" if f"{name}.__init__" in known else name

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, full(alias.name), "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = [*(module.split(".")[: -node.level] if node.level else []), *filter(None, [node.module])]
            for alias in node.names:
                whole = full(".".join([*parts, alias.name]))
                yield (node.lineno, whole, "") if whole in known else (node.lineno, full(".".join(parts)), alias.name)


def private_uses(tree: ast.AST, ours: Collection[str]) -> Iterator[tuple[int, str]]:
    """Yield line and name of each private name taken from a module of ours: imported, or as an attribute."""
    bound = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            package = getattr(node, "module", None) or ""
            for alias in node.names:
                if getattr(node, "level", 0) or (package or alias.name).split(".")[0] in ours:
                    bound.add((alias.asname or alias.name).split(".")[0])
                    yield from ((node.lineno, part) for part in alias.name.split(".") if is_private(part))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            value = node.value
            while isinstance(value, ast.Attribute):
                value = value.value
            if isinstance(value, ast.Name) and value.id in bound:
                yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and len(node.args) > 1:  # monkeypatch.setattr(module, "_name", ...)
            owner, name = node.args[:2]
            if isinstance(owner, ast.Name) and owner.id in bound and is_private(getattr(name, "value", None)):
                yield node.lineno, name.value


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__") and name not in PROTOCOL


def matches(prefix: str, module: str) -> bool:
    names, parts = prefix.split("."), module.split(".")
    return len(parts) >= len(names) and all(name in ("*", part) for name, part in zip(names, parts))


def find_room(module: str) -> tuple[Room, str] | None:
    """Return the room of `module` and its name, in which a `*` is replaced by what it matches."""
    found = [(p.count("."), "*" not in p, room) for room in ROOMS for p in room.modules.split() if matches(p, module)]
    if not found:
        return None
    dots, literal, room = max(found, key=lambda entry: entry[:2])
    return room, room.modules.split()[0] if literal else ".".join(module.split(".")[: dots + 1])


def broken_rule(module: str, target: str) -> str | None:
    """Return the rule that `module` breaks when it imports `target`, None where it breaks none."""
    room, name = find_room(module)
    if target.split(".")[0] not in PACKAGES:
        allowed = {*sys.stdlib_module_names, *room.packages.split()}
        return None if target.split(".")[0] in allowed else f"external package, not allowed in {name}"
    other, other_name = find_room(target) or (room, "no room")
    if other_name == name or any(matches(prefix, target) for prefix in room.may_import.split()):
        return None
    relation = (
        "not in the contract" if other.floor < room.floor else "sideways" if other.floor == room.floor else "upward"
    )
    return f"{relation}, {name} (floor {room.floor}) to {other_name} (floor {other.floor})"


MODULES = sources(ROOT, *PACKAGES)
TREES = {module: ast.parse(path.read_text("utf-8")) for module, path in MODULES.items()}


def test_every_module_has_a_room():
    assert not [module for module in MODULES if find_room(module) is None], "modules in no room of ROOMS"


def test_table_of_rooms_is_consistent():
    prefixes = [prefix for room in ROOMS for prefix in room.modules.split()]
    assert sorted(set(prefixes)) == sorted(prefixes), "a prefix stands in two rooms"
    for room in ROOMS:
        for prefix in [*room.modules.split(), *room.may_import.split()]:
            assert any(matches(prefix, module) for module in MODULES), f"{room.modules}: no module matches {prefix!r}"
        for module in MODULES:
            if find_room(module) and any(matches(prefix, module) for prefix in room.may_import.split()):
                other, _ = find_room(module)
                assert other is room or other.floor < room.floor, f"{room.modules} may import {module}, not below it"


def test_imports_keep_to_the_contracts():
    broken = [
        f"{MODULES[module].relative_to(ROOT)}:{line}: imports {target}: {rule}"
        for module, tree in TREES.items()
        if find_room(module)
        for line, target, _ in imports(module, tree, MODULES)
        if (rule := broken_rule(module, target))
    ]
    assert not broken, "\n".join(broken)


def test_no_import_cycle():
    graph = {
        module: {target for _, target, _ in imports(module, tree, MODULES) if target in MODULES and target != module}
        for module, tree in TREES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError("import cycle: " + " <- ".join(error.args[1])) from None


def test_no_private_name_of_another_module_is_used():
    scripts = sources(ROOT, "benchmarks", "examples", "tests")
    files = MODULES | scripts
    ours = {*PACKAGES, *(path.stem for path in scripts.values())}
    used = {}
    for path in files.values():
        for line, name in private_uses(ast.parse(path.read_text("utf-8")), ours):
            used.setdefault(str(path.relative_to(ROOT)), {}).setdefault(name, line)
    broken = [
        f"{file}:{line}: {name} is private to another module"
        for file, names in used.items()
        for name, line in names.items()
    ]
    assert not broken, "\n".join(broken)
