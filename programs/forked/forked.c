// A process that is forked and its clones must be alike and apart. The first argument is the case; `list` names them all.
//
// A case forks itself, or says `ready` and is forked from outside while it computes. Each clone looks at itself and ends; the original waits
// for all of them and looks how they ended. It ends with 0 and `done`, or says what was otherwise. The cases of programs/moved about memory
// and time are among these: where they would be moved, they are forked.
#include "../moved/moved.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *case_name;
// Which clone this is; 0 is the original.
static int number;
static char clones[256][32];
static int clone_count;

static int read_text(const char *path, char *text, size_t room) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) return -1;
    ssize_t length = read(fd, text, room - 1);
    close(fd);
    if (length < 0) return -1;
    text[length] = 0;
    return (int)length;
}

static int own_number(void) {
    char text[32];
    MUST(read_text("/proc/self/fork", text, sizeof text) > 0);
    return atoi(text);
}

static void add_clones(const char *from) {
    static char text[8192];
    strncpy(text, from, sizeof text - 1);
    text[sizeof text - 1] = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        MUST(clone_count < 256 && strlen(line) < sizeof clones[0]);
        strcpy(clones[clone_count++], line);
    }
}

// Comes back in the original and in each of the clones; gives which one it is.
static int forked(int count) {
    // Not on the stack, which some cases need for themselves.
    static char answer[8192];
    char order[32];
    int length = snprintf(order, sizeof order, "fork %d", count);
    int control = open("/proc/self/ctl", O_RDWR);
    MUST(control >= 0);
    MUST(write(control, order, length) == length);
    ssize_t told = pread(control, answer, sizeof answer - 1, 0);
    MUST(told >= 0);
    answer[told] = 0;
    MUST(close(control) == 0);
    int now = own_number();
    if (now == 0) {
        int before = clone_count;
        add_clones(answer);
        MUST(clone_count - before == count);
    } else {
        // It has none, and waits for nobody.
        MUST(told == 0 && now <= count);
        clone_count = 0;
    }
    return number = now;
}

static void moved_once(void (*work)(void)) {
    if (number) return;
    if (!work) {
        forked(2);
        return;
    }
    static char text[8192], before[8192];
    // Before anybody is told that it may be forked.
    MUST(read_text("/proc/self/clones", before, sizeof before) >= 0);
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        for (int i = 0; i < 1000; i++) work();
        if (own_number()) {
            number = own_number();
            clone_count = 0;
            return;
        }
        MUST(read_text("/proc/self/clones", text, sizeof text) >= 0);
        if (strcmp(before, text)) break;
    }
    add_clones(text);
}

void moved(void) { moved_once(NULL); }
void moved_while(void (*work)(void)) { moved_once(work); }

const char *own_path(const char *name) {
    static char paths[8][128];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "/forked-%s-%s", case_name, name);
    return path;
}

