// Cases of open files and directories: reading, writing, positions, rights, flags, sizes, times, numbers.
#include "conformance.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static void close_preopen(void) {
    fd_t again = root();
    MUST(again > 3);
    OK(__wasi_fd_close(3));
    MUST(fdstat(again).fs_filetype == __WASI_FILETYPE_DIRECTORY);
    __wasi_fdstat_t stat;
    GIVES(__wasi_fd_fdstat_get(3, &stat), E(BADF));
}

static void overwrite_preopen(void) {
    fd_t again = root();
    __wasi_filestat_t before = filestat(again);
    OK(__wasi_fd_renumber(again, 3));
    __wasi_filestat_t after = filestat(3);
    MUST(before.dev == after.dev && before.ino == after.ino);
    __wasi_fdstat_t stat;
    GIVES(__wasi_fd_fdstat_get(again, &stat), E(BADF));
    OK(__wasi_fd_close(3));
}

static void renumber(void) {
    fd_t directory = scratch("renumber");
    fd_t from = opened(directory, "one", CREATE, R(FD_READ) | R(FD_WRITE));
    __wasi_fdstat_t before = fdstat(from);
    fd_t to = opened(directory, "two", CREATE, R(FD_READ) | R(FD_WRITE));
    OK(__wasi_fd_renumber(from, to));
    GIVES(__wasi_fd_close(from), E(BADF));
    __wasi_fdstat_t after = fdstat(to);
    MUST(before.fs_filetype == after.fs_filetype && before.fs_flags == after.fs_flags);
    MUST(before.fs_rights_base == after.fs_rights_base && before.fs_rights_inheriting == after.fs_rights_inheriting);
    // Only a number that is open is written over.
    GIVES(__wasi_fd_renumber(to, from), E(BADF));
    OK(__wasi_fd_close(to));
    OK(__wasi_path_unlink_file(directory, "one"));
    OK(__wasi_path_unlink_file(directory, "two"));
    remove_scratch(directory, "renumber");
}

static void stdio(void) {
    fd_t directory = scratch("stdio");
    // Last the one that a failure is told by.
    fd_t streams[] = {0, 2, 1};
    for (int i = 0; i < 3; i++) {
        // From the second round on it may have the number that became free in the first.
        fd_t to;
        OK(open_at(directory, 0, "file", CREATE, 0, &to));
        OK(__wasi_fd_renumber(streams[i], to));
        fdstat(to);
        __wasi_fdstat_t stat;
        GIVES(__wasi_fd_fdstat_get(streams[i], &stat), E(BADF));
        OK(__wasi_path_unlink_file(directory, "file"));
    }
    remove_scratch(directory, "stdio");
}

static void dir_fd_op_failures(void) {
    fd_t fd = root();
    MUST(filestat(fd).filetype == __WASI_FILETYPE_DIRECTORY);
    uint8_t bytes[128];
    GIVES(__wasi_fd_prestat_dir_name(3, bytes, 0), E(INVAL), E(NAMETOOLONG));
    OK(__wasi_fd_prestat_dir_name(3, bytes, 2));
    __wasi_iovec_t in = {bytes, sizeof bytes};
    __wasi_ciovec_t out = {bytes, sizeof bytes};
    size_t count;
    __wasi_filesize_t at;
    GIVES(__wasi_fd_read(fd, &in, 1, &count), E(ISDIR), E(BADF), E(NOTCAPABLE));
    GIVES(__wasi_fd_pread(fd, &in, 1, 0, &count), E(ISDIR), E(BADF), E(NOTCAPABLE));
    GIVES(__wasi_fd_write(fd, &out, 1, &count), E(ISDIR), E(BADF), E(NOTCAPABLE));
    GIVES(__wasi_fd_pwrite(fd, &out, 1, 0, &count), E(ISDIR), E(BADF), E(NOTCAPABLE));
    for (int whence = 0; whence < 3; whence++) GIVES(__wasi_fd_seek(fd, 0, whence, &at), E(ISDIR), E(BADF), E(NOTCAPABLE));
    GIVES(__wasi_fd_tell(fd, &at), E(ISDIR), E(BADF), E(NOTCAPABLE));
    GIVES(__wasi_fd_allocate(fd, 0, 1), E(ISDIR), E(BADF), E(NOTCAPABLE));
    GIVES(__wasi_fd_filestat_set_size(fd, 0), E(ISDIR), E(INVAL), E(BADF), E(NOTCAPABLE));
}

