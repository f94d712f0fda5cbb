// Cases of paths: what they lead to, and what is made, linked, renamed and removed by them.
#include "conformance.h"

static void dangling_fd(void) {
    fd_t directory = scratch("dangling_fd");
    for (int round = 0; round < 2; round++) {
        create_file(directory, "file");
        fd_t fd = opened(directory, "file", 0, 0);
        OK(__wasi_path_unlink_file(directory, "file"));
        // The name is free although the file is open.
        create_file(directory, "file");
        OK(__wasi_fd_close(fd));
        OK(__wasi_path_unlink_file(directory, "file"));
        OK(__wasi_path_create_directory(directory, "inner"));
        fd = opened(directory, "inner", DIRECTORY, 0);
        OK(__wasi_path_remove_directory(directory, "inner"));
        OK(__wasi_path_create_directory(directory, "inner"));
        OK(__wasi_fd_close(fd));
        OK(__wasi_path_remove_directory(directory, "inner"));
    }
    remove_scratch(directory, "dangling_fd");
}

static void dangling_symlink(void) {
    fd_t directory = scratch("dangling_symlink"), fd;
    OK(__wasi_path_symlink("target", directory, "link"));
    GIVES(open_at(directory, 0, "link", DIRECTORY, 0, &fd), E(NOTDIR), E(LOOP));
    GIVES(open_at(directory, 0, "link", 0, 0, &fd), E(LOOP));
    GIVES(open_at(directory, FOLLOW, "link", 0, 0, &fd), E(NOENT));
    OK(__wasi_path_unlink_file(directory, "link"));
    remove_scratch(directory, "dangling_symlink");
}

static void symlink_loop(void) {
    fd_t directory = scratch("symlink_loop"), fd;
    OK(__wasi_path_symlink("link", directory, "link"));
    GIVES(open_at(directory, 0, "link", 0, 0, &fd), E(LOOP));
    GIVES(open_at(directory, FOLLOW, "link", 0, 0, &fd), E(LOOP));
    OK(__wasi_path_unlink_file(directory, "link"));
    remove_scratch(directory, "symlink_loop");
}

static void symlink_create(void) {
    fd_t directory = scratch("symlink_create"), fd;
    create_file(directory, "target");
    OK(__wasi_path_symlink("target", directory, "link"));
    OK(open_at(directory, FOLLOW, "link", 0, 0, &fd));
    OK(__wasi_fd_close(fd));
    OK(__wasi_path_unlink_file(directory, "link"));
    OK(__wasi_path_unlink_file(directory, "target"));
    OK(__wasi_path_create_directory(directory, "target"));
    OK(__wasi_path_symlink("target", directory, "link"));
    OK(open_at(directory, FOLLOW, "link", DIRECTORY, 0, &fd));
    OK(__wasi_fd_close(fd));
    OK(__wasi_path_unlink_file(directory, "link"));
    OK(__wasi_path_remove_directory(directory, "target"));
    // One that would lead out.
    MUST(__wasi_path_symlink("/", directory, "link") != 0);
    remove_scratch(directory, "symlink_create");
}

static void symlink_filestat(void) {
    fd_t directory = scratch("symlink_filestat");
    MUST(fdstat(directory).fs_rights_base & R(PATH_FILESTAT_GET));
    create_file(directory, "file");
    __wasi_filestat_t file = path_stat(directory, 0, "file");
    MUST(file.size == 0);
    OK(__wasi_path_symlink("file", directory, "link"));
    __wasi_filestat_t link = path_stat(directory, 0, "link");
    // Of the link itself, then of what it leads to.
    OK(__wasi_path_filestat_set_times(directory, 0, "link", 0, link.mtim - 200, __WASI_FSTFLAGS_MTIM));
    MUST(path_stat(directory, 0, "link").mtim == link.mtim - 200);
    MUST(path_stat(directory, 0, "file").mtim == file.mtim);
    MUST(path_stat(directory, FOLLOW, "link").mtim == file.mtim);
    OK(__wasi_path_filestat_set_times(directory, FOLLOW, "link", 0, link.mtim, __WASI_FSTFLAGS_MTIM));
    MUST(path_stat(directory, 0, "file").mtim == link.mtim);
    OK(__wasi_path_unlink_file(directory, "link"));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "symlink_filestat");
}

