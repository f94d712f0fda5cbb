// A process that moves must find all as it was. The first argument is the case; `list` names them all.
//
// Whoever runs this waits for `ready`, moves the process, and writes one byte to its standard input, as often as `ready` comes. It ends with 0
// and `done`, or says which line found something else.
#include "moved.h"
#include <poll.h>
#include <unistd.h>

static const char *case_name;

void moved(void) {
    printf("ready\n");
    fflush(stdout);
    char byte;
    MUST(read(0, &byte, 1) == 1);
}

void moved_while(void (*work)(void)) {
    printf("ready\n");
    fflush(stdout);
    struct pollfd input = {.fd = 0, .events = POLLRDNORM};
    do
        for (int i = 0; i < 1000; i++) work();
    while (poll(&input, 1, 0) == 0);
    char byte;
    MUST(read(0, &byte, 1) == 1);
}

const char *own_path(const char *name) {
    static char paths[8][128];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "/moved-%s-%s", case_name, name);
    return path;
}

int main(int count, char **arguments) {
    MUST(count >= 2);
    if (count == 3 && !strcmp(arguments[1], "as")) return part(arguments[2]);
    const struct test_case *all[] = {file_cases, memory_cases, time_cases, call_cases};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        for (const struct test_case *one = all[i]; one->name; one++) {
            if (!strcmp(arguments[1], "list")) printf("%s\n", one->name);
            if (strcmp(arguments[1], one->name)) continue;
            case_name = one->name;
            one->run();
            printf("done\n");
            return 0;
        }
    if (!strcmp(arguments[1], "list")) return 0;
    printf("there is no case %s\n", arguments[1]);
    return 2;
}
