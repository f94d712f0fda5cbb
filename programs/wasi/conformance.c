// WASI preview 1 by its specification: a case ends with 0, or says which line found something else. The case is the name that the program is
// started by; `list` names them all. They are those of the public wasi-testsuite (github.com/WebAssembly/wasi-testsuite, Apache-2.0 with
// the LLVM exception), under its names, written anew: what each one asks for is taken from there and from the witx.
#include "conformance.h"

fd_t root(void) {
    for (fd_t fd = 3;; fd++) {
        __wasi_prestat_t prestat;
        OK(__wasi_fd_prestat_get(fd, &prestat));
        char name[2] = "";
        if (prestat.tag != __WASI_PREOPENTYPE_DIR || prestat.u.dir.pr_name_len != 1) continue;
        OK(__wasi_fd_prestat_dir_name(fd, (uint8_t *)name, 1));
        if (name[0] != '/') continue;
        __wasi_fdstat_t stat = fdstat(fd);
        fd_t again;
        OK(__wasi_path_open(fd, 0, ".", DIRECTORY, stat.fs_rights_base, stat.fs_rights_inheriting, 0, &again));
        return again;
    }
}

fd_t scratch(const char *name) {
    fd_t top = root(), fd;
    OK(__wasi_path_create_directory(top, name));
    __wasi_rights_t files = R(FD_READ) | R(FD_WRITE) | R(FD_READDIR) | R(FD_FILESTAT_GET) | R(FD_SEEK) | R(PATH_LINK_SOURCE) |
                            R(PATH_LINK_TARGET) | R(PATH_OPEN) | R(PATH_UNLINK_FILE) | R(PATH_FILESTAT_GET) |
                            R(FD_FDSTAT_SET_FLAGS) | R(FD_SYNC) | R(FD_TELL) | R(FD_ADVISE) | R(FD_ALLOCATE) |
                            R(FD_FILESTAT_SET_SIZE) | R(FD_FILESTAT_SET_TIMES);
    __wasi_rights_t own = R(FD_FILESTAT_GET) | R(FD_READDIR) | R(PATH_CREATE_FILE) | R(PATH_CREATE_DIRECTORY) |
                          R(PATH_REMOVE_DIRECTORY) | R(PATH_OPEN) | R(PATH_UNLINK_FILE) | R(PATH_LINK_SOURCE) |
                          R(PATH_LINK_TARGET) | R(PATH_READLINK) | R(PATH_RENAME_SOURCE) | R(PATH_RENAME_TARGET) |
                          R(PATH_FILESTAT_GET) | R(PATH_FILESTAT_SET_SIZE) | R(PATH_FILESTAT_SET_TIMES) | R(PATH_SYMLINK);
    OK(__wasi_path_open(top, 0, name, DIRECTORY, own, files, 0, &fd));
    OK(__wasi_fd_close(top));
    return fd;
}

void remove_scratch(fd_t directory, const char *name) {
    OK(__wasi_fd_close(directory));
    fd_t top = root();
    OK(__wasi_path_remove_directory(top, name));
    OK(__wasi_fd_close(top));
}

int open_at(fd_t directory, int lookup, const char *path, int oflags, __wasi_rights_t rights, fd_t *fd) {
    return __wasi_path_open(directory, lookup, path, oflags, rights, 0, 0, fd);
}

fd_t opened(fd_t directory, const char *path, int oflags, __wasi_rights_t rights) {
    fd_t fd;
    OK(open_at(directory, 0, path, oflags, rights, &fd));
    MUST(fd > 2);
    return fd;
}

void create_file(fd_t directory, const char *path) { OK(__wasi_fd_close(opened(directory, path, CREATE, 0))); }

size_t written(fd_t fd, const void *bytes, size_t length) {
    __wasi_ciovec_t part = {bytes, length};
    size_t count;
    OK(__wasi_fd_write(fd, &part, 1, &count));
    return count;
}

size_t read_up_to(fd_t fd, void *bytes, size_t length) {
    __wasi_iovec_t part = {bytes, length};
    size_t count;
    OK(__wasi_fd_read(fd, &part, 1, &count));
    return count;
}

__wasi_fdstat_t fdstat(fd_t fd) {
    __wasi_fdstat_t stat;
    OK(__wasi_fd_fdstat_get(fd, &stat));
    return stat;
}

__wasi_filestat_t filestat(fd_t fd) {
    __wasi_filestat_t stat;
    OK(__wasi_fd_filestat_get(fd, &stat));
    return stat;
}

__wasi_filestat_t path_stat(fd_t directory, int lookup, const char *path) {
    __wasi_filestat_t stat;
    OK(__wasi_path_filestat_get(directory, lookup, path, &stat));
    return stat;
}

int main(int argc, char **argv) {
    const struct test_case *all[] = {descriptors, paths, program};
    // The name of the case is the program's, so that it may have any arguments, or none: `CASE` or `.../CASE.wasm`.
    static char wanted[64];
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : 0;
    snprintf(wanted, sizeof wanted, "%s", slash ? slash + 1 : argc > 0 ? argv[0] : "");
    char *ending = strstr(wanted, ".wasm");
    if (ending) *ending = 0;
    for (size_t list = 0; list < 3; list++)
        for (const struct test_case *one = all[list]; one->name; one++) {
            if (!strcmp(wanted, "list")) printf("%s\n", one->name);
            if (!strcmp(wanted, one->name)) return one->run(), 0;
        }
    return strcmp(wanted, "list") ? 2 : 0;
}
