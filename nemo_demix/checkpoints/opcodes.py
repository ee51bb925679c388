"""The opcodes of a pickle, carried out as data: what the standard library's unpickler could be made to do is not here.

Nothing is imported and nothing is called but the stand-ins that the caller gives for names; state goes only into
instances of theirs. Keys of a dict are plain, so that hashing one costs no more than reading it; the memo is as long as
what was put there. Time and memory grow with the file.

Source: CPython Lib/pickletools.py, whose names the opcodes have here. Left out are those that torch does not write:
protocols 0 and 1, persistent ids, extension codes, buffers outside of the file, duplicates.
"""

import gc
import struct
from collections.abc import Callable
from typing import Any


class Made:
    """What may be called by a pickle."""

    __slots__ = ()

    @classmethod
    def made_with(cls, arguments: tuple[Any, ...]) -> Any:
        """Return what a call, or `__new__`, with these arguments gives: an instance, from nothing."""
        if arguments:
            raise TypeError(f"{cls.__name__} made with arguments")
        return cls()


class Instance(Made):
    """What may also be given state by a pickle."""

    def take(self, state: Any) -> None:
        """Take the instance's state; a class that has none refuses it."""
        raise TypeError(f"{type(self).__name__} has no state to set")


Named = Any  # a subclass of `Made`, or a value that is only looked up


class _Mark:
    """Where a list of operands begins."""


_MARK = _Mark()
_PLAIN_KEYS = frozenset({str, int, bytes, bool, type(None)})
_SIZED = {  # opcode: bytes of the length that precedes its operand, whether that is text
    b"X"[0]: (4, True),  # BINUNICODE
    b"\x8c"[0]: (1, True),  # SHORT_BINUNICODE
    b"\x8d"[0]: (8, True),  # BINUNICODE8
    b"B"[0]: (4, False),  # BINBYTES
    b"C"[0]: (1, False),  # SHORT_BINBYTES
    b"\x8e"[0]: (8, False),  # BINBYTES8
}
_INTEGERS = {b"M"[0]: (2, False), b"J"[0]: (4, True)}  # BININT2, BININT: bytes, whether signed
_BININT1 = b"K"[0]
_CONSTANT = {b"N"[0]: None, b"\x88"[0]: True, b"\x89"[0]: False}
_TUPLES = {b"\x85"[0]: 1, b"\x86"[0]: 2, b"\x87"[0]: 3}
_PUTS = {b"q"[0]: 1, b"r"[0]: 4}  # BINPUT, LONG_BINPUT: bytes of the place
_BINGET, _LONG_BINGET, _MEMOIZE, _STOP = b"h"[0], b"j"[0], 0x94, b"."[0]
_MARK_CODE, _EMPTY_TUPLE, _EMPTY_DICT = b"("[0], b")"[0], b"}"[0]
_LONGEST_INTEGER = 64  # bytes


def decode(data: bytes, find: Callable[[str, str], Named]) -> Any:
    """Return what a pickle of protocol 2 to 5 holds.

    Args:
        find: Gives what stands for a name (module, name), or raises.
    Raises:
        Exception: of any kind, if the data are damaged or hold what is not carried out; nothing of them was run.
    """
    collects = gc.isenabled()
    gc.disable()  # nothing here is garbage before the end: looking for it is a quarter of the time
    try:
        return _Decoder(data, find).run()
    finally:
        if collects:
            gc.enable()


