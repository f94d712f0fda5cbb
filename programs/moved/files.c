// Files and directories that are open while their process moves.
#include "moved.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wasi/api.h>

static int made(const char *name, const char *content) {
    int fd = open(own_path(name), O_RDWR | O_CREAT | O_TRUNC, 0600);
    MUST(fd > 2);
    MUST(write(fd, content, strlen(content)) == (ssize_t)strlen(content));
    MUST(lseek(fd, 0, SEEK_SET) == 0);
    return fd;
}

static void reads(int fd, const char *expected) {
    char got[64] = "";
    size_t length = strlen(expected);
    MUST(read(fd, got, length) == (ssize_t)length);
    MUST(!memcmp(got, expected, length));
}

static void ends(int fd) {
    char byte;
    MUST(read(fd, &byte, 1) == 0);
}

static void removed(const char *name) { MUST(unlink(own_path(name)) == 0); }

static void offset(void) {
    int fd = made("f", "0123456789");
    reads(fd, "0123");
    moved();
    reads(fd, "45");
    moved();
    MUST(lseek(fd, 0, SEEK_CUR) == 6);
    reads(fd, "6789");
    ends(fd);
    removed("f");
}

static void two_offsets(void) {
    int one = made("f", "abcdef");
    int other = open(own_path("f"), O_RDONLY);
    reads(one, "ab");
    reads(other, "abcd");
    moved();
    reads(one, "cd");
    reads(other, "ef");
    removed("f");
}

static void append(void) {
    int fd = made("f", "one,");
    int end = open(own_path("f"), O_WRONLY | O_APPEND);
    moved();
    MUST(write(end, "two,", 4) == 4);
    MUST(lseek(end, 0, SEEK_SET) == 0);
    moved();
    MUST(write(end, "three", 5) == 5);
    reads(fd, "one,two,three");
    removed("f");
}

static void unlinked(void) {
    int fd = made("f", "still here");
    removed("f");
    reads(fd, "still");
    moved();
    reads(fd, " here");
    MUST(write(fd, "!", 1) == 1);
    moved();
    MUST(lseek(fd, 0, SEEK_SET) == 0);
    reads(fd, "still here!");
    MUST(open(own_path("f"), O_RDONLY) < 0 && errno == ENOENT);
}

static void renamed(void) {
    int fd = made("old", "content");
    MUST(rename(own_path("old"), own_path("new")) == 0);
    moved();
    reads(fd, "content");
    int again = open(own_path("new"), O_RDONLY);
    MUST(again > 2);
    reads(again, "content");
    removed("new");
}

static void replaced(void) {
    int fd = made("f", "first");
    int other = made("g", "second");
    MUST(rename(own_path("g"), own_path("f")) == 0);
    moved();
    reads(fd, "first");
    reads(other, "second");
    removed("f");
}

static void truncated(void) {
    int fd = made("f", "0123456789");
    MUST(ftruncate(fd, 4) == 0);
    moved();
    reads(fd, "0123");
    ends(fd);
    MUST(ftruncate(fd, 6) == 0);
    moved();
    char zeros[2] = "xx";
    MUST(read(fd, zeros, 2) == 2 && !zeros[0] && !zeros[1]);
    removed("f");
}

static void hole(void) {
    int fd = made("f", "a");
    MUST(lseek(fd, 1 << 20, SEEK_SET) == 1 << 20);
    MUST(write(fd, "b", 1) == 1);
    moved();
    struct stat stat;
    MUST(fstat(fd, &stat) == 0 && stat.st_size == (1 << 20) + 1);
    MUST(lseek(fd, 1 << 20, SEEK_SET) == 1 << 20);
    reads(fd, "b");
    removed("f");
}

static void unsynced(void) {
    int fd = made("f", "");
    for (int i = 0; i < 1000; i++) MUST(write(fd, &i, sizeof i) == sizeof i);
    moved();
    MUST(lseek(fd, 0, SEEK_SET) == 0);
    for (int i = 0, got; i < 1000; i++) MUST(read(fd, &got, sizeof got) == sizeof got && got == i);
    removed("f");
}

