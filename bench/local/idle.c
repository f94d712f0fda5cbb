/* Waits for input and does nothing with it. It touches its stack and no other memory. */
#include <stddef.h>
#include <stdint.h>

#define WASI(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))
WASI(fd_read) int fd_read(uint32_t file, const void *pieces, uint32_t count, size_t *length);

void _start(void) {
    char buffer[1];
    size_t length;
    struct { void *at; size_t length; } piece = { buffer, sizeof buffer };
    fd_read(0, &piece, 1, &length);
}