class _Decoder:
    def __init__(self, data: bytes, find: Callable[[str, str], Named]) -> None:
        self._data, self._find = data, find
        self._position = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._names: dict[tuple[str, str], Named] = {}

    def run(self) -> Any:
        # The commonest first, in locals: a checkpoint of many tensors has some ten million of them.
        data, stack, memo, length = self._data, self._stack, self._memo, len(self._data)
        push, position = stack.append, 0
        while True:
            code = data[position]
            position += 1
            if code == _BINGET:
                push(memo[data[position]])
                position += 1
            elif code == _LONG_BINGET:
                push(memo[int.from_bytes(data[position : position + 4], "little")])
                position += 4
            elif code == _MEMOIZE:
                memo[len(memo)] = stack[-1]
            elif code == _BININT1:
                push(data[position])
                position += 1
            elif code == _MARK_CODE:
                push(_MARK)
            elif code == _EMPTY_TUPLE:
                push(())
            elif code == _EMPTY_DICT:
                push({})
            elif code in _TUPLES:
                count = _TUPLES[code]
                items = tuple(stack[-count:])
                if len(items) < count:
                    raise ValueError("too few operands")
                del stack[-count:]
                push(items)
            elif code in _INTEGERS:
                size, signed = _INTEGERS[code]
                push(int.from_bytes(data[position : position + size], "little", signed=signed))
                position += size
            elif code in _SIZED:
                size, is_text = _SIZED[code]
                start = position + size
                position = start + int.from_bytes(data[position:start], "little")
                if position > length:
                    raise ValueError("the data end early")
                operand = data[start:position]
                push(operand.decode("utf-8", "surrogatepass") if is_text else operand)
            elif code in _CONSTANT:
                push(_CONSTANT[code])
            elif code in _PUTS:
                size = _PUTS[code]
                memo[int.from_bytes(data[position : position + size], "little")] = stack[-1]
                position += size
            elif code == _STOP:
                return stack.pop()
            elif code in _OPERATIONS:
                self._position = position
                _OPERATIONS[code](self)
                position = self._position
            else:
                raise ValueError(f"opcode {code:#04x}, which checkpoint metadata does not need")

    def _take(self, length: int) -> bytes:
        end = self._position + length
        if end > len(self._data):
            raise ValueError("the data end early")
        operand = self._data[self._position : end]
        self._position = end
        return operand

    def _number(self, length: int) -> int:
        return int.from_bytes(self._take(length), "little")

    def _line(self) -> str:
        end = self._data.index(b"\n", self._position)
        line = self._data[self._position : end].decode("ascii", "backslashreplace")
        self._position = end + 1
        return line

    def _since_mark(self) -> list[Any]:
        stack = self._stack
        place = len(stack) - 1
        while place >= 0 and stack[place] is not _MARK:
            place -= 1
        if place < 0:
            raise ValueError("no mark")
        items = stack[place + 1 :]
        del stack[place:]
        return items

    def _proto(self) -> None:
        if self._number(1) > 5:
            raise ValueError("a protocol beyond 5")

    def _frame(self) -> None:
        self._number(8)

    def _float(self) -> None:
        self._stack.append(struct.unpack(">d", self._take(8))[0])

    def _long1(self) -> None:
        length = self._number(1)
        if length > _LONGEST_INTEGER:
            raise ValueError("an integer of many digits")
        self._stack.append(int.from_bytes(self._take(length), "little", signed=True))

    def _named(self, module: str, name: str) -> None:
        if (module, name) not in self._names:
            self._names[module, name] = self._find(module, name)
        self._stack.append(self._names[module, name])

    def _global(self) -> None:
        module = self._line()
        self._named(module, self._line())

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (type(name) is type(module) is str):
            raise TypeError("a name that is no text")
        self._named(module, name)

    def _call(self) -> None:
        arguments, target = self._stack.pop(), self._stack.pop()
        if not (isinstance(target, type) and issubclass(target, Made) and type(arguments) is tuple):
            raise TypeError("a call of what is no class")
        self._stack.append(target.made_with(arguments))

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if not isinstance(target, Instance):
            raise TypeError("state for what has none")
        target.take(state)

    def _tuple(self) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise TypeError("items for what is no dict")
        keys = items[::2]
        for key in keys:
            if type(key) in _PLAIN_KEYS or isinstance(key, Instance):
                continue
            if not (type(key) is tuple and all(type(part) in _PLAIN_KEYS for part in key)):
                raise TypeError(f"a key that is a {type(key).__name__}")
        target.update(zip(keys, items[1::2], strict=True))

    def _append(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise TypeError("elements for what is no list")
        self._stack[-1].extend(items)


_OPERATIONS: dict[int, Callable[[_Decoder], Any]] = {
    0x80: _Decoder._proto,
    0x95: _Decoder._frame,
    b"G"[0]: _Decoder._float,  # BINFLOAT
    0x8A: _Decoder._long1,
    b"c"[0]: _Decoder._global,
    0x93: _Decoder._stack_global,
    b"R"[0]: _Decoder._call,  # REDUCE
    0x81: _Decoder._call,  # NEWOBJ
    b"b"[0]: _Decoder._build,
    b"t"[0]: _Decoder._tuple,
    b"]"[0]: lambda decoder: decoder._stack.append([]),
    0x8F: lambda decoder: decoder._stack.append([]),  # EMPTY_SET: of a planner's, and its elements are not hashed
    0x90: lambda decoder: decoder._append(decoder._since_mark()),  # ADDITEMS
    0x91: lambda decoder: decoder._stack.append(decoder._since_mark()),  # FROZENSET
    b"s"[0]: lambda decoder: decoder._set_items([decoder._stack.pop(-2), decoder._stack.pop()]),
    b"u"[0]: lambda decoder: decoder._set_items(decoder._since_mark()),
    b"a"[0]: lambda decoder: decoder._append([decoder._stack.pop()]),
    b"e"[0]: lambda decoder: decoder._append(decoder._since_mark()),
    b"0"[0]: lambda decoder: decoder._stack.pop(),
    b"1"[0]: lambda decoder: decoder._since_mark(),
}