static void directory_seek(void) {
    fd_t directory = scratch("directory_seek");
    OK(__wasi_path_create_directory(directory, "inner"));
    fd_t fd = opened(directory, "inner", DIRECTORY, R(FD_SEEK));
    __wasi_filesize_t at;
    GIVES(__wasi_fd_seek(fd, 0, __WASI_WHENCE_CUR, &at), E(ISDIR), E(BADF), E(NOTCAPABLE));
    __wasi_fdstat_t stat = fdstat(fd);
    MUST(stat.fs_filetype == __WASI_FILETYPE_DIRECTORY && !(stat.fs_rights_base & R(FD_SEEK)));
    OK(__wasi_fd_close(fd));
    OK(__wasi_path_remove_directory(directory, "inner"));
    remove_scratch(directory, "directory_seek");
}

static void fd_advise(void) {
    fd_t directory = scratch("fd_advise");
    fd_t fd = opened(directory, "file", CREATE,
                     R(FD_READ) | R(FD_WRITE) | R(FD_ADVISE) | R(FD_FILESTAT_GET) | R(FD_FILESTAT_SET_SIZE) | R(FD_ALLOCATE));
    MUST(filestat(fd).size == 0);
    OK(__wasi_fd_filestat_set_size(fd, 100));
    MUST(filestat(fd).size == 100);
    for (int advice = 0; advice < 6; advice++) OK(__wasi_fd_advise(fd, 10, 50, advice));
    MUST(filestat(fd).size == 100);
    OK(__wasi_fd_allocate(fd, 100, 100));
    MUST(filestat(fd).size == 200);
    OK(__wasi_fd_close(fd));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "fd_advise");
}

static void file_allocate(void) {
    fd_t directory = scratch("file_allocate");
    fd_t fd = opened(directory, "file", CREATE, R(FD_READ) | R(FD_WRITE) | R(FD_ALLOCATE) | R(FD_FILESTAT_GET));
    MUST(filestat(fd).size == 0);
    OK(__wasi_fd_allocate(fd, 0, 100));
    MUST(filestat(fd).size == 100);
    OK(__wasi_fd_allocate(fd, 10, 10));
    MUST(filestat(fd).size == 100);
    OK(__wasi_fd_allocate(fd, 90, 20));
    MUST(filestat(fd).size == 110);
    OK(__wasi_fd_close(fd));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "file_allocate");
}

static void fd_fdstat_set_rights(void) {
    fd_t directory = scratch("fd_fdstat_set_rights");
    fd_t fd = opened(directory, "file", CREATE, R(FD_READ) | R(FD_WRITE) | R(FD_SEEK) | R(FD_TELL));
    __wasi_filesize_t at;
    uint8_t bytes[4] = {0};
    MUST(written(fd, "\0\1\2\3", 4) == 4);
    OK(__wasi_fd_seek(fd, 0, __WASI_WHENCE_SET, &at));
    MUST(read_up_to(fd, bytes, 4) == 4 && !memcmp(bytes, "\0\1\2\3", 4));
    __wasi_fdstat_t stat = fdstat(fd);
    __wasi_rights_t gone = R(FD_READ) | R(FD_WRITE);
    OK(__wasi_fd_fdstat_set_rights(fd, stat.fs_rights_base & ~gone, stat.fs_rights_inheriting));
    stat = fdstat(fd);
    MUST(!(stat.fs_rights_base & gone) && (stat.fs_rights_base & R(FD_SEEK)));
    __wasi_iovec_t in = {bytes, 4};
    __wasi_ciovec_t out = {bytes, 4};
    size_t count;
    GIVES(__wasi_fd_read(fd, &in, 1, &count), E(BADF), E(NOTCAPABLE));
    GIVES(__wasi_fd_write(fd, &out, 1, &count), E(BADF), E(NOTCAPABLE));
    GIVES(__wasi_fd_fdstat_set_rights(fd, stat.fs_rights_base | gone, stat.fs_rights_inheriting), E(NOTCAPABLE));
    OK(__wasi_fd_close(fd));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "fd_fdstat_set_rights");
}

