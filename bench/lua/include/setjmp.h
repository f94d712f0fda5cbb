// Lua includes this header for its way of handling errors, which `main.c`'s build replaces: wasm32-wasi has no setjmp of its own.