static int64_t now(void) {
    struct timespec at;
    MUST(clock_gettime(CLOCK_MONOTONIC, &at) == 0);
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

// Each of the clones that came of this process has ended well.
static void wait_for_clones(void) {
    for (int i = 0; i < clone_count; i++) {
        static char status[2048], log[4096];
        char path[64];
        snprintf(path, sizeof path, "/proc/%s/status", clones[i]);
        int64_t until = now() + 60000000000;
        do {
            MUST(now() < until);
            usleep(2000);
            if (read_text(path, status, sizeof status) < 0) status[0] = 0;
        } while (!strstr(status, "state: ended\n"));
        if (strstr(status, "end: Exited(0)\n")) continue;
        snprintf(path, sizeof path, "/proc/%s/log", clones[i]);
        if (read_text(path, log, sizeof log) < 0) log[0] = 0;
        printf("clone %s ended otherwise: %s%s\n", clones[i], strstr(status, "end: ") ? strstr(status, "end: ") : status, log);
        exit(1);
    }
}

static void who(void) {
    char before[2048], after[2048], list[256];
    MUST(own_number() == 0);
    MUST(read_text("/proc/self/clones", list, sizeof list) == 0);
    MUST(read_text("/proc/self/status", before, sizeof before) > 0);
    int me = forked(3);
    MUST(read_text("/proc/self/status", after, sizeof after) > 0);
    // The first line is the pid.
    int length = (int)(strchr(before, '\n') - before) + 1;
    if (me == 0) {
        MUST(!strncmp(before, after, length) && !strstr(after, "forked_from: "));
        MUST(read_text("/proc/self/clones", list, sizeof list) > 0);
        char expected[256];
        snprintf(expected, sizeof expected, "%s\n%s\n%s\n", clones[0], clones[1], clones[2]);
        MUST(!strcmp(list, expected));
        // Not again: the last order has been answered.
        MUST(forked(1) == 0 || number == 1);
        if (number == 1) MUST(clone_count == 0);
    } else {
        char from[128];
        MUST(strncmp(before, after, length));
        snprintf(from, sizeof from, "forked_from: %.*s\n", length - 6, before + 5);
        MUST(strstr(after, from));
        MUST(read_text("/proc/self/clones", list, sizeof list) == 0);
    }
}

static void clones_of_clones(void) {
    static int generation[3];
    generation[0] = forked(2) + 1;
    generation[1] = forked(2) + 1;
    if (number) {
        MUST(own_number() == number);
        generation[2] = forked(1) + 1;
    }
    MUST(generation[0] >= 1 && generation[0] <= 3 && generation[1] >= 1 && generation[1] <= 3 && generation[2] <= 2);
    wait_for_clones();
}

static void offsets(void) {
    const char *path = own_path("file");
    int fd = open(path, O_CREAT | O_TRUNC | O_RDWR, 0644);
    MUST(fd >= 0 && write(fd, "0123456789abcdefghij", 20) == 20);
    MUST(lseek(fd, 5, SEEK_SET) == 5);
    int me = forked(3);
    char read_here[6] = {0};
    // Whoever reads first takes nothing from the others.
    MUST(read(fd, read_here, 5) == 5 && !strcmp(read_here, "56789"));
    MUST(lseek(fd, 0, SEEK_CUR) == 10);
    // What one writes is in the file of all, which is one file.
    MUST(pwrite(fd, &"ABCD"[me], 1, 10 + me) == 1);
    if (me == 0) {
        wait_for_clones();
        char all[5] = {0};
        MUST(pread(fd, all, 4, 10) == 4 && !strcmp(all, "ABCD"));
        MUST(unlink(path) == 0);
    }
}

static void appended(void) {
    const char *path = own_path("log");
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_APPEND, 0644);
    MUST(fd >= 0 && write(fd, "begin\n", 6) == 6);
    int me = forked(4);
    char line[16];
    int length = snprintf(line, sizeof line, "line %d\n", me);
    MUST(write(fd, line, length) == length);
    if (me == 0) {
        wait_for_clones();
        char all[128], expected[16];
        MUST(read_text(path, all, sizeof all) == 6 + 5 * 7);
        for (int i = 0; i < 5; i++) {
            snprintf(expected, sizeof expected, "line %d\n", i);
            MUST(strstr(all, expected));
        }
        MUST(unlink(path) == 0);
    }
}

// A file without a name goes along as a copy: nobody could open it a second time.
static void without_name(void) {
    const char *path = own_path("gone");
    int fd = open(path, O_CREAT | O_TRUNC | O_RDWR, 0644);
    MUST(fd >= 0 && write(fd, "as it was", 9) == 9 && unlink(path) == 0);
    int me = forked(2);
    char text[16] = {0};
    MUST(pread(fd, text, 15, 0) == 9 && !strcmp(text, "as it was"));
    char own[16];
    int length = snprintf(own, sizeof own, "of %d", me);
    MUST(pwrite(fd, own, length, 0) == length && pread(fd, text, length, 0) == length);
    MUST(!strncmp(text, own, length));
}

static void directories(void) {
    const char *path = own_path("directory");
    MUST(mkdir(path, 0755) == 0);
    char name[160];
    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof name, "%s/%d", path, i);
        int fd = open(name, O_CREAT | O_WRONLY, 0644);
        MUST(fd >= 0 && close(fd) == 0);
    }
    DIR *directory = opendir(path);
    MUST(directory);
    int seen = 0;
    for (int i = 0; i < 5; i++) {
        struct dirent *entry = readdir(directory);
        MUST(entry);
        seen += entry->d_name[0] != '.';
    }
    int me = forked(2);
    for (struct dirent *entry; (entry = readdir(directory));) seen += entry->d_name[0] != '.';
    MUST(seen == 10);
    if (me) return;
    wait_for_clones();
    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof name, "%s/%d", path, i);
        MUST(unlink(name) == 0);
    }
    MUST(rmdir(path) == 0);
}

