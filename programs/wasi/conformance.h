// What the cases share: a case fails by saying where and ending the program. Knows WASI preview 1 by its numbers, not the C library.
#ifndef CONFORMANCE_H
#define CONFORMANCE_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wasi/api.h>

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            printf("%s:%d: %s\n", __FILE_NAME__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

// One of these errnos, by their names without the prefix.
#define GIVES(call, ...) \
    do { \
        int allowed_[] = {__VA_ARGS__}; \
        int errno_ = (call); \
        bool found_ = false; \
        for (size_t i_ = 0; i_ < sizeof allowed_ / sizeof *allowed_; i_++) found_ |= allowed_[i_] == errno_; \
        if (!found_) { \
            printf("%s:%d: %s gave errno %d\n", __FILE_NAME__, __LINE__, #call, errno_); \
            exit(1); \
        } \
    } while (0)

#define OK(call) GIVES(call, __WASI_ERRNO_SUCCESS)
#define E(name) __WASI_ERRNO_##name
#define R(name) __WASI_RIGHTS_##name
#define FOLLOW __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW
#define CREATE __WASI_OFLAGS_CREAT
#define DIRECTORY __WASI_OFLAGS_DIRECTORY

typedef __wasi_fd_t fd_t;

// The directory that is handed to the program as `/`, opened anew with all that it may do.
fd_t root(void);
// A new directory below it, with the rights that the cases need.
fd_t scratch(const char *name);
void remove_scratch(fd_t directory, const char *name);
void create_file(fd_t directory, const char *path);
// Without rights unless they are named.
int open_at(fd_t directory, int lookup, const char *path, int oflags, __wasi_rights_t rights, fd_t *fd);
fd_t opened(fd_t directory, const char *path, int oflags, __wasi_rights_t rights);
size_t written(fd_t fd, const void *bytes, size_t length);
size_t read_up_to(fd_t fd, void *bytes, size_t length);
__wasi_fdstat_t fdstat(fd_t fd);
__wasi_filestat_t filestat(fd_t fd);
__wasi_filestat_t path_stat(fd_t directory, int lookup, const char *path);

struct test_case {
    const char *name;
    void (*run)(void);
};

extern const struct test_case descriptors[], paths[], program[];

#endif