static void interesting_paths(void) {
    fd_t directory = scratch("interesting_paths"), fd;
    OK(__wasi_path_create_directory(directory, "dir"));
    OK(__wasi_path_create_directory(directory, "dir/nested"));
    create_file(directory, "dir/nested/file");
    GIVES(open_at(directory, 0, "/dir/nested/file", 0, 0, &fd), E(PERM), E(NOTCAPABLE));
    OK(__wasi_fd_close(opened(directory, "dir/.//nested/../../dir/nested/../nested///./file", 0, 0)));
    GIVES(open_at(directory, 0, "dir/nested/file/", 0, 0, &fd), E(NOTDIR), E(NOENT));
    GIVES(open_at(directory, 0, "dir/nested/file///", 0, 0, &fd), E(NOTDIR), E(NOENT));
    OK(__wasi_fd_close(opened(directory, "dir/nested/", 0, 0)));
    OK(__wasi_fd_close(opened(directory, "dir/nested///", 0, 0)));
    GIVES(open_at(directory, 0, "dir/nested/../../../interesting_paths/dir/nested/file", 0, 0, &fd), E(PERM), E(NOTCAPABLE));
    OK(__wasi_path_unlink_file(directory, "dir/nested/file"));
    OK(__wasi_path_remove_directory(directory, "dir/nested"));
    OK(__wasi_path_remove_directory(directory, "dir"));
    remove_scratch(directory, "interesting_paths");
}

// The C binding takes the length from the first NUL, so this goes past it.
__attribute__((import_module("wasi_snapshot_preview1"), import_name("path_open"))) int path_open_of_length(
    int fd, int lookup, const char *path, size_t length, int oflags, uint64_t rights, uint64_t inheriting, int flags, fd_t *opened);

static void paths_with_nul(void) {
    fd_t directory = scratch("paths_with_nul"), fd;
    create_file(directory, "file");
    GIVES(path_open_of_length((int)directory, 0, "file", 5, 0, 0, 0, 0, &fd), E(INVAL), E(ILSEQ), E(NOENT));
    GIVES(path_open_of_length((int)directory, 0, "\xff\xfe", 2, 0, 0, 0, 0, &fd), E(INVAL), E(ILSEQ));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "paths_with_nul");
}

static void nofollow_errors(void) {
    fd_t directory = scratch("nofollow_errors"), fd;
    OK(__wasi_path_create_directory(directory, "target"));
    OK(__wasi_path_symlink("target", directory, "link"));
    GIVES(open_at(directory, 0, "link", DIRECTORY, 0, &fd), E(LOOP), E(NOTDIR));
    GIVES(open_at(directory, 0, "link", 0, 0, &fd), E(LOOP), E(ACCES));
    OK(open_at(directory, FOLLOW, "link", DIRECTORY, 0, &fd));
    OK(__wasi_fd_close(fd));
    OK(__wasi_path_unlink_file(directory, "link"));
    OK(__wasi_path_remove_directory(directory, "target"));
    create_file(directory, "target");
    OK(__wasi_path_symlink("target", directory, "link"));
    GIVES(open_at(directory, 0, "link", DIRECTORY, 0, &fd), E(LOOP), E(NOTDIR));
    GIVES(open_at(directory, 0, "link", 0, 0, &fd), E(LOOP));
    GIVES(open_at(directory, FOLLOW, "link", DIRECTORY, 0, &fd), E(NOTDIR));
    OK(__wasi_path_unlink_file(directory, "target"));
    OK(__wasi_path_unlink_file(directory, "link"));
    remove_scratch(directory, "nofollow_errors");
}

static void path_exists(void) {
    fd_t directory = scratch("path_exists");
    OK(__wasi_path_create_directory(directory, "inner"));
    create_file(directory, "inner/file");
    OK(__wasi_path_symlink("inner/file", directory, "to-file"));
    OK(__wasi_path_symlink("inner", directory, "to-inner"));
    struct {
        const char *path;
        int itself, target;
    } all[] = {
        {"inner", __WASI_FILETYPE_DIRECTORY, __WASI_FILETYPE_DIRECTORY},
        {"inner/file", __WASI_FILETYPE_REGULAR_FILE, __WASI_FILETYPE_REGULAR_FILE},
        {"to-file", __WASI_FILETYPE_SYMBOLIC_LINK, __WASI_FILETYPE_REGULAR_FILE},
        {"to-inner", __WASI_FILETYPE_SYMBOLIC_LINK, __WASI_FILETYPE_DIRECTORY},
        {"to-inner/file", __WASI_FILETYPE_REGULAR_FILE, __WASI_FILETYPE_REGULAR_FILE},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        MUST(path_stat(directory, 0, all[i].path).filetype == all[i].itself);
        MUST(path_stat(directory, FOLLOW, all[i].path).filetype == all[i].target);
    }
    OK(__wasi_path_unlink_file(directory, "to-file"));
    OK(__wasi_path_unlink_file(directory, "to-inner"));
    OK(__wasi_path_unlink_file(directory, "inner/file"));
    OK(__wasi_path_remove_directory(directory, "inner"));
    remove_scratch(directory, "path_exists");
}

