"""A look at a pickle before it is loaded: what in it would take time that its file has not.

The unpickler hashes the keys of dicts and the members of sets. A tuple that holds one other tuple
twice, forty times over, is 470 bytes long and takes 2^40 steps to hash or to print. So the stack
of the unpickler is followed here with sizes in place of values.
"""

from __future__ import annotations

import pickletools

_MARK = -1
"""Stands for the mark on the stack."""

_LARGEST_TUPLE = 1_000
"""Members, those of tuples inside counted each time they are met; shapes have a few."""

_FIXED = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

_CALLS = frozenset({"REDUCE", "NEWOBJ"})
"""What they give may be the tuple they are given, as a shape is."""


def check_opcodes(content: bytes) -> None:
    """Refuse a pickle that takes more than its file has.

    Raises:
        ValueError: if it uses what `torch.save` does not write, numbers more objects than it has,
            or builds tuples that grow without end.
    """
    stack: list[int] = []
    memo: dict[int, int] = {}
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.proto > 4:
            raise ValueError(f"its pickle uses {opcode.name}, which torch.save does not write")
        if "PUT" in opcode.name and int(str(argument)) > len(content):
            raise ValueError("its pickle numbers more objects than it has")
        try:
            _step(opcode, argument, stack, memo)
        except (IndexError, KeyError):
            raise ValueError("its pickle takes what it never put there") from None
        if stack and stack[-1] > _LARGEST_TUPLE:
            raise ValueError("its pickle holds tuples in tuples without end")


def _step(
    opcode: pickletools.OpcodeInfo, argument: object, stack: list[int], memo: dict[int, int]
) -> None:
    """What an opcode does to the stack of sizes; what is no tuple has size 0."""
    name = opcode.name
    if name == "MARK":
        stack.append(_MARK)
    elif name == "DUP":
        stack.append(stack[-1])
    elif name == "POP":
        stack.pop()
    elif "PUT" in name or name == "MEMOIZE":
        memo[len(memo) if name == "MEMOIZE" else int(str(argument))] = stack[-1]
    elif "GET" in name:
        stack.append(memo[int(str(argument))])
    elif name in _FIXED:
        members = [stack.pop() for _ in range(_FIXED[name])]
        stack.append(sum(members) + len(members))
    else:
        before = [kind.name for kind in opcode.stack_before]
        members = _above_mark(stack) if "mark" in before else []
        below = before[: before.index("mark")] if "mark" in before else before
        taken = [stack.pop() for _ in below]
        size = sum(members) + len(members) if name in ("TUPLE", "FROZENSET") else 0
        stack.extend(taken[0] if name in _CALLS else size for _ in opcode.stack_after)


def _above_mark(stack: list[int]) -> list[int]:
    members: list[int] = []
    while (size := stack.pop()) != _MARK:
        members.append(size)
    return members