static void fd_filestat_set(void) {
    fd_t directory = scratch("fd_filestat_set");
    fd_t fd = opened(directory, "file", CREATE,
                     R(FD_READ) | R(FD_WRITE) | R(FD_FILESTAT_GET) | R(FD_FILESTAT_SET_SIZE) | R(FD_FILESTAT_SET_TIMES));
    MUST(filestat(fd).size == 0);
    OK(__wasi_fd_filestat_set_size(fd, 100));
    __wasi_filestat_t before = filestat(fd);
    MUST(before.size == 100);
    OK(__wasi_fd_filestat_set_times(fd, before.mtim - 100, before.mtim - 100, __WASI_FSTFLAGS_MTIM));
    __wasi_filestat_t after = filestat(fd);
    MUST(after.size == 100 && after.mtim == before.mtim - 100 && after.atim == before.atim);
    OK(__wasi_fd_close(fd));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "fd_filestat_set");
}

static void fstflags_validate(void) {
    fd_t directory = scratch("fstflags_validate");
    fd_t fd = opened(directory, "file", CREATE, R(FD_READ) | R(FD_FILESTAT_SET_TIMES));
    GIVES(__wasi_fd_filestat_set_times(fd, 100, 200, __WASI_FSTFLAGS_MTIM | __WASI_FSTFLAGS_MTIM_NOW), E(INVAL));
    GIVES(__wasi_fd_filestat_set_times(fd, 100, 200, __WASI_FSTFLAGS_ATIM | __WASI_FSTFLAGS_ATIM_NOW), E(INVAL));
    OK(__wasi_fd_close(fd));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "fstflags_validate");
}

static void fd_flags_set(void) {
    fd_t directory = scratch("fd_flags_set"), fd;
    __wasi_rights_t rights = R(FD_READ) | R(FD_WRITE) | R(FD_SEEK) | R(FD_TELL) | R(FD_FDSTAT_SET_FLAGS);
    OK(__wasi_path_open(directory, 0, "file", CREATE, rights, 0, __WASI_FDFLAGS_APPEND, &fd));
    __wasi_filesize_t at;
    char bytes[100], read[100];
    // Appended twice, wherever the position is; then written over.
    for (int round = 0; round < 3; round++) {
        memset(bytes, round, sizeof bytes);
        if (round == 2) OK(__wasi_fd_fdstat_set_flags(fd, 0));
        OK(__wasi_fd_seek(fd, 0, __WASI_WHENCE_SET, &at));
        MUST(written(fd, bytes, sizeof bytes) == sizeof bytes);
        OK(__wasi_fd_seek(fd, round == 1 ? 100 : 0, __WASI_WHENCE_SET, &at));
        MUST(read_up_to(fd, read, sizeof read) == sizeof read && !memcmp(bytes, read, sizeof bytes));
    }
    OK(__wasi_fd_close(fd));
    MUST(path_stat(directory, 0, "file").size == 200);
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "fd_flags_set");
}

// Entries of a directory from a cookie on, as far as a small buffer goes; says whether that was all.
struct entries {
    size_t count;
    bool end;
    struct {
        __wasi_dirent_t head;
        char name[64];
    } at[16];
};