static void directory_cursor(void) {
    MUST(mkdir(own_path("d"), 0700) == 0);
    char path[200];
    for (int i = 0; i < 50; i++) {
        snprintf(path, sizeof path, "%s/%d", own_path("d"), i);
        close(open(path, O_CREAT | O_WRONLY, 0600));
    }
    DIR *directory = opendir(own_path("d"));
    MUST(directory);
    bool seen[50] = {false};
    int count = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (entry->d_name[0] == '.') continue;
        int number = atoi(entry->d_name);
        MUST(!seen[number]);
        seen[number] = true;
        if (++count % 17 == 0) moved();
    }
    MUST(count == 50);
    for (int i = 0; i < 50; i++) {
        snprintf(path, sizeof path, "%s/%d", own_path("d"), i);
        MUST(unlink(path) == 0);
    }
    MUST(rmdir(own_path("d")) == 0);
}

static void raw_directory_cookie(void) {
    MUST(mkdir(own_path("d"), 0700) == 0);
    char path[200];
    for (int i = 0; i < 9; i++) {
        snprintf(path, sizeof path, "%s/%d", own_path("d"), i);
        close(open(path, O_CREAT | O_WRONLY, 0600));
    }
    int fd = open(own_path("d"), O_RDONLY | O_DIRECTORY);
    uint8_t buffer[64];
    __wasi_dircookie_t cookie = 0;
    int names = 0;
    for (;;) {
        __wasi_size_t used;
        MUST(__wasi_fd_readdir(fd, buffer, sizeof buffer, cookie, &used) == 0);
        if (used < sizeof(__wasi_dirent_t)) break;
        __wasi_dirent_t entry;
        memcpy(&entry, buffer, sizeof entry);
        cookie = entry.d_next;
        names++;
        if (names % 4 == 0) moved();
    }
    MUST(names == 11 || names == 9);
    for (int i = 0; i < 9; i++) {
        snprintf(path, sizeof path, "%s/%d", own_path("d"), i);
        MUST(unlink(path) == 0);
    }
    MUST(rmdir(own_path("d")) == 0);
}

static void directory_renamed(void) {
    MUST(mkdir(own_path("d"), 0700) == 0);
    int directory = open(own_path("d"), O_RDONLY | O_DIRECTORY);
    MUST(directory > 2);
    MUST(rename(own_path("d"), own_path("e")) == 0);
    moved();
    int fd = openat(directory, "inside", O_RDWR | O_CREAT, 0600);
    MUST(fd > 2);
    moved();
    char path[200];
    snprintf(path, sizeof path, "%s/inside", own_path("e"));
    MUST(unlink(path) == 0);
    MUST(rmdir(own_path("e")) == 0);
}

static void directory_removed(void) {
    MUST(mkdir(own_path("d"), 0700) == 0);
    int directory = open(own_path("d"), O_RDONLY | O_DIRECTORY);
    MUST(rmdir(own_path("d")) == 0);
    moved();
    MUST(openat(directory, "x", O_RDWR | O_CREAT, 0600) < 0);
}

static void links(void) {
    int fd = made("f", "linked");
    MUST(link(own_path("f"), own_path("g")) == 0);
    MUST(symlink(own_path("g") + 1, own_path("s")) == 0);
    moved();
    int other = open(own_path("g"), O_RDONLY);
    reads(other, "linked");
    struct stat stat;
    MUST(fstat(fd, &stat) == 0 && stat.st_nlink == 2);
    char target[128] = "";
    MUST(readlink(own_path("s"), target, sizeof target) > 0);
    MUST(!strcmp(target, own_path("g") + 1));
    removed("s");
    removed("g");
    removed("f");
}

static void many_open(void) {
    static int fds[200];
    for (int i = 0; i < 200; i++) {
        char name[16], content[16];
        snprintf(name, sizeof name, "%d", i);
        snprintf(content, sizeof content, "<%03d>", i);
        fds[i] = made(name, content);
        char skip;
        for (int k = 0; k < i % 4; k++) MUST(read(fds[i], &skip, 1) == 1);
    }
    moved();
    for (int i = 0; i < 200; i++) {
        char name[16], content[16];
        snprintf(name, sizeof name, "%d", i);
        snprintf(content, sizeof content, "<%03d>", i);
        reads(fds[i], content + i % 4);
        MUST(close(fds[i]) == 0);
        removed(name);
    }
}

static void lowest_number(void) {
    int one = made("a", "1"), two = made("b", "2"), three = made("c", "3");
    MUST(close(two) == 0);
    moved();
    int again = open(own_path("b"), O_RDONLY);
    MUST(again == two);
    reads(three, "3");
    reads(one, "1");
    removed("a");
    removed("b");
    removed("c");
}

