"""Rearrange the assembly of stencils before it is assembled: hot and cold apart, the way on at the end.

clang's text for one stencil comes in as a list of lines and leaves as sections:

    cnp.hot.KEY          entry … blocks … cnp.tail.KEY: jump to cnp.next      the tail disappears when NEXT follows
    cnp.cold.KEY         blocks that only leave; the slow part
    cnp.hot.KEY.far …    the same once more, with exits that reach further

Each exit and each branch between hot and cold is then a relocation, because it leaves its section; the assembler
still chooses the shortest encoding for what stays inside. What leaves the hot part is short in the near variant where
the target has a short form, and conditional exits of the far one are a branch around a jump where branches reach less
far than jumps. Cold parts lie far away, so that nothing is short in them, nor is the tail, which nobody executes.

Nothing here knows an instruction set: `Target.syntax` says which mnemonics jump and what their opposites are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile

from cnp.errors import BuildError
from cnp.target import Syntax, Target

NEXT = "cnp.next"
COLD_EXITS = ("cnp.leave.", "cnp_leave_")
STENCIL, SLOW, TAIL = "cnp.stencil.", "cnp.slow.", "cnp.tail."
CONSTANT = "cnp.const."  #: prefix of the labels of constants that the compiler makes
CONTINUATION = re.compile(r"cnp\.(next|target\.\d|leave\.\w+|table)\b")
DROPPED = re.compile(r"\s*(#|//|\.(cfi_|p2align|ent|end|frame|mask|fmask|size|type|localentry)\b)")
LABEL = re.compile(r'"?([\w.$]+)"?:')
WORD = re.compile(r"[\w.$]+")
SECTION = '.section {name},"ax",@progbits'
NAMED = ("cnp.hot", "cnp.cold", "cnp.tail", ".Lcnp")  #: what the name of a stencil stands behind
KEY = "\0"  #: in a pattern, the name of the stencil
NO_REGISTERS: frozenset[tuple[str, int]] = frozenset()


@dataclass
class Node:
    """A basic block: its instructions, the conditional branch at its end (`Branch`), and where it goes on
    (`then`: a block or symbol; None when it ends by itself, as a return does)."""

    name: str
    lines: list[str] = field(default_factory=list)
    branch: Branch | None = None
    then: str | None = None
    ended: bool = False


@dataclass
class Branch:
    """A conditional branch. arguments: the text before the target. delay: what its delay slot holds, if any."""

    mnemonic: str
    arguments: str
    target: str
    delay: str | None


@dataclass
class Arranged:
    """The edited text; the keys that have a far form; the native stack that each stencil uses, in bytes, and how many
    instructions its hot part has, the tail aside; the keys whose hot part has no jump within itself; what was written of each stencil, by key;
    the directives at the beginning; the text of each constant."""

    text: str
    far: set[str]
    stack: dict[str, int]
    instructions: dict[str, int]
    straight: set[str]
    sections: dict[str, list[str]]
    head: list[str]
    constants: dict[str, list[str]]


def arrange(text: str, target: Target, lines_of: dict[str, int]) -> Arranged:
    """Edit the assembly of one compilation. lines_of: operation -> its line in the C source, for messages."""
    kept, functions = take_functions(text, target.syntax)
    result = Arranged("", set(), {}, {}, set(), {}, [], {})
    for name, body in functions.items():
        if name.startswith(STENCIL):
            key = name.removeprefix(STENCIL)
            where = Where(key, target, lines_of.get(key.partition(".")[0], 0))
            nodes = parse(where, name, body)
            hot = len(nodes)
            if slow := functions.get(SLOW + key):
                nodes |= parse(where, SLOW + key, slow)
            result.stack[key] = max(check_stack(where, nodes, name), check_stack(where, nodes, SLOW + key))
            kept += edit(where, nodes, set(list(nodes)[hot:]), result)
    result.text = "\n".join(kept) + "\n"
    result.constants = take_constants(kept)
    result.head = list(takewhile(lambda line: line.startswith("\t.") and ".text." not in line, kept))
    return result


@dataclass(frozen=True, slots=True)
class Where:
    """Which stencil is being read, for messages."""

    key: str
    target: Target
    line: int

    def refuse(self, what: str, **evidence: object) -> BuildError:
        op = self.key.partition(".")[0]
        message = f"operation {op!r} (line {self.line}) on {self.target.name}: {what}"
        return BuildError(message, op=op, line=self.line, target=self.target.name, **evidence)


# ---- reading


def take_functions(text: str, syntax: Syntax) -> tuple[list[str], dict[str, list[str]]]:
    """Separate the stencils (name -> lines) from the rest; placeholders of continuations are dropped."""
    kept: list[str] = []
    functions: dict[str, list[str]] = {}
    current: list[str] | None = None
    for raw in text.splitlines():
        cleaned = syntax.clean(raw)
        for line in cleaned.split("\n") if cleaned is not None else ():
            label = LABEL.match(line)
            name = label[1] if label else ""
            if name.startswith((STENCIL, SLOW)):
                current = functions.setdefault(name, [])
            elif CONTINUATION.fullmatch(name):
                current = []
            elif current is None:
                mentions = STENCIL in line or SLOW in line or CONTINUATION.search(line)
                if not (mentions and line.lstrip().startswith(".")):
                    kept.append(line)
            elif line.lstrip().startswith(".size"):
                current = None
            elif not DROPPED.match(line) and line.strip():
                current.append(line)
    return kept, functions


def take_constants(kept: list[str]) -> dict[str, list[str]]:
    """The constants of a text by label, each with its section."""
    found: dict[str, list[str]] = {}
    section: list[str] = []
    current: list[str] | None = None
    for line in kept:
        label = LABEL.match(line)
        if line.lstrip().startswith(".section"):
            section, current = [line], None
        elif label:
            current = None
            if label[1].startswith(CONSTANT):
                current = found[label[1]] = [*section, line]
        elif current is not None:
            current.append(line)
        else:
            section.append(line)
    return found


def definitions(text: str, constants: Mapping[str, list[str]]) -> str:
    """The constants that a text mentions."""
    names = dict.fromkeys(re.findall(rf"{re.escape(CONSTANT)}[\w.]+", text))
    return "".join("\n".join(constants[name]) + "\n" for name in names)


def parse(where: Where, entry: str, body: list[str]) -> dict[str, Node]:
    """Basic blocks in the order of the text, by name."""
    syntax = where.target.syntax
    node = Node(entry)
    nodes = {entry: node}

    def begin(name: str, fall: bool) -> Node:
        if fall and not node.ended and node.then is None:
            node.then = name
        nodes[name] = Node(name)
        return nodes[name]

    pending = iter(body)
    for line in pending:
        label = LABEL.match(line)
        if label and label[1].startswith(syntax.local):
            node = begin(label[1], True)
            continue
        if node.branch or node.then or node.ended:
            node = begin(f"{entry}.{len(nodes)}", True)
        mnemonic, arguments = split(line)
        delay = next(pending, None) if syntax.delays(mnemonic) else None
        target = arguments.rpartition(",")[2].strip().strip('"')
        if mnemonic in syntax.jump and not syntax.is_register(target):
            if delay and split(delay)[0] != "nop":
                node.lines.append(delay)
            node.then = target
        elif mnemonic in syntax.inverse:
            node.branch = Branch(mnemonic, arguments.rpartition(",")[0], target, delay)
        elif mnemonic in syntax.ends:
            node.lines += [line, delay] if delay else [line]
            node.ended = True
        else:
            node.lines.append(line)
    return nodes


def split(line: str) -> tuple[str, str]:
    """Mnemonic and arguments of an instruction."""
    mnemonic, _, arguments = (
        line.strip().partition("\t") if "\t" in line.strip() else line.strip().partition(" ")
    )
    return mnemonic, arguments.strip()


def check_stack(where: Where, nodes: dict[str, Node], entry: str) -> int:
    """Follow the stack pointer along all paths; it must be back at each exit. The bytes used at most."""
    if entry not in nodes:
        return 0
    depth = {entry: 0}
    deepest = 0
    todo = [entry]
    while todo:
        node = nodes[todo.pop()]
        now = depth[node.name]
        if not node.ended and node.then is None:
            raise where.refuse("a path ends in no tail jump: control falls off the end of the stencil")
        for line in [*node.lines, *([node.branch.delay] if node.branch and node.branch.delay else [])]:
            change = where.target.syntax.stack(*split(line))
            if change is None:
                raise where.refuse(
                    "the stack pointer is changed in a way that cannot be followed (alloca, or an array of variable "
                    f"length): {line.strip()}"
                )
            now += change
            deepest = min(deepest, now)
        leaves = node.ended
        for target in successors(node):
            if target not in nodes or target == SLOW + where.key:
                leaves = True
            elif target not in depth:
                depth[target] = now
                todo.append(target)
            elif depth[target] != now:
                raise where.refuse(
                    f"two paths meet with different stack pointers ({depth[target]} and {now} bytes)"
                )
        if leaves and now:
            raise where.refuse(
                f"the stack pointer is {-now} bytes off where the stencil goes on", offset=-now
            )
    return -deepest


def successors(node: Node) -> list[str]:
    return ([node.branch.target] if node.branch else []) + ([node.then] if node.then else [])


# ---- rearranging


def edit(where: Where, nodes: dict[str, Node], slow: set[str], result: Arranged) -> list[str]:
    """The sections of one stencil, near and, where an exit may not reach, far."""
    entry = next(iter(nodes))
    thread_jumps(nodes, entry)
    cold = without_halves(nodes, cold_nodes(nodes, entry)) | slow
    straighten(nodes, cold, where.target.syntax)
    reached = reachable(nodes, entry)
    hot_order = order(nodes, entry, [name for name in nodes if name in reached and name not in cold])
    cold_order = [name for name in nodes if name in reached and name in cold]
    lines = emit(where, nodes, hot_order, cold_order, "")
    result.instructions[where.key] = count(where.target.syntax, nodes, hot_order)
    if not any(jumps_within(nodes[name], hot_order, number) for number, name in enumerate(hot_order)):
        result.straight.add(where.key)
    if has_far(where.target.syntax, nodes, hot_order, cold_order):
        result.far.add(where.key)
        lines += emit(where, nodes, hot_order, cold_order, ".far")
    result.sections[where.key] = lines
    return lines


def thread_jumps(nodes: dict[str, Node], entry: str) -> None:
    """Branches to a block that only jumps on go to where it jumps."""

    def end(name: str) -> str:
        seen = {name}
        while (
            (node := nodes.get(name)) and name != entry and not node.lines and not node.branch and node.then
        ):
            if node.then in seen:
                break
            name = node.then
            seen.add(name)
        return name

    for node in nodes.values():
        if node.branch:
            node.branch.target = end(node.branch.target)
        if node.then:
            node.then = end(node.then)


def cold_nodes(nodes: dict[str, Node], entry: str) -> set[str]:
    """Blocks all of whose ways on are ways out: exit, trap, unwind, slow part. The entry stays hot."""
    cold = set(nodes) - {entry}
    shrinking = True
    while shrinking:
        warm = {n for n in cold if nodes[n].ended or not all(is_cold(t, cold) for t in successors(nodes[n]))}
        cold -= warm
        shrinking = bool(warm)
    return cold


def without_halves(nodes: dict[str, Node], cold: set[str]) -> set[str]:
    """The cold blocks but those that share a label inside a block with hot ones: the instructions of an address that
    refer to each other by a label stay in one section."""
    home = {
        found[1]: name for name, node in nodes.items() for line in node.lines if (found := LABEL.match(line))
    }
    uses = {
        (name, word)
        for name, node in nodes.items()
        for line in node.lines
        for word in WORD.findall(line)
        if word in home
    }
    while split := {
        name for user, word in uses for name in (user, home[word]) if (user in cold) != (home[word] in cold)
    }:
        cold = cold - split
    return cold


def is_cold(target: str, cold: Iterable[str]) -> bool:
    return target in cold or target.startswith((*COLD_EXITS, SLOW))


def straighten(nodes: dict[str, Node], cold: set[str], syntax: Syntax) -> None:
    """Turn branches around so that what is near falls through: hot blocks of the stencil before NEXT, NEXT before what
    is cold, and that before labels, which a branch reaches by itself."""

    def distance(target: str) -> int:
        if is_cold(target, cold):
            return 2
        return 0 if target in nodes else 1 if target == NEXT else 3

    for name, node in nodes.items():
        if (
            node.branch
            and node.then
            and name not in cold
            and distance(node.branch.target) < distance(node.then)
        ):
            invert(node.branch, syntax)
            node.branch.target, node.then = node.then, node.branch.target


def invert(branch: Branch, syntax: Syntax) -> None:
    branch.mnemonic, branch.arguments = syntax.opposite(branch.mnemonic, branch.arguments)


def reachable(nodes: dict[str, Node], entry: str) -> set[str]:
    found, todo = {entry}, [entry]
    while todo:
        for target in successors(nodes[todo.pop()]):
            if target in nodes and target not in found:
                found.add(target)
                todo.append(target)
    return found


def order(nodes: dict[str, Node], entry: str, hot: list[str]) -> list[str]:
    """Chains of blocks that fall into each other; one that goes on to NEXT comes last if it can."""
    left = dict.fromkeys(hot)
    chains: list[list[str]] = []
    for start in [entry, *hot]:
        chain: list[str] = []
        name: str | None = start
        while name in left:
            del left[name]
            chain.append(name)
            name = nodes[name].then
        if chain:
            chains.append(chain)
    last = next((c for c in chains[1:] if nodes[c[-1]].then == NEXT), None)
    if last and nodes[chains[-1][-1]].then != NEXT:
        chains.remove(last)
        chains.append(last)
    return [name for chain in chains for name in chain]


def instructions(node: Node) -> list[str]:
    """The lines of a block that are executed, its branch included."""
    branch = node.branch
    lines = [line for line in node.lines if not DROPPED.match(line) and not LABEL.match(line)]
    return lines + (
        [f"\t{branch.mnemonic}\t{branch.arguments}", *filter(None, [branch.delay])] if branch else []
    )


def jumps_within(node: Node, part: list[str], number: int) -> bool:
    """Whether a block goes to another one of its part by a jump."""
    following = part[number + 1] if number + 1 < len(part) else None
    return bool(node.branch and node.branch.target in part) or (node.then in part and node.then != following)


def count(syntax: Syntax, nodes: dict[str, Node], part: list[str]) -> int:
    """Instructions of the hot part, its tail aside; a delay slot is one."""
    total = 0
    for number, name in enumerate(part):
        node, following = nodes[name], [*part, None][number + 1]
        total += len(instructions(node))
        if node.then is not None and node.then != following and not is_tail(node, part):
            total += 2 if syntax.delay else 1
    return total


def has_far(syntax: Syntax, nodes: dict[str, Node], hot: list[str], cold: list[str]) -> bool:
    """Whether the near variant has an exit that the far one writes in another way."""

    def branches_out(part: list[str]) -> bool:
        return any(branch.target not in part for name in part if (branch := nodes[name].branch))

    jumps_out = any(goes_out(nodes[name], hot) and not is_tail(nodes[name], hot) for name in hot)
    return (syntax.far and (branches_out(hot) or branches_out(cold))) or (
        syntax.has_short and (branches_out(hot) or jumps_out)
    )


def goes_out(node: Node, part: list[str]) -> bool:
    return node.then is not None and node.then not in part


def is_tail(node: Node, part: list[str]) -> bool:
    """Whether a block ends its part with a jump that disappears when NEXT follows."""
    return node.name == part[-1] and node.then == NEXT


# ---- writing


def emit(where: Where, nodes: dict[str, Node], hot: list[str], cold: list[str], suffix: str) -> list[str]:
    """Both sections of one variant. Labels get names of their own, so that variants do not collide."""
    labels = {name: f".Lcnp.{where.key}{suffix}.{number}" for number, name in enumerate([*hot, *cold])}
    syntax = where.target.syntax
    before, after = syntax.wrap
    lines: list[str] = []
    for part, names in (("hot", hot), ("cold", cold)):
        if not names:
            continue
        writer = Writer(syntax, labels, bool(suffix), part == "hot" and not suffix and syntax.has_short)
        lines += [SECTION.format(name=f"cnp.{part}.{where.key}{suffix}"), *filter(None, [before])]
        for number, name in enumerate(names):
            following = names[number + 1] if number + 1 < len(names) else None
            lines += [f"{labels[name]}:", *nodes[name].lines]
            lines += branch_on(writer, nodes[name], names)
            if is_tail(nodes[name], hot):
                lines.append(f"{TAIL}{where.key}:")
            lines += jump_on(writer, nodes[name], names, following)
        lines += filter(None, [after])
    private = {m[1] for line in lines if (m := LABEL.match(line)) and m[1] not in labels.values()}
    if suffix and private:
        names_pattern = re.compile("|".join(rf"{re.escape(name)}(?![\w.$])" for name in sorted(private)))
        lines = [names_pattern.sub(lambda m: m[0] + suffix, line) for line in lines]
    return lines


@dataclass(frozen=True, slots=True)
class Writer:
    """How one part of one variant says where it goes on: by far exits, by short ones, or by neither."""

    syntax: Syntax
    labels: dict[str, str]
    far: bool
    short: bool


def branch_on(writer: Writer, node: Node, inside: list[str]) -> list[str]:
    """The conditional branch at the end of a block, if it has one. inside: the names that lie in this section."""
    branch, syntax = node.branch, writer.syntax
    if branch is None:
        return []
    target = writer.labels.get(branch.target, branch.target)
    delay = [branch.delay] if branch.delay else []
    if branch.target in inside:
        return [f"\t{branch.mnemonic}\t{join(branch.arguments, target)}", *delay]
    if writer.short:
        return [syntax.short_branch[branch.mnemonic].format(target), *delay]
    if not (writer.far and syntax.far):
        return [syntax.emit_branch.format(branch.mnemonic, join(branch.arguments, target)), *delay]
    mnemonic, arguments = syntax.opposite(branch.mnemonic, branch.arguments)
    around = f"{writer.labels[node.name]}.around"
    jump = syntax.emit_jump.format(target)
    return [f"\t{mnemonic}\t{join(arguments, around)}", *delay, jump, f"{around}:"]


def jump_on(writer: Writer, node: Node, inside: list[str], following: str | None) -> list[str]:
    """The jump at the end of a block, if what follows in its section is another one."""
    if node.then is None or node.then == following:
        return []
    short = writer.short and goes_out(node, inside) and not is_tail(node, inside)
    text = writer.syntax.short_jump if short else writer.syntax.emit_jump
    return [text.format(writer.labels.get(node.then, node.then))]


def join(arguments: str, target: str) -> str:
    return f"{arguments}, {target}" if arguments else target


# ---- the same text for other registers


@dataclass(frozen=True, slots=True)
class Pattern:
    """The text of one stencil, to be written with other registers. lines: each with the registers that it names or changes,
    KEY in the place of the stencil's name; used: those of all lines."""

    lines: tuple[tuple[str, frozenset[tuple[str, int]]], ...]
    used: frozenset[tuple[str, int]]