static struct entries entries(fd_t fd, __wasi_dircookie_t cookie) {
    static struct entries found;
    uint8_t buffer[256];
    size_t used;
    OK(__wasi_fd_readdir(fd, buffer, sizeof buffer, cookie, &used));
    MUST(used <= sizeof buffer);
    memset(&found, 0, sizeof found);
    found.end = used < sizeof buffer;
    for (size_t at = 0; at + sizeof(__wasi_dirent_t) <= used;) {
        __wasi_dirent_t head;
        memcpy(&head, buffer + at, sizeof head);
        if (at + sizeof head + head.d_namlen > used) break;
        MUST(head.d_namlen < 64 && found.count < 16);
        found.at[found.count].head = head;
        memcpy(found.at[found.count].name, buffer + at + sizeof head, head.d_namlen);
        found.count++;
        at += sizeof head + head.d_namlen;
    }
    return found;
}

static void fd_readdir(void) {
    fd_t directory = scratch("fd_readdir");
    struct entries all = entries(directory, 0);
    MUST(all.end && all.count == 2);
    int dot = strcmp(all.at[0].name, ".") ? 1 : 0;
    MUST(!strcmp(all.at[dot].name, ".") && !strcmp(all.at[!dot].name, ".."));
    MUST(all.at[dot].head.d_type == __WASI_FILETYPE_DIRECTORY && all.at[!dot].head.d_type == __WASI_FILETYPE_DIRECTORY);
    MUST(all.at[dot].head.d_ino == filestat(directory).ino);

    fd_t fd = opened(directory, "file", CREATE, R(FD_READ) | R(FD_WRITE) | R(FD_FILESTAT_GET));
    __wasi_filestat_t stat = filestat(fd);
    OK(__wasi_fd_close(fd));
    all = entries(directory, 0);
    MUST(all.end && all.count == 3);
    bool seen = false;
    for (int i = 0; i < 3; i++) {
        if (strcmp(all.at[i].name, "file")) continue;
        seen = all.at[i].head.d_type == __WASI_FILETYPE_REGULAR_FILE && all.at[i].head.d_ino == stat.ino;
    }
    MUST(seen);
    // A cookie leads to what comes after it.
    struct entries last = entries(directory, all.at[1].head.d_next);
    MUST(last.end && last.count == 1 && !strcmp(last.at[0].name, all.at[2].name));
    OK(__wasi_path_unlink_file(directory, "file"));

    // More than go into the buffer.
    char name[16];
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "file.%d", i);
        create_file(directory, name);
    }
    size_t total = 0;
    __wasi_dircookie_t cookie = 0;
    for (;;) {
        all = entries(directory, cookie);
        total += all.count;
        if (all.end) break;
        MUST(all.count > 0);
        cookie = all.at[all.count - 1].head.d_next;
    }
    MUST(total == 1002);
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "file.%d", i);
        OK(__wasi_path_unlink_file(directory, name));
    }
    remove_scratch(directory, "fd_readdir");
}

static void file_pread_pwrite(void) {
    fd_t directory = scratch("file_pread_pwrite");
    fd_t fd = opened(directory, "file", CREATE, R(FD_READ) | R(FD_SEEK) | R(FD_WRITE));
    uint8_t bytes[4] = {0, 1, 2, 3}, read[4] = {0};
    __wasi_ciovec_t out = {bytes, 4};
    __wasi_iovec_t in = {read, 4};
    size_t count;
    OK(__wasi_fd_pwrite(fd, &out, 1, 0, &count));
    MUST(count == 4);
    OK(__wasi_fd_pread(fd, &in, 1, 0, &count));
    MUST(count == 4 && !memcmp(bytes, read, 4));
    // In two parts; a call may take the first alone.
    for (size_t at = 0; at < 4; at += count) {
        __wasi_ciovec_t parts[2] = {{bytes + at, at < 2 ? 2 - at : 0}, {bytes + (at < 2 ? 2 : at), at < 2 ? 2 : 4 - at}};
        OK(__wasi_fd_pwrite(fd, parts, 2, at, &count));
        MUST(count > 0);
    }
    memset(read, 9, 4);
    for (size_t at = 0; at < 4; at += count) {
        __wasi_iovec_t parts[2] = {{read + at, at < 2 ? 2 - at : 0}, {read + (at < 2 ? 2 : at), at < 2 ? 2 : 4 - at}};
        OK(__wasi_fd_pread(fd, parts, 2, at, &count));
        MUST(count > 0);
    }
    MUST(!memcmp(bytes, read, 4));
    memset(read, 0, 4);
    OK(__wasi_fd_pread(fd, &in, 1, 2, &count));
    MUST(count == 2 && !memcmp(read, "\2\3\0\0", 4));
    out = (__wasi_ciovec_t){(const uint8_t *)"\1\0", 2};
    OK(__wasi_fd_pwrite(fd, &out, 1, 2, &count));
    MUST(count == 2);
    OK(__wasi_fd_pread(fd, &in, 1, 0, &count));
    MUST(count == 4 && !memcmp(read, "\0\1\1\0", 4));
    // The position has stayed where it was.
    MUST(read_up_to(fd, read, 4) == 4 && !memcmp(read, "\0\1\1\0", 4));
    OK(__wasi_fd_close(fd));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "file_pread_pwrite");
}

