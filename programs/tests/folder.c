// Directories: makes many files, and reads the directory with several cursors at once, going back to places it noted. The order
// of a directory is the file system's own, so what is printed does not depend on it.

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COUNT 300

static void must(int right, const char *what) {
    if (right) return;
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

static unsigned hash_of(const char *name) {
    unsigned hash = 2166136261u;
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 16777619u;
    return hash;
}

// Every name once: the sum and the product of their hashes say so, in any order.
typedef struct {
    unsigned count, sum, product;
} Seen;

static void see(Seen *seen, const char *name) {
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) return;
    unsigned hash = hash_of(name);
    seen->count++, seen->sum += hash, seen->product *= hash | 1;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fputs("usage: folder DIRECTORY [ROUNDS]\n", stderr);
        return 2;
    }
    int rounds = argc > 2 ? atoi(argv[2]) : 25;
    must(chdir(argv[1]) == 0, argv[1]);
    must(mkdir("many", 0777) == 0, "making a directory");
    for (int i = 0; i < COUNT; i++) {
        char name[64];
        sprintf(name, "many/file-%d-%x", i, hash_of("x") * (unsigned)i);
        int file = open(name, O_WRONLY | O_CREAT | O_EXCL, 0666);
        must(file >= 0, name);
        close(file);
    }
    for (int round = 0; round < rounds; round++) {
        DIR *first = opendir("many"), *second = opendir("many");
        must(first && second, "opening the directory");
        Seen one = {0, 0, 1}, two = {0, 0, 1};
        struct dirent *entry;
        // The second cursor runs at a third of the speed of the first.
        int step = 0;
        while ((entry = readdir(first))) {
            see(&one, entry->d_name);
            if (step++ % 3 == 0 && (entry = readdir(second))) see(&two, entry->d_name);
        }
        while ((entry = readdir(second))) see(&two, entry->d_name);
        // Back to a place that was noted in the middle: the same entry follows.
        rewinddir(first);
        for (int i = 0; i < COUNT / 2; i++) must(readdir(first) != NULL, "reading the first half");
        long place = telldir(first);
        entry = readdir(first);
        must(entry != NULL, "reading on");
        char after[64];
        snprintf(after, sizeof after, "%s", entry->d_name);
        while (readdir(first)) {}
        seekdir(first, place);
        entry = readdir(first);
        must(entry && strcmp(entry->d_name, after) == 0, "the same entry after going back");
        must(closedir(first) == 0 && closedir(second) == 0, "closing");
        printf("%d: %u %08x %08x, %u %08x %08x\n", round, one.count, one.sum, one.product, two.count, two.sum, two.product);
    }
    return 0;
}
