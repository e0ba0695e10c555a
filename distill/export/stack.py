"""The worst case of the stack of a function, from the instructions of a linked program.

Frames are those that the compiler reports (``-fstack-usage``) where it does. Library functions come without: their
instructions are followed along every branch, and those that push are counted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.export import toolchain
from distill.export.toolchain import Target

# Instructions as objdump prints them. AVR: rcall, push, ret; Arm: bl, push {...}, bx lr; x86: call, push %rbx, ret
_CALL = re.compile(r"(?:r?call|bl|blx)(?:\.[nw])?\s")
_INDIRECT_CALL = re.compile(r"e?icall|blx\s+r\d|call\s+\*")
_JUMP = re.compile(r"(?:r?jmp|b)(?:\.[nw])?\s")
_INDIRECT_JUMP = re.compile(r"e?ijmp|tb[bh]\s|bx\s+(?!lr)|mov\s+pc,\s*(?!lr)|jmp\s+\*|ldr\S*\s+pc,\s*\[r")
_BRANCH = re.compile(r"(?:br[a-z]{2,4}|b[a-z]{2}(?:\.[nw])?|cbn?z|j[a-z]+)\s")
_SKIP = re.compile(r"(?:sbrc|sbrs|sbic|sbis|cpse)\s")
_END = re.compile(
    r"reti?\b|bx\s+lr|mov\s+pc, lr|pop(?:\.w)?\s+\{[^}]*pc\}|ldm\S*\s+sp!, \{[^}]*pc\}|ldr\S*\s+pc, \[sp\]|udf|hlt"
)
_MOVED = re.compile(r"(?:(push|stmdb|stmfd|vpush)|(pop|ldmia|ldmfd|vpop))\S*\s+(?:sp!,\s*)?\{([^}]*)\}")
_SHIFTED = re.compile(r"(sub|add)(?:w|\.w)?\s+sp,\s*(?:sp,\s*)?#(\d+)")
_INDEXED = re.compile(r"\[sp, #-(\d+)\]!|\[sp\], #(\d+)")
_BYTE = re.compile(r"(push|pop)\s+(r\d|%)")
_TARGET = re.compile(r"(?:0x)?([0-9a-f]+)\s+<([^>]+)>")


@dataclass
class _Instruction:
    text: str
    function: str
    next: int | None = None


class _Unbounded(Exception):
    """The stack has no bound that the instructions show."""


def stack_depth(target: Target, program: Path, root: str, usage: Sequence[Path]) -> int | None:
    """Return the largest stack of a function of a program and of all that it calls, in bytes.

    Parameters
    ----------
    target : Target
    program : Path
        ELF file.
    root : str
        Name of the function. Where a call takes stack, that of the call of this function is included.
    usage : sequence of Path
        Files that the compiler wrote with ``-fstack-usage``.

    Returns
    -------
    int or None
        None if a function calls itself, calls by a pointer or has a frame of a variable size. Functions of shared
        libraries, which are not in the program, are left out.
    """
    frames: dict[str, int] = {}
    for path in usage:
        for line in path.read_text(encoding="utf-8").splitlines():
            place, size, kind = line.rsplit("\t", 2)
            frames[place.rsplit(":", 1)[-1]] = int(size) if kind in ("static", "dynamic,bounded") else -1
    walk = _Walk(toolchain.disassembly(target, program), frames, target.call_bytes)
    try:
        return walk.worst(walk.starts[root])
    except _Unbounded:
        return None


class _Walk:
    """The instructions of a program, and the worst cases that were found so far."""

    def __init__(self, listing: str, frames: dict[str, int], call_bytes: int):
        self.frames = frames
        self.call_bytes = call_bytes
        self.starts: dict[str, int] = {}
        self.instructions: dict[int, _Instruction] = {}
        self.known: dict[int, int | None] = {}
        function, before = "", None
        for line in listing.splitlines():
            if start := re.match(r"^([0-9a-f]+) <(.+)>:$", line):
                function = start[2]
                self.starts[function] = int(start[1], 16)
            elif found := re.match(r"^ *([0-9a-f]+):\s+(\S.*)$", line):
                address = int(found[1], 16)
                if before is not None:
                    before.next = address
                before = self.instructions[address] = _Instruction(found[2].strip(), function)

    def worst(self, entry: int) -> int:
        """Return the stack of a call of the function at an address."""
        if entry not in self.instructions:
            return 0
        if entry in self.known:
            depth = self.known[entry]
            if depth is None:  # it is being computed: the function calls itself
                raise _Unbounded
            return depth
        self.known[entry] = None
        name = self.instructions[entry].function
        # GCC appends a suffix to the names of parts of a function and of copies
        frame = self.frames.get(name, self.frames.get(name.split(".")[0])) if self.starts.get(name) == entry else None
        if name.endswith("@plt"):
            depth = 0
        elif frame is not None:
            depth = self._reported(name, frame)
        else:
            depth = self._followed(entry)
        self.known[entry] = depth
        return depth

    def _reported(self, name: str, frame: int) -> int:
        """Return the worst case of a function whose frame the compiler reports."""
        if frame < 0:
            raise _Unbounded
        deepest = 0
        for instruction in self.instructions.values():
            if instruction.function != name:
                continue
            if _INDIRECT_CALL.match(instruction.text):
                raise _Unbounded
            to = _TARGET.search(instruction.text)
            if to is None:
                continue
            address = int(to[1], 16)
            if _CALL.match(instruction.text):
                if address != instruction.next:  # else bytes for the frame, which are reported
                    deepest = max(deepest, self.worst(address))
            elif (_JUMP.match(instruction.text) or _BRANCH.match(instruction.text)) and to[2].split("+")[0] != name:
                # A call as the last statement; parts of the function that jump back are walked as instructions
                deepest = max(deepest, self._jumped(address, name) - self.call_bytes)
        return frame + deepest

    def _jumped(self, address: int, name: str) -> int:
        if self.instructions[address].function.split(".")[0] == name.split(".")[0]:
            return self.call_bytes
        return self.worst(address)

    def _followed(self, entry: int) -> int:
        """Return the worst case of a library function, whose instructions are followed along all branches."""
        deepest = self.call_bytes
        seen: dict[int, int] = {}
        open_ends = [(entry, self.call_bytes)]
        while open_ends:
            address, depth = open_ends.pop()
            instruction = self.instructions.get(address)
            if instruction is None or seen.get(address, -1) >= depth:
                continue
            if depth > seen.get(entry, 0) + 4096:  # pushes in a loop
                raise _Unbounded
            seen[address] = depth
            text = instruction.text
            if _INDIRECT_JUMP.match(text):
                return self._summed(instruction.function)
            if _INDIRECT_CALL.match(text):
                raise _Unbounded
            to = _TARGET.search(text)
            target = int(to[1], 16) if to else None
            if target is not None and _CALL.match(text):
                if target == instruction.next:  # two bytes for the frame
                    depth += 2
                else:
                    deepest = max(deepest, depth + self.worst(target))
            elif target is not None and (_JUMP.match(text) or _BRANCH.match(text)):
                open_ends.append((target, depth))
                if _JUMP.match(text):
                    continue
            elif _END.match(text):
                continue
            depth += _taken(text)
            deepest = max(deepest, depth)
            if instruction.next is not None:
                open_ends.append((instruction.next, depth))
                following = self.instructions[instruction.next].next
                if _SKIP.match(text) and following is not None:
                    open_ends.append((following, depth))
        return deepest

    def _summed(self, name: str) -> int:
        """Return a bound for a library function with a table of jumps: all that it pushes anywhere, and its callees."""
        frame, deepest = self.call_bytes, 0
        for instruction in self.instructions.values():
            if instruction.function != name:
                continue
            if _INDIRECT_CALL.match(instruction.text):
                raise _Unbounded
            frame += max(0, _taken(instruction.text))
            to = _TARGET.search(instruction.text)
            if to and to[2].split("+")[0] != name and re.match(r"r?call|r?jmp|b", instruction.text):
                deepest = max(deepest, self.worst(int(to[1], 16)))
        return frame + deepest


def _taken(text: str) -> int:
    """Return the bytes that an instruction takes from the stack, negative if it gives them back."""
    if moved := _MOVED.match(text):
        count = 0
        for part in moved[3].split(","):
            first, _, last = part.strip().partition("-")
            each = 8 if first.startswith("d") else 4
            count += each * (1 + (int(last[1:]) - int(first[1:]) if last else 0))
        return count if moved[1] else -count
    if shifted := _SHIFTED.match(text):
        return int(shifted[2]) * (1 if shifted[1] == "sub" else -1)
    if indexed := _INDEXED.search(text):
        return int(indexed[1]) if indexed[1] else -int(indexed[2])
    if byte := _BYTE.match(text):
        return (8 if byte[2] == "%" else 1) * (1 if byte[1] == "push" else -1)
    return 0