static void path_filestat(void) {
    fd_t directory = scratch("path_filestat"), fd;
    MUST(fdstat(directory).fs_rights_base & R(PATH_FILESTAT_GET));
    __wasi_rights_t rights = R(FD_READ) | R(FD_WRITE) | R(PATH_FILESTAT_GET);
    int flags = __WASI_FDFLAGS_APPEND | __WASI_FDFLAGS_SYNC;
    OK(__wasi_path_open(directory, 0, "file", CREATE, rights, 0, flags, &fd));
    MUST((fdstat(fd).fs_flags & flags) == flags);
    __wasi_filestat_t stat = path_stat(directory, 0, "file");
    MUST(stat.size == 0);
    OK(__wasi_path_filestat_set_times(directory, 0, "file", 0, stat.mtim - 100, __WASI_FSTFLAGS_MTIM));
    MUST(path_stat(directory, 0, "file").mtim == stat.mtim - 100);
    GIVES(__wasi_path_filestat_set_times(directory, 0, "file", 0, 5, __WASI_FSTFLAGS_MTIM | __WASI_FSTFLAGS_MTIM_NOW), E(INVAL));
    GIVES(__wasi_path_filestat_set_times(directory, 0, "file", 0, 0, __WASI_FSTFLAGS_ATIM | __WASI_FSTFLAGS_ATIM_NOW), E(INVAL));
    MUST(path_stat(directory, 0, "file").mtim == stat.mtim - 100);
    OK(__wasi_fd_close(fd));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "path_filestat");
}

static void same_file(fd_t one, fd_t two) {
    __wasi_filestat_t a = filestat(one), b = filestat(two);
    MUST(a.dev == b.dev && a.ino == b.ino && a.nlink == b.nlink && a.size == b.size && a.filetype == b.filetype);
    MUST(a.atim == b.atim && a.mtim == b.mtim && a.ctim == b.ctim);
    __wasi_fdstat_t c = fdstat(one), d = fdstat(two);
    MUST(c.fs_flags == d.fs_flags && c.fs_filetype == d.fs_filetype);
    MUST(c.fs_rights_base == d.fs_rights_base && c.fs_rights_inheriting == d.fs_rights_inheriting);
}

static void path_link(void) {
    fd_t directory = scratch("path_link"), inner, link;
    __wasi_rights_t rights = R(FD_READ) | R(PATH_LINK_SOURCE) | R(PATH_LINK_TARGET) | R(FD_FILESTAT_GET) | R(PATH_OPEN) | R(PATH_UNLINK_FILE);
    fd_t file = opened(directory, "file", CREATE, rights);
    OK(__wasi_path_link(directory, 0, "file", directory, "link"));
    link = opened(directory, "link", 0, rights);
    same_file(file, link);
    OK(__wasi_fd_close(link));
    OK(__wasi_path_unlink_file(directory, "link"));

    OK(__wasi_path_create_directory(directory, "inner"));
    OK(__wasi_path_open(directory, 0, "inner", DIRECTORY, rights, rights, 0, &inner));
    OK(__wasi_path_link(directory, 0, "file", inner, "link"));
    link = opened(inner, "link", 0, rights);
    same_file(file, link);
    OK(__wasi_fd_close(link));
    OK(__wasi_fd_close(file));
    OK(__wasi_path_unlink_file(inner, "link"));

    create_file(directory, "link");
    GIVES(__wasi_path_link(directory, 0, "file", directory, "link"), E(EXIST));
    OK(__wasi_path_unlink_file(directory, "link"));
    GIVES(__wasi_path_link(directory, 0, "file", directory, "file"), E(EXIST));
    GIVES(__wasi_path_link(directory, 0, "file", directory, "inner"), E(EXIST));
    GIVES(__wasi_path_link(directory, 0, "inner", directory, "link"), E(PERM), E(ACCES));
    GIVES(__wasi_path_link(directory, 0, "file", directory, "link/"), E(NOENT));
    OK(__wasi_fd_close(inner));
    OK(__wasi_path_remove_directory(directory, "inner"));

    // A link is linked, not what it leads to: nothing, or itself.
    const char *targets[] = {"nothing", "symlink"};
    for (int i = 0; i < 2; i++) {
        OK(__wasi_path_symlink(targets[i], directory, "symlink"));
        OK(__wasi_path_link(directory, 0, "symlink", directory, "link"));
        MUST(path_stat(directory, 0, "link").filetype == __WASI_FILETYPE_SYMBOLIC_LINK);
        OK(__wasi_path_unlink_file(directory, "symlink"));
        OK(__wasi_path_unlink_file(directory, "link"));
    }
    OK(__wasi_path_symlink("nothing", directory, "symlink"));
    GIVES(__wasi_path_link(directory, 0, "file", directory, "symlink"), E(EXIST));
    GIVES(__wasi_path_link(directory, FOLLOW, "symlink", directory, "link"), E(INVAL), E(NOENT));
    OK(__wasi_path_unlink_file(directory, "symlink"));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "path_link");
}