static void file_seek_tell(void) {
    fd_t directory = scratch("file_seek_tell");
    fd_t fd = opened(directory, "file", CREATE, R(FD_READ) | R(FD_WRITE) | R(FD_SEEK) | R(FD_TELL));
    __wasi_filesize_t at = 1;
    char bytes[100] = {0};
    OK(__wasi_fd_tell(fd, &at));
    MUST(at == 0);
    MUST(written(fd, bytes, 100) == 100);
    OK(__wasi_fd_tell(fd, &at));
    MUST(at == 100);
    OK(__wasi_fd_seek(fd, -50, __WASI_WHENCE_CUR, &at));
    MUST(at == 50);
    OK(__wasi_fd_seek(fd, 0, __WASI_WHENCE_SET, &at));
    MUST(at == 0);
    OK(__wasi_fd_seek(fd, 1000, __WASI_WHENCE_CUR, &at));
    MUST(at == 1000);
    GIVES(__wasi_fd_seek(fd, -2000, __WASI_WHENCE_CUR, &at), E(INVAL));
    OK(__wasi_fd_seek(fd, 0, __WASI_WHENCE_SET, &at));
    MUST(read_up_to(fd, bytes, 100) == 100);
    OK(__wasi_fd_tell(fd, &at));
    MUST(at == 100);
    OK(__wasi_fd_close(fd));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "file_seek_tell");
}

static void file_truncation(void) {
    fd_t directory = scratch("file_truncation");
    fd_t fd = opened(directory, "file", CREATE, R(FD_WRITE));
    MUST(written(fd, "will be cut off", 15) == 15);
    OK(__wasi_fd_close(fd));
    fd = opened(directory, "file", CREATE | __WASI_OFLAGS_TRUNC, R(FD_WRITE) | R(FD_READ));
    char bytes[100];
    MUST(read_up_to(fd, bytes, 100) == 0);
    OK(__wasi_fd_close(fd));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "file_truncation");
}

static void file_unbuffered_write(void) {
    fd_t directory = scratch("file_unbuffered_write");
    fd_t reading = opened(directory, "file", CREATE, R(FD_READ)), writing = opened(directory, "file", 0, R(FD_WRITE));
    char byte = 0;
    MUST(written(writing, "\1", 1) == 1);
    MUST(read_up_to(reading, &byte, 1) == 1 && byte == 1);
    OK(__wasi_fd_close(writing));
    OK(__wasi_fd_close(reading));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "file_unbuffered_write");
}

