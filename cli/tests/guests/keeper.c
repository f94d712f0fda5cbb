// Makes, writes, renames and removes files without end, and says of each act when it is acknowledged: `keeper DIRECTORY`. Later
// `keeper check DIRECTORY`, given what was said, looks whether all of it is there.

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST = 100000 };

static char path[256], other[256];

static const char *in(const char *directory, const char *kind, unsigned number) {
    snprintf(path, sizeof path, "%s/%s%u", directory, kind, number);
    return path;
}

static void must(bool done, const char *what) {
    if (!done) {
        printf("failed: %s: %s\n", what, strerror(errno));
        exit(1);
    }
}

// Of some length, different for each number; now and then more than one chunk.
static size_t content(unsigned number, char *to, size_t room) {
    size_t length = number % 7 == 3 ? 70000 + number % 1000 : 20 + number * 37 % 3000;
    must(length <= room, "room");
    for (size_t at = 0; at < length; at++) to[at] = (char)('a' + (number * 131 + at * 7 + at / 1000) % 26);
    return length;
}

static char bytes[80000], found[80000];

static void say(const char *what, unsigned number) {
    printf("%s %u\n", what, number);
    fflush(stdout);
}

static void work(const char *directory) {
    must(mkdir(directory, 0700) == 0, "mkdir");
    snprintf(other, sizeof other, "%s/log", directory);
    int log = open(other, O_CREAT | O_WRONLY | O_APPEND, 0600);
    must(log >= 0, "log");
    for (unsigned number = 0; number < MOST; number++) {
        size_t length = content(number, bytes, sizeof bytes);
        snprintf(other, sizeof other, "%s/new", directory);
        int fd = open(other, O_CREAT | O_TRUNC | O_WRONLY, 0600);
        must(fd >= 0 && write(fd, bytes, length) == (ssize_t)length && fsync(fd) == 0 && close(fd) == 0, "write");
        must(rename(other, in(directory, "file-", number)) == 0, "rename");
        say("file", number);
        char line[16];
        int size = snprintf(line, sizeof line, "%u\n", number);
        must(write(log, line, (size_t)size) == size && fsync(log) == 0, "append");
        say("line", number);
        if (number % 5 == 2) {
            must(mkdir(in(directory, "directory-", number), 0700) == 0, "mkdir");
            say("directory", number);
        }
        if (number % 3 == 2) {
            must(unlink(in(directory, "file-", number - 1)) == 0, "unlink");
            say("gone", number - 1);
        }
    }
}

static bool saw[4][MOST];

static int check(const char *directory) {
    const char *kinds[] = {"file", "line", "directory", "gone"};
    char kind[32];
    unsigned number, last = 0, lines = 0;
    int said = 0, lost = 0;
    while (scanf("%31s %u", kind, &number) == 2) {
        must(number < MOST, "number");
        for (int i = 0; i < 4; i++)
            if (!strcmp(kind, kinds[i])) saw[i][number] = true, said++;
        if (number > last) last = number;
        if (!strcmp(kind, "line")) lines = number + 1;
    }
    for (number = 0; number <= last; number++) {
        // The act after the last that was acknowledged may have happened or not.
        bool may_be_gone = number % 3 == 1 && number + 1 >= last;
        if (saw[3][number] || saw[0][number]) {
            int fd = open(in(directory, "file-", number), O_RDONLY);
            if (saw[3][number] ? fd >= 0 : fd < 0 && !may_be_gone) printf("%s: %s\n", path, saw[3][number] ? "is back" : "is lost"), lost++;
            if (fd >= 0) {
                size_t length = content(number, bytes, sizeof bytes);
                size_t got = 0;
                for (ssize_t some; (some = read(fd, found + got, sizeof found - got)) > 0;) got += (size_t)some;
                if (got != length || memcmp(bytes, found, length)) printf("%s: %zu bytes are not what was written\n", path, got), lost++;
                close(fd);
            }
        }
        struct stat stat_of;
        if (saw[2][number] && stat(in(directory, "directory-", number), &stat_of)) printf("%s: is lost\n", path), lost++;
    }
    snprintf(other, sizeof other, "%s/log", directory);
    FILE *log = fopen(other, "r");
    unsigned at = 0;
    if (log)
        while (at < lines && fscanf(log, "%u", &number) == 1 && number == at) at++;
    if (at < lines) printf("%s: ends at %u of %u\n", other, at, lines), lost++;
    printf("%d acknowledged\n", said);
    return lost > 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "check")) return check(argv[2]);
    if (argc != 2) return 2;
    work(argv[1]);
    return 0;
}