// All write everywhere at once, and nobody sees another's.
static void apart(void) {
    enum { WORDS = 16 << 20 };
    uint32_t *memory = malloc(WORDS * sizeof *memory);
    MUST(memory);
    for (uint32_t i = 0; i < WORDS; i += 64) memory[i] = i * 2654435761u;
    int me = forked(3);
    for (int round = 1; round < 4; round++)
        for (uint32_t i = 0; i < WORDS; i += 64) memory[i] += me * round;
    for (uint32_t i = 0; i < WORDS; i += 64) MUST(memory[i] == i * 2654435761u + 6 * me);
    // It grows, each on its own.
    char *more = calloc(1 + me, 1 << 20);
    MUST(more);
    for (int i = 0; i < (1 + me) << 20; i += 4096) MUST(more[i] == 0);
}

static uint64_t down(int depth) {
    volatile uint64_t kept = depth * 31ull + 7;
    uint64_t below = 0;
    if (depth == 0)
        forked(2);
    else
        below = down(depth - 1);
    return below + kept;
}

static void in_a_recursion(void) {
    uint64_t expected = 0;
    for (uint64_t i = 0; i <= 3000; i++) expected += i * 31 + 7;
    MUST(down(3000) == expected);
}

static void input_ends(void) {
    if (forked(2)) {
        char byte;
        MUST(read(0, &byte, 1) == 0 && read(0, &byte, 1) == 0);
    }
}

// Each has a log of its own, which begins where it began.
static void output(void) {
    printf("before\n");
    fflush(stdout);
    int me = forked(2);
    if (me) {
        printf("clone %d\n", me);
        fflush(stdout);
        return;
    }
    wait_for_clones();
    for (int i = 0; i < 2; i++) {
        char path[64], log[256], expected[64];
        snprintf(path, sizeof path, "/proc/%s/log", clones[i]);
        snprintf(expected, sizeof expected, "clone %d\ndone\n", i + 1);
        MUST(read_text(path, log, sizeof log) > 0 && !strcmp(log, expected));
    }
}

// What the others are for: eight workers with all that was made before they were.
static void eight_workers(void) {
    enum { COUNT = 1 << 20, WORKERS = 8 };
    static uint32_t table[COUNT];
    uint64_t expected = 0, sum = 0;
    for (uint32_t i = 0; i < COUNT; i++) expected += table[i] = i * 2654435761u >> 7;
    int me = forked(WORKERS);
    char path[160];
    if (me) {
        for (uint32_t i = me - 1; i < COUNT; i += WORKERS) sum += table[i];
        snprintf(path, sizeof path, "%s-%d", own_path("sum"), me);
        FILE *file = fopen(path, "w");
        MUST(file && fprintf(file, "%llu\n", (unsigned long long)sum) > 0 && fclose(file) == 0);
        return;
    }
    wait_for_clones();
    for (int i = 1; i <= WORKERS; i++) {
        char text[32];
        snprintf(path, sizeof path, "%s-%d", own_path("sum"), i);
        MUST(read_text(path, text, sizeof text) > 0 && unlink(path) == 0);
        sum += strtoull(text, NULL, 10);
    }
    MUST(sum == expected);
}

static void refusals(void) {
    int control = open("/proc/self/ctl", O_WRONLY);
    MUST(control >= 0);
    MUST(write(control, "fork 0", 6) < 0 && write(control, "fork 65", 7) < 0 && write(control, "fork x", 6) < 0);
    MUST(write(control, "fork 2 on nowhere", 17) < 0);
    MUST(own_number() == 0 && clone_count == 0);
    // And then it is.
    forked(1);
}

static const struct test_case own_cases[] = {
    {"who", who},
    {"clones-of-clones", clones_of_clones},
    {"offsets", offsets},
    {"appended", appended},
    {"without-name", without_name},
    {"directories", directories},
    {"apart", apart},
    {"in-a-recursion", in_a_recursion},
    {"input-ends", input_ends},
    {"output", output},
    {"eight-workers", eight_workers},
    {"refusals", refusals},
    {0},
};

// Those that look for a node, or for input.
static const char *left_out[] = {"itself", "sleeping", "polling", "exits"};

static bool is_left_out(const char *name) {
    for (size_t i = 0; i < sizeof left_out / sizeof *left_out; i++)
        if (!strcmp(name, left_out[i])) return true;
    return false;
}

int main(int count, char **arguments) {
    MUST(count == 2);
    const struct test_case *all[] = {own_cases, memory_cases, time_cases};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        for (const struct test_case *one = all[i]; one->name; one++) {
            if (is_left_out(one->name)) continue;
            if (!strcmp(arguments[1], "list")) printf("%s\n", one->name);
            if (strcmp(arguments[1], one->name)) continue;
            case_name = one->name;
            one->run();
            wait_for_clones();
            printf("done\n");
            return 0;
        }
    if (!strcmp(arguments[1], "list")) return 0;
    printf("there is no case %s\n", arguments[1]);
    return 2;
}