static void truncation_rights(void) {
    fd_t directory = scratch("truncation_rights"), fd;
    create_file(directory, "file");
    __wasi_fdstat_t stat = fdstat(directory);
    MUST(stat.fs_filetype == __WASI_FILETYPE_DIRECTORY && stat.fs_flags == 0);
    MUST(!(stat.fs_rights_base & R(FD_FILESTAT_SET_SIZE)) && (stat.fs_rights_base & R(PATH_FILESTAT_SET_SIZE)));
    OK(__wasi_fd_close(opened(directory, "file", __WASI_OFLAGS_TRUNC, 0)));
    // What descriptors opened from here may do has no part in it.
    MUST(stat.fs_rights_inheriting & R(FD_FILESTAT_SET_SIZE));
    __wasi_rights_t inheriting = stat.fs_rights_inheriting & ~R(FD_FILESTAT_SET_SIZE);
    OK(__wasi_fd_fdstat_set_rights(directory, stat.fs_rights_base, inheriting));
    OK(__wasi_fd_close(opened(directory, "file", __WASI_OFLAGS_TRUNC, 0)));
    OK(__wasi_fd_fdstat_set_rights(directory, stat.fs_rights_base & ~R(PATH_FILESTAT_SET_SIZE), inheriting));
    MUST(!(fdstat(directory).fs_rights_base & R(PATH_FILESTAT_SET_SIZE)));
    GIVES(open_at(directory, 0, "file", __WASI_OFLAGS_TRUNC, 0, &fd), E(PERM), E(NOTCAPABLE));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "truncation_rights");
}

static void is_a_tty(void) {
    fd_t directory = scratch("isatty");
    fd_t fd = opened(directory, "file", CREATE, 0);
    MUST(!isatty((int)fd));
    OK(__wasi_fd_close(fd));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "isatty");
}

// By the C library, which the suite's C cases use.

static int at_directory(const char *name) {
    fd_t top = root();
    OK(__wasi_path_create_directory(top, name));
    return (int)top;
}

static void put(int directory, const char *path, const char *text) {
    int fd = openat(directory, path, O_CREAT | O_WRONLY, 0600);
    MUST(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && !close(fd));
}

static void fdopendir_with_access(void) {
    int top = at_directory("fdopendir");
    put(top, "fdopendir/file-0", "");
    put(top, "fdopendir/file-1", "");
    int fd = openat(top, "fdopendir", O_RDONLY | O_DIRECTORY);
    DIR *directory = fdopendir(fd);
    MUST(directory);
    ino_t inodes[2] = {0};
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (entry->d_name[0] == '.') continue;
        MUST(!strncmp(entry->d_name, "file-", 5) && (entry->d_name[5] == '0' || entry->d_name[5] == '1'));
        struct stat stat;
        MUST(!fstatat(fd, entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) && stat.st_ino == entry->d_ino);
        inodes[entry->d_name[5] - '0'] = entry->d_ino;
    }
    MUST(inodes[0] && inodes[1] && inodes[0] != inodes[1]);
    closedir(directory);
    MUST(!unlinkat(top, "fdopendir/file-0", 0) && !unlinkat(top, "fdopendir/file-1", 0) && !unlinkat(top, "fdopendir", AT_REMOVEDIR));
}

static void fopen_with_access(void) {
    put((int)root(), "fopen", "text");
    char text[8] = "";
    FILE *file = fopen("/fopen", "r");
    MUST(file && fread(text, 1, sizeof text, file) == 4 && !strcmp(text, "text"));
    fclose(file);
    MUST(!unlink("/fopen"));
}

static void fopen_with_no_access(void) {
    MUST(!fopen("/never/was/here", "r") && errno == ENOENT);
}

static void c_lseek(void) {
    put((int)root(), "lseek", "01234567");
    char text[4];
    FILE *file = fopen("/lseek", "r");
    MUST(file);
    setvbuf(file, 0, _IONBF, 0);
    int fd = fileno(file);
    MUST(fread(text, 1, 4, file) == 4 && lseek(fd, 0, SEEK_CUR) == 4);
    MUST(fread(text, 1, 1, file) == 1 && text[0] == '4' && lseek(fd, 0, SEEK_CUR) == 5);
    MUST(lseek(fd, 0, SEEK_SET) == 0 && lseek(fd, 0, SEEK_END) == 8);
    fclose(file);
    MUST(!unlink("/lseek"));
}