static void path_open_create_existing(void) {
    fd_t directory = scratch("path_open_create_existing"), fd;
    create_file(directory, "file");
    GIVES(open_at(directory, 0, "file", CREATE | __WASI_OFLAGS_EXCL, 0, &fd), E(EXIST));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "path_open_create_existing");
}

static void path_open_dirfd_not_dir(void) {
    fd_t directory = scratch("path_open_dirfd_not_dir"), below;
    fd_t fd = opened(directory, "file", CREATE, 0);
    GIVES(open_at(fd, 0, "below", CREATE, 0, &below), E(NOTDIR), E(NOTCAPABLE));
    OK(__wasi_fd_close(fd));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "path_open_dirfd_not_dir");
}

static void path_open_missing(void) {
    fd_t directory = scratch("path_open_missing"), fd;
    GIVES(open_at(directory, 0, "file", 0, 0, &fd), E(NOENT));
    remove_scratch(directory, "path_open_missing");
}

static void path_open_nonblock(void) {
    fd_t fd, top = root();
    OK(__wasi_path_open(top, 0, ".", 0, 0, 0, __WASI_FDFLAGS_NONBLOCK, &fd));
}

static void path_open_preopen(void) {
    // What programs count on of every directory that they are given.
    __wasi_rights_t base = R(PATH_CREATE_DIRECTORY) | R(PATH_CREATE_FILE) | R(PATH_LINK_SOURCE) | R(PATH_LINK_TARGET) |
                           R(PATH_OPEN) | R(FD_READDIR) | R(PATH_READLINK) | R(PATH_RENAME_SOURCE) | R(PATH_RENAME_TARGET) |
                           R(PATH_SYMLINK) | R(PATH_REMOVE_DIRECTORY) | R(PATH_UNLINK_FILE) | R(PATH_FILESTAT_GET) |
                           R(PATH_FILESTAT_SET_TIMES) | R(FD_FILESTAT_GET) | R(FD_FILESTAT_SET_TIMES);
    __wasi_rights_t inheriting = base | R(FD_DATASYNC) | R(FD_READ) | R(FD_SEEK) | R(FD_FDSTAT_SET_FLAGS) | R(FD_SYNC) |
                                 R(FD_TELL) | R(FD_WRITE) | R(FD_ADVISE) | R(FD_ALLOCATE) | R(FD_FILESTAT_SET_SIZE) |
                                 R(POLL_FD_READWRITE);
    __wasi_fdstat_t stat = fdstat(3);
    MUST((stat.fs_rights_base & base) == base);
    MUST((stat.fs_rights_inheriting & inheriting) == inheriting);
    fd_t fd;
    OK(__wasi_path_open(3, 0, ".", 0, stat.fs_rights_base, stat.fs_rights_inheriting, 0, &fd));
    OK(open_at(3, 0, ".", 0, 0, &fd));
    OK(open_at(3, 0, ".", DIRECTORY, 0, &fd));
    OK(open_at(3, 0, ".", DIRECTORY, R(FD_READ), &fd));
    GIVES(open_at(3, 0, ".", DIRECTORY, R(FD_READ) | R(FD_WRITE), &fd), E(ISDIR));
}

