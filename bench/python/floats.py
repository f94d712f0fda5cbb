def area(steps):
    total, x, step = 0.0, 0.0, 1.0 / steps
    for _ in range(steps):
        x += step
        total += 4.0 / (1.0 + x * x) * step
    return total


print(area(1_500_000))
