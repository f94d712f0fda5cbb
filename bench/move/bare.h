// What the programs of `bench/move` have of WASI and of the C library, which they do without.

typedef unsigned int u32;
typedef unsigned long long u64;
struct buffer { const void *at; u32 bytes; };

#define IMPORT(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(name)))
IMPORT("args_sizes_get") u32 args_sizes_get(u32 *count, u32 *bytes);
IMPORT("args_get") u32 args_get(char **pointers, char *buffer);
IMPORT("clock_time_get") u32 clock_time_get(u32 id, u64 lag, u64 *result);
IMPORT("fd_write") u32 fd_write(u32 fd, const struct buffer *buffers, u32 count, u32 *result);

extern unsigned char __heap_base;

static char *arguments[8], text[256];

static u32 number(const char *digits) {
    u32 value = 0;
    while (digits && *digits >= '0' && *digits <= '9') value = value * 10 + (u32)(*digits++ - '0');
    return value;
}

// The memory of as many MiB as the first argument says, on pages of its own; nothing if there is none.
static u32 *begin(void) {
    u32 count, bytes;
    if (args_sizes_get(&count, &bytes) || count > 8 || bytes > sizeof text || args_get(arguments, text)) return 0;
    u32 *base = (u32 *)(((u32)&__heap_base + 65535) & ~65535u);
    u32 end = ((u32)base >> 16) + number(arguments[1]) * 16, size = __builtin_wasm_memory_size(0);
    return end > size && __builtin_wasm_memory_grow(0, end - size) == ~0u ? 0 : base;
}