static void path_open_read_write(void) {
    fd_t directory = scratch("path_open_read_write");
    create_file(directory, "file");
    uint8_t bytes[100] = {1};
    __wasi_iovec_t in = {bytes, 100};
    __wasi_ciovec_t out = {bytes, 50};
    size_t count;

    fd_t fd = opened(directory, "file", 0, R(FD_READ));
    __wasi_rights_t rights = fdstat(fd).fs_rights_base;
    MUST((rights & R(FD_READ)) && !(rights & R(FD_WRITE)));
    MUST(read_up_to(fd, bytes, 100) == 0);
    GIVES(__wasi_fd_write(fd, &out, 1, &count), E(BADF), E(NOTCAPABLE), E(ACCES));
    OK(__wasi_fd_close(fd));

    fd = opened(directory, "file", 0, R(FD_WRITE));
    rights = fdstat(fd).fs_rights_base;
    MUST(!(rights & R(FD_READ)) && (rights & R(FD_WRITE)));
    GIVES(__wasi_fd_read(fd, &in, 1, &count), E(BADF), E(NOTCAPABLE), E(ACCES));
    MUST(written(fd, bytes, 50) == 50);
    OK(__wasi_fd_close(fd));

    fd = opened(directory, "file", 0, R(FD_READ) | R(FD_WRITE) | R(FD_FILESTAT_GET));
    rights = fdstat(fd).fs_rights_base;
    MUST((rights & R(FD_READ)) && (rights & R(FD_WRITE)));
    MUST(read_up_to(fd, bytes, 100) == 50 && written(fd, bytes, 25) == 25 && filestat(fd).size == 75);
    OK(__wasi_fd_close(fd));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "path_open_read_write");
}

static void path_rename(void) {
    fd_t directory = scratch("path_rename"), fd;
    // A directory to where nothing is, then over an empty one.
    for (int round = 0; round < 2; round++) {
        OK(__wasi_path_create_directory(directory, "source"));
        if (round) OK(__wasi_path_create_directory(directory, "target"));
        OK(__wasi_path_rename(directory, "source", directory, "target"));
        GIVES(open_at(directory, 0, "source", DIRECTORY, 0, &fd), E(NOENT));
        OK(__wasi_fd_close(opened(directory, "target", DIRECTORY, 0)));
        OK(__wasi_path_remove_directory(directory, "target"));
    }
    OK(__wasi_path_create_directory(directory, "source"));
    OK(__wasi_path_create_directory(directory, "target"));
    create_file(directory, "target/file");
    GIVES(__wasi_path_rename(directory, "source", directory, "target"), E(NOTEMPTY));
    GIVES(__wasi_path_rename(directory, "source", directory, "target/file"), E(NOTDIR));
    OK(__wasi_path_unlink_file(directory, "target/file"));
    OK(__wasi_path_remove_directory(directory, "source"));
    OK(__wasi_path_remove_directory(directory, "target"));
    // The same with files.
    for (int round = 0; round < 2; round++) {
        create_file(directory, "source");
        if (round) create_file(directory, "target");
        OK(__wasi_path_rename(directory, "source", directory, "target"));
        GIVES(open_at(directory, 0, "source", 0, 0, &fd), E(NOENT));
        OK(__wasi_fd_close(opened(directory, "target", 0, 0)));
        OK(__wasi_path_unlink_file(directory, "target"));
    }
    create_file(directory, "source");
    OK(__wasi_path_create_directory(directory, "target"));
    GIVES(__wasi_path_rename(directory, "source", directory, "target"), E(ISDIR));
    OK(__wasi_path_remove_directory(directory, "target"));
    OK(__wasi_path_unlink_file(directory, "source"));
    remove_scratch(directory, "path_rename");
}

static void path_rename_dir_trailing_slashes(void) {
    fd_t directory = scratch("path_rename_slashes");
    OK(__wasi_path_create_directory(directory, "source"));
    OK(__wasi_path_rename(directory, "source/", directory, "target"));
    OK(__wasi_path_rename(directory, "target", directory, "source/"));
    OK(__wasi_path_rename(directory, "source/", directory, "target/"));
    OK(__wasi_path_rename(directory, "target", directory, "source"));
    OK(__wasi_path_remove_directory(directory, "source"));
    remove_scratch(directory, "path_rename_slashes");
}

