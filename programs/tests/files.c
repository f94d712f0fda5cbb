// Files in the directory that its argument names: several open at once, each with its own offset, appending, seeking, cutting,
// renaming and removing while open. What is in them is read back and checked at the end.

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static unsigned state = 31;

static unsigned any(void) { return state = state * 1664525u + 1013904223u; }

static void must(int right, const char *what) {
    if (right) return;
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

static unsigned long digest(const char *path, long *size) {
    FILE *file = fopen(path, "rb");
    must(file != NULL, path);
    unsigned long hash = 5381;
    *size = 0;
    for (int byte; (byte = getc(file)) != EOF; ++*size) hash = hash * 33 + (unsigned)byte;
    fclose(file);
    return hash;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fputs("usage: files DIRECTORY [ROUNDS]\n", stderr);
        return 2;
    }
    int rounds = argc > 2 ? atoi(argv[2]) : 300;
    must(chdir(argv[1]) == 0, argv[1]);
    int log = open("log", O_WRONLY | O_CREAT | O_APPEND, 0666);
    int random = open("random", O_RDWR | O_CREAT | O_TRUNC, 0666);
    FILE *text = fopen("text", "w+");
    must(log >= 0 && random >= 0 && text, "opening");
    for (int round = 0; round < rounds; round++) {
        // Appending goes to the end, whatever the offset.
        for (int i = 0; i < 20; i++) {
            char entry[64];
            int length = sprintf(entry, "round %d entry %d %u\n", round, i, any() % 1000);
            must(write(log, entry, length) == length, "appending");
        }
        // Writing and reading here and there through one offset.
        for (int i = 0; i < 30; i++) {
            char block[257], back[257];
            off_t at = any() / 64 % 50000;
            size_t length = 1 + any() / 64 % sizeof block;
            for (size_t k = 0; k < length; k++) block[k] = (char)('a' + (at + k + round) % 26);
            must(lseek(random, at, SEEK_SET) == at, "seeking");
            must(write(random, block, length) == (ssize_t)length, "writing");
            must(lseek(random, -(off_t)length, SEEK_CUR) == at, "seeking back");
            must(read(random, back, length) == (ssize_t)length, "reading");
            must(memcmp(block, back, length) == 0, "what was read is not what was written");
            must(pread(random, back, 1, at) == 1 && back[0] == block[0], "reading at an offset");
            must(lseek(random, 0, SEEK_CUR) == at + (off_t)length, "the offset");
        }
        // A stream with its buffer, written, read from the start, and written again at the end.
        fprintf(text, "line %d of the text\n", round);
        rewind(text);
        char line[80];
        int lines = 0;
        while (fgets(line, sizeof line, text)) lines++;
        must(lines == round + 1, "lines of the text");
        fseek(text, 0, SEEK_END);
        // A file that lives only in this round and loses its name while it is open.
        char name[32], moved[32];
        sprintf(name, "part-%d", round), sprintf(moved, "moved-%d", round);
        int part = open(name, O_RDWR | O_CREAT | O_EXCL, 0666);
        must(part >= 0, name);
        must(write(part, "abcdefghij", 10) == 10, "writing a part");
        must(rename(name, moved) == 0, "renaming");
        must(ftruncate(part, 4) == 0, "cutting");
        struct stat about;
        must(fstat(part, &about) == 0 && about.st_size == 4, "its size");
        must(stat(name, &about) != 0 && errno == ENOENT, "the old name");
        must(lseek(part, 2, SEEK_SET) == 2 && read(part, line, 80) == 2 && line[0] == 'c', "reading the rest");
        close(part);
        must(round % 3 == 0 || unlink(moved) == 0, "removing");
        printf("%d: log %ld, random %ld, lines %d\n", round, (long)lseek(log, 0, SEEK_END), (long)lseek(random, 0, SEEK_END), lines);
    }
    close(log), close(random), fclose(text);
    const char *names[] = {"log", "random", "text"};
    for (int i = 0; i < 3; i++) {
        long size;
        unsigned long hash = digest(names[i], &size);
        printf("%s: %ld bytes, %lx\n", names[i], size, hash);
    }
    return 0;
}
