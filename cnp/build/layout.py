"""Rearrange the assembly of stencils before it is assembled: hot and cold apart, the way on at the end.

clang's text for one stencil comes in as a list of lines and leaves as sections:

    cnp.hot.KEY          entry … blocks … jump to cnp.next        the last jump disappears when NEXT follows
    cnp.cold.KEY         blocks that only leave; the slow part
    cnp.hot.KEY.far …    the same once more, with conditional exits as a branch around a jump

Each exit and each branch between hot and cold is then a relocation, because it leaves its section; the assembler
still chooses the shortest encoding for what stays inside. Nothing here knows an instruction set: `Target.syntax`
says which mnemonics jump and what their opposites are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from cnp.errors import BuildError
from cnp.target import Syntax, Target

NEXT = "cnp.next"
COLD_EXITS = ("cnp.leave.", "cnp_leave_")
STENCIL, SLOW = "cnp.stencil.", "cnp.slow."
CONTINUATION = re.compile(r"cnp\.(next|target\.\d|leave\.\w+|table)\b")
DROPPED = re.compile(r"\s*(#|//|\.(cfi_|p2align|ent|end|frame|mask|fmask|size|type|localentry)\b)")
LABEL = re.compile(r'"?([\w.$]+)"?:')
WORD = re.compile(r"[\w.$]+")
SECTION = '.section {name},"ax",@progbits'


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
    """The edited text; the keys that have a far form; the native stack that each stencil uses, in bytes."""

    text: str
    far: set[str]
    stack: dict[str, int]


def arrange(text: str, target: Target, lines_of: dict[str, int]) -> Arranged:
    """Edit the assembly of one compilation. lines_of: operation -> its line in the C source, for messages."""
    kept, functions = take_functions(text, target.syntax)
    result = Arranged("", set(), {})
    for name, body in functions.items():
        if name.startswith(STENCIL):
            key = name.removeprefix(STENCIL)
            where = Where(key, target, lines_of.get(key.rpartition(".")[0], 0))
            nodes = parse(where, name, body)
            hot = len(nodes)
            if slow := functions.get(SLOW + key):
                nodes |= parse(where, SLOW + key, slow)
            result.stack[key] = max(check_stack(where, nodes, name), check_stack(where, nodes, SLOW + key))
            kept += edit(where, nodes, set(list(nodes)[hot:]), result)
    result.text = "\n".join(kept) + "\n"
    return result


@dataclass(frozen=True, slots=True)
class Where:
    """Which stencil is being read, for messages."""

    key: str
    target: Target
    line: int

    def refuse(self, what: str, **evidence: object) -> BuildError:
        op = self.key.rpartition(".")[0]
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
                    f"the stack pointer is changed in a way that cannot be followed: {line.strip()}"
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
    """The sections of one stencil, near and, where conditional exits have one, far."""
    entry = next(iter(nodes))
    thread_jumps(nodes, entry)
    cold = without_halves(nodes, cold_nodes(nodes, entry)) | slow
    straighten(nodes, cold, where.target.syntax)
    reached = reachable(nodes, entry)
    hot_order = order(nodes, entry, [name for name in nodes if name in reached and name not in cold])
    cold_order = [name for name in nodes if name in reached and name in cold]
    lines = emit(where, nodes, hot_order, cold_order, "")
    inside = {name: part for part in (frozenset(hot_order), frozenset(cold_order)) for name in part}
    if where.target.syntax.far and any(
        node.branch and node.branch.target not in inside[name]
        for name, node in nodes.items()
        if name in reached
    ):
        result.far.add(where.key)
        lines += emit(where, nodes, hot_order, cold_order, ".far")
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


# ---- writing


def emit(where: Where, nodes: dict[str, Node], hot: list[str], cold: list[str], suffix: str) -> list[str]:
    """Both sections of one variant. Labels get names of their own, so that variants do not collide."""
    labels = {name: f".Lcnp.{where.key}{suffix}.{number}" for number, name in enumerate([*hot, *cold])}
    before, after = where.target.syntax.wrap
    lines: list[str] = []
    for part, names in (("hot", hot), ("cold", cold)):
        if not names:
            continue
        lines += [SECTION.format(name=f"cnp.{part}.{where.key}{suffix}"), *filter(None, [before])]
        for number, name in enumerate(names):
            following = names[number + 1] if number + 1 < len(names) else None
            lines += [f"{labels[name]}:", *nodes[name].lines]
            lines += way_on(where.target.syntax, nodes[name], labels, following, names, bool(suffix))
        lines += filter(None, [after])
    private = {m[1] for line in lines if (m := LABEL.match(line)) and m[1] not in labels.values()}
    if suffix and private:
        names_pattern = re.compile("|".join(rf"{re.escape(name)}(?![\w.$])" for name in sorted(private)))
        lines = [names_pattern.sub(lambda m: m[0] + suffix, line) for line in lines]
    return lines


def way_on(
    syntax: Syntax, node: Node, labels: dict[str, str], following: str | None, inside: list[str], far: bool
) -> list[str]:
    """The branch and the jump at the end of a block. inside: the names that a branch reaches in this section."""
    lines: list[str] = []
    jump = syntax.emit_jump
    if branch := node.branch:
        target = labels.get(branch.target, branch.target)
        delay = [branch.delay] if branch.delay else []
        if branch.target in inside:
            lines += [f"\t{branch.mnemonic}\t{join(branch.arguments, target)}", *delay]
        elif not far:
            lines += [syntax.emit_branch.format(branch.mnemonic, join(branch.arguments, target)), *delay]
        else:
            mnemonic, arguments = syntax.opposite(branch.mnemonic, branch.arguments)
            around = f"{labels[node.name]}.around"
            lines += [f"\t{mnemonic}\t{join(arguments, around)}", *delay, jump.format(target), f"{around}:"]
    if node.then and node.then != following:
        lines.append(jump.format(labels.get(node.then, node.then)))
    return lines


def join(arguments: str, target: str) -> str:
    return f"{arguments}, {target}" if arguments else target