def pattern(syntax: Syntax, sections: list[str], key: str) -> Pattern:
    """The pattern of the sections of a stencil."""
    names = tuple(f"{prefix}.{key}" for prefix in NAMED)
    own = {m[1] for line in sections if (m := LABEL.match(line)) and not m[1].startswith(names)}
    found = []
    for line in sections:
        text = line
        for name, prefix in zip(names, NAMED, strict=True) if key in line else ():
            text = text.replace(name, f"{prefix}.{KEY}")
        if own and (mentioned := own.intersection(WORD.findall(text))):
            for name in mentioned:
                text = re.sub(rf"(?<![\w.$]){re.escape(name)}(?![\w.$])", f"{name}.{KEY}", text)
        code = not (DROPPED.match(line) or LABEL.match(line) or line.startswith(".section"))
        found.append((text, syntax.uses(*split(line)) if code else NO_REGISTERS))
    return Pattern(tuple(found), frozenset().union(*(registers for _, registers in found)))


def renamed(
    syntax: Syntax, pattern: Pattern, new: str, registers: Mapping[tuple[str, int], int]
) -> list[str] | None:
    """The sections of a pattern as those of another stencil, with other registers; None if they cannot be."""
    found = []
    for line, used in pattern.lines:
        text: str | None = line
        if not used.isdisjoint(registers):
            text = syntax.rename(line, registers)
        if text is None:
            return None
        found.append(text.replace(KEY, new))
    return found