static void pread_with_access(void) {
    put((int)root(), "pread", "load-this");
    char text[4] = "";
    int fd = open("/pread", O_RDONLY);
    MUST(fd > 0);
    for (int at = 0; at < 3;) {
        ssize_t count = pread(fd, text + at, 3 - at, 4 + at);
        MUST(count > 0);
        at += count;
    }
    MUST(!strcmp(text, "-th") && !close(fd) && !unlink("/pread"));
}

static void pwrite_with_access(void) {
    int fd = open("/pwrite", O_CREAT | O_TRUNC | O_RDWR, 0600);
    MUST(fd > 0 && write(fd, "0123", 4) == 4 && pwrite(fd, "ab", 2, 1) == 2 && lseek(fd, 0, SEEK_CUR) == 4);
    char text[5] = "";
    MUST(pread(fd, text, 4, 0) == 4 && !strcmp(text, "0ab3") && !close(fd) && !unlink("/pwrite"));
}

static void pwrite_with_append(void) {
    int fd = open("/append", O_CREAT | O_TRUNC | O_WRONLY | O_APPEND, 0600);
    MUST(fd > 0 && write(fd, "ab", 2) == 2 && lseek(fd, 0, SEEK_SET) == 0);
    MUST(write(fd, "cd", 2) == 2 && lseek(fd, 0, SEEK_CUR) == 4);
    MUST(pwrite(fd, "efg", 3, 0) == 3 && lseek(fd, 0, SEEK_CUR) == 4);
    // At its position or at the end: POSIX and Linux differ.
    off_t end = lseek(fd, 0, SEEK_END);
    MUST((end == 4 || end == 7) && !close(fd) && !unlink("/append"));
}

static void stat_dev_ino(void) {
    put((int)root(), "one", "");
    put((int)root(), "two", "");
    struct stat one, two;
    MUST(!stat("/one", &one) && !stat("/two", &two) && one.st_dev == two.st_dev && one.st_ino != two.st_ino);
    MUST(!unlink("/one") && !unlink("/two"));
}

static void sock_shutdown_invalid_fd(void) { GIVES(__wasi_sock_shutdown(999, __WASI_SDFLAGS_RD), E(BADF)); }

static void sock_shutdown_not_sock(void) { GIVES(__wasi_sock_shutdown(1, __WASI_SDFLAGS_RD), E(NOTSOCK)); }

const struct test_case descriptors[] = {
    {"close_preopen", close_preopen},
    {"overwrite_preopen", overwrite_preopen},
    {"renumber", renumber},
    {"stdio", stdio},
    {"dir_fd_op_failures", dir_fd_op_failures},
    {"directory_seek", directory_seek},
    {"fd_advise", fd_advise},
    {"file_allocate", file_allocate},
    {"fd_fdstat_set_rights", fd_fdstat_set_rights},
    {"fd_filestat_set", fd_filestat_set},
    {"fstflags_validate", fstflags_validate},
    {"fd_flags_set", fd_flags_set},
    {"fd_readdir", fd_readdir},
    {"file_pread_pwrite", file_pread_pwrite},
    {"file_seek_tell", file_seek_tell},
    {"file_truncation", file_truncation},
    {"file_unbuffered_write", file_unbuffered_write},
    {"truncation_rights", truncation_rights},
    {"isatty", is_a_tty},
    {"fdopendir-with-access", fdopendir_with_access},
    {"fopen-with-access", fopen_with_access},
    {"fopen-with-no-access", fopen_with_no_access},
    {"lseek", c_lseek},
    {"pread-with-access", pread_with_access},
    {"pwrite-with-access", pwrite_with_access},
    {"pwrite-with-append", pwrite_with_append},
    {"stat-dev-ino", stat_dev_ino},
    {"sock_shutdown-invalid_fd", sock_shutdown_invalid_fd},
    {"sock_shutdown-not_sock", sock_shutdown_not_sock},
    {0, 0},
};