static void path_symlink_trailing_slashes(void) {
    fd_t directory = scratch("path_symlink_slashes");
    GIVES(__wasi_path_symlink("source", directory, "target/"), E(NOENT));
    OK(__wasi_path_symlink("source", directory, "target"));
    OK(__wasi_path_unlink_file(directory, "target"));
    OK(__wasi_path_create_directory(directory, "target"));
    GIVES(__wasi_path_symlink("source", directory, "target/"), E(EXIST));
    GIVES(__wasi_path_symlink("source", directory, "target"), E(EXIST));
    OK(__wasi_path_remove_directory(directory, "target"));
    create_file(directory, "target");
    GIVES(__wasi_path_symlink("source", directory, "target/"), E(NOTDIR), E(EXIST));
    GIVES(__wasi_path_symlink("source", directory, "target"), E(EXIST));
    OK(__wasi_path_unlink_file(directory, "target"));
    remove_scratch(directory, "path_symlink_slashes");
}

static void readlink_whole_and_short(void) {
    fd_t directory = scratch("readlink");
    create_file(directory, "target");
    OK(__wasi_path_symlink("target", directory, "link"));
    uint8_t bytes[10] = {0};
    size_t used;
    OK(__wasi_path_readlink(directory, "link", bytes, sizeof bytes, &used));
    MUST(used == 6 && !memcmp(bytes, "target\0\0\0\0", 10));
    memset(bytes, 0, sizeof bytes);
    OK(__wasi_path_readlink(directory, "link", bytes, 4, &used));
    MUST(used == 4 && !memcmp(bytes, "targ\0", 5));
    OK(__wasi_path_unlink_file(directory, "target"));
    OK(__wasi_path_unlink_file(directory, "link"));
    remove_scratch(directory, "readlink");
}

static void remove_directory_trailing_slashes(void) {
    fd_t directory = scratch("remove_directory_slashes");
    OK(__wasi_path_create_directory(directory, "dir"));
    OK(__wasi_path_remove_directory(directory, "dir"));
    OK(__wasi_path_create_directory(directory, "dir"));
    OK(__wasi_path_remove_directory(directory, "dir/"));
    create_file(directory, "file");
    GIVES(__wasi_path_remove_directory(directory, "file"), E(NOTDIR));
    GIVES(__wasi_path_remove_directory(directory, "file/"), E(NOTDIR));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "remove_directory_slashes");
}

static void remove_nonempty_directory(void) {
    fd_t directory = scratch("remove_nonempty_directory");
    OK(__wasi_path_create_directory(directory, "dir"));
    OK(__wasi_path_create_directory(directory, "dir/nested"));
    GIVES(__wasi_path_remove_directory(directory, "dir"), E(NOTEMPTY));
    OK(__wasi_path_remove_directory(directory, "dir/nested"));
    OK(__wasi_path_remove_directory(directory, "dir"));
    remove_scratch(directory, "remove_nonempty_directory");
}

static void unlink_file_trailing_slashes(void) {
    fd_t directory = scratch("unlink_file_slashes");
    OK(__wasi_path_create_directory(directory, "dir"));
    GIVES(__wasi_path_unlink_file(directory, "dir"), E(ISDIR));
    GIVES(__wasi_path_unlink_file(directory, "dir/"), E(ISDIR));
    OK(__wasi_path_remove_directory(directory, "dir"));
    create_file(directory, "file");
    GIVES(__wasi_path_unlink_file(directory, "file/"), E(NOTDIR));
    OK(__wasi_path_unlink_file(directory, "file"));
    remove_scratch(directory, "unlink_file_slashes");
}

const struct test_case paths[] = {
    {"dangling_fd", dangling_fd},
    {"dangling_symlink", dangling_symlink},
    {"symlink_loop", symlink_loop},
    {"symlink_create", symlink_create},
    {"symlink_filestat", symlink_filestat},
    {"interesting_paths", interesting_paths},
    {"interesting_paths-nul", paths_with_nul},
    {"nofollow_errors", nofollow_errors},
    {"path_exists", path_exists},
    {"path_filestat", path_filestat},
    {"path_link", path_link},
    {"path_open_create_existing", path_open_create_existing},
    {"path_open_dirfd_not_dir", path_open_dirfd_not_dir},
    {"path_open_missing", path_open_missing},
    {"path_open_nonblock", path_open_nonblock},
    {"path_open_preopen", path_open_preopen},
    {"path_open_read_write", path_open_read_write},
    {"path_rename", path_rename},
    {"path_rename_dir_trailing_slashes", path_rename_dir_trailing_slashes},
    {"path_symlink_trailing_slashes", path_symlink_trailing_slashes},
    {"readlink", readlink_whole_and_short},
    {"remove_directory_trailing_slashes", remove_directory_trailing_slashes},
    {"remove_nonempty_directory", remove_nonempty_directory},
    {"unlink_file_trailing_slashes", unlink_file_trailing_slashes},
    {0, 0},
};
