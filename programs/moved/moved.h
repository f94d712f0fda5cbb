// What the cases share. A case sets up one kind of state, has its process moved, and looks whether all is as it was; it fails by saying where
// and ending the program.
#ifndef MOVED_H
#define MOVED_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            printf("%s:%d: %s\n", __FILE_NAME__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

// Returns after the process was moved, which happens while it waits for input.
void moved(void);
// The same, but the process computes while it is moved. `work` is called again and again.
void moved_while(void (*work)(void));

struct test_case {
    const char *name;
    void (*run)(void);
};

extern const struct test_case file_cases[], memory_cases[], time_cases[], call_cases[];

// What a child of a case does; gives its exit status.
int part(const char *name);
// By which case programs of one test tell their files from others'.
const char *own_path(const char *name);

#endif
