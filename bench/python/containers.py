counts = {}
for i in range(200_000):
    key = f"k{i * 7919 % 5003}"
    counts[key] = counts.get(key, 0) + i
pairs = sorted((value, key) for key, value in counts.items())
words = " ".join(key for _, key in pairs).upper().split()
squares = [value * value % 1009 for value, _ in pairs for _ in range(20)]
print(len(words), pairs[0], pairs[-1], sum(squares), words[17].replace("K", "c"))