static void renumbered(void) {
    int one = made("a", "first"), two = made("b", "second");
    reads(one, "fi");
    MUST(__wasi_fd_renumber(one, two) == 0);
    moved();
    reads(two, "rst");
    char byte;
    MUST(read(one, &byte, 1) < 0 && errno == EBADF);
    removed("a");
    removed("b");
}

static void rights_and_flags(void) {
    int fd = made("f", "x");
    __wasi_fdstat_t before, after;
    MUST(__wasi_fd_fdstat_get(fd, &before) == 0);
    __wasi_rights_t less = before.fs_rights_base & ~__WASI_RIGHTS_FD_WRITE;
    MUST(__wasi_fd_fdstat_set_rights(fd, less, before.fs_rights_inheriting) == 0);
    MUST(__wasi_fd_fdstat_set_flags(fd, __WASI_FDFLAGS_APPEND | __WASI_FDFLAGS_NONBLOCK) == 0);
    moved();
    MUST(__wasi_fd_fdstat_get(fd, &after) == 0);
    MUST(after.fs_rights_base == less && after.fs_filetype == before.fs_filetype);
    MUST(after.fs_flags == (__WASI_FDFLAGS_APPEND | __WASI_FDFLAGS_NONBLOCK));
    MUST(write(fd, "y", 1) < 0);
    removed("f");
}

static void inode_stays(void) {
    int fd = made("f", "x");
    struct stat before, after, named;
    MUST(fstat(fd, &before) == 0);
    moved();
    MUST(fstat(fd, &after) == 0 && stat(own_path("f"), &named) == 0);
    MUST(before.st_ino == after.st_ino && named.st_ino == after.st_ino && before.st_dev == after.st_dev);
    MUST(before.st_mtim.tv_sec == after.st_mtim.tv_sec && before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
    removed("f");
}

static void closed_streams(void) {
    int fd = made("f", "x");
    MUST(close(2) == 0);
    moved();
    MUST(write(2, "no", 2) < 0 && errno == EBADF);
    MUST(open(own_path("f"), O_RDONLY) == 2);
    close(fd);
    removed("f");
}

static void buffered_reading(void) {
    int fd = made("f", "");
    for (int i = 0; i < 5000; i++) dprintf(fd, "line %d\n", i);
    close(fd);
    FILE *file = fopen(own_path("f"), "r");
    MUST(file);
    int number;
    for (int i = 0; i < 5000; i++) {
        MUST(fscanf(file, "line %d\n", &number) == 1 && number == i);
        if (i % 1700 == 1000) moved();
    }
    MUST(fgetc(file) == EOF);
    removed("f");
}

static void buffered_writing(void) {
    FILE *file = fopen(own_path("f"), "w+");
    MUST(file);
    fprintf(file, "not yet ");
    moved();
    fprintf(file, "written");
    MUST(fflush(file) == 0);
    rewind(file);
    char line[32];
    MUST(fgets(line, sizeof line, file) && !strcmp(line, "not yet written"));
    removed("f");
}

static void partial_line(void) {
    printf("half of ");
    fflush(stdout);
    moved();
    printf("a line");
    moved();
    printf("\n");
}

static void standard_error(void) {
    fprintf(stderr, "before ");
    moved();
    fprintf(stderr, "after\n");
}

static void pread_keeps_offset(void) {
    int fd = made("f", "0123456789");
    char got[3] = "";
    MUST(pread(fd, got, 2, 7) == 2 && !strcmp(got, "78"));
    moved();
    reads(fd, "01");
    MUST(pwrite(fd, "X", 1, 4) == 1);
    moved();
    reads(fd, "23X5");
    removed("f");
}

const struct test_case file_cases[] = {
    {"offset", offset},
    {"two-offsets", two_offsets},
    {"append", append},
    {"unlinked", unlinked},
    {"renamed", renamed},
    {"replaced", replaced},
    {"truncated", truncated},
    {"hole", hole},
    {"unsynced", unsynced},
    {"directory-cursor", directory_cursor},
    {"raw-directory-cookie", raw_directory_cookie},
    {"directory-renamed", directory_renamed},
    {"directory-removed", directory_removed},
    {"links", links},
    {"many-open", many_open},
    {"lowest-number", lowest_number},
    {"renumbered", renumbered},
    {"rights-and-flags", rights_and_flags},
    {"inode-stays", inode_stays},
    {"closed-streams", closed_streams},
    {"buffered-reading", buffered_reading},
    {"buffered-writing", buffered_writing},
    {"partial-line", partial_line},
    {"standard-error", standard_error},
    {"pread-keeps-offset", pread_keeps_offset},
    {0},
};
