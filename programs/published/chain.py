"""What a frozen interpreter has to keep: run by the chain tests on CPython for WebAssembly, never by hand.

It uses the standard library broadly, prints as it goes, keeps files open, waits for input, and prints nothing that differs from
run to run.
"""

import bisect
import collections
import contextlib
import functools
import hashlib
import heapq
import io
import itertools
import json
import math
import os
import random
import re
import struct
import sys
import zlib


def hashes(count):
    digest = hashlib.sha256(b"start")
    for number in range(count):
        digest.update(str(number).encode() * 50)
        if number % 200 == 0:
            print("sha256", number, digest.hexdigest()[:16])
    print("crc", zlib.crc32(digest.digest()), hashlib.blake2b(digest.digest()).hexdigest()[:16])


def primes():
    """A generator that never ends, holding generators that never end."""
    found = []
    for number in itertools.count(2):
        if all(number % prime for prime in itertools.takewhile(lambda p: p * p <= number, found)):
            found.append(number)
            yield number


def ackermann(m, n):
    return n + 1 if m == 0 else ackermann(m - 1, 1 if n == 0 else ackermann(m, n - 1))


class Tree:
    __slots__ = ("left", "right", "value")

    def __init__(self, value):
        self.left = self.right = None
        self.value = value

    def insert(self, value):
        side = "left" if value < self.value else "right"
        below = getattr(self, side)
        if below is None:
            setattr(self, side, Tree(value))
        else:
            below.insert(value)

    def __iter__(self):
        if self.left:
            yield from self.left
        yield self.value
        if self.right:
            yield from self.right


class Backwards(Exception):
    pass


def unwinding(depth):
    try:
        if depth == 0:
            raise Backwards("from the bottom")
        unwinding(depth - 1)
    except Backwards as error:
        if depth % 7 == 0:
            raise Backwards(f"again at {depth}") from error
        raise
    finally:
        unwinding.passed += 1


@contextlib.contextmanager
def announced(name):
    print("begin", name)
    try:
        yield
    finally:
        print("end", name)


@functools.lru_cache(maxsize=None)
def partitions(number, largest):
    if number == 0:
        return 1
    return sum(partitions(number - part, part) for part in range(min(number, largest), 0, -1))


def words():
    text = "the quick brown fox jumps over the lazy dog, and 42 foxes in 1997 jumped over 7 dogs " * 60
    counted = collections.Counter(re.findall(r"\b[a-z]+\b", text))
    print("words", counted.most_common(4))
    changed = re.sub(r"(\d+) (\w+)", lambda match: f"{match[2]}-{int(match[1]) * 2}", text)
    print("changed", hashlib.md5(changed.encode()).hexdigest(), len(re.split(r"[\s,]+", changed)))


def documents():
    value = {"numbers": list(range(50)), "nested": {str(i): [i / 7, None, True, "ä\u2028"] for i in range(40)}}
    for turn in range(30):
        text = json.dumps(value, indent=turn % 4, sort_keys=True)
        value = json.loads(text)
        value["numbers"].append(len(text))
    print("json", hashlib.sha1(text.encode()).hexdigest(), value["numbers"][-1])


def arithmetic():
    number = 3**2000 + 7
    for _ in range(60):
        number = number * number % (2**4423 - 1)
    print("big", number % 10**30, math.isqrt(number) % 10**20, number.bit_count())
    print("floats", sum(math.sin(i) * math.sqrt(i) for i in range(4000)), math.fsum(0.1 for _ in range(1000)))
    print("packed", struct.pack("<dIh", math.pi, 7, -3).hex())


def containers():
    chance = random.Random(2024)
    numbers = [chance.randrange(10**6) for _ in range(6000)]
    heap = numbers[:]
    heapq.heapify(heap)
    smallest = [heapq.heappop(heap) for _ in range(3000)]
    ordered = []
    for number in numbers[:2000]:
        bisect.insort(ordered, number)
    print("sorted", smallest[-1], ordered[1000], sorted(numbers, key=lambda n: str(n)[::-1])[:3])
    tree = Tree(numbers[0])
    for number in numbers[1:3000]:
        tree.insert(number)
    print("tree", list(tree)[::500], len({number % 1009 for number in numbers}))


def files():
    path = "/data/notes.txt"
    with open(path, "w+") as notes, open("/data/log.bin", "ab", buffering=0) as log:
        for number in range(150):
            notes.write(f"note {number}\n")
            log.write(struct.pack("<I", number))
            if number % 30 == 29:
                at = notes.tell()
                notes.seek(0)
                lines = notes.readlines()
                notes.seek(at)
                print("notes", len(lines), log.tell())
    with os.scandir("/data") as entries:
        print("directory", sorted(entry.name for entry in entries))
    buffer = io.BytesIO(open("/data/log.bin", "rb").read())
    print("log", sum(struct.unpack("<I", buffer.read(4))[0] for _ in range(150)))


def questions():
    for number in range(40):
        print("answer", number, len(input()), flush=True)
    print("rest", sum(len(line) for line in sys.stdin))


def main():
    with announced("everything"):
        hashes(1200)
        print("primes", [p for p in itertools.islice(primes(), 900)][::150])
        print("ackermann", ackermann(2, 60))
        print("partitions", partitions(60, 60))
        unwinding.passed = 0
        try:
            unwinding(300)
        except Backwards as error:
            chain = 0
            while error:
                chain, error = chain + 1, error.__cause__
            print("unwound", unwinding.passed, chain)
        words()
        documents()
        arithmetic()
        containers()
        files()
        questions()


main()
