# Computes with what a program in Python has, prints now and then what it has come to, until a file is there: LINES STOP.
import os, sys

most, stop = int(sys.argv[1]), sys.argv[2]
line, seen, state = 0, {}, 1
while line < most and not os.path.exists(stop):
    for _ in range(2000):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        word = "%x" % (state >> 44)
        seen[word] = seen.get(word, []) + [state % 7]
        if len(seen) > 500:
            oldest = next(iter(seen))
            state ^= sum(seen.pop(oldest)) + int(len(oldest) * 1.5)
    line += 1
    print(line, "%016x" % state, len(seen), flush=True)
