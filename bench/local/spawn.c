/* A process that makes others of this same program, as `cargo xtask bench local` asks on standard input: lines of a word and how often. The
 * answer to each is a line: nanoseconds for all of it. `exchange.erl` answers the same words.
 *
 * It is its own start, without a C library, so that a child is no more than it must be. Without an argument it ends at once. */
#include <stddef.h>
#include "una.h"

#define WASI(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))
WASI(args_sizes_get) int args_sizes_get(size_t *count, size_t *bytes);
WASI(clock_time_get) int clock_time_get(uint32_t clock, uint64_t precision, uint64_t *time);
WASI(fd_read) int fd_read(uint32_t file, const void *pieces, uint32_t count, size_t *length);
WASI(fd_write) int fd_write(uint32_t file, const void *pieces, uint32_t count, size_t *length);
WASI(proc_exit) _Noreturn void proc_exit(uint32_t code);

#define OK(call) do { if (call) proc_exit(__LINE__ & 0x7f); } while (0)
/* How many live at a time: fewer than a process may have. */
#define BATCH 500

static uint64_t now(void) {
    uint64_t time = 0;
    OK(clock_time_get(1, 1, &time));
    return time;
}

static una_handle port;
static una_spawned spawned[BATCH];

static void spawn(una_spawned *child) { OK(una_spawn(-1, "spawn", 6, "", 0, 0, 0, child)); }

static void end(una_spawned *child) {
    una_exit_status status;
    OK(una_process_wait(child->process, &status, UNA_FOREVER));
    if (status.kind != UNA_EXIT_CODE || status.code) proc_exit(99);
    OK(una_close(child->process));
}

/* One after the other. */
static uint64_t each(long count) {
    uint64_t start = now();
    for (long round = 0; round < count; round++) spawn(spawned), end(spawned);
    return now() - start;
}

/* Many that live at the same time. */
static uint64_t many(long count) {
    uint64_t start = now();
    for (long left = count; left > 0; left -= BATCH) {
        long batch = left < BATCH ? left : BATCH;
        for (long at = 0; at < batch; at++) spawn(spawned + at);
        for (long at = 0; at < batch; at++) end(spawned + at);
    }
    return now() - start;
}

/* From before the call until what the child does first has arrived: a message. The child's own clock would say nothing, it is another. */
static uint64_t first(long count) {
    uint64_t total = 0;
    char byte;
    una_message message;
    una_transfer given = { port, UNA_RIGHT_SEND, 0 };
    for (long round = 0; round < count; round++) {
        uint64_t before = now();
        OK(una_spawn(-1, "spawn\0report", 13, "", 0, &given, 1, spawned));
        OK(una_receive(port, &byte, 1, &message, UNA_FOREVER));
        total += now() - before;
        end(spawned);
    }
    return total;
}

struct piece { void *at; size_t length; };

static char line[64];

static void answer(uint64_t number) {
    char *at = line + sizeof line;
    *--at = '\n';
    do *--at = (char)('0' + number % 10); while (number /= 10);
    struct piece piece = { at, (size_t)(line + sizeof line - at) };
    size_t written;
    OK(fd_write(1, &piece, 1, &written));
}

void _start(void) {
    size_t count, bytes, length;
    OK(args_sizes_get(&count, &bytes));
    if (count == 1) return;
    if (count == 2) {
        OK(una_send(UNA_FIRST_HANDLE, "", 1, 0, 0, UNA_FOREVER));
        return;
    }
    OK(una_port_create(4, 64, 0, &port));
    for (;;) {
        struct piece piece = { line, sizeof line };
        OK(fd_read(0, &piece, 1, &length));
        if (!length) return;
        long often = 0;
        for (size_t at = 0; at < length; at++)
            if (line[at] >= '0' && line[at] <= '9') often = often * 10 + (line[at] - '0');
        answer(line[0] == 'e' ? each(often) : line[0] == 'm' ? many(often) : first(often));
    }
}
