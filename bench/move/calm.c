// Has as much memory as its first argument says, in MiB, none of it zero; then writes so many pages of it (second argument), other ones
// each time, and sleeps for so many milliseconds (third), for ever; or, if the third is 0, looks at the clock and prints a line each
// time, as fast as it can. Each line is the number of the pass and the time of day in nanoseconds. Has no C library.

typedef unsigned int u32;
typedef unsigned long long u64;
struct buffer { const void *at; u32 bytes; };
struct subscription { u64 userdata; u64 tag; u32 clock; u32 pad; u64 timeout; u64 precision; u64 flags; };

#define IMPORT(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(name)))
IMPORT("args_sizes_get") u32 args_sizes_get(u32 *count, u32 *bytes);
IMPORT("args_get") u32 args_get(char **pointers, char *buffer);
IMPORT("clock_time_get") u32 clock_time_get(u32 id, u64 lag, u64 *result);
IMPORT("fd_write") u32 fd_write(u32 fd, const struct buffer *buffers, u32 count, u32 *result);
IMPORT("poll_oneoff") u32 poll_oneoff(const struct subscription *in, void *out, u32 count, u32 *result);

extern unsigned char __heap_base;

static char *arguments[8], text[256];

static u32 number(const char *digits) {
    u32 value = 0;
    while (digits && *digits >= '0' && *digits <= '9') value = value * 10 + (u32)(*digits++ - '0');
    return value;
}

static u32 digits(char *line, u32 at, u64 value) {
    do line[--at] = (char)('0' + value % 10); while (value /= 10);
    return at;
}

static void print(u64 pass, u64 time) {
    char line[48];
    u32 at = sizeof line, result;
    line[--at] = '\n';
    at = digits(line, at, time);
    line[--at] = ' ';
    at = digits(line, at, pass);
    // What is not taken at once comes next.
    while (at < sizeof line) {
        struct buffer out = {line + at, sizeof line - at};
        if (fd_write(1, &out, 1, &result)) return;
        at += result;
    }
}

void _start(void) {
    u32 count, bytes, result;
    if (args_sizes_get(&count, &bytes) || count > 8 || bytes > sizeof text || args_get(arguments, text)) return;
    u32 mib = number(arguments[1]), pages = number(arguments[2]), sleep = number(arguments[3]);
    u32 *base = (u32 *)(((u32)&__heap_base + 65535) & ~65535u);
    u32 end = ((u32)base >> 16) + mib * 16, size = __builtin_wasm_memory_size(0);
    if (end > size && __builtin_wasm_memory_grow(0, end - size) == ~0u) return;
    for (u32 word = 0; word < mib << 18; word += 16) base[word] = word + 1;
    char event[32];
    for (u64 pass = 0, at = 0;; pass++) {
        for (u32 page = 0; page < pages; page++) {
            ((volatile u32 *)base)[at * 1024] += 1;
            at += 17;
            if (at >= mib * 256) at -= mib * 256;
        }
        u64 time = 0;
        clock_time_get(0, 0, &time);
        print(pass, time);
        if (sleep) {
            struct subscription wish = {0, 0, 1, 0, (u64)sleep * 1000000, 0, 0};
            poll_oneoff(&wish, event, 1, &result);
        }
    }
}
