local function fib(i) return i < 2 and i or fib(i - 1) + fib(i - 2) end
print(fib(n))
